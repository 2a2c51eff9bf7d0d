//! Whether a cost grows: its value at several sizes, relative to the first.

use super::svg::{Anchor, Drawing};
use super::{TOP, WIDTH, at, shortened};
use crate::bench::number::fixed;

/// One cost at each of the sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// What.
    pub label: String,
    /// Its unit.
    pub unit: String,
    /// One value per size.
    pub values: Vec<f64>,
}

/// A chart of relative costs.
#[derive(Clone, Debug, PartialEq)]
pub struct Lines {
    /// The chart's name.
    pub title: String,
    /// What the sizes are, in words.
    pub sizes_label: String,
    /// The sizes.
    pub sizes: Vec<String>,
    /// One line per cost.
    pub lines: Vec<Line>,
    /// How far a cost may grow, relative to the first size.
    pub bar: Option<f64>,
}

const PLOT: f64 = 210.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 330.0;
const SERIES: usize = 4;

impl Lines {
    /// Draws it.
    #[must_use]
    pub fn to_svg(&self) -> String {
        let height = TOP + PLOT + 52.0;
        let mut drawing = Drawing::new(WIDTH, height, &self.title);
        drawing.text(16.0, 28.0, Anchor::Start, "title", &self.title);
        drawing.text(16.0, 48.0, Anchor::Start, "soft small", "relative to the first; flat is good");
        let ratios = || self.lines.iter().flat_map(|line| line.values.iter().map(|value| ratio(line, *value)));
        let top = ratios().chain(self.bar).filter(|r| r.is_finite()).fold(1.0, f64::max) * 1.15;
        let y = |ratio: f64| TOP + PLOT * (1.0 - (ratio / top).clamp(0.0, 1.0));
        let room = WIDTH - LEFT - RIGHT;
        let gaps = at(self.sizes.len().saturating_sub(1)).max(1.0);
        let x = |n: usize| LEFT + 24.0 + (room - 48.0) * at(n) / gaps;
        if let Some(bar) = self.bar {
            drawing.rect(LEFT, y(bar), room, y(0.0) - y(bar), "band");
            drawing.line((LEFT, y(bar)), (LEFT + room, y(bar)), "mark");
            drawing.text(LEFT - 8.0, y(bar) + 4.0, Anchor::End, "small", &format!("{bar:.1}×"));
        }
        for tick in [0.0, 1.0] {
            drawing.line((LEFT, y(tick)), (LEFT + room, y(tick)), "axis");
            // The bar's own label may stand where this one would.
            if tick == 0.0 || self.bar.is_none_or(|bar| (y(bar) - y(tick)).abs() >= 14.0) {
                drawing.text(LEFT - 8.0, y(tick) + 4.0, Anchor::End, "soft small", &format!("{tick:.0}×"));
            }
        }
        for (n, size) in self.sizes.iter().enumerate() {
            drawing.text(x(n), y(0.0) + 18.0, Anchor::Middle, "soft small", size);
        }
        drawing.text(LEFT + room / 2.0, y(0.0) + 38.0, Anchor::Middle, "soft small", &self.sizes_label);
        for (n, line) in self.lines.iter().enumerate() {
            let series = n % SERIES;
            let points: Vec<_> =
                line.values.iter().enumerate().map(|(n, value)| (x(n), y(ratio(line, *value)))).collect();
            for pair in points.windows(2) {
                drawing.line(pair[0], pair[1], &format!("trend s{series}"));
            }
            for point in &points {
                drawing.dot(point.0, point.1, 4.0, &format!("f{series}"));
            }
            let row = TOP + 10.0 + 38.0 * at(n);
            drawing.dot(WIDTH - RIGHT + 24.0, row - 4.0, 5.0, &format!("f{series}"));
            drawing.text(WIDTH - RIGHT + 36.0, row, Anchor::Start, "small", &shortened(&line.label, 42));
            let values: Vec<_> = line.values.iter().map(|value| fixed(*value)).collect();
            let last = line.values.last().map_or(f64::NAN, |value| ratio(line, *value));
            let text = format!("{} {} ({last:.2}×)", values.join(" → "), line.unit);
            drawing.text(WIDTH - RIGHT + 36.0, row + 16.0, Anchor::Start, "soft small", &text);
        }
        drawing.finish()
    }
}

fn ratio(line: &Line, value: f64) -> f64 {
    match line.values.first() {
        Some(first) if *first > 0.0 => value / first,
        _ => 0.0,
    }
}
