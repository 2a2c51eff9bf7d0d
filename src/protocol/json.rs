//! JSON text: writing strings, comparing values, measuring shapes, without building trees where bytes will do.
//!
//! Promises: one pass over the bytes of a request, whatever they hold ([`scan`]); trees only to compare two documents
//! or to look into a small one ([`tree`]), and fingerprints
//! where one of the two is elsewhere ([`digest`]). Nothing here recurses as deep as its input says.

pub mod digest;
pub mod scan;
pub mod tree;

/// Where JSON text is written to: a string, or the bytes of a body.
pub trait Sink {
    /// Appends text.
    fn push_text(&mut self, text: &str);
    /// The last byte, if there is one.
    fn last_byte(&self) -> Option<u8>;
}

impl Sink for String {
    fn push_text(&mut self, text: &str) {
        self.push_str(text);
    }

    fn last_byte(&self) -> Option<u8> {
        self.as_bytes().last().copied()
    }
}

impl Sink for Vec<u8> {
    fn push_text(&mut self, text: &str) {
        self.extend_from_slice(text.as_bytes());
    }

    fn last_byte(&self) -> Option<u8> {
        self.last().copied()
    }
}

impl Sink for bytes::BytesMut {
    fn push_text(&mut self, text: &str) {
        self.extend_from_slice(text.as_bytes());
    }

    fn last_byte(&self) -> Option<u8> {
        self.last().copied()
    }
}

/// Where the first byte stands that ends a JSON string or needs an escape in one.
fn first_special(bytes: &[u8]) -> Option<usize> {
    /// Looked at together, without a branch for each, which the compiler makes into a few instructions.
    const STEP: usize = 16;
    let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
    let steps = bytes.chunks_exact(STEP);
    let plain = steps.take_while(|step| !step.iter().fold(false, |any, byte| any | is_special(byte))).count() * STEP;
    bytes[plain..].iter().position(is_special).map(|at| plain + at)
}

/// Appends `text` as a JSON string, escaped as `JSON.stringify` escapes it.
pub fn write_str(out: &mut impl Sink, text: &str) {
    out.push_text("\"");
    let mut rest = text;
    // Every byte that needs an escape is ASCII, so the text can be cut around it.
    while let Some(at) = first_special(rest.as_bytes()) {
        out.push_text(&rest[..at]);
        match rest.as_bytes()[at] {
            b'"' => out.push_text("\\\""),
            b'\\' => out.push_text("\\\\"),
            b'\n' => out.push_text("\\n"),
            b'\r' => out.push_text("\\r"),
            b'\t' => out.push_text("\\t"),
            0x8 => out.push_text("\\b"),
            0xc => out.push_text("\\f"),
            control => out.push_text(&format!("\\u{control:04x}")),
        }
        rest = &rest[at + 1..];
    }
    out.push_text(rest);
    out.push_text("\"");
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
