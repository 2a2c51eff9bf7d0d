//! What `JSON.parse` accepts and PostgreSQL's `jsonb` does not. Devices may have sent it, and get it back from us as they
//! sent it.

use std::borrow::Cow;

use crate::protocol::json::scan::number_value;

/// Digits of a `numeric` before the point,
const MAX_WHOLE_DIGITS: i64 = 131_072;
/// and behind it.
const MAX_FRACTION_DIGITS: i64 = 16_383;
/// Its exponents are below this.
const MAX_EXPONENT: i64 = i32::MAX as i64 / 2;
/// Stands for a character that can't be.
const REPLACEMENT: &str = "\\ufffd";

/// What can't be stored.
const NUL: &str = "its payload holds a character with the code 0 (\\u0000), which JSONB can't hold";
const LONE: &str = "its payload holds half of a character (a lone surrogate), which JSONB can't hold";
const NUMBER: &str = "its payload holds a number beyond what JSONB can hold";

/// A JSON text as `jsonb` takes it, and what it does not take if that is another one: a character that can't be becomes
/// U+FFFD, a number the nearest one that JavaScript has, as it would write it.
pub(super) fn storable(json: &str) -> (Cow<'_, str>, Option<&'static str>) {
    let bytes = json.as_bytes();
    let (mut out, mut copied, mut why) = (String::new(), 0, None);
    let (mut at, mut in_string) = (0, false);
    while let Some(byte) = bytes.get(at) {
        let (end, replaced) = match byte {
            b'"' => {
                in_string = !in_string;
                (at + 1, None)
            }
            b'\\' => escape(bytes, at),
            b'-' | b'0'..=b'9' if !in_string => number(json, at),
            _ => (at + 1, None),
        };
        if let Some((what, by)) = replaced {
            why = why.or(Some(what));
            out.push_str(&json[copied..at]);
            out.push_str(&by);
            copied = end;
        }
        at = end;
    }
    if why.is_none() {
        return (Cow::Borrowed(json), None);
    }
    out.push_str(&json[copied..]);
    (Cow::Owned(out), why)
}

type Replaced = Option<(&'static str, Cow<'static, str>)>;

/// The escape at this place: where it ends, and what stands in for it.
fn escape(bytes: &[u8], at: usize) -> (usize, Replaced) {
    let by = |what| Some((what, Cow::Borrowed(REPLACEMENT)));
    match unit(bytes, at) {
        None => (at + 2, None),
        Some(0) => (at + 6, by(NUL)),
        Some(0xd800..=0xdbff) if matches!(unit(bytes, at + 6), Some(0xdc00..=0xdfff)) => (at + 12, None),
        Some(0xd800..=0xdfff) => (at + 6, by(LONE)),
        Some(_) => (at + 6, None),
    }
}

/// The code of `\uXXXX`.
fn unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// The number at this place.
fn number(json: &str, at: usize) -> (usize, Replaced) {
    let is_part = |byte: &u8| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
    let end = at + json.as_bytes()[at..].iter().take_while(|byte| is_part(byte)).count();
    let text = &json[at..end];
    if fits_numeric(text) {
        return (end, None);
    }
    // JavaScript writes null for what is infinite, and no sign before a zero.
    let nearest = serde_json::Number::from_f64(number_value(text) + 0.0).map_or("null".to_owned(), |n| n.to_string());
    (end, Some((NUMBER, nearest.into())))
}

/// Whether PostgreSQL reads it.
fn fits_numeric(text: &str) -> bool {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let Ok(exponent) = exponent.parse::<i64>() else { return false };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let whole = whole.trim_start_matches('-');
    let length = |digits: &str| i64::try_from(digits.len()).unwrap_or(i64::MAX);
    if exponent.abs() >= MAX_EXPONENT || length(fraction).saturating_sub(exponent) > MAX_FRACTION_DIGITS {
        return false;
    }
    let mut zeros = 0;
    let is_zero = !whole.bytes().chain(fraction.bytes()).any(|digit| {
        zeros += i64::from(digit == b'0');
        digit != b'0'
    });
    is_zero || length(whole) + exponent - zeros <= MAX_WHOLE_DIGITS
}
