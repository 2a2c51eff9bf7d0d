//! Heads as rows of `entity_heads`.
//!
//! An operation may touch a thousand entities, and its clock may have several kilobytes. So the heads of such an operation
//! hold an empty text for their clock and their author, and one more row has both: its key is not an entity's but the
//! operation's sequence, in 20 digits. It stays as long as a head needs it ([`super::MaintenanceStore::tidy_heads`]), also
//! when the operation itself is gone. Where little would be saved, as with nearly every operation of the app, each head has
//! its own clock, and there is no such row. Pure.

use std::collections::{BTreeMap, HashMap};

use super::{EntityHead, EntityKey};
use crate::protocol::Seq;

/// Sharing a clock must save at least so many bytes: about what one more row takes.
const WORTH_A_ROW: usize = 160;
/// Heads looked at, or clocks deleted, in one step of tidying up: others wait for the writer meanwhile.
pub(super) const TIDY_STEP: i64 = 1000;
/// Digits of a sequence in the key of a shared clock. An entity's key has 16 bytes.
const DIGITS: usize = 20;

/// A row's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowKey {
    /// A head.
    Entity(EntityKey),
    /// A clock that heads share.
    Clock([u8; DIGITS]),
}

impl RowKey {
    fn of_clock(seq: Seq) -> Self {
        let mut digits = [b'0'; DIGITS];
        let mut rest = seq.unsigned_abs();
        for digit in digits.iter_mut().rev() {
            *digit += (rest % 10).to_le_bytes()[0];
            rest /= 10;
        }
        Self::Clock(digits)
    }

    /// As stored.
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Entity(key) => key.as_bytes(),
            Self::Clock(digits) => digits,
        }
    }
}

/// A row of `entity_heads`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeadRow<'a> {
    pub(super) key: RowKey,
    pub(super) seq: Seq,
    pub(super) client_id: &'a str,
    pub(super) clock: &'a str,
    pub(super) is_time_delta: bool,
}

/// The rows of heads, of which each operation's come together.
pub(super) fn rows<'a>(heads: impl IntoIterator<Item = (&'a EntityKey, &'a EntityHead)>) -> Vec<HeadRow<'a>> {
    let mut rows: Vec<HeadRow<'a>> = heads.into_iter().map(|(key, head)| row(RowKey::Entity(*key), head)).collect();
    let mut counts: HashMap<Seq, usize> = HashMap::new();
    if rows.len() > 1 {
        for row in &rows {
            *counts.entry(row.seq).or_default() += 1;
        }
    }
    let mut shared = BTreeMap::new();
    if counts.len() < rows.len() {
        for row in &mut rows {
            let others = counts.get(&row.seq).map_or(0, |count| count - 1);
            if others * (row.clock.len() + row.client_id.len()) >= WORTH_A_ROW {
                shared.entry(row.seq).or_insert(HeadRow { key: RowKey::of_clock(row.seq), ..*row });
                row.client_id = "";
                row.clock = "";
            }
        }
    }
    rows.extend(shared.into_values());
    rows
}

fn row(key: RowKey, head: &EntityHead) -> HeadRow<'_> {
    HeadRow {
        key,
        seq: head.seq,
        client_id: &head.client_id,
        clock: head.clock.as_json(),
        is_time_delta: head.is_time_delta,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::VectorClock;

    fn heads(count: usize, seq: Seq, client: &str) -> Vec<(EntityKey, EntityHead)> {
        let clock = VectorClock::from_entries([(client.into(), 7)]);
        let head = EntityHead { seq, client_id: client.into(), clock, is_time_delta: false };
        (0..count).map(|n| (EntityKey::new("TASK", &format!("{seq}-{n}")), head.clone())).collect()
    }

    fn rows_of(heads: &[(EntityKey, EntityHead)]) -> Vec<HeadRow<'_>> {
        rows(heads.iter().map(|(key, head)| (key, head)))
    }

    #[test]
    fn few_and_short_clocks_stay_with_their_heads() {
        let heads = [heads(1, 1, &"long".repeat(60)), heads(3, 2, "B_7f3K")].concat();
        let rows = rows_of(&heads);
        assert_eq!(rows.len(), 4);
        assert!(rows.iter().all(|row| !row.clock.is_empty() && row.key.as_bytes().len() == 16));
    }

    #[test]
    fn an_operation_on_many_entities_has_its_clock_stored_once() {
        let long = "long".repeat(60);
        let heads = [heads(1000, 41, "B_7f3K"), heads(2, 42, &long), heads(1, 43, "A")].concat();
        let rows = rows_of(&heads);
        assert_eq!(rows.len(), 1003 + 2);
        let with_clock: Vec<_> = rows.iter().filter(|row| !row.clock.is_empty()).collect();
        let keys: Vec<_> = with_clock.iter().map(|row| (row.seq, row.key.as_bytes().len(), row.client_id)).collect();
        assert_eq!(keys, [(43, 16, "A"), (41, 20, "B_7f3K"), (42, 20, &*long)]);
        assert_eq!(with_clock[1].key.as_bytes(), b"00000000000000000041");
        assert!(rows.iter().filter(|row| row.clock.is_empty()).all(|row| row.client_id.is_empty() && row.seq < 43));
    }
}
