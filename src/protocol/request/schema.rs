//! The structural rules that requests share, and the issues that tell which one was broken. Issues have the members
//! that released servers sent (`details`, outside production): tools of operators read them.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::super::json::scan::{Malformed, Scanner, Span, number_value, string_value};
use super::super::limits::{MAX_ID_LEN, MAX_REQUEST_ID_LEN, MAX_SAFE_INTEGER};
use super::super::response::Issue;
use super::RequestError;

/// The members of an object by the place of their name in `names`; of equal names the last wins, others are dropped.
pub(super) fn members<const N: usize>(
    scanner: &mut Scanner<'_>,
    names: &[&str; N],
) -> Result<[Option<Span>; N], Malformed> {
    let mut found = [None; N];
    scanner.open(b'{')?;
    let mut first = true;
    while let Some((key, _)) = scanner.member(&mut first)? {
        let span = scanner.value()?;
        if let Some(at) = names.iter().position(|name| *name == key) {
            found[at] = Some(span);
        }
    }
    Ok(found)
}

/// Length in UTF-16 code units, as clients count.
pub(in crate::protocol) fn utf16_len(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}

/// Whether `text` has more than `max` UTF-16 units. A text never has more units than bytes.
pub(in crate::protocol) fn longer_than(text: &str, max: usize) -> bool {
    text.len() > max && utf16_len(text) > max
}

/// A form that a string must have.
pub(super) struct Format {
    name: &'static str,
    pattern: &'static str,
    matches: fn(&str) -> bool,
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// RFC 9562: versions 1 to 8 of the proper variant in either case, nil, and max in lower case (contract, section 3.2).
fn is_uuid(text: &str) -> bool {
    let bytes = text.as_bytes();
    let dashes = [8, 13, 18, 23];
    if bytes.len() != 36
        || !bytes.iter().enumerate().all(|(i, b)| if dashes.contains(&i) { *b == b'-' } else { b.is_ascii_hexdigit() })
    {
        return false;
    }
    let all = |digit: u8| bytes.iter().all(|b| *b == b'-' || *b == digit);
    all(b'0')
        || all(b'f')
        || (matches!(bytes[14], b'1'..=b'8') && matches!(bytes[19], b'8' | b'9' | b'a' | b'b' | b'A' | b'B'))
}

/// What a string member must be, besides a string. Lengths in UTF-16 units.
#[derive(Clone, Copy, Default)]
pub(super) struct StringRule {
    pub min: Option<usize>,
    pub max: Option<usize>,
    pub format: Option<&'static Format>,
}

pub(super) const CLIENT_ID: StringRule = StringRule {
    min: Some(1),
    max: Some(MAX_ID_LEN),
    format: Some(&Format { name: "regex", pattern: "/^[a-zA-Z0-9_-]+$/", matches: is_word }),
};
pub(super) const REQUEST_ID: StringRule = StringRule {
    min: None,
    max: None,
    format: Some(&Format {
        name: "regex",
        pattern: "/^[A-Za-z0-9_-]{1,64}$/",
        matches: |text| is_word(text) && text.len() <= MAX_REQUEST_ID_LEN,
    }),
};
pub(super) const UUID: StringRule = StringRule {
    min: None,
    max: None,
    format: Some(&Format {
        name: "uuid",
        pattern: "/^([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[1-8][0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}|00000000-0000-0000-0000-000000000000|ffffffff-ffff-ffff-ffff-ffffffffffff)$/",
        matches: is_uuid,
    }),
};

/// Whether `text` is a client id (section 3.2).
#[must_use]
pub fn is_client_id(text: &str) -> bool {
    is_word(text) && text.len() <= MAX_ID_LEN
}

/// The member that is being checked.
#[derive(Clone, Copy)]
pub(super) struct At {
    /// The operation's place, for members of operations.
    pub op: Option<usize>,
    pub field: &'static str,
}

impl At {
    pub(super) const fn root(field: &'static str) -> Self {
        Self { op: None, field }
    }

    pub(super) fn path(self) -> Vec<Value> {
        let mut path = Vec::with_capacity(4);
        if let Some(op) = self.op {
            path.extend([json!("ops"), json!(op)]);
        }
        path.push(json!(self.field));
        path
    }

    pub(super) fn below(self, step: impl Into<Value>) -> Vec<Value> {
        let mut path = self.path();
        path.push(step.into());
        path
    }
}

/// Checks members one by one and collects what is wrong with them.
pub(super) struct Checker<'a> {
    pub text: &'a str,
    pub issues: Vec<Issue>,
    missing: Vec<(usize, At)>,
    /// The member of the current operation that holds a lone surrogate, if any.
    pub poisoned: Option<&'static str>,
    /// The first short texts of this request, as most of them come again in each operation: the client, its actions, the
    /// clients of the clock.
    known: Vec<Arc<str>>,
}

/// Issues that are told; what is wrong beyond them is not worth the memory.
const MAX_ISSUES: usize = 1000;

/// So many different texts are looked out for.
const MAX_KNOWN: usize = 12;

impl<'a> Checker<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { text, issues: Vec::new(), missing: Vec::new(), poisoned: None, known: Vec::new() }
    }

    /// A text that is likely to come more than once.
    fn shared(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.known.iter().find(|known| ***known == *text) {
            return Arc::clone(known);
        }
        let text: Arc<str> = text.into();
        if self.known.len() < MAX_KNOWN {
            self.known.push(Arc::clone(&text));
        }
        text
    }

    pub(super) fn raw(&self, span: Span) -> &'a str {
        &self.text[span.start..span.end]
    }

    /// First byte of a value: tells its kind. 0 for a missing one.
    pub(super) fn kind(&self, span: Option<Span>) -> u8 {
        span.map_or(0, |span| self.text.as_bytes()[span.start])
    }

    /// Adds an issue; `members` beyond code, message and path.
    pub(super) fn issue(&mut self, code: &str, message: impl Into<String>, path: Vec<Value>, members: Value) {
        if self.issues.len() >= MAX_ISSUES {
            return;
        }
        let mut issue = Map::new();
        issue.insert("code".into(), json!(code));
        if let Value::Object(members) = members {
            issue.extend(members);
        }
        issue.insert("path".into(), Value::Array(path));
        issue.insert("message".into(), Value::String(message.into()));
        self.issues.push(Issue(issue));
    }

    pub(super) fn wrong_type(&mut self, expected: &str, path: Vec<Value>) {
        let message = format!("Invalid input: expected {expected}");
        self.issue("invalid_type", message, path, json!({"expected": expected}));
    }

    /// Notes that a member is missing that may be missing. Released servers list it when the request fails for anything
    /// else.
    pub(super) fn missing_value(&mut self, at: At) {
        self.missing.push((self.issues.len(), at));
    }

    /// Starts over.
    pub(super) fn forget_issues(&mut self) {
        self.issues.clear();
        self.missing.clear();
    }

    /// Whether every value that is there, and every one that ought to be there, has the right type. Rules across
    /// members are looked at only then.
    pub(super) fn types_fit(&self) -> bool {
        self.missing.is_empty() && self.issues.iter().all(Issue::keeps_type)
    }

    /// What is wrong with the request.
    pub(super) fn into_error(mut self) -> RequestError {
        for (position, at) in std::mem::take(&mut self.missing).into_iter().rev() {
            self.wrong_type("nonoptional", at.path());
            self.issues[position..].rotate_right(1);
        }
        RequestError::Invalid(self.issues)
    }

    pub(super) fn too_small(&mut self, origin: &str, minimum: i64, path: Vec<Value>) {
        let message = format!("Too small: expected {origin} to be at least {minimum}");
        self.issue("too_small", message, path, json!({"origin": origin, "minimum": minimum, "inclusive": true}));
    }

    pub(super) fn too_big(&mut self, origin: &str, maximum: i64, path: Vec<Value>) {
        let message = format!("Too big: expected {origin} to be at most {maximum}");
        self.issue("too_big", message, path, json!({"origin": origin, "maximum": maximum, "inclusive": true}));
    }

    fn length(&mut self, origin: &str, len: usize, rule: StringRule, path: &[Value]) {
        if let Some(min) = rule.min.filter(|min| len < *min) {
            self.too_small(origin, i64::try_from(min).unwrap_or(i64::MAX), path.to_vec());
        }
        if let Some(max) = rule.max.filter(|max| len > *max) {
            self.too_big(origin, i64::try_from(max).unwrap_or(i64::MAX), path.to_vec());
        }
    }

    /// Checks a decoded string. A string that is broken in several ways has several issues.
    pub(super) fn text(&mut self, value: &str, rule: StringRule, path: impl Fn() -> Vec<Value>) -> bool {
        let before = self.issues.len();
        if rule.max.is_some_and(|max| longer_than(value, max)) || rule.min.is_some_and(|min| value.len() < min) {
            self.length("string", utf16_len(value), rule, &path());
        }
        if let Some(format) = rule.format.filter(|format| !(format.matches)(value)) {
            let members = json!({"origin": "string", "format": format.name, "pattern": format.pattern});
            self.issue(
                "invalid_format",
                format!("Invalid string: must match pattern {}", format.pattern),
                path(),
                members,
            );
        }
        self.issues.len() == before
    }

    /// A string in a place given by `path`; the flag of the result says whether it held a lone surrogate.
    fn string_in(
        &mut self,
        span: Option<Span>,
        rule: StringRule,
        path: impl Fn() -> Vec<Value>,
    ) -> Option<(Cow<'a, str>, bool)> {
        let raw = match span {
            Some(span) if self.kind(Some(span)) == b'"' => self.raw(span),
            other => {
                self.wrong_type("string", path());
                // Released servers go on to measure whatever has a length.
                if let Some(span) = other.filter(|span| self.kind(Some(*span)) == b'[') {
                    self.length("array", elements(self.raw(span)).count(), rule, &path());
                }
                return None;
            }
        };
        let (value, lone) = string_value(raw);
        self.text(&value, rule, path).then_some((value, lone))
    }

    fn string_at(&mut self, at: At, span: Option<Span>, rule: StringRule) -> Option<Cow<'a, str>> {
        let (value, lone) = self.string_in(span, rule, || at.path())?;
        if lone {
            self.poisoned = self.poisoned.or(Some(at.field));
        }
        Some(value)
    }

    /// A required string.
    pub(super) fn string(&mut self, at: At, span: Option<Span>, rule: StringRule) -> Option<Arc<str>> {
        self.string_at(at, span, rule).map(Into::into)
    }

    /// A required string that is likely to be the same in other operations.
    pub(super) fn shared_string(&mut self, at: At, span: Option<Span>, rule: StringRule) -> Option<Arc<str>> {
        self.string_at(at, span, rule).map(|value| self.shared(&value))
    }

    /// A string that may be missing.
    pub(super) fn optional_string(&mut self, at: At, span: Option<Span>, rule: StringRule) -> Option<Arc<str>> {
        span.and_then(|span| self.string(at, Some(span), rule))
    }

    /// Something else than an array with so many items. Released servers go on to measure whatever has a length.
    pub(super) fn no_array(&mut self, at: At, span: Span, rule: StringRule) {
        self.wrong_type("array", at.path());
        if self.kind(Some(span)) == b'"' {
            let (text, _) = string_value(self.raw(span));
            self.length("string", utf16_len(&text), rule, &at.path());
        }
    }

    /// An array of strings that may be missing.
    pub(super) fn optional_strings(
        &mut self,
        at: At,
        span: Option<Span>,
        rule: StringRule,
        max_items: usize,
    ) -> Option<Vec<Arc<str>>> {
        let span = span?;
        if self.kind(Some(span)) != b'[' {
            self.no_array(at, span, StringRule { min: None, max: Some(max_items), format: None });
            return None;
        }
        let base = span.start;
        let mut values = Vec::new();
        let mut count = 0;
        for (i, item) in elements(self.raw(span)).enumerate() {
            count = i + 1;
            // Refused for their number; the rest is not worth the memory.
            if i >= max_items {
                continue;
            }
            let item = Span { start: base + item.start, end: base + item.end, ..item };
            if let Some((value, lone)) = self.string_in(Some(item), rule, || at.below(i)) {
                if lone {
                    self.poisoned = self.poisoned.or(Some(at.field));
                }
                values.push(value.into());
            }
        }
        if count > max_items {
            self.too_big("array", i64::try_from(max_items).unwrap_or(i64::MAX), at.path());
        }
        Some(values)
    }

    /// A number, already read: anything but a finite one is an issue.
    pub(super) fn finite(&mut self, value: Option<f64>, path: impl Fn() -> Vec<Value>) -> Option<f64> {
        let received = match value {
            Some(value) if value.is_finite() => return Some(value),
            Some(value) if value.is_nan() => json!({"expected": "number", "received": "NaN"}),
            Some(_) => json!({"expected": "number", "received": "Infinity"}),
            None => json!({"expected": "number"}),
        };
        self.issue("invalid_type", "Invalid input: expected number", path(), received);
        None
    }

    /// The value of a member as a number; `None` when it is missing or something else.
    pub(super) fn number_of(&self, span: Option<Span>) -> Option<f64> {
        let span = span?;
        matches!(self.kind(Some(span)), b'-' | b'0'..=b'9').then(|| number_value(self.raw(span)))
    }

    /// A required finite number.
    pub(super) fn number(&mut self, at: At, span: Option<Span>) -> Option<f64> {
        self.finite(self.number_of(span), || at.path())
    }

    /// A safe integer within bounds, already read.
    pub(super) fn integer(&mut self, value: Option<f64>, min: i64, max: Option<i64>, at: At) -> Option<i64> {
        let value = self.finite(value, || at.path())?;
        if value.fract() != 0.0 {
            let members = json!({"expected": "int", "format": "safeint"});
            self.issue("invalid_type", "Invalid input: expected int", at.path(), members);
            return None;
        }
        let before = self.issues.len();
        // A float cast saturates, so what is out of range stays out of range.
        #[expect(clippy::cast_possible_truncation, reason = "integral, and saturating is what is wanted")]
        let integer = value as i64;
        if !(-MAX_SAFE_INTEGER..=MAX_SAFE_INTEGER).contains(&integer) {
            let note = json!("Integers must be within the safe integer range.");
            if integer > 0 {
                self.too_big("int", MAX_SAFE_INTEGER, at.path());
            } else {
                self.too_small("int", -MAX_SAFE_INTEGER, at.path());
            }
            if let Some(Issue(issue)) = self.issues.last_mut() {
                issue.insert("note".into(), note);
            }
        }
        if integer < min {
            self.too_small("number", min, at.path());
        }
        if let Some(max) = max.filter(|max| integer > *max) {
            self.too_big("number", max, at.path());
        }
        (self.issues.len() == before).then_some(integer)
    }

    /// An integer that may be missing.
    pub(super) fn optional_integer(&mut self, at: At, span: Option<Span>, min: i64, max: Option<i64>) -> Option<i64> {
        let span = span?;
        self.integer(self.number_of(Some(span)), min, max, at)
    }

    /// A boolean that may be missing.
    pub(super) fn optional_bool(&mut self, at: At, span: Option<Span>) -> Option<bool> {
        match self.kind(Some(span?)) {
            b't' => Some(true),
            b'f' => Some(false),
            _ => {
                self.wrong_type("boolean", at.path());
                None
            }
        }
    }

    /// One of several texts.
    pub(super) fn choice<T: Copy>(&mut self, at: At, span: Option<Span>, choices: &[(&str, T)]) -> Option<T> {
        let raw = span.filter(|span| self.kind(Some(*span)) == b'"').map(|span| self.raw(span));
        if let Some((text, false)) = raw.map(string_value)
            && let Some((_, value)) = choices.iter().find(|(name, _)| *name == text)
        {
            return Some(*value);
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let message = format!("Invalid option: expected one of {}", names.join("|"));
        self.issue("invalid_value", message, at.path(), json!({"values": names}));
        None
    }

    /// One of several texts, or nothing.
    pub(super) fn optional_choice<T: Copy>(&mut self, at: At, span: Option<Span>, choices: &[(&str, T)]) -> Option<T> {
        span.and_then(|span| self.choice(at, Some(span), choices))
    }

    /// The entries of a vector clock. With `strict` each value must be a finite number (snapshots); without it, what is
    /// no finite number becomes NaN and is stripped later. A key that no client can have is dropped (section 2.6).
    pub(super) fn clock(&mut self, at: At, span: Option<Span>, strict: bool) -> Vec<(Arc<str>, f64)> {
        let Some(span) = span.filter(|span| self.kind(Some(*span)) == b'{') else {
            self.wrong_type("record", at.path());
            return Vec::new();
        };
        let raw = self.raw(span);
        let mut entries: Vec<(Arc<str>, Option<f64>)> = Vec::new();
        for (key, lone, value) in object_entries(raw) {
            if key == "__proto__" {
                continue;
            }
            let text = &raw[value.start..value.end];
            let number = matches!(text.as_bytes()[0], b'-' | b'0'..=b'9').then(|| number_value(text));
            // A key that was no text stands for no client: its entry counts, but is stripped like other invalid ones.
            let number = if lone && !strict { None } else { number };
            match entries.iter_mut().find(|(name, _)| !lone && **name == *key) {
                Some(entry) => entry.1 = number,
                None => entries.push((self.shared(&key), number)),
            }
            if entries.len() > MAX_CLOCK_TRANSPORT {
                // Refused later for its size anyway; the rest is not worth the memory.
                break;
            }
        }
        if strict {
            for (key, value) in js_order(&entries) {
                self.finite(value, || at.below(key));
            }
        }
        entries.into_iter().map(|(key, value)| (key, value.filter(|v| v.is_finite()).unwrap_or(f64::NAN))).collect()
    }
}

/// Clock entries that are kept for the count of section 4 (51 are enough to refuse a clock).
const MAX_CLOCK_TRANSPORT: usize = 4 * super::super::limits::MAX_CLOCK_ACCEPTED;

/// Entries in the order in which JavaScript lists them: array indexes first, by number.
fn js_order(entries: &[(Arc<str>, Option<f64>)]) -> Vec<(&str, Option<f64>)> {
    let index = |key: &str| key.parse::<u32>().ok().filter(|n| *n < u32::MAX && n.to_string() == key);
    let mut sorted: Vec<(&str, Option<f64>)> = entries.iter().map(|(key, value)| (&**key, *value)).collect();
    sorted.sort_by_key(|(key, _)| index(key).map_or((1, 0), |n| (0, n)));
    sorted
}

/// Spans of the elements of a checked array.
fn elements(raw: &str) -> impl Iterator<Item = Span> {
    let mut scanner = Scanner::new(raw);
    let mut first = true;
    let mut open = scanner.open(b'[').is_ok();
    std::iter::from_fn(move || {
        let span = if open && scanner.element(&mut first) == Ok(true) { scanner.value().ok() } else { None };
        open = span.is_some();
        span
    })
}

/// Keys, whether they hold a lone surrogate, and spans of the values of a checked object.
pub(in crate::protocol) fn object_entries(raw: &str) -> impl Iterator<Item = (Cow<'_, str>, bool, Span)> {
    let mut scanner = Scanner::new(raw);
    let mut first = true;
    let mut open = scanner.open(b'{').is_ok();
    std::iter::from_fn(move || {
        if !open {
            return None;
        }
        let entry = scanner.member(&mut first).ok().flatten().and_then(|(key, lone)| {
            let span = scanner.value().ok()?;
            Some((key, lone, span))
        });
        open = entry.is_some();
        entry
    })
}
