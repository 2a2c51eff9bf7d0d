//! A JSON object that is taken apart only where something is written, and always knows its size: as text, and on the
//! heap.
//!
//! A state may have 100 MiB while an operation touches one entity. Values that nobody looks into stay text, which also
//! keeps numbers exactly as the client spelled them; and as long as they are pieces of the text that the state began
//! with, the *base*, they are not even copied.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::room::{MEMBER_STEPS, Problem, Room, heap};
use super::text::{self, Value};
use crate::protocol::json::{str_len, write_str};

/// A member: as text, or taken apart.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
enum Node {
    /// Text within the base.
    Piece {
        at: usize,
        len: usize,
    },
    /// Text of its own.
    Own(Box<str>),
    Open(Box<Object>),
}

/// An object whose members are text until they are opened.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Object {
    members: BTreeMap<Box<str>, Node>,
    /// Bytes of all members as `"key":value`, without commas and braces.
    member_bytes: usize,
    /// What all members take on the heap.
    heap: usize,
}

/// A leaf of the standard library's B-tree: eleven keys and values, a pointer, two numbers.
const LEAF: usize = heap(16 + 11 * (size_of::<Box<str>>() + size_of::<Node>()));
/// An inner node has twelve children besides.
const INNER: usize = LEAF + 12 * size_of::<usize>();
/// The most that one member takes of the tree's nodes, of which each but the root is filled to five elevenths.
const ENTRY: usize = LEAF.div_ceil(5) + INNER.div_ceil(20);
/// What an object takes before it has a second node.
const EMPTY: usize = heap(size_of::<Object>()) + LEAF;
/// Output is collected up to this size; texts that are longer than a quarter of it are passed on as they are.
const CHUNK: usize = 64 * 1024;

impl Node {
    fn of(value: &Value<'_>) -> Self {
        match value {
            Value::Piece(range) => Self::Piece { at: range.start, len: range.len() },
            Value::Text(text) => Self::Own(Box::from(*text)),
        }
    }

    fn json_len(&self) -> usize {
        match self {
            Self::Piece { len, .. } => *len,
            Self::Own(text) => text.len(),
            Self::Open(object) => object.json_len(),
        }
    }

    fn heap(&self) -> usize {
        match self {
            Self::Piece { .. } => 0,
            Self::Own(text) => heap(text.len()),
            Self::Open(object) => EMPTY + object.heap,
        }
    }
}

impl Object {
    /// Size as compact JSON, in bytes.
    pub(super) fn json_len(&self) -> usize {
        2 + self.member_bytes + self.members.len().saturating_sub(1)
    }

    /// What all members take on the heap.
    pub(super) const fn heap(&self) -> usize {
        self.heap
    }

    /// Sets a member.
    pub(super) fn set(&mut self, key: &str, value: &Value<'_>, room: &mut Room) -> Result<(), Problem> {
        room.step(MEMBER_STEPS + 4 * key.len() + value.len())?;
        room.take(value.heap())?;
        if let Some(node) = self.members.get_mut(key) {
            let (json_len, heap) = (node.json_len(), node.heap());
            *node = Node::of(value);
            room.give(heap);
            self.member_bytes = self.member_bytes + value.len() - json_len;
            self.heap = self.heap + value.heap() - heap;
            return Ok(());
        }
        room.take(ENTRY + heap(key.len()))?;
        room.opened(ENTRY + heap(key.len()) + value.heap());
        self.members.insert(key.into(), Node::of(value));
        self.member_bytes += str_len(key) + 1 + value.len();
        self.heap += ENTRY + heap(key.len()) + value.heap();
        Ok(())
    }

    /// Removes a member if it is there.
    pub(super) fn remove(&mut self, key: &str, room: &mut Room) -> Result<(), Problem> {
        room.step(MEMBER_STEPS + 4 * key.len())?;
        if let Some(old) = self.members.remove(key) {
            let freed = ENTRY + heap(key.len()) + old.heap();
            room.give(freed);
            self.heap -= freed;
            self.member_bytes -= str_len(key) + 1 + old.json_len();
        }
        Ok(())
    }

    /// The text of a member that was not opened.
    pub(super) fn text<'a>(&'a self, key: &str, base: &'a [u8]) -> Result<Option<&'a str>, Problem> {
        match self.members.get(key) {
            Some(Node::Piece { at, len }) => text::piece(base, *at, *len).map(Some),
            Some(Node::Own(text)) => Ok(Some(text)),
            Some(Node::Open(_)) | None => Ok(None),
        }
    }

    /// Lets `change` work on a member, which is created, or opened, as an object first. `open` takes a member apart that
    /// is still text.
    pub(super) fn change(
        &mut self,
        key: &str,
        base: &[u8],
        room: &mut Room,
        open: fn(&str, Option<usize>, &mut Self, &mut Room) -> Result<(), Problem>,
        change: impl FnOnce(&mut Self, &mut Room) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        room.step(MEMBER_STEPS + 4 * key.len())?;
        if !self.members.contains_key(key) {
            room.take(ENTRY + heap(key.len()) + EMPTY)?;
            let node = Node::Open(Box::default());
            self.member_bytes += str_len(key) + 1 + node.json_len();
            self.heap += ENTRY + heap(key.len()) + EMPTY;
            self.members.insert(key.into(), node);
        }
        let Some(node) = self.members.get_mut(key) else { return Ok(()) };
        let before = (node.json_len(), node.heap());
        let opened = match node {
            Node::Open(_) => None,
            Node::Piece { at, len } => Some((text::piece(base, *at, *len)?, Some(*at))),
            Node::Own(text) => Some((&**text, None)),
        };
        if let Some((text, at)) = opened {
            room.take(EMPTY)?;
            room.opened(EMPTY);
            let mut object = Box::<Self>::default();
            open(text, at, &mut object, room)?;
            *node = Node::Open(object);
            room.give(before.1);
        }
        if let Node::Open(object) = node {
            change(object, room)?;
        }
        self.member_bytes = self.member_bytes + node.json_len() - before.0;
        self.heap = self.heap + node.heap() - before.1;
        Ok(())
    }

    /// Makes text again of what was opened two levels down.
    pub(super) fn close_within(&mut self, base: &[u8], room: &mut Room) -> Result<(), Problem> {
        for node in self.members.values_mut() {
            if let Node::Open(object) = node {
                let before = object.heap;
                object.close(base, room)?;
                self.heap = self.heap + object.heap - before;
            }
        }
        Ok(())
    }

    /// Makes text again of members that were opened.
    pub(super) fn close(&mut self, base: &[u8], room: &mut Room) -> Result<(), Problem> {
        room.step(self.members.len())?;
        for node in self.members.values_mut() {
            let (len, before) = (node.json_len(), node.heap());
            if let Node::Open(object) = node {
                room.step(len)?;
                room.take(heap(len))?;
                let mut json = Vec::with_capacity(len);
                object.write_json(base, &mut json);
                let json = String::from_utf8(json).map_err(|_| Problem::Unreadable)?;
                *node = Node::Own(json.into_boxed_str());
                room.give(before);
                self.heap = self.heap + heap(len) - before;
            }
        }
        Ok(())
    }

    /// The object as compact JSON, if nothing of it lies in a base.
    pub(super) fn into_text(self, room: &mut Room) -> Result<String, Problem> {
        let len = self.json_len();
        room.step(len)?;
        room.take(heap(len))?;
        let mut json = Vec::with_capacity(len);
        self.write_json(&[], &mut json);
        room.give(self.heap);
        String::from_utf8(json).map_err(|_| Problem::Unreadable)
    }

    fn write_json(&self, base: &[u8], out: &mut Vec<u8>) {
        out.push(b'{');
        for (i, (key, node)) in self.members.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            write_str(out, key);
            out.push(b':');
            match node {
                Node::Piece { at, len } => out.extend_from_slice(&base[*at..at + len]),
                Node::Own(text) => out.extend_from_slice(text.as_bytes()),
                Node::Open(object) => object.write_json(base, out),
            }
        }
        out.push(b'}');
    }

    /// The object as compact JSON, in pieces that follow each other. What is taken apart is freed as it is written.
    pub(super) fn into_json(self, base: &Bytes, room: &mut Room) -> Result<Vec<Bytes>, Problem> {
        room.step(self.json_len())?;
        room.take(CHUNK)?;
        let mut out = Output { done: Vec::new(), open: Vec::with_capacity(CHUNK) };
        self.write_out(base, &mut out, room)?;
        out.flush(room)?;
        room.give(CHUNK);
        Ok(out.done)
    }

    fn write_out(self, base: &Bytes, out: &mut Output, room: &mut Room) -> Result<(), Problem> {
        out.append("{", room)?;
        for (i, (key, node)) in self.members.into_iter().enumerate() {
            if i > 0 {
                out.append(",", room)?;
            }
            out.key(&key, room)?;
            out.append(":", room)?;
            match node {
                Node::Piece { at, len } if len > CHUNK / 4 => out.pass(base.slice(at..at + len), room)?,
                Node::Piece { at, len } => out.append_bytes(&base[at..at + len], room)?,
                Node::Own(text) if text.len() > CHUNK / 4 => {
                    // Its memory goes on, into the output.
                    out.pass(Bytes::from(String::from(text)), room)?;
                }
                Node::Own(text) => {
                    out.append(&text, room)?;
                    room.give(heap(text.len()));
                }
                Node::Open(object) => {
                    object.write_out(base, out, room)?;
                    room.give(EMPTY);
                }
            }
            room.give(ENTRY + heap(key.len()));
        }
        out.append("}", room)
    }
}

/// JSON on its way out.
struct Output {
    done: Vec<Bytes>,
    open: Vec<u8>,
}

impl Output {
    /// What is collected becomes a piece.
    fn flush(&mut self, room: &mut Room) -> Result<(), Problem> {
        if !self.open.is_empty() {
            room.take(heap(self.open.len()) + 4 * size_of::<Bytes>())?;
            self.done.push(Bytes::copy_from_slice(&self.open));
            self.open.clear();
        }
        Ok(())
    }

    fn pass(&mut self, piece: Bytes, room: &mut Room) -> Result<(), Problem> {
        self.flush(room)?;
        room.take(4 * size_of::<Bytes>())?;
        self.done.push(piece);
        Ok(())
    }

    fn key(&mut self, key: &str, room: &mut Room) -> Result<(), Problem> {
        let len = str_len(key);
        if len <= CHUNK {
            if len > CHUNK - self.open.len() {
                self.flush(room)?;
            }
            write_str(&mut self.open, key);
            return Ok(());
        }
        room.take(heap(len))?;
        let mut text = Vec::with_capacity(len);
        write_str(&mut text, key);
        self.pass(text.into(), room)
    }

    fn append(&mut self, text: &str, room: &mut Room) -> Result<(), Problem> {
        self.append_bytes(text.as_bytes(), room)
    }

    /// Appends bytes, at most [`CHUNK`].
    fn append_bytes(&mut self, bytes: &[u8], room: &mut Room) -> Result<(), Problem> {
        if bytes.len() > CHUNK - self.open.len() {
            self.flush(room)?;
        }
        self.open.extend_from_slice(bytes);
        Ok(())
    }
}
