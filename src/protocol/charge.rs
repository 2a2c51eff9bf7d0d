//! Charges of operations to the quota, and the limit on metadata per request.
//!
//! An operation of the app is charged its payload and its clock, both as compact JSON (contract, section 11.1): the
//! same number as on the old server, so nothing jumps at a take-over. Metadata beyond what the app sends costs a
//! surcharge, so that it can't be used as free storage. The charge is stored with the operation: recounts sum up stored
//! charges, and imported operations keep the old server's charge.
//!
//! Requests of the released app (its source as of August 2026, `src/app/op-log`, and the wire contract that it shares
//! with the old server): at most 25 operations; ids of 36 characters, client ids of 8, action types of less than 64,
//! entity ids of 21 (the longest, of repeated tasks, below 64). Bulk actions name up to 1000 entities, and their
//! payload holds the same ids again, each at least 24 bytes long with its quotes and comma. Clocks have at most 20
//! entries.

use std::sync::Arc;

use super::{StoredOp, ValidOp};

/// Free bytes of ids and names per operation, in addition to the payload's size.
pub const FREE_METADATA_BYTES: usize = 256;
/// Free entities per operation.
pub const FREE_ENTITIES: usize = 10;
/// Bytes of payload per additional free entity.
pub const PAYLOAD_BYTES_PER_ENTITY: usize = 24;
/// Charge per further entity: about the size of its head's row.
pub const ENTITY_BYTES: usize = 128;

/// Metadata of one upload's operations, in bytes: ids, names, entity ids, clocks. Twice that of 25 operations with
/// 1000 entities each, and more than that of the largest valid operation.
pub const MAX_UPLOAD_METADATA_BYTES: usize = 2 * 1024 * 1024;
/// Entities named by one upload's operations: more than 25 operations with 1000 each.
pub const MAX_UPLOAD_ENTITIES: usize = 30_000;

/// The charge of an operation.
#[must_use]
pub fn charged_bytes(op: &StoredOp) -> i64 {
    let free_bytes = FREE_METADATA_BYTES + op.payload.len();
    let free_entities = FREE_ENTITIES + op.payload.len() / PAYLOAD_BYTES_PER_ENTITY;
    let entities = count(op.entity_id.as_ref(), &op.entity_ids).saturating_sub(free_entities);
    let bytes = op.payload.len()
        + op.vector_clock.as_json().len()
        + op.metadata_bytes().saturating_sub(free_bytes)
        + entities * ENTITY_BYTES;
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// How many entities an operation names.
fn count(entity_id: Option<&Arc<str>>, entity_ids: &[Arc<str>]) -> usize {
    entity_ids.len() + usize::from(entity_id.is_some_and(|id| !entity_ids.contains(id)))
}

/// The remaining metadata of one upload.
#[derive(Debug)]
pub struct Allowance {
    metadata_bytes: usize,
    entities: usize,
}

/// The limit that an upload exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// More than [`MAX_UPLOAD_METADATA_BYTES`].
    Metadata,
    /// More than [`MAX_UPLOAD_ENTITIES`].
    Entities,
}

impl Allowance {
    /// Of one upload.
    #[must_use]
    pub const fn new() -> Self {
        Self { metadata_bytes: MAX_UPLOAD_METADATA_BYTES, entities: MAX_UPLOAD_ENTITIES }
    }

    /// Takes an operation's share.
    ///
    /// # Errors
    /// When too little is left; then nothing is taken.
    pub fn take(&mut self, op: &ValidOp) -> Result<(), Excess> {
        let metadata = op.metadata_bytes();
        let entities = count(op.entity_id.as_ref(), &op.entity_ids);
        let entities_left = self.entities.checked_sub(entities).ok_or(Excess::Entities)?;
        self.metadata_bytes = self.metadata_bytes.checked_sub(metadata).ok_or(Excess::Metadata)?;
        self.entities = entities_left;
        Ok(())
    }
}

impl Default for Allowance {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::protocol::{OpType, VectorClock};

    fn op(payload: usize, entity_id: Option<&str>, entity_ids: &[String]) -> StoredOp {
        StoredOp {
            server_seq: 1,
            id: "0198c0de-0000-7000-8000-000000000001".into(),
            client_id: "B_a7Kx9Z".into(),
            action_type: "[Task Shared] deleteTasks".into(),
            op_type: OpType::Delete,
            entity_type: "TASK",
            entity_id: entity_id.map(Into::into),
            entity_ids: entity_ids.iter().map(|id| id.as_str().into()).collect(),
            payload: Bytes::from(vec![b'1'; payload]),
            storage_bytes: 0,
            vector_clock: VectorClock::from_entries([("B_a7Kx9Z".into(), 7)]),
            timestamp: 0,
            schema_version: 4,
            is_payload_encrypted: true,
            import_reason: None,
            repair_base_server_seq: None,
            received_at: 0,
        }
    }

    fn plain(op: &StoredOp) -> i64 {
        i64::try_from(op.payload.len() + op.vector_clock.as_json().len()).expect("small")
    }

    fn ids(count: usize, len: usize) -> Vec<String> {
        (0..count).map(|n| format!("{n:0>len$}")).collect()
    }

    #[test]
    fn what_the_app_sends_is_charged_payload_and_clock() {
        let pair = ids(2, 21);
        for usual in [op(2, None, &[]), op(90, Some("V1StGXR8_Z5jdHi6B-myT"), &[]), op(4, Some(&pair[0]), &pair)] {
            assert_eq!(charged_bytes(&usual), plain(&usual));
        }
        // A bulk action's payload holds the ids again.
        for count in [1, 10, 1000] {
            let ids = ids(count, 21);
            let payload: usize = 40 + ids.iter().map(|id| id.len() + 3).sum::<usize>();
            let bulk = op(payload, Some(&ids[0]), &ids);
            assert_eq!(charged_bytes(&bulk), plain(&bulk), "{count}");
        }
    }

    #[test]
    fn what_exceeds_that_is_charged_in_full() {
        let ids_of_255 = ids(1000, 255);
        let attack = op(4, Some(&ids_of_255[0]), &ids_of_255);
        let metadata: i64 = 36 + 8 + 25 + 255 + 1000 * 258;
        assert_eq!(charged_bytes(&attack), plain(&attack) + metadata - (256 + 4) + 990 * 128);
        // The scalar id counts when it is not among the others.
        let one_more = op(4, Some("other"), &ids(11, 2));
        assert_eq!(charged_bytes(&one_more), plain(&one_more) + 2 * 128);
        let long_names =
            StoredOp { id: "i".repeat(255).into(), action_type: "a".repeat(255).into(), ..op(4, None, &[]) };
        assert_eq!(charged_bytes(&long_names), plain(&long_names) + 255 + 255 + 8 - (256 + 4));
    }
}
