//! Rebuilding an account's state as of a sequence (contract, sections 8.1, 8.6, 10): beside the actor, one replay at a
//! time per account, a few in all.
//!
//! A replay starts at the newest causal full state at or before the target (or at a cached state after it): what came
//! before is superseded, so encrypted operations there are no hindrance (section 17.14).

use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use super::user::actor::Context;
use super::view::UserView;
use super::{EngineError, RestoreError, Restored};
use crate::protocol::op::is_causal_full_state;
use crate::protocol::{Seq, StoredOp, UserId};
use crate::replay::{self, CURRENT_SCHEMA_VERSION, ReplayError, Replayer, State};
use crate::store::{FullStateRow, LogRange, SnapshotBlob, SnapshotMeta, StoreError};

/// Operations read at once.
const BATCH_OPS: usize = 10_000;
/// Payload bytes read at once.
const BATCH_BYTES: usize = 16 * 1024 * 1024;
/// Full states looked through for the one to start at; legacy REPAIRs are the only ones skipped.
const MAX_FULL_STATES: usize = 1000;
/// A rebuilt state is worth keeping when rebuilding took so many operations.
const KEEP_FROM_OPS: Seq = 500;

/// Names a restore: data set and target.
type Key = (i64, Seq);

/// Lets requests that want the same restore share one.
#[derive(Default)]
pub struct SingleFlight {
    last: tokio::sync::Mutex<Option<(Key, Restored)>>,
    waiting: AtomicUsize,
}

/// Counts a waiter for as long as it lives.
struct Waiter<'a>(&'a AtomicUsize);

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl SingleFlight {
    /// The restore that `key` names: the one that somebody made while this caller waited, or a new one.
    pub async fn run(
        &self,
        key: Key,
        restore: impl Future<Output = Result<Restored, RestoreError>>,
    ) -> Result<Restored, RestoreError> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let waiter = Waiter(&self.waiting);
        let mut last = self.last.lock().await;
        let shared = last.take().filter(|(made, _)| *made == key).map(|(_, restored)| restored);
        if shared.is_some() {
            metrics::counter!("supersync_restores_shared_total").increment(1);
        }
        let restored = match shared {
            Some(restored) => restored,
            None => restore.await?,
        };
        // Kept only while somebody waits for it: states are large.
        if waiter.0.load(Ordering::Acquire) > 1 {
            *last = Some((key, restored.clone()));
        }
        Ok(restored)
    }
}

/// A state worth keeping for the next restore.
pub struct Keep {
    /// Where it stands.
    pub meta: SnapshotMeta,
    /// The state.
    pub blob: SnapshotBlob,
}

/// Rebuilds the state as of `target` (at least 1, at most the view's last sequence).
pub async fn rebuild(
    context: &Context,
    user: UserId,
    view: &UserView,
    target: Seq,
) -> Result<(Restored, Option<Keep>), RestoreError> {
    let started = std::time::Instant::now();
    let store = context.store.as_ref();
    let sync = view.sync();
    let limits = replay::Limits {
        max_ops: context.options.max_replay_ops,
        max_state_bytes: context.options.max_replay_state_bytes,
    };
    let full_state_seq = match &sync.full_state {
        Some(mark) if mark.seq <= target => Some(mark.seq),
        _ => {
            let rows =
                store.full_states(user, sync.pruned_seq, target, MAX_FULL_STATES).await.map_err(store_trouble)?;
            let causal = |row: &&FullStateRow| is_causal_full_state(row.op_type, row.repair_base_server_seq);
            rows.iter().find(causal).map(|row| row.seq)
        }
    };
    let cached = match &sync.snapshot {
        Some(meta) if meta.bytes > 0 && meta.seq <= target && Some(meta.seq) > full_state_seq => {
            store.load_snapshot(user).await.map_err(store_trouble)?.filter(|(found, _)| found.seq == meta.seq)
        }
        _ => None,
    };
    let (base, state) = match (cached, full_state_seq) {
        (Some((meta, blob)), _) => {
            let max = limits.max_state_bytes;
            (meta.seq, blocking(move || inflate_state(&blob, max)).await?)
        }
        // The replay's one allowed gap: the full state itself is the first operation.
        (None, Some(seq)) => (seq - 1, State::empty()),
        (None, None) if sync.pruned_seq > 0 => {
            return Err(RestoreError::NotReplayable("the operations before it are gone".to_owned()));
        }
        (None, None) => (0, State::empty()),
    };
    let span = usize::try_from(target - base).unwrap_or(usize::MAX);
    if span > limits.max_ops {
        return Err(RestoreError::NotReplayable(format!("{span} operations, at most {}", limits.max_ops)));
    }
    let mut replayer =
        Replayer::new(state, base, target, limits).map_err(not_replayable)?.sparse_up_to(sync.sparse_up_to);
    while replayer.position() < target {
        let range = LogRange {
            user,
            after: replayer.position(),
            up_to: target,
            exclude_client: None,
            limit: BATCH_OPS,
            max_bytes: BATCH_BYTES,
        };
        let page = store.read_log(range).await.map_err(store_trouble)?;
        if page.ops.is_empty() {
            break;
        }
        replayer = blocking(move || apply_all(replayer, &page.ops)).await?;
    }
    let generated_at = context.clock.now_ms();
    let max_blob = context.options.max_snapshot_blob_bytes;
    let keep_it = target - base >= KEEP_FROM_OPS && target == sync.last_seq;
    let (state, blob) = blocking(move || {
        let json = replayer.finish().map_err(not_replayable)?.to_json();
        let blob = if keep_it { deflate_state(&json, max_blob) } else { None };
        Ok((json, blob))
    })
    .await?;
    metrics::histogram!("supersync_restore_seconds").record(started.elapsed().as_secs_f64());
    let keep = blob.map(|data| Keep {
        meta: SnapshotMeta { seq: target, at: generated_at, bytes: i64::try_from(data.len()).unwrap_or(i64::MAX) },
        blob: SnapshotBlob { data, schema_version: CURRENT_SCHEMA_VERSION },
    });
    let restored =
        Restored { state: state.into(), server_seq: target, generated_at, schema_version: CURRENT_SCHEMA_VERSION };
    Ok((restored, keep))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RestoreError> + Send + 'static,
) -> Result<T, RestoreError> {
    let died = |e: tokio::task::JoinError| RestoreError::Engine(EngineError::Internal(format!("replay died: {e}")));
    tokio::task::spawn_blocking(work).await.map_err(died)?
}

fn apply_all(mut replayer: Replayer, ops: &[StoredOp]) -> Result<Replayer, RestoreError> {
    for op in ops {
        replayer.push(op).map_err(not_replayable)?;
    }
    Ok(replayer)
}

fn inflate_state(blob: &SnapshotBlob, max_bytes: usize) -> Result<State, RestoreError> {
    let mut json = Vec::new();
    let limit = u64::try_from(max_bytes).unwrap_or(u64::MAX).saturating_add(1);
    let read = GzDecoder::new(blob.data.as_slice()).take(limit).read_to_end(&mut json);
    match read {
        Ok(_) if json.len() <= max_bytes => State::from_json(&json, blob.schema_version).map_err(not_replayable),
        Ok(_) => Err(RestoreError::NotReplayable("the cached state is too large".to_owned())),
        Err(error) => Err(RestoreError::NotReplayable(format!("the cached state is corrupt: {error}"))),
    }
}

fn deflate_state(json: &[u8], max_bytes: usize) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to memory can't fail; if it did, the state would simply not be kept.
    encoder.write_all(json).ok()?;
    encoder.finish().ok().filter(|data| data.len() <= max_bytes)
}

fn not_replayable(error: ReplayError) -> RestoreError {
    match error {
        ReplayError::Encrypted { .. } => RestoreError::Encrypted,
        other => RestoreError::NotReplayable(other.to_string()),
    }
}

fn store_trouble(error: StoreError) -> RestoreError {
    RestoreError::Engine(super::store_trouble(error))
}
