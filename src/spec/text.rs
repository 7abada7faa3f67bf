//! The text of specifications: read by [`FromStr`], written by [`Display`](fmt::Display).

use std::{fmt, str::FromStr};

use super::{
    AxesDtype, Bits, CNT_MAX, CntSizes, DIM_MAX, IndexSpec, IvfSpec, LAMBDA, LinearMap, Milli, N_LISTS_MAX,
    RANK_MAX, RANK_STEP, RouterSpec, RouterTarget, RowDtype, SPILL_MAX, ScorerSpec, SpecError, SpillSpec,
    THRESHOLD, TransformSpec, WIDTH,
};

const STAGES: &str = "PCA<s>, LIN<s>, SRP<s> (each also x8), CNT<s>, IVF<n_lists>, RRR<rank>, PQ<M>x<bits>, APQ<M>x<bits>, CNN, SQ8, Flat, \
     Refine(f32|f16|sq8)";
const SCORERS: &str = "RRR<rank>, PQ<M>x<bits>, APQ<M>x<bits>, CNN, SQ8 or Flat";

fn token_error(token: &str, expected: impl Into<String>) -> SpecError {
    SpecError::Token { token: token.to_owned(), expected: expected.into() }
}

/// The number that follows a stage's name: none, or decimal digits of a value in `1..=max`.
fn number(token: &str, digits: &str, max: usize) -> Result<Option<usize>, SpecError> {
    if digits.is_empty() {
        return Ok(None);
    }
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    match digits.parse::<usize>() {
        Ok(v) if plain && v <= max => Ok(Some(v)),
        _ => Err(token_error(token, format!("a number from 1 to {max} after its name, or none"))),
    }
}

impl FromStr for Bits {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        match s {
            "4" => Ok(Self::B4),
            "8" => Ok(Self::B8),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Milli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:03}", self.0 / 1000, self.0 % 1000);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl FromStr for Milli {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        let (whole, decimals) = s.split_once('.').unwrap_or((s, "0"));
        let digits =
            |text: &str, most| (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole, 6) || !digits(decimals, 3) {
            return Err(());
        }
        let thousandths: u32 = format!("{whole}{decimals:0<3}").parse().map_err(|_| ())?;
        Ok(Self(thousandths))
    }
}

fn linear(token: &str, map: LinearMap, rest: &str) -> Result<TransformSpec, SpecError> {
    let name = map.name();
    let (digits, dtype) = match rest.split_once('x') {
        None => (rest, AxesDtype::F16),
        Some((digits, "8")) => (digits, AxesDtype::Int8),
        Some(_) => return Err(token_error(token, format!("{name}<s>, {name}<s>x8 or {name}x8"))),
    };
    let dims = number(token, digits, DIM_MAX).map_err(|_| {
        token_error(token, format!("{name}<s> or {name}<s>x8, s from 1 to {DIM_MAX} or left out"))
    })?;
    Ok(TransformSpec::Linear { map, dims, dtype })
}

/// A name's number and its options in parentheses.
fn options<'t>(token: &str, rest: &'t str) -> Result<(&'t str, impl Iterator<Item = &'t str>), SpecError> {
    let (digits, options) = match rest.split_once('(') {
        Some((digits, options)) => {
            let options = options.strip_suffix(')');
            (digits, Some(options.ok_or_else(|| token_error(token, "a closing parenthesis"))?))
        }
        None => (rest, None),
    };
    Ok((digits, options.into_iter().flat_map(|options| options.split(',')).map(str::trim)))
}

/// The names of a network's sizes, in the order of [`numbers`].
const CNT_SIZES: [&str; 4] = ["tokens", "heads", "stages", "expansion"];

fn numbers(sizes: CntSizes) -> [u8; 4] {
    let CntSizes { tokens, heads, stages, expansion } = sizes;
    [tokens, heads, stages, expansion]
}

fn cnt(token: &str, rest: &str) -> Result<TransformSpec, SpecError> {
    let (digits, options) = options(token, rest)?;
    let dims = number(token, digits, DIM_MAX)
        .map_err(|_| token_error(token, format!("CNT<s>, s from 1 to {DIM_MAX} or left out")))?;
    let mut given = [None; CNT_SIZES.len()];
    for option in options {
        let (name, text) = option.split_once('=').unwrap_or((option, ""));
        let known = CNT_SIZES.iter().position(|known| *known == name);
        let Some(i) = known.filter(|&i| given[i].is_none()) else {
            let names = CNT_SIZES.map(|name| format!("{name}=<n>")).join(", ");
            return Err(token_error(token, format!("{names}, each once, in parentheses")));
        };
        let most = numbers(CNT_MAX)[i];
        let value = number(token, text, most.into()).ok().flatten().and_then(|v| u8::try_from(v).ok());
        given[i] = Some(value.ok_or_else(|| token_error(token, format!("{name}=<n>, 1 to {most}")))?);
    }
    let usual = numbers(CntSizes::default());
    let [tokens, heads, stages, expansion] = std::array::from_fn(|i| given[i].unwrap_or(usual[i]));
    Ok(TransformSpec::Cnt { dims, sizes: CntSizes { tokens, heads, stages, expansion } })
}

fn transform(token: &str) -> Result<Option<TransformSpec>, SpecError> {
    if let Some(rest) = token.strip_prefix("CNT") {
        return cnt(token, rest).map(Some);
    }
    let named = LinearMap::ALL.into_iter().find_map(|map| Some((map, token.strip_prefix(map.name())?)));
    named.map(|(map, rest)| linear(token, map, rest)).transpose()
}

fn rrr(token: &str, rest: &str) -> Result<ScorerSpec, SpecError> {
    let mut parts = rest.split('x');
    let rank = number(token, parts.next().unwrap_or_default(), RANK_MAX)?;
    if rank.is_some_and(|r| r % RANK_STEP != 0) {
        return Err(token_error(
            token,
            format!("a rank that is a multiple of {RANK_STEP}, up to {RANK_MAX}"),
        ));
    }
    let mut bits = [Bits::B8; 2];
    let given: Vec<&str> = parts.collect();
    if given.len() > 2 {
        return Err(token_error(token, "RRR<rank>, RRR<rank>x<bits> or RRR<rank>x<bits of A>x<bits of B>"));
    }
    for (i, part) in given.iter().enumerate() {
        bits[i] = part.parse().map_err(|()| token_error(token, "4 or 8 bits after `x`"))?;
        if i == 0 {
            bits[1] = bits[0];
        }
    }
    Ok(ScorerSpec::Rrr { rank, a_bits: bits[0], b_bits: bits[1] })
}

/// A threshold T: cosines below it do not matter to the loss.
fn threshold(token: &str, text: &str) -> Result<Milli, SpecError> {
    let t = text.parse::<Milli>().ok().filter(|t| t.0 < 1000);
    t.ok_or_else(|| token_error(token, "T=<t>, at least 0 and below 1, of at most three decimals"))
}

fn pq(token: &str, rest: &str, anisotropic: bool) -> Result<ScorerSpec, SpecError> {
    let form = if anisotropic { "APQ<M>x<bits> or APQ<M>x<bits>(T=<t>)" } else { "PQ<M>x<bits>" };
    let (sizes, option) = match rest.split_once('(') {
        Some((sizes, option)) => (sizes, Some(option)),
        None => (rest, None),
    };
    if option.is_some() && !anisotropic {
        return Err(token_error(token, "PQ<M>x<bits> without options: T belongs to APQ"));
    }
    let (m, bits) = sizes.split_once('x').ok_or_else(|| token_error(token, form))?;
    let m = number(token, m, DIM_MAX)?.ok_or_else(|| token_error(token, form))?;
    let bits = bits.parse().map_err(|()| token_error(token, format!("4 or 8 bits: {form}")))?;
    let given = match option {
        None => None,
        Some(option) => {
            let t = option.strip_suffix(')').and_then(|option| option.strip_prefix("T="));
            Some(threshold(token, t.ok_or_else(|| token_error(token, form))?)?)
        }
    };
    Ok(ScorerSpec::Pq { m, bits, threshold: anisotropic.then(|| given.unwrap_or(THRESHOLD)) })
}

fn scorer(token: &str) -> Result<Option<ScorerSpec>, SpecError> {
    let after = |name| token.strip_prefix(name);
    Ok(match token {
        "Flat" => Some(ScorerSpec::Flat),
        "SQ8" => Some(ScorerSpec::Sq8),
        _ => match (after("RRR"), after("PQ"), after("APQ"), after("CNN")) {
            (Some(rest), ..) => Some(rrr(token, rest)?),
            (_, Some(rest), ..) => Some(pq(token, rest, false)?),
            (_, _, Some(rest), _) => Some(pq(token, rest, true)?),
            (_, _, _, Some(rest)) => Some(cnn(token, rest)?),
            _ => None,
        },
    })
}

/// The width of a convolutional network.
fn width(token: &str, text: &str) -> Result<u16, SpecError> {
    let width = number(token, text, WIDTH.into()).ok().flatten().and_then(|w| u16::try_from(w).ok());
    width.ok_or_else(|| token_error(token, format!("width=<w>, 1 to {WIDTH}")))
}

fn cnn(token: &str, rest: &str) -> Result<ScorerSpec, SpecError> {
    let (name, options) = options(token, rest)?;
    let mut given = None;
    for option in options {
        match option.split_once('=') {
            Some(("width", text)) if given.is_none() => given = Some(width(token, text)?),
            _ => return Err(token_error(token, "CNN, or CNN(width=<w>)")),
        }
    }
    if name.is_empty() {
        Ok(ScorerSpec::Cnn { width: given.unwrap_or(WIDTH) })
    } else {
        Err(token_error(token, "CNN, or CNN(width=<w>)"))
    }
}

fn ivf(token: &str, rest: &str) -> Result<IvfSpec, SpecError> {
    let (digits, options) = options(token, rest)?;
    let mut spec = IvfSpec { n_lists: number(token, digits, N_LISTS_MAX)?, ..Default::default() };
    let (mut lambda, mut router, mut wide, mut target) = (None, None, None, None);
    for option in options {
        let allowed = "soar, soar=<copies>, lambda=<λ>, T=<t>, router=linear and router=cnn with labels and width=<w>, each once, in \
                       parentheses";
        match option.split_once('=').unwrap_or((option, "")) {
            ("soar", copies) if spec.spill.is_none() => {
                let copies = number(token, copies, SPILL_MAX).map_err(|_| {
                    token_error(token, format!("soar=<copies> with 1 to {SPILL_MAX} copies, or soar"))
                })?;
                spec.spill = Some(SpillSpec { copies, lambda: LAMBDA });
            }
            ("lambda", text) if lambda.is_none() => {
                let given = text.parse::<Milli>();
                lambda =
                    Some(given.map_err(|()| {
                        token_error(token, "lambda=<λ>, 0 or more, of at most three decimals")
                    })?);
            }
            ("T", text) if spec.threshold.is_none() => spec.threshold = Some(threshold(token, text)?),
            ("router", "linear") if router.is_none() => router = Some(RouterSpec::Linear),
            ("router", "cnn") if router.is_none() => {
                router = Some(RouterSpec::Cnn { width: WIDTH, target: RouterTarget::Neighbours });
            }
            ("width", text) if wide.is_none() => wide = Some(width(token, text)?),
            ("labels", "") if target.is_none() => target = Some(RouterTarget::Labels),
            _ => return Err(token_error(token, allowed)),
        }
    }
    spec.router = match router {
        Some(RouterSpec::Cnn { .. }) => {
            RouterSpec::Cnn { width: wide.unwrap_or(WIDTH), target: target.unwrap_or_default() }
        }
        _ if wide.is_some() || target.is_some() => {
            return Err(token_error(token, "router=cnn beside labels or width"));
        }
        other => other.unwrap_or_default(),
    };
    match (&mut spec.spill, lambda) {
        (Some(spill), Some(lambda)) => spill.lambda = lambda,
        (None, Some(_)) => return Err(token_error(token, "soar beside lambda")),
        _ => {}
    }
    Ok(spec)
}

/// The tokens between commas outside parentheses.
fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_usize;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .map(str::trim)
}

impl FromStr for IndexSpec {
    type Err = SpecError;

    fn from_str(s: &str) -> Result<Self, SpecError> {
        let mut tokens = tokens(s).peekable();
        let transform = tokens.peek().map_or(Ok(None), |token| transform(token))?;
        if transform.is_some() {
            tokens.next();
        }
        let mut partition = None;
        if let Some(rest) = tokens.peek().and_then(|t| t.strip_prefix("IVF")) {
            let token = tokens.next().unwrap_or_default();
            partition = Some(ivf(token, rest)?);
        }
        let ivf = partition;
        let token = tokens.next().unwrap_or_default();
        let place = match (transform, ivf) {
            (None, None) => STAGES.to_owned(),
            (Some(_), None) => format!("IVF<n_lists> or a scorer next: {SCORERS}"),
            _ => format!("a scorer next: {SCORERS}"),
        };
        let scorer = scorer(token)?.ok_or_else(|| token_error(token, place))?;
        if ivf.is_none() && matches!(scorer, ScorerSpec::Rrr { .. }) {
            return Err(token_error(token, "IVF<n_lists> before it: regressions are made list by list"));
        }
        if ivf.is_none() && matches!(scorer, ScorerSpec::Cnn { .. }) {
            return Err(token_error(token, "IVF<n_lists> before it: each list has a network"));
        }
        let mut refine = None;
        if let Some(token) = tokens.next() {
            refine = Some(match token {
                "Refine(f32)" => RowDtype::F32,
                "Refine(f16)" => RowDtype::F16,
                "Refine(sq8)" => RowDtype::Sq8,
                _ => return Err(token_error(token, "Refine(f32), Refine(f16) or Refine(sq8), or the end")),
            });
            if scorer == ScorerSpec::Flat && transform.is_none() {
                return Err(token_error(
                    token,
                    "nothing after Flat: without a transform its scores are exact",
                ));
            }
        }
        if let Some(token) = tokens.next() {
            return Err(token_error(token, "nothing more after Refine"));
        }
        Ok(Self { transform, ivf, scorer, refine })
    }
}

fn write_number(f: &mut fmt::Formatter<'_>, name: &str, number: Option<usize>) -> fmt::Result {
    match number {
        Some(v) => write!(f, "{name}{v}"),
        None => f.write_str(name),
    }
}

impl fmt::Display for RowDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Sq8 => "sq8",
        })
    }
}

impl fmt::Display for ScorerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Flat => f.write_str("Flat"),
            Self::Sq8 => f.write_str("SQ8"),
            Self::Cnn { width: WIDTH } => f.write_str("CNN"),
            Self::Cnn { width } => write!(f, "CNN(width={width})"),
            Self::Pq { m, bits, threshold: None } => write!(f, "PQ{m}x{}", bits.count()),
            Self::Pq { m, bits, threshold: Some(THRESHOLD) } => write!(f, "APQ{m}x{}", bits.count()),
            Self::Pq { m, bits, threshold: Some(t) } => write!(f, "APQ{m}x{}(T={t})", bits.count()),
            Self::Rrr { rank, a_bits, b_bits } => {
                write_number(f, "RRR", rank)?;
                match (a_bits, b_bits) {
                    (Bits::B8, Bits::B8) => Ok(()),
                    (a, b) if a == b => write!(f, "x{}", a.count()),
                    (a, b) => write!(f, "x{}x{}", a.count(), b.count()),
                }
            }
        }
    }
}

impl fmt::Display for IvfSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_number(f, "IVF", self.n_lists)?;
        let mut options = Vec::new();
        if let Some(spill) = self.spill {
            options.push(spill.copies.map_or_else(|| "soar".to_owned(), |copies| format!("soar={copies}")));
            if spill.lambda != LAMBDA {
                options.push(format!("lambda={}", spill.lambda));
            }
        }
        options.extend(self.threshold.map(|t| format!("T={t}")));
        match self.router {
            RouterSpec::Centroids => {}
            RouterSpec::Linear => options.push("router=linear".to_owned()),
            RouterSpec::Cnn { width, target } => {
                options.push("router=cnn".to_owned());
                if target == RouterTarget::Labels {
                    options.push("labels".to_owned());
                }
                if width != WIDTH {
                    options.push(format!("width={width}"));
                }
            }
        }
        if options.is_empty() { Ok(()) } else { write!(f, "({})", options.join(",")) }
    }
}

impl fmt::Display for TransformSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_number(f, self.name(), self.dims())?;
        match *self {
            Self::Linear { dtype: AxesDtype::F16, .. } => Ok(()),
            Self::Linear { dtype: AxesDtype::Int8, .. } => f.write_str("x8"),
            Self::Cnt { sizes, .. } => {
                let options: Vec<String> = CNT_SIZES
                    .iter()
                    .zip(numbers(sizes).iter().zip(numbers(CntSizes::default())))
                    .filter(|(_, (given, usual))| *given != usual)
                    .map(|(name, (given, _))| format!("{name}={given}"))
                    .collect();
                if options.is_empty() { Ok(()) } else { write!(f, "({})", options.join(",")) }
            }
        }
    }
}

impl FromStr for TransformSpec {
    type Err = SpecError;

    fn from_str(s: &str) -> Result<Self, SpecError> {
        transform(s)?.ok_or_else(|| token_error(s, "PCA<s>, LIN<s>, SRP<s> (each also x8) or CNT<s>"))
    }
}

impl fmt::Display for IndexSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(transform) = self.transform {
            write!(f, "{transform},")?;
        }
        if let Some(ivf) = self.ivf {
            write!(f, "{ivf},")?;
        }
        write!(f, "{}", self.scorer)?;
        match self.refine {
            Some(dtype) => write!(f, ",Refine({dtype})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bits() -> impl Strategy<Value = Bits> {
        prop_oneof![Just(Bits::B4), Just(Bits::B8)]
    }

    fn thresholds() -> impl Strategy<Value = Milli> {
        (0..1000_u32).prop_map(Milli)
    }

    fn routers() -> impl Strategy<Value = RouterSpec> {
        let targets = prop_oneof![Just(RouterTarget::Neighbours), Just(RouterTarget::Labels)];
        let networks = (1..=WIDTH, targets).prop_map(|(width, target)| RouterSpec::Cnn { width, target });
        prop_oneof![Just(RouterSpec::Centroids), Just(RouterSpec::Linear), networks]
    }

    fn partitions() -> impl Strategy<Value = IvfSpec> {
        let spill = (proptest::option::of(1..=SPILL_MAX), 0..=10_000_u32)
            .prop_map(|(copies, lambda)| SpillSpec { copies, lambda: Milli(lambda) });
        (
            proptest::option::of(1..=N_LISTS_MAX),
            proptest::option::of(spill),
            proptest::option::of(thresholds()),
            routers(),
        )
            .prop_map(|(n_lists, spill, threshold, router)| IvfSpec {
                n_lists,
                spill,
                threshold,
                router,
            })
    }

    fn transforms() -> impl Strategy<Value = TransformSpec> {
        let maps = proptest::sample::select(&LinearMap::ALL);
        let dtypes = proptest::sample::select(&[AxesDtype::F16, AxesDtype::Int8]);
        let most = CNT_MAX;
        let sizes = (1..=most.tokens, 1..=most.heads, 1..=most.stages, 1..=most.expansion)
            .prop_map(|(tokens, heads, stages, expansion)| CntSizes { tokens, heads, stages, expansion });
        let dims = || proptest::option::of(1..=DIM_MAX);
        prop_oneof![
            (maps, dims(), dtypes).prop_map(|(map, dims, dtype)| TransformSpec::Linear { map, dims, dtype }),
            (dims(), sizes).prop_map(|(dims, sizes)| TransformSpec::Cnt { dims, sizes }),
        ]
    }

    fn specs() -> impl Strategy<Value = IndexSpec> {
        let scorer = prop_oneof![
            Just(ScorerSpec::Flat),
            Just(ScorerSpec::Sq8),
            (1..=WIDTH).prop_map(|width| ScorerSpec::Cnn { width }),
            (proptest::option::of(1..=RANK_MAX / RANK_STEP), bits(), bits()).prop_map(
                |(r, a_bits, b_bits)| { ScorerSpec::Rrr { rank: r.map(|r| r * RANK_STEP), a_bits, b_bits } }
            ),
            (1..=DIM_MAX, bits(), proptest::option::of(thresholds()))
                .prop_map(|(m, bits, threshold)| ScorerSpec::Pq { m, bits, threshold }),
        ];
        let refine = prop_oneof![Just(RowDtype::F32), Just(RowDtype::F16), Just(RowDtype::Sq8)];
        (
            proptest::option::of(transforms()),
            proptest::option::of(partitions()),
            scorer,
            proptest::option::of(refine),
        )
            .prop_map(|(transform, ivf, scorer, refine)| IndexSpec { transform, ivf, scorer, refine })
            .prop_filter("regressions and networks need lists", |s| {
                s.ivf.is_some() || !matches!(s.scorer, ScorerSpec::Rrr { .. } | ScorerSpec::Cnn { .. })
            })
            .prop_filter("exact needs no refine", |s| {
                s.refine.is_none() || s.transform.is_some() || s.scorer != ScorerSpec::Flat
            })
    }

    proptest! {
        #[test]
        fn display_and_parse_agree(spec in specs()) {
            prop_assert_eq!(spec.to_string().parse::<IndexSpec>().unwrap(), spec);
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            if let Ok(spec) = text.parse::<IndexSpec>() {
                prop_assert_eq!(spec.to_string().parse::<IndexSpec>().unwrap(), spec);
            }
        }
    }

    #[test]
    fn errors_name_the_token() {
        for (text, token) in [
            ("", ""),
            ("PCA0,Flat", "PCA0"),
            ("IVF1024", ""),
            ("IVF10,RRR20", "RRR20"),
            ("IVF10,RRR32x5", "RRR32x5"),
            ("IVF10,RRR32x4x8x4", "RRR32x4x8x4"),
            ("RRR32", "RRR32"),
            ("IVF10,Flat,Refine(f64)", "Refine(f64)"),
            ("IVF10,Flat,Refine(f32)", "Refine(f32)"),
            ("IVF10,SQ8,Refine(f32),Flat", "Flat"),
            ("IVF99999999999999999999,Flat", "IVF99999999999999999999"),
            ("PCA+5,Flat", "PCA+5"),
            ("PCA16x4,Flat", "PCA16x4"),
            ("PCAx8x8,Flat", "PCAx8x8"),
            ("LIN+5,Flat", "LIN+5"),
            ("CNT8x8,Flat", "CNT8x8"),
            ("CNT8(tokens=0),Flat", "CNT8(tokens=0)"),
            ("CNT8(heads=17),Flat", "CNT8(heads=17)"),
            ("CNT8(stages=1,stages=1),Flat", "CNT8(stages=1,stages=1)"),
            ("CNT8(layers=1),Flat", "CNT8(layers=1)"),
            ("CNT8(heads=1,Flat", "CNT8(heads=1,Flat"),
            ("ivf10,Flat", "ivf10"),
            ("IVF10(soar=8),Flat", "IVF10(soar=8)"),
            ("IVF10(soar,soar),Flat", "IVF10(soar,soar)"),
            ("IVF10(lambda=1),Flat", "IVF10(lambda=1)"),
            ("IVF10(soar,lambda=-1),Flat", "IVF10(soar,lambda=-1)"),
            ("IVF10(soar,Flat", "IVF10(soar,Flat"),
            ("IVF10(T=1),Flat", "IVF10(T=1)"),
            ("IVF10(router=none),Flat", "IVF10(router=none)"),
            ("IVF10(router=linear,router=linear),Flat", "IVF10(router=linear,router=linear)"),
            ("IVF10(router=linear,labels),Flat", "IVF10(router=linear,labels)"),
            ("IVF10(width=9),Flat", "IVF10(width=9)"),
            ("IVF10(router=cnn,width=0),Flat", "IVF10(router=cnn,width=0)"),
            ("IVF10(router=cnn,width=129),Flat", "IVF10(router=cnn,width=129)"),
            ("CNN", "CNN"),
            ("IVF10,CNN5", "CNN5"),
            ("IVF10,CNN(width=5,width=5)", "CNN(width=5,width=5)"),
            ("IVF10,CNN(depth=5)", "CNN(depth=5)"),
            ("IVF10,PQx4", "PQx4"),
            ("IVF10,PQ8", "PQ8"),
            ("IVF10,PQ8x5", "PQ8x5"),
            ("IVF10,PQ8x4(T=0.2)", "PQ8x4(T=0.2)"),
            ("IVF10,APQ8x4(0.2)", "APQ8x4(0.2)"),
            ("IVF10,APQ8x4(T=0.2222)", "APQ8x4(T=0.2222)"),
        ] {
            match text.parse::<IndexSpec>() {
                Err(SpecError::Token { token: t, .. }) => assert_eq!(t, token, "in {text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn defaults_are_not_written() {
        for (text, canonical) in [
            ("CNT8(tokens=4, heads=4),Flat", Some("CNT8(heads=4),Flat")),
            ("IVF9( soar = 2 ),APQ5x4(T=0.200)", None),
            ("IVF9(lambda=1.0,soar=2),APQ5x4(T=0.200)", Some("IVF9(soar=2),APQ5x4")),
            ("IVF9( router=linear, soar ),SQ8", Some("IVF9(soar,router=linear),SQ8")),
            ("IVF9(labels, width=128,router=cnn),CNN(width=128)", Some("IVF9(router=cnn,labels),CNN")),
            ("IVF9(router=cnn,width=12),CNN(width=1)", Some("IVF9(router=cnn,width=12),CNN(width=1)")),
            ("IVF9(T=0.25,lambda=1.50,soar),PQ5x8", Some("IVF9(soar,lambda=1.5,T=0.25),PQ5x8")),
        ] {
            assert_eq!(text.parse::<IndexSpec>().ok().map(|s| s.to_string()).as_deref(), canonical, "{text}");
        }
    }
}
