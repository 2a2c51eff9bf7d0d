//! A JSON object that is taken apart only where something is written, and always knows its size.
//!
//! A state may have 100 MiB while an operation touches one entity. Values that nobody looks into stay text, which also
//! keeps numbers exactly as the client spelled them.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::protocol::json::write_str;
use crate::protocol::limits::MAX_FULL_STATE_KEYS;

/// Raw members of an object; of repeated keys the last wins, as in the app.
pub(super) type Members = BTreeMap<String, Box<RawValue>>;

/// A member: as text, or taken apart.
#[derive(Clone, Debug)]
enum Node {
    Raw(Box<RawValue>),
    Open(Object),
}

impl Node {
    fn json_len(&self) -> usize {
        match self {
            Self::Raw(text) => text.get().len(),
            Self::Open(object) => object.json_len(),
        }
    }
}

/// An object whose members are text until they are opened.
#[derive(Clone, Debug, Default)]
pub(super) struct Object {
    members: BTreeMap<String, Node>,
    /// Bytes of all members as `"key":value`, without commas and braces.
    member_bytes: usize,
}

/// Why a value can't be taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// It is neither absent, nor an object, nor one of the values that the app's language counts as nothing.
    NotAnObject,
    /// A key or string in it is no text (half of a UTF-16 pair).
    Unreadable,
    /// It would become more members than any state may have.
    TooManyMembers,
}

impl Object {
    /// Size as compact JSON, in bytes.
    pub(super) fn json_len(&self) -> usize {
        2 + self.member_bytes + self.members.len().saturating_sub(1)
    }

    /// Sets a member.
    pub(super) fn set(&mut self, key: String, value: Box<RawValue>) {
        self.put(key, Node::Raw(value));
    }

    fn put(&mut self, key: String, node: Node) {
        let key_bytes = str_len(&key) + 1;
        self.member_bytes += key_bytes + node.json_len();
        if let Some(old) = self.members.insert(key, node) {
            self.member_bytes -= key_bytes + old.json_len();
        }
    }

    /// Removes a member if it is there.
    pub(super) fn remove(&mut self, key: &str) {
        if let Some(old) = self.members.remove(key) {
            self.member_bytes -= str_len(key) + 1 + old.json_len();
        }
    }

    /// Lets `change` work on a member, which is created, or opened, as an object first. `open` says what a member that
    /// is still text consists of.
    pub(super) fn change(
        &mut self,
        key: &str,
        open: impl FnOnce(&RawValue) -> Result<Members, Problem>,
        change: impl FnOnce(&mut Self) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        if !self.members.contains_key(key) {
            self.put(key.to_owned(), Node::Open(Self::default()));
        }
        let Some(node) = self.members.get_mut(key) else { return Ok(()) };
        let before = node.json_len();
        let mut result = Ok(());
        if let Node::Raw(text) = node {
            match open(text) {
                Ok(members) => *node = Node::Open(Self::from(members)),
                Err(error) => result = Err(error),
            }
        }
        if let Node::Open(object) = node {
            result = change(object);
        }
        self.member_bytes = self.member_bytes + node.json_len() - before;
        result
    }

    /// Appends the object as compact JSON.
    pub(super) fn write_json(&self, out: &mut String) {
        out.push('{');
        for (i, (key, node)) in self.members.iter().enumerate() {
            if i > 0 {
                out.push(',');
            }
            write_str(out, key);
            out.push(':');
            match node {
                Node::Raw(text) => out.push_str(text.get()),
                Node::Open(object) => object.write_json(out),
            }
        }
        out.push('}');
    }
}

impl From<Members> for Object {
    fn from(members: Members) -> Self {
        let mut object = Self::default();
        for (key, value) in members {
            object.set(key, value);
        }
        object
    }
}

/// Bytes of `text` as a JSON string.
fn str_len(text: &str) -> usize {
    let extra: usize = text
        .bytes()
        .map(|byte| match byte {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x8 | 0xc => 1,
            0..=0x1f => 5,
            _ => 0,
        })
        .sum();
    text.len() + extra + 2
}

/// The members of `value`; `None` if it is no object.
pub(super) fn members(value: &RawValue) -> Result<Option<Members>, Problem> {
    if is_object(value) {
        serde_json::from_str(value.get()).map(Some).map_err(|_| Problem::Unreadable)
    } else {
        Ok(None)
    }
}

/// Whether `value` is a JSON object. Raw values start with their first significant character.
pub(super) fn is_object(value: &RawValue) -> bool {
    value.get().starts_with('{')
}

/// Whether the app's language counts `value` as true.
pub(super) fn is_truthy(value: &RawValue) -> bool {
    match value.get() {
        "null" | "false" | "\"\"" => false,
        // A number too large to be read is infinite there, hence true.
        text if text.starts_with(['-', '0']) => text.parse() != Ok(0.0_f64),
        _ => true,
    }
}

/// What a member holds that entities are written into: its members, or none where it counts as nothing.
pub(super) fn open_container(value: &RawValue) -> Result<Members, Problem> {
    match members(value)? {
        Some(members) => Ok(members),
        None if is_truthy(value) => Err(Problem::NotAnObject),
        None => Ok(Members::new()),
    }
}

/// What merging `value` into an object adds: an object's members, an array's elements and a string's UTF-16 units under
/// their positions, nothing for other values. Unusual, but it is what the app's own language does, so a replay gives
/// the same state wherever it runs.
pub(super) fn spread(value: &RawValue) -> Result<Members, Problem> {
    let text = value.get();
    if text.starts_with('[') {
        let elements: Vec<Box<RawValue>> = serde_json::from_str(text).map_err(|_| Problem::Unreadable)?;
        Ok(elements.into_iter().enumerate().map(|(i, element)| (i.to_string(), element)).collect())
    } else if text.starts_with('"') {
        let string: String = serde_json::from_str(text).map_err(|_| Problem::Unreadable)?;
        // Objects and arrays are bounded when they are uploaded, strings are not.
        if string.len() > MAX_FULL_STATE_KEYS {
            return Err(Problem::TooManyMembers);
        }
        Ok(string.encode_utf16().enumerate().map(|(i, unit)| (i.to_string(), unit_text(unit))).collect())
    } else {
        Ok(members(value)?.unwrap_or_default())
    }
}

/// A UTF-16 unit as a JSON string; half a pair is escaped, as it is no character.
fn unit_text(unit: u16) -> Box<RawValue> {
    let mut text = String::new();
    match char::from_u32(u32::from(unit)) {
        Some(c) => write_str(&mut text, c.encode_utf8(&mut [0; 4])),
        None => text = format!("\"\\u{unit:04x}\""),
    }
    RawValue::from_string(text).expect("a JSON string of one unit")
}
