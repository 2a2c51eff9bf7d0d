//! Looking into JSON text without a copy of it: the members of an object, what merging a value adds.

use std::borrow::Cow;
use std::ops::Range;

use super::room::{Problem, Room, heap};
use crate::protocol::json::scan::{Malformed, Scanner, unescape};
use crate::protocol::json::write_str;

/// Far deeper than anything that may be uploaded; reading takes a byte for each level.
const MAX_DEPTH: usize = 10_000;

/// A value on its way into an object.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    /// A part of the state's base.
    Piece(Range<usize>),
    /// To be copied.
    Text(&'a str),
}

impl Value<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Piece(range) => range.len(),
            Self::Text(text) => text.len(),
        }
    }

    pub(super) const fn heap(&self) -> usize {
        match self {
            Self::Piece(_) => 0,
            Self::Text(text) => heap(text.len()),
        }
    }
}

impl From<Malformed> for Problem {
    fn from(Malformed: Malformed) -> Self {
        Self::Unreadable
    }
}

/// A piece of the base.
pub(super) fn piece(base: &[u8], at: usize, len: usize) -> Result<&str, Problem> {
    std::str::from_utf8(&base[at..at + len]).map_err(|_| Problem::Unreadable)
}

/// Where the one value lies that `bytes` consist of.
pub(super) fn only_value(bytes: &[u8], room: &mut Room) -> Result<Range<usize>, Problem> {
    room.step(bytes.len())?;
    let text = std::str::from_utf8(bytes).map_err(|_| Problem::Unreadable)?;
    let mut scanner = Scanner::new(text).no_deeper_than(MAX_DEPTH);
    let span = scanner.value()?;
    scanner.end()?;
    Ok(span.start..span.end)
}

/// Whether a value, without white space around it, is a JSON object.
pub(super) fn is_object(value: &str) -> bool {
    value.starts_with('{')
}

/// Whether the app's language counts a value as true.
pub(super) fn is_truthy(value: &str) -> bool {
    match value {
        "null" | "false" | "\"\"" => false,
        // A number too large to be read is infinite there, hence true.
        text if text.starts_with(['-', '0']) => text.parse() != Ok(0.0_f64),
        _ => true,
    }
}

/// Shows `each` the members of an object, in order: key, and where the value lies. Of repeated keys the last counts.
pub(super) fn members(
    object: &str,
    room: &mut Room,
    mut each: impl FnMut(&str, Range<usize>, &mut Room) -> Result<(), Problem>,
) -> Result<(), Problem> {
    room.step(object.len())?;
    let mut scanner = Scanner::new(object).no_deeper_than(MAX_DEPTH);
    scanner.open(b'{')?;
    let mut first = true;
    while let Some((key, escaped)) = scanner.key_text(&mut first)? {
        let value = scanner.value()?;
        let range = value.start..value.end;
        if escaped {
            room.take(heap(key.len()))?;
            let (plain, lone) = unescape(key);
            if lone {
                return Err(Problem::Unreadable);
            }
            each(&plain, range, room)?;
            room.give(heap(key.len()));
        } else {
            each(key, range, room)?;
        }
    }
    Ok(())
}

/// The value of one member of an object; of repeated ones the last.
pub(super) fn member<'a>(object: &'a str, name: &str, room: &mut Room) -> Result<Option<&'a str>, Problem> {
    let mut found = None;
    members(object, room, |key, range, _| {
        if key == name {
            found = Some(range);
        }
        Ok(())
    })?;
    Ok(found.map(|range| &object[range]))
}

/// Shows `each` the elements of an array: position, and where the value lies.
pub(super) fn elements(
    array: &str,
    room: &mut Room,
    mut each: impl FnMut(usize, Range<usize>, &mut Room) -> Result<(), Problem>,
) -> Result<(), Problem> {
    room.step(array.len())?;
    let mut scanner = Scanner::new(array).no_deeper_than(MAX_DEPTH);
    scanner.open(b'[')?;
    let (mut first, mut i) = (true, 0);
    while scanner.element(&mut first)? {
        let value = scanner.value()?;
        each(i, value.start..value.end, room)?;
        i += 1;
    }
    Ok(())
}

/// How many bytes of JSON spreading a value adds at the least, where that is more than the value has itself: a member has
/// a key, a colon and quotes for each unit of a string.
pub(super) fn least_growth(value: &str) -> usize {
    const LEAST: usize = r#""0":"x","#.len();
    let is_plain = value.starts_with('"') && !value.contains('\\');
    if is_plain { LEAST * value.chars().count().saturating_sub(2) } else { 0 }
}

/// The members of an object, sorted by key, of repeated keys only the last; the values lie where they were.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    list: Vec<Field<'a>>,
    held: usize,
}

#[derive(Debug)]
struct Field<'a> {
    key: Cow<'a, str>,
    order: usize,
    value: &'a str,
}

impl<'a> Fields<'a> {
    /// The members of `value`; `None` if it is no object.
    pub(super) fn read(value: &'a str, room: &mut Room) -> Result<Option<Self>, Problem> {
        if !is_object(value) {
            return Ok(None);
        }
        let (mut count, mut escaped) = (0, 0);
        room.step(value.len())?;
        let mut scanner = Scanner::new(value).no_deeper_than(MAX_DEPTH);
        scanner.open(b'{')?;
        let mut first = true;
        while let Some((key, has_escapes)) = scanner.key_text(&mut first)? {
            scanner.value()?;
            count += 1;
            escaped += if has_escapes { heap(key.len()) } else { 0 };
        }
        let held = heap(count * size_of::<Field<'_>>()) + escaped;
        room.take(held)?;
        room.step(count * MEMBER_SORT_STEPS + value.len())?;
        let mut list: Vec<Field<'a>> = Vec::with_capacity(count);
        let mut scanner = Scanner::new(value).no_deeper_than(MAX_DEPTH);
        scanner.open(b'{')?;
        let mut first = true;
        while let Some((key, has_escapes)) = scanner.key_text(&mut first)? {
            let span = scanner.value()?;
            let (key, lone) = if has_escapes { unescape(key) } else { (Cow::Borrowed(key), false) };
            if lone {
                return Err(Problem::Unreadable);
            }
            list.push(Field { key, order: list.len(), value: &value[span.start..span.end] });
        }
        list.sort_unstable_by(|a, b| a.key.cmp(&b.key).then(a.order.cmp(&b.order)));
        list.dedup_by(|later, kept| {
            let same = later.key == kept.key;
            if same {
                kept.value = later.value;
            }
            same
        });
        Ok(Some(Self { list, held }))
    }

    /// The value under a key.
    pub(super) fn get(&self, key: &str) -> Option<&'a str> {
        self.list.binary_search_by(|field| (*field.key).cmp(key)).ok().map(|at| self.list[at].value)
    }

    /// The members under a key if that is an object.
    pub(super) fn object(&self, key: &str, room: &mut Room) -> Result<Option<Self>, Problem> {
        self.get(key).map_or(Ok(None), |value| Self::read(value, room))
    }

    /// Takes the value under a key out.
    pub(super) fn remove(&mut self, key: &str) -> Option<&'a str> {
        let at = self.list.binary_search_by(|field| (*field.key).cmp(key)).ok()?;
        Some(self.list.remove(at).value)
    }

    /// Whether there is none.
    pub(super) const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Keys and values.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &'a str)> + Clone {
        self.list.iter().map(|field| (&*field.key, field.value))
    }

    /// The object as compact JSON, with other values under some keys.
    pub(super) fn json_with(&self, others: &[(&str, &str)], room: &mut Room) -> Result<String, Problem> {
        let kept = self.iter().filter(|(key, _)| others.iter().all(|(other, _)| other != key));
        json_of(kept.chain(others.iter().copied()), room)
    }

    /// Frees it.
    pub(super) fn give(self, room: &mut Room) {
        room.give(self.held);
    }
}

/// What sorting costs for each member.
const MEMBER_SORT_STEPS: usize = super::room::MEMBER_STEPS;

/// An object with these members as compact JSON, sorted by key.
pub(super) fn json_of<'a>(
    members: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    room: &mut Room,
) -> Result<String, Problem> {
    let (count, len) = members.clone().fold((0, 2), |(count, len), (key, value)| {
        (count + 1, len + crate::protocol::json::str_len(key) + value.len() + 2)
    });
    let sorting = heap(count * size_of::<(&str, &str)>());
    room.step(len + count * MEMBER_SORT_STEPS)?;
    room.take(heap(len) + sorting)?;
    let mut list: Vec<_> = Vec::with_capacity(count);
    list.extend(members);
    list.sort_unstable_by_key(|(key, _)| *key);
    let mut json = String::with_capacity(len);
    json.push('{');
    for (i, (key, value)) in list.into_iter().enumerate() {
        if i > 0 {
            json.push(',');
        }
        write_str(&mut json, key);
        json.push(':');
        json.push_str(value);
    }
    json.push('}');
    room.give(sorting);
    Ok(json)
}
