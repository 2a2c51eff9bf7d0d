//! Vector clocks (contract, section 4): who has seen how many changes of whom.

use std::cmp::Ordering as Cmp;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

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
/// entries that are 0 are kept, as clients see them back, but mean the same. A copy shares its entries until one of the
/// two is changed: a stored operation, its head and its answer have the same clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct VectorClock(Option<Arc<Entries>>);

type Entry = (Arc<str>, u32);

/// At least one entry, and its text once somebody has asked for it: the row, the head and the answer all do.
#[derive(Debug, Default)]
struct Entries {
    sorted: Vec<Entry>,
    json: OnceLock<Box<str>>,
}

impl Clone for Entries {
    /// Copied in order to be changed, so without the text.
    fn clone(&self) -> Self {
        Self { sorted: self.sorted.clone(), json: OnceLock::new() }
    }
}

impl PartialEq for Entries {
    fn eq(&self, other: &Self) -> bool {
        self.sorted == other.sorted
    }
}

impl Eq for Entries {}

impl Hash for Entries {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.sorted.hash(state);
    }
}

/// Orders strings as JavaScript does: by UTF-16 code unit.
#[must_use]
pub fn utf16_cmp(a: &str, b: &str) -> Cmp {
    if a.is_ascii() && b.is_ascii() { a.cmp(b) } else { a.encode_utf16().cmp(b.encode_utf16()) }
}

impl VectorClock {
    /// The valid entries of a clock of any size.
    pub(super) fn of_valid(entries: &[(Arc<str>, f64)]) -> Self {
        let valid = entries.iter().filter(|(key, value)| Self::entry_is_valid(key, *value) && !key.contains('\0'));
        Self::from_entries(valid.map(|(key, value)| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "an integer from 0 to 100 000 000"
            )]
            let counter = *value as u32;
            (Arc::clone(key), counter)
        }))
    }

    /// The empty clock.
    #[must_use]
    pub const fn new() -> Self {
        Self(None)
    }

    /// A clock from entries in any order; of entries with the same key the last wins.
    pub fn from_entries(entries: impl IntoIterator<Item = (Arc<str>, u32)>) -> Self {
        let entries = entries.into_iter();
        let mut sorted = Vec::with_capacity(entries.size_hint().0);
        for (key, value) in entries {
            set(&mut sorted, key, value);
        }
        Self::of(sorted)
    }

    fn of(entries: Vec<Entry>) -> Self {
        Self((!entries.is_empty()).then(|| Arc::new(Entries { sorted: entries, json: OnceLock::new() })))
    }

    fn entries(&self) -> &[Entry] {
        self.0.as_ref().map_or(&[], |entries| entries.sorted.as_slice())
    }

    fn entries_mut(&mut self) -> &mut Vec<Entry> {
        let entries = Arc::make_mut(self.0.get_or_insert_default());
        entries.json.take();
        &mut entries.sorted
    }

    fn position(&self, client: &str) -> Result<usize, usize> {
        position(self.entries(), client)
    }

    /// The counter of `client`, 0 when absent.
    #[must_use]
    pub fn get(&self, client: &str) -> u32 {
        self.position(client).map_or(0, |at| self.entries()[at].1)
    }

    /// Whether the clock has an entry for `client`, even a 0.
    #[must_use]
    pub fn contains(&self, client: &str) -> bool {
        self.position(client).is_ok()
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries().len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries().is_empty()
    }

    /// The entries in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        self.entries().iter().map(|(key, value)| (&**key, *value))
    }

    /// The entries in key order, with keys to share.
    #[must_use]
    pub fn entries_shared(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, u32)> {
        self.entries().iter().map(|(key, value)| (key, *value))
    }

    /// Bytes of memory that it takes, roughly: its keys may be shared with other clocks, or not.
    #[must_use]
    pub fn weight(&self) -> usize {
        /// An entry with the counts of its key and what the allocator rounds up.
        const ENTRY: usize = size_of::<Entry>() + 24;
        let Some(entries) = &self.0 else { return 0 };
        let keys: usize = entries.sorted.iter().map(|(key, _)| key.len()).sum();
        size_of::<Entries>() + entries.sorted.len() * ENTRY + keys + entries.json.get().map_or(0, |json| json.len())
    }

    /// How this clock stands to `other`.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Ordering {
        self.compare_to(other.iter())
    }

    /// How this clock stands to one of which these are the entries, in key order.
    #[must_use]
    pub fn compare_to<'a>(&self, other: impl Iterator<Item = (&'a str, u32)>) -> Ordering {
        let (mut greater, mut less) = (false, false);
        let (mut left, mut right) = (self.entries().iter().peekable(), other.peekable());
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
        if other.is_empty() {
            return;
        }
        let entries = self.entries_mut();
        for (key, value) in other.entries() {
            match position(entries, key) {
                Ok(at) => entries[at].1 = entries[at].1.max(*value),
                Err(at) => entries.insert(at, (Arc::clone(key), *value)),
            }
        }
    }

    /// The clock cut down to what is stored: at most [`MAX_CLOCK_STORED`] entries. `preserve` names
    /// clients that keep their entry first, in that order; the rest is filled by counter, highest
    /// first, then by key. Must happen after conflict comparison: a clock pruned earlier could never
    /// dominate, and the client would be refused for ever.
    #[must_use]
    pub fn pruned<'a>(&self, preserve: impl IntoIterator<Item = &'a str>) -> Self {
        self.cut_to(MAX_CLOCK_STORED, preserve)
    }

    /// The clock cut down to `max` entries in the same manner.
    #[must_use]
    pub fn cut_to<'a>(&self, max: usize, preserve: impl IntoIterator<Item = &'a str>) -> Self {
        if self.len() <= max {
            return self.clone();
        }
        let mut kept = Vec::with_capacity(max);
        for client in preserve {
            if kept.len() == max {
                break;
            }
            if let Ok(at) = self.position(client) {
                let (key, value) = &self.entries()[at];
                set(&mut kept, Arc::clone(key), *value);
            }
        }
        let mut rest: Vec<_> = self.entries().iter().filter(|(key, _)| position(&kept, key).is_err()).collect();
        // The sort is stable and the entries come in key order, so ties stay in key order.
        rest.sort_by_key(|(_, value)| std::cmp::Reverse(*value));
        let free = max - kept.len();
        for (key, value) in rest.into_iter().take(free) {
            set(&mut kept, Arc::clone(key), *value);
        }
        Self::of(kept)
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
    pub fn as_json(&self) -> &str {
        self.0.as_ref().map_or("{}", |entries| entries.json.get_or_init(|| to_json(&entries.sorted).into()))
    }

    /// Reads a clock as [`VectorClock::as_json`] wrote it.
    ///
    /// # Errors
    /// When the text is not an object of integers: a stored clock that fails is corrupt.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        let map: std::collections::BTreeMap<Box<str>, u32> = serde_json::from_str(text)?;
        Ok(Self::from_entries(map.into_iter().map(|(key, value)| (key.into(), value))))
    }
}

fn to_json(entries: &[Entry]) -> String {
    /// Quotes, colon, comma and ten digits.
    const BESIDE_KEY: usize = 14;
    let mut out = String::with_capacity(2 + entries.iter().map(|(key, _)| key.len() + BESIDE_KEY).sum::<usize>());
    out.push('{');
    for (i, (key, value)) in entries.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        super::json::write_str(&mut out, key);
        out.push(':');
        out.push_str(itoa::Buffer::new().format(*value));
    }
    out.push('}');
    out
}

fn position(entries: &[Entry], client: &str) -> Result<usize, usize> {
    entries.binary_search_by(|(key, _)| utf16_cmp(key, client))
}

fn set(entries: &mut Vec<Entry>, client: Arc<str>, value: u32) {
    // Most clocks come in order.
    if entries.last().is_none_or(|(last, _)| utf16_cmp(last, &client).is_lt()) {
        entries.push((client, value));
        return;
    }
    match position(entries, &client) {
        Ok(at) => entries[at].1 = value,
        Err(at) => entries.insert(at, (client, value)),
    }
}

#[cfg(test)]
mod tests;
