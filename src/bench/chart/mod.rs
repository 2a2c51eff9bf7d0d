//! Charts as SVG files, for the documents.
//!
//! Owns how they look: readable in light and dark (the reader's setting decides, inside the file), no fonts or scripts
//! from elsewhere, all text escaped. Knows nothing about what is measured.

pub mod bars;
pub mod latency;
pub mod lines;
mod svg;
#[cfg(test)]
mod tests;

pub use bars::{Bar, Bars};
pub use latency::{Latencies, Latency};
pub use lines::{Line, Lines};

/// Width of every chart.
const WIDTH: f64 = 760.0;
/// Where plots begin: labels stand left of it.
const LEFT: f64 = 270.0;
/// Room right of plots for values.
const RIGHT: f64 = 170.0;
/// Above the first row: title and subtitle.
const TOP: f64 = 66.0;
/// Height of a row.
const ROW: f64 = 34.0;

/// A label that fits left of the plot.
fn label(text: &str) -> String {
    shortened(text, 32)
}

/// At most so many characters; what is cut off is marked.
fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(most - 1).collect();
    short.push('…');
    short
}

/// A count of rows as a coordinate.
fn at(row: usize) -> f64 {
    f64::from(u32::try_from(row).unwrap_or(u32::MAX))
}
