//! JSON text: writing strings, comparing values, measuring shapes, without building trees where bytes will do.
//!
//! Promises: one pass over the bytes of a request, whatever they hold ([`scan`]); trees only to compare two documents or to
//! look into a small one ([`tree`]). Nothing here recurses as deep as its input says.

pub mod scan;
pub mod tree;

/// Appends `text` as a JSON string, escaped as `JSON.stringify` escapes it.
pub fn write_str(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' => {
                use std::fmt::Write as _;
                // Writing to a String can't fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
