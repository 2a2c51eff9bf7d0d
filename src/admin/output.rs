//! What commands share in talking: JSON, and the question before something is deleted.

use std::io::{self, BufRead, Write};

use serde::Serialize;

/// Prints one value, indented.
pub(super) fn print_json(value: &impl Serialize, output: &mut (dyn Write + Send)) -> io::Result<()> {
    writeln!(output, "{}", serde_json::to_string_pretty(value)?)
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
