//! What an account's writer reads from the store: the account when it becomes live, and the facts that a plan lacks.

use std::collections::HashMap;

use super::facts::{ArchiveFacts, CleanupStep, Facts, Needs, Stored};
use super::heads::{self, HeadCache};
use super::plan::UserState;
use crate::engine::{EngineError, invariants, store_trouble};
use crate::protocol::{Seq, UserId};
use crate::store::{AccountState, EntityHead, EntityKey, LogRange, Store, StoreError, SyncState, heads_of_ops};

/// Heads looked up by one statement.
const MAX_LOOK_UP: usize = 1000;
/// Operations read at once for their heads.
const READ_OPS: usize = 500;
/// And bytes of them.
const READ_BYTES: usize = 1024 * 1024;
/// Full states looked at when room must be made (section 11.3).
const MAX_CLEANUP_STEPS: usize = 50;
/// Full states looked through for the newest replacement when a log says nothing of it.
const MAX_UNRESOLVED_FULL_STATES: usize = 1000;

/// The heads that operations make of which some are packed: a data set was brought back, and its heads were not all
/// stored yet when their keeper went.
async fn heads_of_packed_log(
    store: &dyn Store,
    user: UserId,
    after: Seq,
    up_to: Seq,
) -> Result<Vec<(EntityKey, EntityHead)>, StoreError> {
    let mut heads = HashMap::new();
    let mut range = LogRange { user, after, up_to, exclude_client: None, limit: READ_OPS, max_bytes: READ_BYTES };
    loop {
        let page = store.read_log(range).await?;
        heads.extend(heads_of_ops(&page.ops));
        match page.ops.last() {
            Some(last) => range.after = last.server_seq,
            None => return Ok(heads.into_iter().collect()),
        }
    }
}

/// What an account's writer starts from.
///
/// # Errors
/// [`EngineError::NoAccount`], or the store's trouble.
pub async fn account(store: &dyn Store, user: UserId) -> Result<UserState, EngineError> {
    let account = store.load_account(user).await.map_err(store_trouble)?.ok_or(EngineError::NoAccount)?;
    state_of(store, user, account).await.map_err(store_trouble)
}

/// What a writer starts from, with this row.
///
/// # Errors
/// The store's.
pub async fn state_of(store: &dyn Store, user: UserId, mut account: AccountState) -> Result<UserState, StoreError> {
    let sync = &account.sync;
    invariants::check_state(sync).map_err(StoreError::Corrupt)?;
    let unsaved = sync.replacement_seq.is_none();
    if unsaved {
        // Never resolved, as in a log that another program wrote: find the newest import once and keep it (section
        // 5.6).
        let newest = if sync.last_seq == sync.pruned_seq {
            0
        } else {
            let rows = store.full_states(user, sync.pruned_seq, sync.last_seq, MAX_UNRESOLVED_FULL_STATES).await?;
            rows.iter().find(|row| row.op_type.is_state_replacement()).map_or(0, |row| row.seq)
        };
        account.sync.replacement_seq = Some(newest);
    }
    Ok(UserState::loaded(user, account, unsaved))
}

/// The heads that an account's first upload needs, for readers don't: those that are not stored yet, and all the stored ones
/// of an account that has few.
///
/// # Errors
/// The store's.
pub async fn heads(store: &dyn Store, user: UserId, sync: &SyncState) -> Result<HeadCache, StoreError> {
    let recent = if sync.heads_seq < sync.sealed_seq {
        heads_of_packed_log(store, user, sync.heads_seq, sync.last_seq).await?
    } else if sync.heads_seq < sync.last_seq {
        store.heads_of_log(user, sync.heads_seq, sync.last_seq).await?
    } else {
        Vec::new()
    };
    let stored = if sync.heads_seq > sync.base_seq {
        store.load_all_heads(user, sync.base_seq, heads::LOADED_WHOLE).await?
    } else {
        Some(Vec::new())
    };
    Ok(HeadCache::loaded(stored, recent, sync.heads_seq))
}

/// Adds the facts that a plan lacks to those that it has. `archive_percent`: how much of the quota the archive may take.
///
/// # Errors
/// The store's.
pub async fn facts(
    store: &dyn Store,
    state: &UserState,
    needs: Needs,
    facts: &mut Facts,
    archive_percent: u32,
) -> Result<(), StoreError> {
    let (user, sync) = (state.user, &state.account.sync);
    for keys in needs.heads.chunks(MAX_LOOK_UP) {
        let found = store.load_heads(user, sync.base_seq, keys).await?;
        facts.heads.extend(keys.iter().map(|key| (*key, None)));
        facts.heads.extend(found.into_iter().map(|(key, head)| (key, Some(head))));
    }
    if !needs.ids.is_empty() {
        let found = store.find_ops(user, sync.generation, &needs.ids).await?;
        facts.ids.extend(needs.ids.into_iter().map(|id| (id, None)));
        facts.ids.extend(found.into_iter().map(|op| (op.id.to_string(), Some(op))));
    }
    if needs.newest_full_state {
        let rows = store.full_states(user, sync.pruned_seq, sync.last_seq, 1).await?;
        facts.newest_full_state = Some(rows.into_iter().next());
    }
    if let Some(mark) = sync.full_state.as_ref().filter(|_| needs.encryption) {
        let rows = store.full_states(user, mark.seq - 1, mark.seq, 1).await?;
        let row = rows.first().ok_or_else(|| StoreError::Corrupt(format!("full state {} is missing", mark.seq)))?;
        facts.encryption = Some((row.seq, row.is_payload_encrypted));
    }
    if needs.recount {
        let (bytes, operations) = store.measure(user, sync.pruned_seq, sync.last_seq).await?;
        let bytes = bytes + sync.snapshot.map_or(0, |snapshot| snapshot.bytes);
        facts.recount = Some(Stored { bytes, operations });
    }
    if needs.cleanup {
        facts.cleanup = Some(cleanup_steps(store, user, sync).await?);
    }
    if needs.archive {
        let ranges = store.archived(user).await?;
        facts.archive = Some(ArchiveFacts { ranges, percent: archive_percent });
    }
    Ok(())
}

/// Ways to make room, smallest first: up to and with the oldest restore point, the next one, …, and at last
/// everything before the newest one, which itself always stays (sections 11.3, 17.5).
async fn cleanup_steps(store: &dyn Store, user: UserId, sync: &SyncState) -> Result<Vec<CleanupStep>, StoreError> {
    let rows = store.full_states(user, sync.pruned_seq, sync.last_seq, 1000).await?;
    let mut points: Vec<Seq> = rows
        .iter()
        .filter(|row| crate::protocol::op::is_causal_full_state(row.op_type, row.repair_base_server_seq))
        .map(|row| row.seq)
        .collect();
    points.reverse();
    let Some(newest) = points.pop() else { return Ok(Vec::new()) };
    points.truncate(MAX_CLEANUP_STEPS);
    let mut ends: Vec<(Seq, i64)> = points.iter().zip(1..).map(|(seq, count)| (*seq, count)).collect();
    let last_count = i64::try_from(points.len()).unwrap_or(i64::MAX);
    if newest - 1 > ends.last().map_or(sync.pruned_seq, |(seq, _)| *seq) {
        ends.push((newest - 1, last_count));
    }
    let mut steps = Vec::with_capacity(ends.len());
    let (mut from, mut freed_bytes, mut deleted_ops) = (sync.pruned_seq, 0, 0);
    for (prune_to, deleted_restore_points) in ends {
        let (bytes, ops) = store.measure(user, from, prune_to).await?;
        freed_bytes += bytes;
        deleted_ops += ops;
        from = prune_to;
        steps.push(CleanupStep { prune_to, freed_bytes, deleted_ops, deleted_restore_points });
    }
    Ok(steps)
}
