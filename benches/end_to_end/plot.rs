//! Draws the distribution of latencies, and costs against the number of projects, in SVG.

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use serde_json::{Value, json};

use crate::growth::{scale as at, sizes};
use crate::results::{Results, text};
use crate::table::integer;

const BLUE: RGBColor = RGBColor(0x09, 0x69, 0xda);
const GREY: RGBColor = RGBColor(0x57, 0x60, 0x6a);
const ORANGE: RGBColor = RGBColor(0xbc, 0x4c, 0x00);
const GREEN: RGBColor = RGBColor(0x1a, 0x7f, 0x37);

/// The style of a page in dark mode; plotters writes fixed colours.
const DARK: &str = "<style>@media (prefers-color-scheme: dark) { \
                    svg { filter: invert(0.9) hue-rotate(180deg) } }</style>\n";

/// One chart. Its x axis is logarithmic.
struct Panel {
    title: &'static str,
    x_label: &'static str,
    y_label: &'static str,
    /// Whether y is a percentage. Otherwise each point is a measurement, and drawn as a dot.
    is_distribution: bool,
    series: Vec<Series>,
}

struct Series {
    name: &'static str,
    color: RGBColor,
    points: Vec<(f64, f64)>,
}

/// The percentage of the edits whose call arrived within a time.
pub fn latency(results: &Results) -> anyhow::Result<Option<String>> {
    let edits = [("scenario", json!("edits"))];
    let series = |name, who, color| {
        let line = results.all(&edits).find(|line| text(line, "who") == who)?;
        let curve = line.get("curve_ms")?.as_array()?;
        let latencies = curve.iter().filter_map(Value::as_f64);
        let points = latencies.zip((0_u32..).map(f64::from)).collect();
        Some(Series {
            name,
            color,
            points,
        })
    };
    let series = [
        series("floor: one sync, one POST", "floor-each", GREY),
        series("project-webhooks", "project-webhooks", BLUE),
        series("inotifywait with curl", "inotifywait", ORANGE),
    ];
    let panel = Panel {
        title: "From the rename of a file to its call",
        x_label: "milliseconds (logarithmic)",
        y_label: "percent of edits",
        is_distribution: true,
        series: series.into_iter().flatten().collect(),
    };
    draw(&[panel], 1, (704, 496))
}

/// Throughput, latency, memory and starts against the number of projects.
pub fn scale(results: &Results) -> anyhow::Result<Option<String>> {
    let sizes = sizes(results);
    if sizes.len() < 2 {
        return Ok(None);
    }
    let series = |name, color, what, key, unit: fn(f64, f64) -> f64| Series {
        name,
        color,
        points: sizes
            .iter()
            .filter_map(|size| {
                let value = results.number(&at(what, *size), key)?;
                Some((decimal(*size), unit(value, decimal(*size))))
            })
            .collect(),
    };
    let panel = |title, y_label, series| Panel {
        title,
        x_label: "projects (logarithmic)",
        y_label,
        is_distribution: false,
        series,
    };
    let same: fn(f64, f64) -> f64 = |value, _| value;
    let megabytes: fn(f64, f64) -> f64 = |kilobytes, _| kilobytes * 1024.0 / 1e6;
    let each: fn(f64, f64) -> f64 = |seconds, projects| seconds * 1e6 / projects;
    let panels = [
        panel(
            "Throughput of a burst",
            "calls per second",
            vec![series("calls", BLUE, "burst", "per_second", same)],
        ),
        panel(
            "From an edit to its call",
            "milliseconds",
            vec![
                series(
                    "p99 in a full scan",
                    ORANGE,
                    "edits-in-rescan",
                    "p99_ms",
                    same,
                ),
                series("p99", GREEN, "edits", "p99_ms", same),
                series("p50", BLUE, "edits", "p50_ms", same),
            ],
        ),
        panel(
            "Peak of resident memory",
            "megabytes",
            vec![
                series("first start", ORANGE, "first-start", "peak_kb", megabytes),
                series("restart", BLUE, "restart", "peak_kb", megabytes),
            ],
        ),
        panel(
            "Time of a start",
            "microseconds for each project",
            vec![
                series("first start", ORANGE, "first-start", "start_s", each),
                series("restart", BLUE, "restart", "start_s", each),
                series("inotifywait", GREY, "restart", "inotifywait_start_s", each),
            ],
        ),
    ];
    draw(&panels, 2, (880, 620))
}

#[allow(clippy::cast_precision_loss, reason = "a number of projects")]
fn decimal(number: u64) -> f64 {
    number as f64
}

/// Draws panels in rows; none without any data.
fn draw(panels: &[Panel], columns: usize, size: (u32, u32)) -> anyhow::Result<Option<String>> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        let areas = root.split_evenly((panels.len().div_ceil(columns), columns));
        for (panel, area) in panels.iter().zip(areas) {
            let points = || panel.series.iter().flat_map(|series| &series.points);
            let x = || points().map(|point| point.0);
            let (Some(low), Some(high)) = (x().reduce(f64::min), x().reduce(f64::max)) else {
                return Ok(None);
            };
            let highest = points().map(|point| point.1).fold(0.0, f64::max);
            // The larger range leaves room for the legend.
            let (x_max, y_max) = match panel.is_distribution {
                true => (high * 3.0, 100.0),
                false => (high, highest * 1.6),
            };
            panel.draw(&area, (low..x_max).log_scale(), 0.0..y_max)?;
        }
        root.present()?;
    }
    let head = svg.find('\n').map_or(0, |end| end + 1);
    svg.insert_str(head, DARK);
    Ok(Some(svg))
}

impl Panel {
    fn draw<X>(
        &self,
        area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
        x: X,
        y: std::ops::Range<f64>,
    ) -> anyhow::Result<()>
    where
        X: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64>,
    {
        const FONT: (&str, u32) = ("sans-serif", 15);
        let mut chart = ChartBuilder::on(area)
            .caption(self.title, ("sans-serif", 18))
            .margin(14)
            .margin_right(36)
            .x_label_area_size(42)
            .y_label_area_size(62)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .label_style(FONT)
            .x_desc(self.x_label)
            .y_desc(self.y_label)
            .x_label_formatter(&|value| number(*value))
            .y_label_formatter(&|value| number(*value))
            .draw()?;
        for series in &self.series {
            let style = series.color.filled().stroke_width(2);
            let points = series.points.iter().copied();
            let dot_size = if self.is_distribution { 0 } else { 3 };
            let line = LineSeries::new(points, style).point_size(dot_size);
            chart
                .draw_series(line)?
                .label(series.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        }
        let legend = match self.is_distribution {
            true => SeriesLabelPosition::LowerRight,
            false => SeriesLabelPosition::UpperLeft,
        };
        chart
            .configure_series_labels()
            .position(legend)
            .label_font(FONT)
            .background_style(WHITE.mix(0.8))
            .draw()?;
        Ok(())
    }
}

fn number(value: f64) -> String {
    if value < 10.0 && value.fract() > 0.001 {
        format!("{value:.1}")
    } else {
        integer(value)
    }
}
