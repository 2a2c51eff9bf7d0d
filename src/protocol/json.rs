//! JSON text: writing strings, comparing values, measuring shapes, without building trees where bytes will do.
//!
//! Promises: one pass over the bytes of a request, whatever they hold ([`scan`]); trees only to compare two documents
//! or to look into a small one ([`tree`]). Nothing here recurses as deep as its input says.

pub mod scan;
pub mod tree;

/// Appends `text` as a JSON string, escaped as `JSON.stringify` escapes it.
pub fn write_str(out: &mut String, text: &str) {
    out.push('"');
    // Nearly all texts need none. Looking at every byte without stopping lets the compiler look at many at once.
    if !text.bytes().fold(false, |needs, byte| needs | matches!(byte, b'"' | b'\\' | 0..=0x1f)) {
        out.push_str(text);
        out.push('"');
        return;
    }
    let mut rest = text;
    // Every byte that needs an escape is ASCII, so the text can be cut around it.
    while let Some(at) = rest.bytes().position(|b| matches!(b, b'"' | b'\\' | 0..=0x1f)) {
        out.push_str(&rest[..at]);
        match rest.as_bytes()[at] {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            0x8 => out.push_str("\\b"),
            0xc => out.push_str("\\f"),
            control => {
                use std::fmt::Write as _;
                // Writing to a String can't fail.
                let _ = write!(out, "\\u{control:04x}");
            }
        }
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
    out.push('"');
}

/// How many bytes [`write_str`] appends.
#[must_use]
pub fn str_len(text: &str) -> usize {
    let extra = |byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x8 | 0xc => 1,
        0..=0x1f => 5,
        _ => 0,
    };
    2 + text.len() + text.bytes().map(extra).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::{str_len, write_str};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn strings_are_written_as_serde_json_writes_them(text in any::<String>()) {
            let mut out = String::new();
            write_str(&mut out, &text);
            prop_assert_eq!(out.len(), str_len(&text));
            prop_assert_eq!(out, serde_json::to_string(&text).unwrap());
        }
    }

    #[test]
    fn control_characters() {
        let mut out = String::new();
        write_str(&mut out, "\0\u{1f}\u{8}\u{c}\n\r\t\"\\/\u{7f}ä");
        assert_eq!(out, "\"\\u0000\\u001f\\b\\f\\n\\r\\t\\\"\\\\/\u{7f}ä\"");
    }
}
