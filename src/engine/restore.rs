//! Rebuilding an account's state as of a sequence (contract, sections 8.1, 8.6, 10): beside the actor, one replay at a
//! time per account, a few in all ([`super::replays`]).
//!
//! A replay starts at the newest causal full state at or before the target (or at a cached state after it): what came
//! before is superseded, so encrypted operations there are no hindrance (section 17.14). What it reads and makes counts
//! against its [`Limits`](crate::replay::Limits) before it is in memory.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use super::replays::Place;
use super::user::actor::Context;
use super::view::UserView;
use super::{EngineError, RestoreError, Restored};
use crate::protocol::op::is_causal_full_state;
use crate::protocol::{Seq, UserId};
use crate::replay::{CURRENT_SCHEMA_VERSION, Rebuilt, ReplayError, Replayer};
use crate::store::{FullStateRow, LogRange, SnapshotBlob, SnapshotMeta, StoreError};

/// Operations read at once.
const BATCH_OPS: usize = 1000;
/// Payload bytes read at once.
const BATCH_BYTES: usize = 1024 * 1024;
/// What reading so many may take: packed operations are read in blocks.
const BATCH_MEMORY: usize = 3 * 1024 * 1024;
/// Full states looked through for the one to start at; legacy REPAIRs are the only ones skipped.
const MAX_FULL_STATES: usize = 1000;
/// A rebuilt state is worth keeping when rebuilding took so many operations.
const KEEP_FROM_OPS: Seq = 500;

/// A state worth keeping for the next restore.
pub struct Keep {
    /// Where it stands.
    pub meta: SnapshotMeta,
    /// The state.
    pub blob: SnapshotBlob,
}

/// Why a replay did not come to an end.
#[derive(Debug)]
pub enum Failed {
    /// Its place has too little memory for it.
    Outgrown,
    /// The log ended early or has a hole: it was changed meanwhile, or is damaged.
    Hole(ReplayError),
    /// Everything else.
    For(RestoreError),
}

impl From<EngineError> for Failed {
    fn from(error: EngineError) -> Self {
        Self::For(error.into())
    }
}

impl From<ReplayError> for Failed {
    fn from(error: ReplayError) -> Self {
        use ReplayError as E;
        let why = error.to_string();
        Self::For(match error {
            E::OutOfMemory => return Self::Outgrown,
            E::Hole { .. } => return Self::Hole(error),
            E::Encrypted { .. } => RestoreError::Encrypted,
            E::NewerSchema { .. } => RestoreError::NewerSchema,
            E::TooManyOps { .. } | E::TooLarge { .. } | E::TooManyMembers { .. } | E::TooMuchWork => {
                RestoreError::TooLarge(why)
            }
            E::LegacyRepair { .. }
            | E::InvalidFullState { .. }
            | E::InvalidPayload { .. }
            | E::Misplaced { .. }
            | E::InvalidState => RestoreError::NotReplayable(why),
            E::Stopped => EngineError::Busy.into(),
            E::BeyondTarget { .. } => EngineError::Internal(why).into(),
        })
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::For(RestoreError::Engine(super::store_trouble(error)))
    }
}

/// A replay with its place, which stays taken for as long as anything works on it: also when its caller has gone.
struct Run {
    replayer: Replayer,
    place: Place,
}

/// Tells a replay to stop when nobody waits for it any more.
struct Wanted(Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Rebuilds the state as of `target` (at least 1, at most the view's last sequence).
pub async fn rebuild(
    context: &Context,
    user: UserId,
    view: &UserView,
    target: Seq,
    place: Place,
) -> Result<(Restored, Option<Keep>), Failed> {
    let started = Instant::now();
    let store = context.store.as_ref();
    let sync = view.sync();
    let full_state_seq = match &sync.full_state {
        Some(mark) if mark.seq <= target => Some(mark.seq),
        _ => {
            let rows = store.full_states(user, sync.pruned_seq, target, MAX_FULL_STATES).await?;
            let causal = |row: &&FullStateRow| is_causal_full_state(row.op_type, row.repair_base_server_seq);
            rows.iter().find(causal).map(|row| row.seq)
        }
    };
    let wanted = Wanted(Arc::new(AtomicBool::new(true)));
    let start = |base: Seq, place: Place| {
        let wanted = Arc::clone(&wanted.0);
        let replayer = Replayer::new(base, target, place.limits)
            .sparse_up_to(sync.sparse_up_to)
            .stop_when(move || !wanted.load(Ordering::Relaxed));
        Run { replayer, place }
    };
    let cached = sync.snapshot.filter(|meta| meta.bytes > 0 && meta.seq <= target && Some(meta.seq) > full_state_seq);
    let (mut base, found) = match cached {
        Some(meta) => (meta.seq, start_with_cached(context, user, meta, start(meta.seq, place)).await?),
        None => (0, Cached::Unusable(place)),
    };
    let run = match found {
        Cached::Loaded(run) => *run,
        Cached::Unusable(place) => {
            base = match full_state_seq {
                // The replay's one allowed gap: the full state itself is the first operation.
                Some(seq) => seq - 1,
                None if sync.pruned_seq == 0 => 0,
                // The data was deleted, and what came since is whole, but begins with changes to what devices had.
                None if target > sync.base_seq && sync.pruned_seq == sync.base_seq => {
                    return Err(Failed::For(RestoreError::NotReplayable("no full state before it".to_owned())));
                }
                None => return Err(Failed::For(RestoreError::Gone)),
            };
            start(base, place)
        }
    };
    let span = usize::try_from(target - base).unwrap_or(usize::MAX);
    let max = run.place.limits.max_ops;
    // Of numbers that may belong to no operation the replay counts those that do.
    if span > max && !sync.may_lack(target) {
        return Err(ReplayError::TooManyOps { max }.into());
    }
    let run = read_all(context, user, target, run).await?;
    let generated_at = context.clock.now_ms();
    let max_blob = context.options.max_snapshot_blob_bytes;
    let keep_it = target - base >= KEEP_FROM_OPS && target == sync.last_seq;
    let is_wanted = Arc::clone(&wanted.0);
    let (json, blob) = blocking(move || {
        let Run { replayer, place } = run;
        let Rebuilt { json, memory_left } = replayer.finish()?;
        // What it is written to grows by a quarter, and is there twice meanwhile.
        let blob = if keep_it { deflate_state(&json, max_blob.min(memory_left / 9 * 4), &is_wanted) } else { None };
        drop(place);
        Ok((json, blob))
    })
    .await?;
    metrics::histogram!("supersync_restore_seconds").record(started.elapsed().as_secs_f64());
    let keep = blob.map(|data| Keep {
        meta: SnapshotMeta { seq: target, at: generated_at, bytes: i64::try_from(data.len()).unwrap_or(i64::MAX) },
        blob: SnapshotBlob { data, schema_version: CURRENT_SCHEMA_VERSION },
    });
    let restored =
        Restored { state: json.into(), server_seq: target, generated_at, schema_version: CURRENT_SCHEMA_VERSION };
    Ok((restored, keep))
}

/// What became of a cached state.
enum Cached {
    Loaded(Box<Run>),
    /// It is damaged, gone or of a newer schema; the log has everything as well, or else says that it has not.
    Unusable(Place),
}

async fn start_with_cached(
    context: &Context,
    user: UserId,
    meta: SnapshotMeta,
    mut run: Run,
) -> Result<Cached, Failed> {
    let packed = usize::try_from(meta.bytes).unwrap_or(usize::MAX);
    run.replayer.take(packed)?;
    let found = context.store.load_snapshot(user).await?;
    // A newer server that was here before knew more schemas.
    let is_usable =
        |(found, blob): &(SnapshotMeta, SnapshotBlob)| *found == meta && blob.schema_version <= CURRENT_SCHEMA_VERSION;
    let Some((_, blob)) = found.filter(is_usable) else { return Ok(Cached::Unusable(run.place)) };
    blocking(move || {
        let size = inflated_size(&blob.data);
        let max = run.place.limits.max_state_bytes;
        if size > max {
            return Err(ReplayError::TooLarge { max }.into());
        }
        run.replayer.take(size)?;
        let Some(json) = inflate(&blob.data, size) else {
            tracing::warn!(user_id = user, "a cached state is damaged and was not used");
            return Ok(Cached::Unusable(run.place));
        };
        drop(blob.data);
        run.replayer.give(packed);
        run.replayer.give(size);
        run.replayer.start_with(json.into(), blob.schema_version)?;
        Ok(Cached::Loaded(Box::new(run)))
    })
    .await
}

async fn read_all(context: &Context, user: UserId, target: Seq, mut run: Run) -> Result<Run, Failed> {
    let store = context.store.as_ref();
    while run.replayer.position() < target {
        let after = run.replayer.position();
        // A page has at least one operation, however large.
        let (next, _) = store.measure(user, after, after + 1).await?;
        let expected = usize::try_from(next).unwrap_or(0).max(BATCH_MEMORY);
        run.replayer.take(expected)?;
        let range =
            LogRange { user, after, up_to: target, exclude_client: None, limit: BATCH_OPS, max_bytes: BATCH_BYTES };
        let page = store.read_log(range).await?;
        if page.ops.is_empty() {
            run.replayer.give(expected);
            break;
        }
        run = blocking(move || {
            run.replayer.push_all(page.ops, expected)?;
            Ok(run)
        })
        .await?;
    }
    Ok(run)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failed> + Send + 'static) -> Result<T, Failed> {
    let died = |e: tokio::task::JoinError| EngineError::Internal(format!("replay died: {e}"));
    tokio::task::spawn_blocking(work).await.map_err(died)?
}

/// How large a packed state says it is.
fn inflated_size(packed: &[u8]) -> usize {
    packed.last_chunk::<4>().map_or(0, |size| usize::try_from(u32::from_le_bytes(*size)).unwrap_or(usize::MAX))
}

/// A packed state of this size; `None` when it is damaged or of another size.
fn inflate(packed: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut json = vec![0; size];
    let mut decoder = GzDecoder::new(packed);
    decoder.read_exact(&mut json).ok()?;
    // Reading its end checks the sum.
    matches!(decoder.read(&mut [0]), Ok(0)).then_some(json)
}

/// Bytes, up to a bound, and as long as somebody wants them.
struct Bounded<'a> {
    data: Vec<u8>,
    max: usize,
    wanted: &'a AtomicBool,
}

impl std::io::Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let len = self.data.len() + bytes.len();
        if len > self.max || !self.wanted.load(Ordering::Relaxed) {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        if len > self.data.capacity() {
            self.data.reserve_exact(bytes.len().max(self.data.len() / 4).min(self.max - self.data.len()));
        }
        self.data.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The state packed, if that takes no more than so many bytes.
fn deflate_state(json: &[bytes::Bytes], max: usize, wanted: &AtomicBool) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Bounded { data: Vec::new(), max, wanted }, Compression::fast());
    json.iter().try_for_each(|piece| encoder.write_all(piece)).ok()?;
    encoder.finish().ok().map(|out| out.data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_state_comes_back_and_a_damaged_one_does_not() {
        let json = [bytes::Bytes::from_static(b"{\"a\":"), bytes::Bytes::from_static(b"1}")];
        let wanted = AtomicBool::new(true);
        let packed = deflate_state(&json, 1000, &wanted).expect("small");
        assert_eq!(inflated_size(&packed), 7);
        assert_eq!(inflate(&packed, 7).as_deref(), Some(&b"{\"a\":1}"[..]));
        for size in [6, 8] {
            assert_eq!(inflate(&packed, size), None);
        }
        for at in 0..packed.len() {
            let mut bad = packed.clone();
            bad[at] ^= 1;
            // The header's flags, time and system are of no account.
            assert!((3..10).contains(&at) || inflate(&bad, 7).is_none(), "{at}");
        }
        assert_eq!(deflate_state(&json, packed.len() - 1, &wanted), None);
        assert_eq!(deflate_state(&json, 1000, &AtomicBool::new(false)), None);
    }
}
