//! How long requests took: median to maximum on a logarithmic scale.

use super::svg::{Anchor, Drawing};
use super::{LEFT, RIGHT, ROW, TOP, WIDTH, at, label};
use crate::bench::number::fixed;

/// One kind of request, milliseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Latency {
    /// What.
    pub label: String,
    /// Half took no longer.
    pub p50_ms: f64,
    /// 95 of 100 took no longer.
    pub p95_ms: f64,
    /// 99 of 100 took no longer.
    pub p99_ms: f64,
    /// None took longer.
    pub max_ms: f64,
    /// What p99 may be, if demanded.
    pub bar_ms: Option<f64>,
}

/// A chart of latencies.
#[derive(Clone, Debug, PartialEq)]
pub struct Latencies {
    /// The chart's name.
    pub title: String,
    /// Top to bottom.
    pub rows: Vec<Latency>,
}

impl Latencies {
    /// Draws it.
    #[must_use]
    pub fn to_svg(&self) -> String {
        let height = TOP + ROW * at(self.rows.len()) + 58.0;
        let mut drawing = Drawing::new(WIDTH, height, &self.title);
        drawing.text(16.0, 28.0, Anchor::Start, "title", &self.title);
        let subtitle = "milliseconds, logarithmic; dot p50, line to p99, small dots p95 and maximum";
        drawing.text(16.0, 48.0, Anchor::Start, "soft small", subtitle);
        let (low, high) = self.decades();
        let room = WIDTH - LEFT - RIGHT;
        let x = |ms: f64| LEFT + ((ms.max(1e-6).log10() - low) / (high - low)).clamp(0.0, 1.0) * room;
        let bottom = TOP + ROW * at(self.rows.len());
        let mut decade = low;
        while decade <= high {
            let tick = 10_f64.powf(decade);
            drawing.line((x(tick), TOP), (x(tick), bottom), "axis");
            drawing.text(x(tick), bottom + 16.0, Anchor::Middle, "soft small", &decimal(tick));
            decade += 1.0;
        }
        for (row, one) in self.rows.iter().enumerate() {
            let y = TOP + ROW * at(row) + ROW / 2.0;
            drawing.text(LEFT - 10.0, y + 4.0, Anchor::End, "", &label(&one.label));
            drawing.line((x(one.p50_ms), y), (x(one.p99_ms), y), "range");
            drawing.dot(x(one.p50_ms), y, 6.0, "data");
            drawing.dot(x(one.p95_ms), y, 3.5, "data");
            drawing.dot(x(one.max_ms), y, 3.0, "more");
            if let Some(bar) = one.bar_ms {
                drawing.line((x(bar), y - 11.0), (x(bar), y + 11.0), "mark");
            }
            let text = format!("{} / {} / {}", fixed(one.p50_ms), fixed(one.p99_ms), fixed(one.max_ms));
            drawing.text(WIDTH - RIGHT + 12.0, y + 4.0, Anchor::Start, "small", &text);
        }
        drawing.text(WIDTH - RIGHT + 12.0, TOP - 6.0, Anchor::Start, "soft small", "p50 / p99 / max, ms");
        let y = height - 12.0;
        drawing.dot(LEFT + 6.0, y - 4.0, 6.0, "data");
        drawing.text(LEFT + 18.0, y, Anchor::Start, "soft small", "p50");
        drawing.dot(LEFT + 66.0, y - 4.0, 3.5, "data");
        drawing.text(LEFT + 76.0, y, Anchor::Start, "soft small", "p95");
        drawing.dot(LEFT + 126.0, y - 4.0, 3.0, "more");
        drawing.text(LEFT + 136.0, y, Anchor::Start, "soft small", "maximum");
        if self.rows.iter().any(|row| row.bar_ms.is_some()) {
            drawing.line((LEFT + 216.0, y - 12.0), (LEFT + 216.0, y + 2.0), "mark");
            drawing.text(LEFT + 224.0, y, Anchor::Start, "soft small", "bar for p99");
        }
        drawing.finish()
    }

    /// Powers of ten around everything that is shown.
    fn decades(&self) -> (f64, f64) {
        let all = || {
            self.rows
                .iter()
                .flat_map(|row| [Some(row.p50_ms), Some(row.max_ms), Some(row.p99_ms), row.bar_ms])
                .flatten()
                .filter(|ms| *ms > 0.0 && ms.is_finite())
        };
        let low = all().fold(f64::INFINITY, f64::min);
        let high = all().fold(0.0, f64::max);
        if high <= 0.0 {
            return (0.0, 1.0);
        }
        let (low, high) = (low.max(1e-3).log10().floor(), high.log10().ceil());
        (low, high.max(low + 1.0))
    }
}

/// A power of ten without an exponent.
fn decimal(tick: f64) -> String {
    if tick >= 1.0 { format!("{tick:.0}") } else { format!("{tick:.3}").trim_end_matches('0').to_owned() }
}
