//! Whether two operations with the same id are the same operation (contract, section 5.5 A): then the second is a retry
//! and harmless, otherwise it is refused for good.

use super::clock::VectorClock;
use super::json::tree::same_json;
use super::limits::MAX_CLOCK_DRIFT_MS;
use super::op::{StoredOp, UploadedOp, ValidOp, normalised_entity_ids};

/// Whether `incoming` is a retry of what is stored. The account is not compared: ids are looked up within one account.
///
/// A timestamp that was clamped when it was stored still matches the one the client sent.
#[must_use]
pub fn same_operation(stored: &StoredOp, incoming: &ValidOp) -> bool {
    same_timestamp(stored, incoming.timestamp) && same_operation_ignoring_time(stored, incoming)
}

/// The same without the timestamp: a full state uploaded as a snapshot gets the server's time, another one on each
/// attempt (section 7.2, step 7a).
#[must_use]
pub fn same_operation_ignoring_time(stored: &StoredOp, incoming: &ValidOp) -> bool {
    stored.id == incoming.id
        && stored.client_id == incoming.client_id
        && stored.action_type == incoming.action_type
        && stored.op_type == incoming.op_type
        && stored.entity_type == incoming.entity_type
        && stored.entity_id == incoming.entity_id
        && stored.schema_version == incoming.schema_version
        && stored.is_payload_encrypted == incoming.is_payload_encrypted
        && stored.import_reason == incoming.import_reason
        && stored.repair_base_server_seq == incoming.repair_base_server_seq
        && stored.entity_ids == incoming.stored_entity_ids()
        && same_clock(stored, incoming)
        && (stored.is_payload_encrypted || same_json(&stored.payload, &incoming.payload))
}

/// The stored clock was pruned with knowledge of its time, so its own keys say what to keep.
fn same_clock(stored: &StoredOp, incoming: &ValidOp) -> bool {
    let keys = stored.vector_clock.iter().map(|(client, _)| client);
    let preserve = std::iter::once(&*incoming.client_id).chain(keys);
    incoming.vector_clock.pruned(preserve) == stored.vector_clock
}

fn same_timestamp(stored: &StoredOp, incoming: i64) -> bool {
    let clamped = stored.received_at.saturating_add(MAX_CLOCK_DRIFT_MS);
    stored.timestamp == incoming || (stored.timestamp == clamped && stored.timestamp <= incoming)
}

/// Whether two operations of one request, neither of them validated, are the same, by their exact timestamps.
#[must_use]
pub(super) fn same_uploaded(first: &UploadedOp, second: &UploadedOp) -> bool {
    let encrypted = |op: &UploadedOp| op.is_payload_encrypted.unwrap_or(false);
    let entity_ids =
        |op: &UploadedOp| normalised_entity_ids(op.entity_id.as_deref(), op.entity_ids.as_deref().unwrap_or_default());
    let clock = |op: &UploadedOp| VectorClock::of_valid(&op.vector_clock).pruned([&*op.client_id]);
    first.client_id == second.client_id
        && first.action_type == second.action_type
        && first.op_type == second.op_type
        && first.entity_type == second.entity_type
        && first.entity_id == second.entity_id
        && same_number(first.schema_version, second.schema_version)
        && same_number(first.timestamp, second.timestamp)
        && encrypted(first) == encrypted(second)
        && first.import_reason == second.import_reason
        && first.repair_base_server_seq == second.repair_base_server_seq
        && entity_ids(first) == entity_ids(second)
        && clock(first) == clock(second)
        && (encrypted(first)
            || match (&first.payload, &second.payload) {
                (Some(first), Some(second)) => same_json(first, second),
                (None, None) => true,
                _ => false,
            })
}

#[expect(clippy::float_cmp, reason = "exact identity of two numbers that were read, not computed")]
fn same_number(a: f64, b: f64) -> bool {
    a == b
}

#[cfg(test)]
mod tests;
