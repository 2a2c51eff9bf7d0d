//! Merging values into objects.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::ops::Range;

use super::object::Object;
use super::room::{Problem, Room, heap};
use super::text::{Value, elements, is_object, is_truthy, least_growth, members};
use crate::protocol::json::scan::unescape;
use crate::protocol::json::write_str;
use crate::protocol::limits::MAX_FULL_STATE_KEYS;

/// Takes a member apart that entities are written into: its members, or none where it counts as nothing.
pub(super) fn open_container(text: &str, at: Option<usize>, into: &mut Object, room: &mut Room) -> Result<(), Problem> {
    if is_object(text) {
        spread(text, at, into, room)
    } else if is_truthy(text) {
        Err(Problem::NotAnObject)
    } else {
        Ok(())
    }
}

/// Merges a value into an object: an object's members, an array's elements and a string's UTF-16 units under their
/// positions, nothing for other values. Unusual, but it is what the app's own language does, so a replay gives the same
/// state wherever it runs. `at`: where the text begins in the base.
pub(super) fn spread(text: &str, at: Option<usize>, into: &mut Object, room: &mut Room) -> Result<(), Problem> {
    match text.as_bytes().first() {
        Some(b'{') => members(text, room, |key, range, room| into.set(key, &value_in(text, at, range), room)),
        Some(b'[') => elements(text, room, |i, range, room| {
            into.set(itoa::Buffer::new().format(i), &value_in(text, at, range), room)
        }),
        Some(b'"') => units(text, into, room),
        _ => Ok(()),
    }
}

/// A value of `text`: a piece of the base where `text` begins at `at` there, else a copy.
fn value_in(text: &str, at: Option<usize>, range: Range<usize>) -> Value<'_> {
    match at {
        Some(at) => Value::Piece(at + range.start..at + range.end),
        None => Value::Text(&text[range]),
    }
}

fn units(quoted: &str, into: &mut Object, room: &mut Room) -> Result<(), Problem> {
    let inner = &quoted[1..quoted.len() - 1];
    room.step(inner.len())?;
    let held = heap(inner.len());
    room.take(held)?;
    let (string, lone) = if inner.contains('\\') { unescape(inner) } else { (Cow::Borrowed(inner), false) };
    if lone {
        return Err(Problem::Unreadable);
    }
    // Objects and arrays are bounded when they are uploaded, strings are not.
    if string.len() > MAX_FULL_STATE_KEYS {
        return Err(Problem::TooManyMembers);
    }
    room.json_grows(least_growth(quoted))?;
    let mut text = String::with_capacity(16);
    for (i, unit) in string.encode_utf16().enumerate() {
        text.clear();
        match char::from_u32(u32::from(unit)) {
            Some(c) => write_str(&mut text, c.encode_utf8(&mut [0; 4])),
            // Half a pair is no character.
            None => write!(text, "\"\\u{unit:04x}\"").unwrap_or_default(),
        }
        into.set(itoa::Buffer::new().format(i), &Value::Text(&text), room)?;
    }
    room.give(held);
    Ok(())
}
