//! What commands share in talking: JSON, tables, and the question before something is deleted.

use std::fmt::Display;
use std::io::{self, BufRead, Write};

use serde::Serialize;

/// Prints one value, indented.
pub(super) fn print_json(value: &impl Serialize, output: &mut (dyn Write + Send)) -> io::Result<()> {
    writeln!(output, "{}", serde_json::to_string_pretty(value)?)
}

/// Prints a line of a table: cells two spaces apart, in columns of these widths. Negative widths are aligned left; 0 is
/// as wide as the cell.
pub(super) fn print_row<const N: usize>(
    output: &mut (dyn Write + Send),
    widths: [isize; N],
    cells: [&dyn Display; N],
) -> io::Result<()> {
    for (column, (width, cell)) in widths.into_iter().zip(cells).enumerate() {
        let gap = if column == 0 { "" } else { "  " };
        let (size, is_left) = (width.unsigned_abs(), width <= 0);
        if is_left { write!(output, "{gap}{cell:<size$}") } else { write!(output, "{gap}{cell:>size$}") }?;
    }
    writeln!(output)
}

/// Says what is about to happen, and whether the operator types the word that agrees to it.
pub(super) fn confirmed(
    warning: &str,
    word: &str,
    input: &mut (dyn BufRead + Send),
    output: &mut (dyn Write + Send),
) -> io::Result<bool> {
    write!(output, "{warning}\nType {word} to go on: ")?;
    output.flush()?;
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    Ok(answer.trim() == word)
}
