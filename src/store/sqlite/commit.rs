//! Group commit: one transaction and one flush to disk for many accounts, on the writer's thread.

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::payload::Staged;
use crate::protocol::{StoredOp, UserId};
use crate::store::archives::check_adopted;
use crate::store::group::{Failure, TransactNow};
use crate::store::heads::{self, HeadRow};
use crate::store::row::entity_ids_text;
use crate::store::segment::check_replaced;
use crate::store::{Adoption, ArchivedRange, Commit, CommitOutcome, Segment, SnapshotChange, StoreError, SyncState};

/// Prepared statements that stay ready: all that a commit may need.
pub(super) const STATEMENTS: usize = 26;

const UPDATE_STATE: &str = "UPDATE user_sync_state SET revision = ?2 + 1, generation = ?3, base_seq = ?4, \
    pruned_seq = ?5, last_seq = ?6, vector_clock = ?7, full_state_seq = ?8, full_state_client_id = ?9, \
    full_state_clock = ?10, replacement_seq = ?11, storage_used_bytes = ?12, snapshot_seq = ?13, snapshot_at = ?14, \
    snapshot_bytes = ?15, heads_seq = ?16, sealed_seq = ?17, sealed_max_op_id = ?18, sparse_up_to = ?19 \
    WHERE user_id = ?1 AND revision = ?2";
const INSERT_OP: &str = "INSERT INTO operations (user_id, generation, server_seq, op_id, client_id, action_type, \
    op_type, entity_type, entity_id, entity_ids, payload, storage_bytes, vector_clock, client_timestamp, \
    schema_version, is_payload_encrypted, sync_import_reason, repair_base_server_seq, received_at, payload_id) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)";
const FIND_HEAD: &str = "SELECT 1 FROM entity_heads WHERE user_id = ?1 AND entity_key = ?2 AND server_seq > ?3";
const UPSERT_HEAD: &str = "INSERT INTO entity_heads (user_id, entity_key, server_seq, client_id, vector_clock, \
    is_time_delta) VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (user_id, entity_key) DO UPDATE SET \
    server_seq = excluded.server_seq, client_id = excluded.client_id, vector_clock = excluded.vector_clock, \
    is_time_delta = excluded.is_time_delta";
const UPSERT_DEVICE: &str = "INSERT INTO sync_devices (user_id, client_id, last_seen_at, created_at) \
    VALUES (?1, ?2, ?3, ?3) ON CONFLICT (user_id, client_id) DO UPDATE SET \
    last_seen_at = max(last_seen_at, excluded.last_seen_at)";
const CLEAR_DEVICES: &str = "DELETE FROM sync_devices WHERE user_id = ?1";
/// Of one that is there already only that it is given up.
const INSERT_ARCHIVE: &str = "INSERT INTO archived_ranges (user_id, from_seq, to_seq, generation, reason, bytes, \
    archived_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (user_id, from_seq) DO UPDATE SET \
    reason = excluded.reason, archived_at = excluded.archived_at \
    WHERE archived_ranges.reason IN ('clean_slate', 'wipe', 'superseded', 'bring_back')";
const ADOPT_STAGED: &str = "DELETE FROM archived_ranges WHERE user_id = ?1 AND from_seq = ?2 AND reason = 'staged'";
const MARK_BROUGHT_BACK: &str = "UPDATE archived_ranges SET reason = 'brought_back', archived_at = 0 \
    WHERE user_id = ?1 AND from_seq = ?2";
/// Other processes have to hear of it: their pictures of the account are wrong from now on.
const ANNOUNCE_REPLACED: &str = "INSERT INTO account_events (user_id, kind) VALUES (?1, 'data_replaced')";
const CLEAR_SNAPSHOT: &str = "DELETE FROM user_snapshots WHERE user_id = ?1";
const SET_SNAPSHOT: &str = "INSERT INTO user_snapshots (user_id, schema_version, data) VALUES (?1, ?2, ?3) \
    ON CONFLICT (user_id) DO UPDATE SET schema_version = excluded.schema_version, data = excluded.data";
const DELETE_SEALED: &str = "DELETE FROM operations WHERE user_id = ?1 AND server_seq >= ?2 AND server_seq <= ?3 \
    AND generation = ?4";
const DELETE_ABSORBED: &str = "DELETE FROM segments WHERE user_id = ?1 AND last_seq >= ?2 AND last_seq <= ?3 \
    AND first_seq >= ?2 AND generation = ?4 RETURNING op_count";
const INSERT_SEGMENT: &str = "INSERT INTO segments (user_id, first_seq, last_seq, generation, storage_bytes, \
    max_received_at, op_count, min_op_id, max_op_id, op_id_hashes, data) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";

/// The connection that commits, and what it has written ahead of the group.
pub(super) struct Lane<'a>(pub(super) &'a mut Connection, pub(super) &'a Staged);

impl TransactNow for Lane<'_> {
    fn transact_now(&mut self, group: &[Commit]) -> Result<Vec<CommitOutcome>, Failure> {
        let tx = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let outcomes = update_states(&tx, group)?;
        let live = || group.iter().zip(&outcomes).filter(|(_, outcome)| **outcome == CommitOutcome::Committed);
        for (commit, _) in live() {
            insert_ops(&tx, commit.user, commit.ops.iter().map(|(generation, op)| (*generation, op)), self.1)?;
        }
        for (commit, _) in live() {
            upsert_heads(&tx, commit)?;
            note_devices(&tx, commit)?;
            for range in &commit.archived {
                insert_archive(&tx, commit.user, range)?;
            }
            if let Some(adoption) = commit.adoption {
                adopt(&tx, commit.user, adoption)?;
            }
            change_snapshot(&tx, commit.user, &commit.snapshot)?;
            for segment in &commit.seal {
                seal(&tx, commit.user, segment)?;
            }
        }
        tx.commit().map_err(|error| match StoreError::from(error) {
            // Without room for its frames it has been rolled back.
            full @ StoreError::Full(_) => Failure::Store(full),
            // If the flush to disk fails, the transaction may or may not be found there later.
            other => Failure::Store(other.made_unknown()),
        })?;
        Ok(outcomes)
    }
}

/// Moves the state rows on whose revision is the expected one and whose new entities are new.
fn update_states(tx: &Transaction<'_>, group: &[Commit]) -> rusqlite::Result<Vec<CommitOutcome>> {
    let mut update = tx.prepare_cached(UPDATE_STATE)?;
    let mut outcomes = Vec::with_capacity(group.len());
    for commit in group {
        if has_any_head(tx, commit)? {
            outcomes.push(CommitOutcome::Stale);
            continue;
        }
        let state: &SyncState = &commit.state;
        let full_state = state.full_state.as_ref();
        let changed = update.execute(params![
            commit.user,
            commit.expected_revision,
            state.generation,
            state.base_seq,
            state.pruned_seq,
            state.last_seq,
            state.clock.as_json(),
            full_state.map(|mark| mark.seq),
            full_state.map(|mark| &mark.client_id),
            full_state.map(|mark| mark.clock.as_json()),
            state.replacement_seq,
            state.storage_used_bytes,
            state.snapshot.map(|snapshot| snapshot.seq),
            state.snapshot.map(|snapshot| snapshot.at),
            state.snapshot.map(|snapshot| snapshot.bytes),
            state.heads_seq,
            state.sealed_seq,
            state.sealed_max_op_id,
            state.sparse_up_to,
        ])?;
        outcomes.push(if changed == 0 { CommitOutcome::Stale } else { CommitOutcome::Committed });
    }
    Ok(outcomes)
}

/// Whether an entity that is to be absent has a head.
fn has_any_head(tx: &Transaction<'_>, commit: &Commit) -> rusqlite::Result<bool> {
    for key in &commit.absent {
        let mut find = tx.prepare_cached(FIND_HEAD)?;
        if find.exists(params![commit.user, key.as_bytes(), commit.state.base_seq])? {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn insert_ops<'a>(
    tx: &Transaction<'_>,
    user: UserId,
    ops: impl Iterator<Item = (i64, &'a StoredOp)>,
    staged: &Staged,
) -> rusqlite::Result<()> {
    let mut insert = tx.prepare_cached(INSERT_OP)?;
    for (generation, op) in ops {
        let payload_id = staged.find(user, op.server_seq);
        insert.execute(params![
            user,
            generation,
            op.server_seq,
            op.id,
            op.client_id,
            op.action_type,
            op.op_type.as_str(),
            op.entity_type,
            op.entity_id,
            entity_ids_text(&op.entity_ids),
            if payload_id.is_none() { &op.payload[..] } else { &[] },
            op.storage_bytes,
            op.vector_clock.as_json(),
            op.timestamp,
            op.schema_version,
            op.is_payload_encrypted,
            op.import_reason.map(crate::protocol::ImportReason::as_str),
            op.repair_base_server_seq,
            op.received_at,
            payload_id,
        ])?;
    }
    Ok(())
}

fn upsert_heads(tx: &Transaction<'_>, commit: &Commit) -> rusqlite::Result<()> {
    if commit.heads.is_empty() {
        return Ok(());
    }
    let mut upsert = tx.prepare_cached(UPSERT_HEAD)?;
    for HeadRow { key, seq, client_id, clock, is_time_delta } in heads::rows(commit.heads()) {
        upsert.execute(params![commit.user, key.as_bytes(), seq, client_id, clock, is_time_delta])?;
    }
    Ok(())
}

fn note_devices(tx: &Transaction<'_>, commit: &Commit) -> rusqlite::Result<()> {
    if commit.clear_devices {
        tx.prepare_cached(CLEAR_DEVICES)?.execute([commit.user])?;
    }
    for (client, at) in &commit.devices {
        tx.prepare_cached(UPSERT_DEVICE)?.execute(params![commit.user, client, at])?;
    }
    Ok(())
}

/// Makes a staged range part of the log, if it still is one.
fn adopt(tx: &Transaction<'_>, user: UserId, adoption: Adoption) -> Result<(), Failure> {
    let staged = tx.prepare_cached(ADOPT_STAGED)?.execute([user, adoption.staged_from])?;
    check_adopted(u64::try_from(staged).unwrap_or(u64::MAX))?;
    tx.prepare_cached(MARK_BROUGHT_BACK)?.execute([user, adoption.source_from])?;
    tx.prepare_cached(ANNOUNCE_REPLACED)?.execute([user])?;
    Ok(())
}

pub(super) fn insert_archive(tx: &Transaction<'_>, user: UserId, range: &ArchivedRange) -> rusqlite::Result<()> {
    tx.prepare_cached(INSERT_ARCHIVE)?.execute(params![
        user,
        range.from_seq,
        range.to_seq,
        range.generation,
        range.reason.as_str(),
        range.bytes,
        range.archived_at,
    ])?;
    Ok(())
}

fn change_snapshot(tx: &Transaction<'_>, user: UserId, change: &SnapshotChange) -> rusqlite::Result<()> {
    match change {
        SnapshotChange::Keep => {}
        SnapshotChange::Clear => {
            tx.prepare_cached(CLEAR_SNAPSHOT)?.execute([user])?;
        }
        SnapshotChange::Set(blob) => {
            tx.prepare_cached(SET_SNAPSHOT)?.execute(params![user, blob.schema_version, blob.data])?;
        }
    }
    Ok(())
}

/// Stores a segment in place of what holds its operations: rows, or smaller segments.
fn seal(tx: &Transaction<'_>, user: UserId, segment: &Segment) -> Result<(), Failure> {
    let place = params![user, segment.first_seq, segment.last_seq, segment.generation];
    let rows = tx.prepare_cached(DELETE_SEALED)?.execute(place)?;
    let mut replaced = i64::try_from(rows).unwrap_or(i64::MAX);
    for op_count in tx.prepare_cached(DELETE_ABSORBED)?.query_map(place, |row| row.get::<_, i64>(0))? {
        replaced = replaced.saturating_add(op_count?);
    }
    check_replaced(std::iter::once(segment), replaced)?;
    insert_segment(tx, user, segment)?;
    Ok(())
}

pub(super) fn insert_segment(tx: &Transaction<'_>, user: UserId, segment: &Segment) -> rusqlite::Result<()> {
    tx.prepare_cached(INSERT_SEGMENT)?.execute(params![
        user,
        segment.first_seq,
        segment.last_seq,
        segment.generation,
        segment.storage_bytes,
        segment.max_received_at,
        i64::try_from(segment.op_count).unwrap_or(i64::MAX),
        segment.min_op_id,
        segment.max_op_id,
        &segment.op_id_hashes[..],
        &segment.data[..],
    ])?;
    Ok(())
}
