//! `nearfield plot`, and the plots of other commands.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use plotters::{
    coord::{Shift, ranged1d::ValueFormatter},
    prelude::*,
};
use serde_json::{Value, json};

use crate::{error::CliError, report};

/// Draw curves of recall and speed from measured rows.
///
/// Rows are JSON lines, as `nearfield eval --json` and benches/peers/beside.py print them; several files make one plot, with a
/// curve for each index and device (or engine), dashed where queries go in batches. Of each curve only points that no other of it beats in both are drawn.
#[derive(clap::Args)]
pub struct Args {
    /// Files of JSON lines.
    #[arg(required = true)]
    results: Vec<PathBuf>,
    /// Plot to write: .svg, which follows the reader's light or dark scheme.
    #[arg(short, long)]
    output: PathBuf,
    /// What is drawn: queries a second against recall, or recall against the lists read (to compare routers).
    #[arg(long, value_enum, default_value = "speed")]
    axes: Axes,
    /// The heading.
    #[arg(long)]
    title: Option<String>,
    /// Smallest recall drawn; where the curves begin, but not below 0.6, if not given.
    #[arg(long, value_parser = share)]
    recall_from: Option<f64>,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..1.0).contains(&share) => Ok(share),
        _ => Err("expected a number from 0, below 1".to_owned()),
    }
}

/// What a plot compares.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Axes {
    /// Queries a second against recall.
    Speed,
    /// Recall against lists read.
    Lists,
}

/// Points of one curve.
pub type Curves = BTreeMap<String, Vec<(f64, f64)>>;

/// What a label says of queries that go in batches.
const BATCHES: &str = ", batches";

const SIZE: (u32, u32) = (900, 560);

/// Colours that are told apart on white and on black, by colour-blind readers too (Okabe and Ito, 2008).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(140, 140, 140),
];

/// What a logarithmic axis shows.
const DRAWN: std::ops::RangeInclusive<f64> = 1e-9..=1e15;

pub fn run(args: &Args, json: bool) -> Result<(), CliError> {
    let inputs: Vec<&Path> = args.results.iter().map(PathBuf::as_path).collect();
    report::check_output("--output", &args.output, Some("svg"), &inputs)?;
    let mut rows = Vec::new();
    let mut drawn_k = None;
    for path in &args.results {
        let text = fs::read_to_string(path)
            .map_err(|e| CliError::Io(format!("RESULTS: {}: {e}", path.display())))?;
        for (i, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            let unfit = |expected: &str, got: &dyn std::fmt::Display| {
                let shown = path.display();
                CliError::Input(format!("RESULTS: {shown}, line {i}: expected {expected}, got {got}"))
            };
            let mut row: Value = serde_json::from_str(line).map_err(|e| unfit("JSON", &e))?;
            if row["recall"].as_f64().is_some_and(|recall| !(0.0..=1.0).contains(&recall)) {
                return Err(unfit("a recall from 0 to 1", &row["recall"]));
            }
            for key in ["qps", "qps_single", "qps_batch", "n_probe"] {
                if row[key].as_f64().is_some_and(|value| !DRAWN.contains(&value)) {
                    let expected = format!("`{key}` from {:e} to {:e}", DRAWN.start(), DRAWN.end());
                    return Err(unfit(&expected, &row[key]));
                }
            }
            let k = row["k"].as_u64().unwrap_or(10);
            if *drawn_k.get_or_insert(k) != k {
                let expected = format!("k = {}, as in the rows before", drawn_k.unwrap_or(k));
                return Err(unfit(&expected, &k));
            }
            if row.is_object() {
                row[FILE] = json!(path.file_stem().unwrap_or_default().to_string_lossy());
            }
            rows.push(row);
        }
    }
    let curves = curves(&rows, args.axes);
    if curves.is_empty() {
        let expected = match args.axes {
            Axes::Speed => "`recall` and `qps`",
            Axes::Lists => "`recall` and `n_probe`",
        };
        return Err(CliError::Input(format!(
            "RESULTS: expected rows with {expected}, got none of {}",
            rows.len()
        )));
    }
    let n = curves.len();
    let k = drawn_k.unwrap_or(10);
    draw(&args.output, &curves, args.axes, k, args.title.as_deref().unwrap_or_default(), args.recall_from)?;
    if json {
        return report::line(&json!({ "curves": n, "rows": rows.len() }).to_string());
    }
    report::line(&format!("{}: {n} curves of {} rows", args.output.display(), rows.len()))
}

/// Where a row keeps the name of its file.
const FILE: &str = "file";

/// Curves by label. Files that have the same label have a curve each, with their names.
pub fn curves(rows: &[Value], axes: Axes) -> Curves {
    let mut by_file: BTreeMap<String, Curves> = BTreeMap::new();
    for row in rows {
        for (label, point) in labelled(row, axes) {
            let file = row[FILE].as_str().unwrap_or_default().to_owned();
            by_file.entry(label).or_default().entry(file).or_default().push(point);
        }
    }
    let mut curves = Curves::new();
    for (label, files) in by_file {
        let is_one = files.len() == 1;
        for (file, points) in files {
            curves.insert(if is_one { label.clone() } else { format!("{file}: {label}") }, points);
        }
    }
    for points in curves.values_mut() {
        *points = match axes {
            Axes::Speed => frontier(points),
            Axes::Lists => best_by_lists(points),
        };
    }
    curves
}

/// The points of a row, each with the label of its curve.
fn labelled(row: &Value, axes: Axes) -> Vec<(String, (f64, f64))> {
    let Some(recall) = row["recall"].as_f64() else { return Vec::new() };
    let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let mut speeds = Vec::new();
    if row["engine"].is_string() {
        speeds.push((text("engine"), row["qps_single"].as_f64()));
        if axes == Axes::Speed {
            speeds.push((text("engine") + BATCHES, row["qps_batch"].as_f64()));
        }
    } else {
        let batch = row["batch"].as_u64().unwrap_or(1);
        let device = text("device");
        let way = if batch == 1 { String::new() } else { format!("{BATCHES} of {batch}") };
        let label = match axes {
            Axes::Speed => format!("{} on {device}{way}", text("spec")),
            Axes::Lists => text("spec"),
        };
        speeds.push((label, row["qps"].as_f64()));
    }
    let points = speeds.into_iter().filter_map(|(label, speed)| {
        let point = match axes {
            Axes::Speed => (recall, speed?),
            Axes::Lists => (row["n_probe"].as_f64()?, recall),
        };
        Some((label, point))
    });
    points.filter(|(_, (x, y))| *x > 0.0 && *y > 0.0).collect()
}

/// Points that no other beats in both, recall ascending.
fn frontier(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1)));
    let mut fastest = 0.0;
    sorted.retain(|&(_, speed)| {
        let beats = speed > fastest;
        fastest = speed.max(fastest);
        beats
    });
    sorted.reverse();
    sorted
}

/// The best recall for each number of lists.
fn best_by_lists(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
    sorted.dedup_by(|a, b| a.0 == b.0);
    sorted
}

/// Draws curves as SVG.
pub fn draw(
    path: &Path,
    curves: &Curves,
    axes: Axes,
    k: u64,
    title: &str,
    recall_from: Option<f64>,
) -> Result<(), CliError> {
    let recall_from = recall_from.unwrap_or_else(|| {
        let recalls = curves.values().flatten().map(|&(x, y)| if axes == Axes::Speed { x } else { y });
        ((recalls.fold(1.0, f64::min) * 20.0).floor() / 20.0).clamp(0.6, 0.95)
    });
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        let failed = |e: String| CliError::Input(format!("cannot draw: {e}"));
        fill(&area, curves, axes, k, title, recall_from).map_err(failed)?;
        area.present().map_err(|e| failed(e.to_string()))?;
    }
    // White, black and the greys of the grid change places where the reader prefers a dark scheme.
    let style = "<style>@media (prefers-color-scheme: dark) {\
        [fill=\"#FFFFFF\"] { fill: #0d1117 } [fill=\"#000000\"] { fill: #e6edf3 }\
        [stroke=\"#000000\"] { stroke: #e6edf3 } [stroke=\"#DDDDDD\"] { stroke: #30363d } }</style>\n";
    if let Some(at) = text.find("<rect") {
        text.insert_str(at, style);
    }
    fs::write(path, text).map_err(|e| CliError::Io(format!("--output: {}: {e}", path.display())))
}

fn fill(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    curves: &Curves,
    axes: Axes,
    k: u64,
    title: &str,
    recall_from: f64,
) -> Result<(), String> {
    let text = |e: DrawingAreaErrorKind<_>| e.to_string();
    area.fill(&WHITE).map_err(text)?;
    let recall_of = |&(x, y): &(f64, f64)| if axes == Axes::Speed { x } else { y };
    let seen: Vec<(f64, f64)> =
        curves.values().flatten().copied().filter(|point| recall_of(point) >= recall_from).collect();
    let other = |&(x, y): &(f64, f64)| if axes == Axes::Speed { y } else { x };
    let (least, most) =
        seen.iter().map(other).fold((f64::INFINITY, 0.0_f64), |(a, b), v| (a.min(v), b.max(v)));
    if !least.is_finite() {
        return Err(format!("expected points of recall {recall_from} or more (--recall-from), got none"));
    }
    let mut builder = ChartBuilder::on(area);
    builder.margin(14).x_label_area_size(44).y_label_area_size(78);
    if !title.is_empty() {
        builder.caption(title, ("sans-serif", 18));
    }
    let spread = (least * 0.8..most * 1.3).log_scale();
    match axes {
        Axes::Speed => {
            let mut chart = builder.build_cartesian_2d(recall_from..1.0, spread).map_err(text)?;
            chart
                .configure_mesh()
                .max_light_lines(2)
                .light_line_style(RGBColor(221, 221, 221))
                .bold_line_style(RGBColor(221, 221, 221))
                .x_desc(format!("recall@{k}"))
                .y_desc("queries a second")
                .x_label_formatter(&|v| format!("{v:.2}"))
                .y_label_formatter(&|v| thousands(*v))
                .label_style(("sans-serif", 14))
                .draw()
                .map_err(text)?;
            series(&mut chart, curves, recall_of, recall_from, SeriesLabelPosition::LowerLeft)?;
        }
        Axes::Lists => {
            let mut chart = builder.build_cartesian_2d(spread, recall_from..1.0).map_err(text)?;
            chart
                .configure_mesh()
                .max_light_lines(2)
                .light_line_style(RGBColor(221, 221, 221))
                .bold_line_style(RGBColor(221, 221, 221))
                .x_desc("lists read (n_probe)")
                .y_desc(format!("recall@{k}"))
                .x_label_formatter(&|v| thousands(*v))
                .y_label_formatter(&|v| format!("{v:.2}"))
                .label_style(("sans-serif", 14))
                .draw()
                .map_err(text)?;
            series(&mut chart, curves, recall_of, recall_from, SeriesLabelPosition::LowerRight)?;
        }
    }
    Ok(())
}

/// Draws every curve and the legend, where no curve runs.
fn series<'a, X, Y>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
    curves: &Curves,
    recall_of: impl Fn(&(f64, f64)) -> f64,
    recall_from: f64,
    legend: SeriesLabelPosition,
) -> Result<(), String>
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let text = |e: DrawingAreaErrorKind<_>| e.to_string();
    // The fastest first, in the legend and in colours; what goes in batches has the colour of its kin and is dashed.
    let top = |points: &[(f64, f64)]| points.iter().map(|p| p.0.max(p.1)).fold(0.0, f64::max);
    let mut ordered: Vec<(&str, &Vec<(f64, f64)>)> = curves.iter().map(|(l, p)| (l.as_str(), p)).collect();
    ordered.sort_by(|a, b| top(b.1).total_cmp(&top(a.1)));
    let mut families: Vec<&str> = Vec::new();
    for (label, points) in ordered {
        let family = label.split(BATCHES).next().unwrap_or(label);
        let at = families.iter().position(|known| *known == family).unwrap_or_else(|| {
            families.push(family);
            families.len() - 1
        });
        let colour = COLOURS[at % COLOURS.len()];
        let is_batch = family != label;
        let seen: Vec<(f64, f64)> = points.iter().copied().filter(|p| recall_of(p) >= recall_from).collect();
        let (line, style) = (seen.iter().copied(), colour.stroke_width(2));
        let drawn = if is_batch {
            chart.draw_series(DashedLineSeries::new(line, 6, 4, style))
        } else {
            chart.draw_series(LineSeries::new(line, style))
        };
        drawn.map_err(text)?.label(label).legend(move |(x, y)| {
            let length = if is_batch { 9 } else { 22 };
            PathElement::new([(x, y), (x + length, y)], colour.stroke_width(3))
        });
        chart.draw_series(seen.iter().map(|&point| Circle::new(point, 3, colour.filled()))).map_err(text)?;
    }
    chart
        .configure_series_labels()
        .position(legend)
        .background_style(WHITE.mix(0.7))
        .border_style(RGBColor(221, 221, 221))
        .label_font(("sans-serif", 13))
        .draw()
        .map_err(text)
}

/// `12 000`, `0.5`.
fn thousands(v: f64) -> String {
    if v < 1.0 {
        return format!("{v}");
    }
    let digits = format!("{v:.0}");
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}
