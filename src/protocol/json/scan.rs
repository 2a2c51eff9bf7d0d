//! Reads JSON text in one pass: checks the grammar, measures what limits ask for, and hands out spans instead of
//! values.
//!
//! Accepts what `JSON.parse` accepts: any nesting, numbers beyond the range of a double, lone surrogates as escapes.

use std::borrow::Cow;

/// The text is not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not JSON")]
pub struct Malformed;

/// How large a JSON value is in the terms of the complexity limit (contract, section 5.4, row 14).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Depth of the deepest nested value, primitives included; the root is at 0.
    pub depth: usize,
    /// Object members and array elements together, over all levels.
    pub keys: usize,
}

/// Where a value stands in the text.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// Its size.
    pub shape: Shape,
    /// Whether there is no white space outside strings.
    pub compact: bool,
}

/// A cursor over JSON text.
#[derive(Debug)]
pub struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    deepest: usize,
}

impl<'a> Scanner<'a> {
    /// A cursor at the start of `text`.
    #[must_use]
    pub const fn new(text: &'a str) -> Self {
        Self { text, bytes: text.as_bytes(), at: 0, deepest: usize::MAX }
    }

    /// Takes a value that is nested deeper than `depth` for malformed: reading one takes a byte for each level.
    #[must_use]
    pub const fn no_deeper_than(mut self, depth: usize) -> Self {
        self.deepest = depth;
        self
    }

    /// Skips white space; says whether there was any.
    fn space(&mut self) -> bool {
        let from = self.at;
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
        self.at > from
    }

    /// The next byte that is not white space.
    pub fn peek(&mut self) -> Option<u8> {
        self.space();
        self.bytes.get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.bytes.get(self.at) == Some(&byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(Malformed)
        }
    }

    /// Consumes the opening bracket of an array or object.
    ///
    /// # Errors
    /// When something else stands there.
    pub fn open(&mut self, bracket: u8) -> Result<(), Malformed> {
        self.space();
        self.expect(bracket)
    }

    /// Moves to the next member of an object and past its colon; `None` at the end. `first` starts as `true`. The flag
    /// of the result says whether the key held a lone surrogate.
    ///
    /// # Errors
    /// When the text is not JSON.
    pub fn member(&mut self, first: &mut bool) -> Result<Option<(Cow<'a, str>, bool)>, Malformed> {
        let key = self.key_text(first)?;
        Ok(key.map(|(inner, escaped)| if escaped { unescape(inner) } else { (Cow::Borrowed(inner), false) }))
    }

    /// Like [`Scanner::member`], but the key stays as it is written, without its quotes; the flag says whether it has
    /// escapes ([`unescape`]). Takes no memory.
    ///
    /// # Errors
    /// When the text is not JSON.
    pub fn key_text(&mut self, first: &mut bool) -> Result<Option<(&'a str, bool)>, Malformed> {
        if !self.more(first, b'}')? {
            return Ok(None);
        }
        self.space();
        let from = self.at;
        let escaped = self.string()?;
        let inner = &self.text[from + 1..self.at - 1];
        self.space();
        self.expect(b':')?;
        Ok(Some((inner, escaped)))
    }

    /// Moves to the next element of an array; `false` at the end. `first` starts as `true`.
    ///
    /// # Errors
    /// When the text is not JSON.
    pub fn element(&mut self, first: &mut bool) -> Result<bool, Malformed> {
        self.more(first, b']')
    }

    fn more(&mut self, first: &mut bool, close: u8) -> Result<bool, Malformed> {
        let next = self.peek().ok_or(Malformed)?;
        if next == close {
            self.at += 1;
            return Ok(false);
        }
        if !std::mem::take(first) {
            self.expect(b',')?;
        }
        Ok(true)
    }

    /// Checks that nothing but white space is left.
    ///
    /// # Errors
    /// When there is more.
    pub fn end(&mut self) -> Result<(), Malformed> {
        if self.peek().is_none() { Ok(()) } else { Err(Malformed) }
    }

    /// Consumes one value of any kind and measures it.
    ///
    /// # Errors
    /// When the text is not JSON.
    pub fn value(&mut self) -> Result<Span, Malformed> {
        self.space();
        let start = self.at;
        let mut shape = Shape::default();
        let mut compact = true;
        // The closing brackets still owed. A stack of our own, as the nesting is the sender's choice.
        let mut owed: Vec<u8> = Vec::new();
        loop {
            shape.depth = shape.depth.max(owed.len());
            match *self.bytes.get(self.at).ok_or(Malformed)? {
                b'"' => {
                    self.string()?;
                }
                open @ (b'{' | b'[') => {
                    self.at += 1;
                    compact &= !self.space();
                    let close = if open == b'{' { b'}' } else { b']' };
                    if self.bytes.get(self.at) == Some(&close) {
                        self.at += 1;
                    } else {
                        shape.keys += 1;
                        if owed.len() >= self.deepest {
                            return Err(Malformed);
                        }
                        owed.push(close);
                        if open == b'{' {
                            compact &= self.key()?;
                        }
                        continue;
                    }
                }
                b't' => self.literal("true")?,
                b'f' => self.literal("false")?,
                b'n' => self.literal("null")?,
                _ => self.number()?,
            }
            loop {
                let Some(close) = owed.last().copied() else {
                    return Ok(Span { start, end: self.at, shape, compact });
                };
                compact &= !self.space();
                match self.bytes.get(self.at) {
                    Some(b',') => {
                        self.at += 1;
                        compact &= !self.space();
                        shape.keys += 1;
                        if close == b'}' {
                            compact &= self.key()?;
                        }
                        break;
                    }
                    Some(byte) if *byte == close => {
                        self.at += 1;
                        owed.pop();
                    }
                    _ => return Err(Malformed),
                }
            }
        }
    }

    /// Consumes a key, its colon and the white space around it; says whether there was none.
    fn key(&mut self) -> Result<bool, Malformed> {
        self.string()?;
        let before = self.space();
        self.expect(b':')?;
        let after = self.space();
        Ok(!before && !after)
    }

    /// Consumes a string; says whether it has escapes.
    fn string(&mut self) -> Result<bool, Malformed> {
        self.expect(b'"')?;
        let mut escaped = false;
        loop {
            let rest = &self.bytes[self.at..];
            let plain = super::first_special(rest).ok_or(Malformed)?;
            self.at += plain + 1;
            match rest[plain] {
                b'"' => return Ok(escaped),
                b'\\' => {
                    escaped = true;
                    match self.bytes.get(self.at) {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
                        Some(b'u') => {
                            let hex = self.bytes.get(self.at + 1..self.at + 5).ok_or(Malformed)?;
                            if !hex.iter().all(u8::is_ascii_hexdigit) {
                                return Err(Malformed);
                            }
                            self.at += 5;
                        }
                        _ => return Err(Malformed),
                    }
                }
                _ => return Err(Malformed),
            }
        }
    }

    fn literal(&mut self, word: &str) -> Result<(), Malformed> {
        if self.bytes[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(())
        } else {
            Err(Malformed)
        }
    }

    fn digits(&mut self) -> Result<(), Malformed> {
        let from = self.at;
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if self.at > from { Ok(()) } else { Err(Malformed) }
    }

    fn number(&mut self) -> Result<(), Malformed> {
        if self.bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        if self.bytes.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.bytes.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }
}

/// The text of a JSON string, given with its quotes, that has been checked by [`Scanner`]. A lone surrogate becomes
/// U+FFFD, and then the flag is true.
#[must_use]
pub fn string_value(quoted: &str) -> (Cow<'_, str>, bool) {
    let inner = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
    if inner.contains('\\') { unescape(inner) } else { (Cow::Borrowed(inner), false) }
}

/// The value of a JSON number that has been checked by [`Scanner`], as JavaScript reads it: infinite beyond the range.
#[must_use]
pub fn number_value(text: &str) -> f64 {
    text.parse().unwrap_or(f64::NAN)
}

/// The text of a checked JSON string that is given without its quotes; takes at most as many bytes as that has. A lone
/// surrogate becomes U+FFFD, and then the flag is true.
#[must_use]
pub fn unescape(inner: &str) -> (Cow<'_, str>, bool) {
    let mut out = String::with_capacity(inner.len());
    let mut lone = false;
    let mut rest = inner;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = rest.as_bytes().get(at + 1).copied().unwrap_or(b'\\');
        let mut used = at + 2;
        match escape {
            b'b' => out.push('\u{8}'),
            b'f' => out.push('\u{c}'),
            b'n' => out.push('\n'),
            b'r' => out.push('\r'),
            b't' => out.push('\t'),
            b'u' => {
                let unit = hex_unit(&rest[at..]).unwrap_or(0xfffd);
                used = at + 6;
                let low = rest.get(used..).and_then(hex_unit).filter(|low| (0xdc00..0xe000).contains(low));
                let point = match (unit, low) {
                    (0xd800..=0xdbff, Some(low)) => {
                        used += 6;
                        0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00)
                    }
                    _ => unit,
                };
                let c = char::from_u32(point);
                lone |= c.is_none();
                out.push(c.unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            other => out.push(char::from(other)),
        }
        rest = rest.get(used..).unwrap_or_default();
    }
    out.push_str(rest);
    (Cow::Owned(out), lone)
}

/// The UTF-16 unit of an escape `\uXXXX` at the start of `text`.
fn hex_unit(text: &str) -> Option<u32> {
    let hex = text.strip_prefix("\\u")?.get(..4)?;
    u32::from_str_radix(hex, 16).ok()
}

/// A checked JSON text without white space outside strings. Everything else (order of keys, spelling of numbers,
/// escapes) stays.
#[must_use]
pub fn compacted(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let (mut inside, mut escaped) = (false, false);
    for byte in text.bytes() {
        if inside {
            inside = byte != b'"' || escaped;
            escaped = byte == b'\\' && !escaped;
        } else if matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
            continue;
        } else {
            inside = byte == b'"';
        }
        out.push(byte);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scan(text: &str) -> Result<Span, Malformed> {
        let mut scanner = Scanner::new(text);
        let span = scanner.value()?;
        scanner.end()?;
        Ok(span)
    }

    #[test]
    fn refuses_what_is_not_json() {
        for text in [
            "",
            " ",
            "{",
            "[",
            "[1,]",
            "{,}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "[1 2]",
            "[}",
            "{]",
            "01",
            "1.",
            ".5",
            "+1",
            "-",
            "1e",
            "tru",
            "nul",
            "NaN",
            "'a'",
            "\"a",
            "\"\n\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u12",
            "1 2",
            "[1]]",
            "\u{feff}1",
        ] {
            assert_eq!(scan(text).map(|_| ()), Err(Malformed), "{text:?}");
        }
    }

    #[test]
    fn accepts_what_javascript_accepts() {
        for text in ["\"\\ud800\"", "1e400", "-0", "0.5E-3", " [ ] ", "\"\\u0000\"", "\"\u{7f}\u{2028}\""] {
            assert!(scan(text).is_ok(), "{text:?}");
        }
        let deep = "[".repeat(200_000) + &"]".repeat(200_000);
        assert_eq!(scan(&deep).unwrap().shape, Shape { depth: 199_999, keys: 199_999 });
    }

    #[test]
    fn measures_depth_keys_and_white_space() {
        let span = scan(r#"{"a":[1,{"b":{}}],"c":"x y"}"#).unwrap();
        assert_eq!(span.shape, Shape { depth: 3, keys: 5 });
        assert!(span.compact);
        for text in ["{ }", "[1, 2]", "[1 ,2]", "{\"a\": 1}", "{\"a\" :1}", "{\"a\":1\n}", "[ 1]", "{\"a\":1, \"b\":2}"]
        {
            let span = scan(text).unwrap();
            assert!(!span.compact, "{text}");
            let short = compacted(text);
            assert!(scan(std::str::from_utf8(&short).unwrap()).unwrap().compact);
        }
    }

    #[test]
    fn lone_surrogates_are_reported_not_fatal() {
        assert_eq!(string_value(r#""a\ud83d\ude00""#), (Cow::from("a😀"), false));
        for text in [r#""\ud83d""#, r#""\ude00""#, r#""\ud83dx""#, r#""\ud83d\n""#, r#""\ud83dA""#, r#""\ude00\ud83d""#]
        {
            assert!(string_value(text).1, "{text}");
        }
        assert_eq!(string_value(r#""\"\\\/\b\f\n\r\t\u0041""#).0, "\"\\/\u{8}\u{c}\n\r\tA");
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(text in r#"[\[\]{}",:0-9eE.+\-tfnrualse\\ ]{0,24}"#) {
            let ours = scan(&text).is_ok();
            let theirs = serde_json::from_str::<Box<serde_json::value::RawValue>>(&text).is_ok();
            prop_assert_eq!(ours, theirs);
        }

        #[test]
        fn strings_survive(text in any::<String>()) {
            let quoted = serde_json::to_string(&text).unwrap();
            prop_assert!(scan(&quoted).is_ok());
            let (back, lone) = string_value(&quoted);
            prop_assert_eq!(&*back, text.as_str());
            prop_assert!(!lone);
            prop_assert_eq!(compacted(&quoted), quoted.as_bytes());
        }
    }
}
