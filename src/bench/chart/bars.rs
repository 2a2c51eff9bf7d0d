//! Rates next to their ceiling: what was reached, what the machine can do at most, and the bar that was set.

use super::svg::{Anchor, Drawing};
use super::{LEFT, RIGHT, ROW, TOP, WIDTH, at, label};
use crate::bench::number::fixed;

/// One bar.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// What.
    pub label: String,
    /// How much.
    pub value: f64,
    /// The most that the machine can do, if measured.
    pub ceiling: Option<f64>,
    /// What was demanded, if anything.
    pub bar: Option<f64>,
}

/// A chart of horizontal bars. Each row has a scale of its own, from zero to its largest number, so that rows of
/// different units can stand below each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Bars {
    /// The chart's name.
    pub title: String,
    /// What the lengths mean.
    pub subtitle: String,
    /// Top to bottom.
    pub bars: Vec<Bar>,
    /// Whether all rows share one scale.
    pub shared_scale: bool,
}

impl Bars {
    /// Draws it.
    #[must_use]
    pub fn to_svg(&self) -> String {
        let height = TOP + ROW * at(self.bars.len()) + 34.0;
        let mut drawing = Drawing::new(WIDTH, height, &self.title);
        drawing.text(16.0, 28.0, Anchor::Start, "title", &self.title);
        drawing.text(16.0, 48.0, Anchor::Start, "soft small", &self.subtitle);
        let room = WIDTH - LEFT - RIGHT;
        let most = self.bars.iter().map(Bar::most).fold(0.0, f64::max);
        for (row, bar) in self.bars.iter().enumerate() {
            let y = TOP + ROW * at(row);
            let scale = if self.shared_scale { most } else { bar.most() };
            let length = |value: f64| if scale > 0.0 { (value / scale * room).clamp(0.0, room) } else { 0.0 };
            drawing.text(LEFT - 10.0, y + 19.0, Anchor::End, "", &label(&bar.label));
            if let Some(ceiling) = bar.ceiling {
                drawing.rect(LEFT, y + 4.0, length(ceiling), 22.0, "faint");
            }
            drawing.rect(LEFT, y + 8.0, length(bar.value), 14.0, "data");
            if let Some(demanded) = bar.bar {
                let x = LEFT + length(demanded);
                drawing.line((x, y + 2.0), (x, y + 28.0), "mark");
            }
            let share = bar.ceiling.filter(|ceiling| *ceiling > 0.0).map(|ceiling| bar.value / ceiling * 100.0);
            let text = match share {
                Some(share) => format!("{} ({share:.0} %)", fixed(bar.value)),
                None => fixed(bar.value),
            };
            drawing.text(WIDTH - RIGHT + 12.0, y + 19.0, Anchor::Start, "", &text);
        }
        self.legend(&mut drawing, height - 12.0);
        drawing.finish()
    }

    fn legend(&self, drawing: &mut Drawing, y: f64) {
        let mut x = LEFT;
        drawing.rect(x, y - 10.0, 14.0, 10.0, "data");
        drawing.text(x + 20.0, y, Anchor::Start, "soft small", "measured");
        x += 100.0;
        if self.bars.iter().any(|bar| bar.ceiling.is_some()) {
            drawing.rect(x, y - 10.0, 14.0, 10.0, "faint");
            drawing.text(x + 20.0, y, Anchor::Start, "soft small", "ceiling of the same run (100 %)");
            x += 220.0;
        }
        if self.bars.iter().any(|bar| bar.bar.is_some()) {
            drawing.line((x, y - 12.0), (x, y + 2.0), "mark");
            drawing.text(x + 8.0, y, Anchor::Start, "soft small", "bar");
        }
    }
}

impl Bar {
    fn most(&self) -> f64 {
        [Some(self.value), self.ceiling, self.bar].into_iter().flatten().filter(|n| n.is_finite()).fold(0.0, f64::max)
    }
}
