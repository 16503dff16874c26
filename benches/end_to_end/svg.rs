//! A writer of line charts in SVG: panels with axes, units, grid and legend, for light and dark.

use std::fmt::Write as _;

/// A line of a panel.
pub struct Series {
    /// What the legend calls it.
    pub name: String,
    /// Which colour: the daemon is 0.
    pub color: usize,
    /// In order of x.
    pub points: Vec<(f64, f64)>,
    /// Whether each point was measured by itself.
    pub has_dots: bool,
}

/// One chart.
pub struct Panel {
    /// What it shows.
    pub title: String,
    /// With unit.
    pub x_label: String,
    /// With unit.
    pub y_label: String,
    /// The marks of x, which is logarithmic; the first and the last are its ends.
    pub x_ticks: Vec<(f64, String)>,
    /// The end of y where the data does not say.
    pub y_max: Option<f64>,
    /// The lines.
    pub series: Vec<Series>,
}

const PANEL: (f64, f64) = (440.0, 310.0);
/// Space around the plot of a panel: left, top, right, bottom.
const MARGIN: (f64, f64, f64, f64) = (64.0, 62.0, 34.0, 48.0);

/// Colours of light and dark, of the same contrast to their background.
const STYLE: &str = "\
    text { font: 12px system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #424a53 }
    .title { font-size: 14px; font-weight: 600; fill: #1f2328 }
    .back { fill: #ffffff }
    .grid { stroke: #d8dee4; stroke-width: 1 }
    .axis { stroke: #818b98; stroke-width: 1 }
    .line { fill: none; stroke-width: 2; stroke-linejoin: round }
    .s0 { stroke: #0969da } .d0 { fill: #0969da }
    .s1 { stroke: #57606a } .d1 { fill: #57606a }
    .s2 { stroke: #bc4c00 } .d2 { fill: #bc4c00 }
    .s3 { stroke: #1a7f37 } .d3 { fill: #1a7f37 }
    @media (prefers-color-scheme: dark) {
      text { fill: #b1bac4 }
      .title { fill: #f0f6fc }
      .back { fill: #0d1117 }
      .grid { stroke: #262c36 }
      .axis { stroke: #656c76 }
      .s0 { stroke: #58a6ff } .d0 { fill: #58a6ff }
      .s1 { stroke: #afb8c1 } .d1 { fill: #afb8c1 }
      .s2 { stroke: #ffa657 } .d2 { fill: #ffa657 }
      .s3 { stroke: #56d364 } .d3 { fill: #56d364 }
    }
";

/// Draws panels in rows of so many.
pub fn draw(panels: &[Panel], columns: usize, scale: f64) -> String {
    let panel = (PANEL.0 * scale, PANEL.1 * scale);
    let rows = panels.len().div_ceil(columns);
    #[allow(clippy::cast_precision_loss, reason = "a few panels")]
    let place = |at: usize, of: f64| at as f64 * of;
    let size = (place(columns, panel.0), place(rows, panel.1));
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" \
         height=\"{1}\" role=\"img\">\n<style>\n{STYLE}</style>\n\
         <rect class=\"back\" width=\"{0}\" height=\"{1}\" rx=\"6\"/>\n",
        size.0, size.1
    );
    for (number, chart) in panels.iter().enumerate() {
        let (column, row) = (number % columns, number / columns);
        let (x, y) = (place(column, panel.0), place(row, panel.1));
        line(&mut out, &format!("<g transform=\"translate({x} {y})\">"));
        Plot::of(chart, panel).draw(&mut out);
        line(&mut out, "</g>");
    }
    line(&mut out, "</svg>");
    out
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// A panel with the place of its plot.
struct Plot<'a> {
    panel: &'a Panel,
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
    x_range: (f64, f64),
    y_ticks: Vec<f64>,
}

impl<'a> Plot<'a> {
    fn of(panel: &'a Panel, size: (f64, f64)) -> Self {
        let highest = panel
            .series
            .iter()
            .flat_map(|series| series.points.iter().map(|point| point.1))
            .fold(0.0, f64::max);
        let ends = panel.x_ticks.first().zip(panel.x_ticks.last());
        Self {
            panel,
            left: MARGIN.0,
            top: MARGIN.1,
            right: size.0 - MARGIN.2,
            bottom: size.1 - MARGIN.3,
            x_range: ends.map_or((0.0, 1.0), |(first, last)| (first.0, last.0)),
            y_ticks: ticks(panel.y_max.unwrap_or(highest * 1.15)),
        }
    }

    fn x(&self, value: f64) -> f64 {
        let (low, high) = self.x_range;
        let part = (value / low).ln() / (high / low).ln();
        self.left + part.clamp(0.0, 1.0) * (self.right - self.left)
    }

    fn y(&self, value: f64) -> f64 {
        let high = self.y_ticks.last().copied().unwrap_or(1.0);
        self.bottom - (value / high).clamp(0.0, 1.0) * (self.bottom - self.top)
    }

    fn draw(&self, out: &mut String) {
        let (left, top, right, bottom) = (self.left, self.top, self.right, self.bottom);
        let title = escaped(&self.panel.title);
        line(
            out,
            &format!("<text class=\"title\" x=\"{left}\" y=\"24\">{title}</text>"),
        );
        for &value in &self.y_ticks {
            let y = self.y(value);
            let class = if value == 0.0 { "axis" } else { "grid" };
            line(out, &segment(class, (left, y), (right, y)));
            line(out, &label("end", (left - 8.0, y + 4.0), &short(value)));
        }
        for (value, text) in &self.panel.x_ticks {
            let x = self.x(*value);
            line(out, &segment("grid", (x, top), (x, bottom)));
            line(out, &label("middle", (x, bottom + 18.0), text));
        }
        let middle = f64::midpoint(left, right);
        line(
            out,
            &label("middle", (middle, bottom + 38.0), &self.panel.x_label),
        );
        let middle = f64::midpoint(top, bottom);
        line(
            out,
            &format!(
                "<text text-anchor=\"middle\" transform=\"translate(16 {middle}) rotate(-90)\">{}</text>",
                escaped(&self.panel.y_label)
            ),
        );
        for series in &self.panel.series {
            self.series(out, series);
        }
        self.legend(out);
    }

    fn series(&self, out: &mut String, series: &Series) {
        let color = series.color;
        let mut path = String::new();
        for (number, &(x, y)) in series.points.iter().enumerate() {
            let command = if number == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{command}{:.1} {:.1} ", self.x(x), self.y(y));
        }
        line(
            out,
            &format!("<path class=\"line s{color}\" d=\"{}\"/>", path.trim_end()),
        );
        if series.has_dots {
            for &(x, y) in &series.points {
                line(
                    out,
                    &format!(
                        "<circle class=\"d{color}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\"/>",
                        self.x(x),
                        self.y(y)
                    ),
                );
            }
        }
    }

    /// Between title and plot, where no line can be behind it.
    fn legend(&self, out: &mut String) {
        let mut x = self.left;
        let middle = self.top - 20.0;
        for series in &self.panel.series {
            let class = format!("line s{}", series.color);
            line(out, &segment(&class, (x, middle), (x + 18.0, middle)));
            line(out, &label("start", (x + 24.0, middle + 4.0), &series.name));
            #[allow(clippy::cast_precision_loss, reason = "a short text")]
            let width = series.name.len() as f64 * 6.8;
            x += 24.0 + width + 18.0;
        }
    }
}

fn segment(class: &str, from: (f64, f64), to: (f64, f64)) -> String {
    format!(
        "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
        from.0, from.1, to.0, to.1
    )
}

fn label(anchor: &str, at: (f64, f64), text: &str) -> String {
    format!(
        "<text text-anchor=\"{anchor}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
        at.0,
        at.1,
        escaped(text)
    )
}

/// Zero, and round steps up to the highest value or just beyond it.
fn ticks(highest: f64) -> Vec<f64> {
    let rough = (highest / 5.0).max(f64::MIN_POSITIVE);
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|step| *step >= rough * 0.999)
        .unwrap_or(rough);
    let mut ticks = vec![0.0];
    let mut value = 0.0;
    while value < highest * 0.999 {
        value += step;
        ticks.push(value);
    }
    ticks
}

/// With commas, and with decimals where it is small.
fn short(value: f64) -> String {
    if value == 0.0 {
        "0".to_owned()
    } else if value < 10.0 && value.fract() > 0.001 {
        format!("{value:.1}")
    } else {
        crate::table::integer(value)
    }
}
