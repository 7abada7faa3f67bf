//! The grammar of specifications, and of what else is parsed from a word.

use nearfield::{Device, IndexSpec, Metric, TransformSpec};

/// Eight bytes for numbers of points and dimensions, then text.
pub fn run(data: &[u8]) {
    let Some((sizes, text)) = data.split_first_chunk::<8>() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let _ = (text.parse::<Metric>(), text.parse::<Device>());
    if let Ok(transform) = text.parse::<TransformSpec>() {
        assert_eq!(transform.to_string().parse::<TransformSpec>(), Ok(transform));
    }
    let Ok(spec) = text.parse::<IndexSpec>() else { return };
    let written = spec.to_string();
    assert_eq!(written.parse::<IndexSpec>().as_ref(), Ok(&spec), "{written}");
    let [n, d] =
        [&sizes[..4], &sizes[4..]].map(|bytes| bytes.iter().fold(0, |n, &b| n << 8 | usize::from(b)));
    for (n, d) in [(n, d), (n.max(1), d % 4096 + 1)] {
        if let Ok(resolved) = spec.resolve(n, d) {
            assert_eq!(
                resolved.to_string().parse::<IndexSpec>().as_ref(),
                Ok(&resolved),
                "{written} of {n} × {d}"
            );
            assert_eq!(resolved.resolve(n, d).as_ref(), Ok(&resolved), "{written} of {n} × {d}");
        }
    }
}
