//! What the server has acknowledged: every id with its sequence, to be compared with what it stored.

use super::device::uuid_text;
use super::page::leading_number;
use crate::protocol::Seq;

/// Acknowledged operations of one device, in the order of their acknowledgement.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    entries: Vec<(u128, Seq)>,
}

impl Ledger {
    /// How many.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing was acknowledged.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Ids and sequences.
    pub fn iter(&self) -> impl Iterator<Item = (u128, Seq)> {
        self.entries.iter().copied()
    }

    /// Adds another device's.
    pub fn append(&mut self, mut other: Self) {
        self.entries.append(&mut other.entries);
    }

    pub(super) fn record(&mut self, id: u128, seq: Seq) {
        self.entries.push((id, seq));
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.entries.truncate(len);
    }

    /// Records an answer that accepts exactly these operations and says nothing else, as it is nearly always, without
    /// building a tree of it. Gives its `latestSeq`; `None`: it is spelled otherwise, and what was recorded has to be
    /// taken back.
    pub(super) fn record_plain(&mut self, body: &[u8], ids: &[u128]) -> Option<Seq> {
        let mut rest = body.strip_prefix(b"{\"results\":[")?;
        for (n, id) in ids.iter().enumerate() {
            if n > 0 {
                rest = rest.strip_prefix(b",")?;
            }
            rest = rest.strip_prefix(b"{\"opId\":\"")?.strip_prefix(&uuid_text(*id))?;
            let (seq, after) = leading_number(rest.strip_prefix(b"\",\"accepted\":true,\"serverSeq\":")?)?;
            rest = after.strip_prefix(b"}")?;
            self.record(*id, seq);
        }
        let (latest, end) = leading_number(rest.strip_prefix(b"],\"latestSeq\":")?)?;
        (end == b"}").then_some(latest)
    }
}
