//! What score-aware training of codes gains: three figures of the ScaNN paper (Guo et al., ICML 2020), redone on any set of
//! vectors, as tables on stdout and one SVG.
//!
//! ```text
//! cargo run --release --example 07_score_aware_figures [BASE QUERIES [OUT.svg]]
//! ```
//!
//! Without files the embedded word glosses are taken, and `score_aware.svg` is written to the folder for temporary files. Vectors are compared by cosine, with codes alone: no lists, no
//! reranking.
use std::{error::Error, path::PathBuf};

use ndarray::{Array2, s};
use nearfield::{Device, Index, Metric, SearchParams, Searcher, Vectors, eval, io::VectorFile};
use plotters::prelude::*;

/// Thresholds T of the first figure.
const THRESHOLDS: [&str; 10] = ["0", "0.05", "0.1", "0.15", "0.2", "0.25", "0.3", "0.4", "0.5", "0.6"];
/// Bits a point of the second figure.
const BITS: [usize; 5] = [48, 64, 100, 152, 200];
/// Results looked at in the third.
const DEPTH: usize = 100;

type Curve = (String, Vec<(f64, f64)>);

/// A set, and each query's nearest point.
struct Data {
    base: Array2<f32>,
    queries: Array2<f32>,
    nearest: Vec<u64>,
}

fn read(path: &PathBuf) -> Result<Array2<f32>, Box<dyn Error>> {
    let file = VectorFile::open(path)?;
    let mut out = Array2::zeros((file.n_rows(), file.dim()));
    for (i, mut row) in out.outer_iter_mut().enumerate() {
        file.read(i, row.as_slice_mut().ok_or("rows are contiguous")?);
        let norm = row.dot(&row).sqrt();
        row /= norm.max(f32::MIN_POSITIVE);
    }
    Ok(out)
}

impl Data {
    /// Codes of 4 bits, `bits` in all; score-aware with a threshold.
    fn searcher(&self, bits: usize, threshold: Option<&str>) -> Result<Searcher, Box<dyn Error>> {
        let m = bits / 4;
        let spec = threshold.map_or_else(|| format!("PQ{m}x4"), |t| format!("APQ{m}x4(T={t})"));
        let index = Index::builder(spec.parse()?).metric(Metric::Ip).seed(1).build(self.base.view())?;
        Ok(index.searcher(Device::cpu())?)
    }

    /// Share of the queries whose nearest is among the first 1, 2, .. `depth` results.
    fn recall_1(&self, searcher: &Searcher, depth: usize) -> Result<Vec<f64>, Box<dyn Error>> {
        let hits = searcher.search(self.queries.view(), SearchParams::new(depth))?;
        let mut found = vec![0.0; depth];
        for (ids, nearest) in hits.ids.outer_iter().zip(&self.nearest) {
            if let Some(rank) = ids.iter().position(|id| id == nearest) {
                found[rank..].iter_mut().for_each(|share| *share += 1.0);
            }
        }
        Ok(found.into_iter().map(|share| share / self.nearest.len() as f64).collect())
    }

    /// Mean of |⟨q, x⟩ − ⟨q, x̃⟩| / ⟨q, x⟩ over the queries and their nearest points x.
    fn relative_error(&self, searcher: &Searcher) -> Result<f64, Box<dyn Error>> {
        let hits = searcher.search(self.queries.view(), SearchParams::new(DEPTH))?;
        let mut sum = 0.0;
        for (i, &nearest) in self.nearest.iter().enumerate() {
            let query = self.queries.slice(s![i..=i, ..]);
            let place = hits.ids.row(i).iter().position(|&id| id == nearest);
            let estimate = match place {
                Some(rank) => hits.scores[[i, rank]],
                // Farther down: among all.
                None => {
                    let all = searcher.search(query, SearchParams::new(self.base.nrows()))?;
                    let rank = all.ids.iter().position(|&id| id == nearest).ok_or("every point is found")?;
                    all.scores[[0, rank]]
                }
            };
            let exact = self.base.row(usize::try_from(nearest)?).dot(&self.queries.row(i));
            sum += f64::from((exact - estimate).abs() / exact.abs().max(f32::MIN_POSITIVE));
        }
        Ok(sum / self.nearest.len() as f64)
    }
}

fn panel(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    (title, x_label, y_label): (&str, &str, &str),
    curves: &[Curve],
) -> Result<(), Box<dyn Error>> {
    let points = || curves.iter().flat_map(|(_, points)| points.iter());
    let range = |of: fn(&(f64, f64)) -> f64| {
        let (low, high) = points().map(of).fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(v), b.max(v)));
        let room = 0.05 * (high - low).max(1e-9);
        low - room..high + room
    };
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(range(|p| p.0), range(|p| p.1))?;
    chart.configure_mesh().x_desc(x_label).y_desc(y_label).light_line_style(WHITE).draw()?;
    for (i, (name, points)) in curves.iter().enumerate() {
        let style = Palette99::pick(i).stroke_width(2);
        let line = chart.draw_series(LineSeries::new(points.iter().copied(), style).point_size(2))?;
        line.label(name.as_str()).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    if curves.len() > 1 {
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .position(SeriesLabelPosition::MiddleRight)
            .draw()?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let embedded = |name| folder.join("examples/data/wordnet").join(name);
    let base = read(&args.next().unwrap_or_else(|| embedded("base.i8bin")))?;
    let queries = read(&args.next().unwrap_or_else(|| embedded("query.i8bin")))?;
    let out = args.next().unwrap_or_else(|| std::env::temp_dir().join("score_aware.svg"));
    let truth = eval::exact(&base.view(), &queries.view(), Metric::Ip, 1, &|_, _| ())?;
    let data = Data { nearest: truth.column(0).to_vec(), base, queries };
    println!(
        "{} vectors of {} dimensions, {} queries\n",
        data.base.nrows(),
        data.base.ncols(),
        data.nearest.len()
    );

    println!("Recall 1@10 against T, 100 bits (Fig. 3a)\n\n| T | recall 1@10 |\n|---|---|");
    let mut by_threshold = Vec::new();
    for t in THRESHOLDS {
        let recall = data.recall_1(&data.searcher(100, Some(t))?, 10)?[9];
        println!("| {t} | {recall:.3} |");
        by_threshold.push((t.parse()?, recall));
    }

    println!("\nRelative error of the nearest point's product (Fig. 3b)\n");
    println!("| bits | squared error | score-aware, T = 0.2 |\n|---|---|---|");
    let (mut plain, mut aware) = (Vec::new(), Vec::new());
    for bits in BITS {
        let errors = [None, Some("0.2")].map(|t| data.relative_error(&data.searcher(bits, t)?));
        let [a, b] = errors;
        let (a, b) = (a?, b?);
        println!("| {bits} | {a:.4} | {b:.4} |");
        plain.push((bits as f64, a));
        aware.push((bits as f64, b));
    }

    println!(
        "\nRecall 1@N (Fig. 4a)\n\n| codes | 1@1 | 1@2 | 1@5 | 1@10 | 1@20 | 1@50 | 1@100 |\n|---|---|---|---|---|---|---|---|"
    );
    let mut curves: Vec<Curve> = Vec::new();
    for bits in [100, 200] {
        for (name, t) in [("squared error", None), ("score-aware", Some("0.2"))] {
            let recall = data.recall_1(&data.searcher(bits, t)?, DEPTH)?;
            let cells: Vec<String> =
                [1, 2, 5, 10, 20, 50, 100].iter().map(|n| format!("{:.3}", recall[n - 1])).collect();
            println!("| {name}, {bits} bits | {} |", cells.join(" | "));
            let points = (1..).map(f64::from).zip(recall).collect();
            curves.push((format!("{name}, {bits} bits"), points));
        }
    }

    let root = SVGBackend::new(&out, (1500, 460)).into_drawing_area();
    root.fill(&WHITE)?;
    let areas = root.split_evenly((1, 3));
    panel(
        &areas[0],
        ("Threshold, 100 bits", "T", "recall 1@10"),
        &[("score-aware".to_owned(), by_threshold)],
    )?;
    let errors = [("squared error".to_owned(), plain), ("score-aware".to_owned(), aware)];
    panel(
        &areas[1],
        ("Error of the nearest point's product", "bits a point", "mean relative error"),
        &errors,
    )?;
    panel(&areas[2], ("Nearest point among N", "N", "recall 1@N"), &curves)?;
    root.present()?;
    drop(areas);
    println!("\n{}", out.display());
    Ok(())
}
