//! Vector clocks (contract, section 4): who has seen how many changes of whom.

use std::cmp::Ordering as Cmp;
use std::fmt::Write as _;

use super::limits::{MAX_CLOCK_COUNTER, MAX_CLOCK_STORED, MAX_ID_LEN};

/// How one clock stands to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordering {
    /// Both have seen the same.
    Equal,
    /// The left one has seen everything that the right one has, and more.
    Greater,
    /// The right one has seen everything that the left one has, and more.
    Less,
    /// Each has seen something that the other has not.
    Concurrent,
}

/// A map from client id to counter, sorted by client id (UTF-16 order). A missing client counts as 0;
/// entries that are 0 are kept, as clients see them back, but mean the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct VectorClock(Vec<(Box<str>, u32)>);

/// Orders strings as JavaScript does: by UTF-16 code unit.
#[must_use]
pub fn utf16_cmp(a: &str, b: &str) -> Cmp {
    if a.is_ascii() && b.is_ascii() { a.cmp(b) } else { a.encode_utf16().cmp(b.encode_utf16()) }
}

impl VectorClock {
    /// The empty clock.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// A clock from entries in any order; of entries with the same key the last wins.
    pub fn from_entries(entries: impl IntoIterator<Item = (Box<str>, u32)>) -> Self {
        let mut clock = Self::new();
        for (key, value) in entries {
            clock.set(key, value);
        }
        clock
    }

    fn position(&self, client: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(key, _)| utf16_cmp(key, client))
    }

    fn set(&mut self, client: Box<str>, value: u32) {
        match self.position(&client) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => self.0.insert(at, (client, value)),
        }
    }

    /// The counter of `client`, 0 when absent.
    #[must_use]
    pub fn get(&self, client: &str) -> u32 {
        self.position(client).map_or(0, |at| self.0[at].1)
    }

    /// Whether the clock has an entry for `client`, even a 0.
    #[must_use]
    pub fn contains(&self, client: &str) -> bool {
        self.position(client).is_ok()
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The entries in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        self.0.iter().map(|(key, value)| (&**key, *value))
    }

    /// How this clock stands to `other`.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Ordering {
        let (mut greater, mut less) = (false, false);
        let (mut left, mut right) = (self.0.iter().peekable(), other.0.iter().peekable());
        loop {
            let (a, b) = match (left.peek(), right.peek()) {
                (None, None) => break,
                (Some((_, a)), None) => {
                    let a = *a;
                    left.next();
                    (a, 0)
                }
                (None, Some((_, b))) => {
                    let b = *b;
                    right.next();
                    (0, b)
                }
                (Some((ka, a)), Some((kb, b))) => match utf16_cmp(ka, kb) {
                    Cmp::Less => {
                        let a = *a;
                        left.next();
                        (a, 0)
                    }
                    Cmp::Greater => {
                        let b = *b;
                        right.next();
                        (0, b)
                    }
                    Cmp::Equal => {
                        let pair = (*a, *b);
                        left.next();
                        right.next();
                        pair
                    }
                },
            };
            greater |= a > b;
            less |= a < b;
        }
        match (greater, less) {
            (false, false) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (true, true) => Ordering::Concurrent,
        }
    }

    /// Raises every entry to the maximum of both clocks.
    pub fn merge(&mut self, other: &Self) {
        for (key, value) in &other.0 {
            match self.position(key) {
                Ok(at) => self.0[at].1 = self.0[at].1.max(*value),
                Err(at) => self.0.insert(at, (key.clone(), *value)),
            }
        }
    }

    /// The clock cut down to what is stored: at most [`MAX_CLOCK_STORED`] entries. `preserve` names
    /// clients that keep their entry first, in that order; the rest is filled by counter, highest
    /// first, then by key. Must happen after conflict comparison: a clock pruned earlier could never
    /// dominate, and the client would be refused for ever.
    #[must_use]
    pub fn pruned<'a>(&self, preserve: impl IntoIterator<Item = &'a str>) -> Self {
        if self.0.len() <= MAX_CLOCK_STORED {
            return self.clone();
        }
        let mut kept = Self::new();
        for client in preserve {
            if kept.len() == MAX_CLOCK_STORED {
                break;
            }
            if let Ok(at) = self.position(client) {
                let (key, value) = &self.0[at];
                kept.set(key.clone(), *value);
            }
        }
        let mut rest: Vec<_> = self.0.iter().filter(|(key, _)| !kept.contains(key)).collect();
        // The sort is stable and the entries come in key order, so ties stay in key order.
        rest.sort_by_key(|(_, value)| std::cmp::Reverse(*value));
        let free = MAX_CLOCK_STORED - kept.len();
        for (key, value) in rest.into_iter().take(free) {
            kept.set(key.clone(), *value);
        }
        kept
    }

    /// Whether an entry survives sanitising: a key of 1 to 255 UTF-16 units and a counter in range.
    #[must_use]
    pub fn entry_is_valid(key: &str, value: f64) -> bool {
        !key.is_empty()
            && key.encode_utf16().count() <= MAX_ID_LEN
            && value.fract() == 0.0
            && (0.0..=f64::from(MAX_CLOCK_COUNTER)).contains(&value)
    }

    /// The clock as compact JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut out = String::with_capacity(2 + self.0.len() * 16);
        self.write_json(&mut out);
        out
    }

    /// Appends the clock as compact JSON.
    pub fn write_json(&self, out: &mut String) {
        out.push('{');
        for (i, (key, value)) in self.0.iter().enumerate() {
            if i > 0 {
                out.push(',');
            }
            super::json::write_str(out, key);
            // Writing to a String can't fail.
            let _ = write!(out, ":{value}");
        }
        out.push('}');
    }

    /// Reads a clock as [`VectorClock::to_json`] wrote it.
    ///
    /// # Errors
    /// When the text is not an object of integers: a stored clock that fails is corrupt.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        let map: std::collections::BTreeMap<Box<str>, u32> = serde_json::from_str(text)?;
        Ok(Self::from_entries(map))
    }
}

#[cfg(test)]
mod tests;
