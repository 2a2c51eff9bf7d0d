//! Seals old operations: reads them, packs them into segments off the async threads, and has the account's actor store
//! those in place of the rows. The commit is fenced like every other: what changed meanwhile is left for the next time.
//!
//! A log's last segment is taken up again while it has room: it is unpacked, and repacked with what has come to it. So
//! a history lies in a few full segments, however slowly it grew, each of which has been written at most
//! `MAX_OPS / MIN_RUN` times and one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::Instant;

use super::user::work::Sealing;
use super::{EngineError, Handle};
use crate::protocol::{Seq, StoredOp, UserId, follows};
use crate::store::segment::{FULL_BYTES, MAX_OPS, MAX_RUN_BYTES, is_packable, packed_from};
use crate::store::{LastSegment, LogRange, Sealable, Segment, Store, StoreError};

/// Runs that may still grow wait until they have so many operations: a small segment saves little.
pub const MIN_RUN: usize = 64;
/// Accounts looked up in one step.
const ACCOUNTS_PER_STEP: usize = 200;
/// Operations read, packed and committed at once.
pub(super) const STEP_OPS: usize = 4 * MAX_OPS;
/// Payload bytes read at once.
pub(super) const STEP_BYTES: usize = 4 * FULL_BYTES;
/// How long an account's actor may take to commit one step.
const PATIENCE: Duration = Duration::from_mins(1);

/// What to seal.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// Operations received before this time, Unix milliseconds.
    pub before_ms: i64,
    /// Only this account.
    pub only: Option<UserId>,
    /// A run that may still grow waits until it has so many operations; at least 1, usually [`MIN_RUN`].
    pub min_run: usize,
    /// After so many operations no further account is begun.
    pub max_ops: u64,
    /// Accounts at a time.
    pub concurrency: usize,
}

/// What has been sealed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SealReport {
    pub accounts: u64,
    pub accounts_failed: u64,
    pub segments: u64,
    pub operations: u64,
    /// What the operations were charged: payloads and clocks.
    pub operation_bytes: u64,
    /// What the segments take for them, with what is needed to find operations in them.
    pub segment_bytes: u64,
    /// The budget was used up: the next run goes on.
    pub budget_exhausted: bool,
}

/// The same while it is counted, by several accounts at once.
#[derive(Default)]
pub struct Counts {
    accounts: AtomicU64,
    accounts_failed: AtomicU64,
    segments: AtomicU64,
    operations: AtomicU64,
    operation_bytes: AtomicU64,
    segment_bytes: AtomicU64,
    budget_exhausted: AtomicBool,
}

impl Counts {
    /// Counts what was stored; `reopened` was packed before.
    fn add(&self, segments: &[Segment], reopened: Option<LastSegment>) {
        fn count(n: usize) -> u64 {
            u64::try_from(n).unwrap_or(u64::MAX)
        }
        let total = |value: fn(&Segment) -> u64| segments.iter().map(value).sum::<u64>();
        let before = |value: fn(&LastSegment) -> u64| reopened.as_ref().map_or(0, value);
        let operations = total(|segment| count(segment.op_count)).saturating_sub(before(|last| count(last.op_count)));
        let operation_bytes = total(|segment| segment.storage_bytes.unsigned_abs())
            .saturating_sub(before(|last| last.storage_bytes.unsigned_abs()));
        let segment_bytes = total(|segment| count(segment.data.len() + segment.op_id_hashes.len()))
            .saturating_sub(before(|last| last.packed_bytes.unsigned_abs()));
        self.segments.fetch_add(count(segments.len()), Ordering::Relaxed);
        self.operations.fetch_add(operations, Ordering::Relaxed);
        self.operation_bytes.fetch_add(operation_bytes, Ordering::Relaxed);
        self.segment_bytes.fetch_add(segment_bytes, Ordering::Relaxed);
        metrics::counter!("supersync_seal_segments_total").increment(count(segments.len()));
        metrics::counter!("supersync_seal_operations_total").increment(operations);
        metrics::counter!("supersync_seal_operation_bytes_total").increment(operation_bytes);
        metrics::counter!("supersync_seal_segment_bytes_total").increment(segment_bytes);
    }

    /// What has been sealed so far.
    #[must_use]
    pub fn report(&self) -> SealReport {
        SealReport {
            accounts: self.accounts.load(Ordering::Relaxed),
            accounts_failed: self.accounts_failed.load(Ordering::Relaxed),
            segments: self.segments.load(Ordering::Relaxed),
            operations: self.operations.load(Ordering::Relaxed),
            operation_bytes: self.operation_bytes.load(Ordering::Relaxed),
            segment_bytes: self.segment_bytes.load(Ordering::Relaxed),
            budget_exhausted: self.budget_exhausted.load(Ordering::Relaxed),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum SealError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("packing died: {0}")]
    Died(#[from] tokio::task::JoinError),
}

/// Walks over the accounts and seals what is in scope. One account's trouble does not stop the others.
///
/// # Errors
/// When the accounts can't be listed.
pub async fn seal(store: &Arc<dyn Store>, engine: &Handle, scope: Scope) -> Result<SealReport, StoreError> {
    seal_counting(store, engine, scope, &Counts::default()).await
}

/// Like [`seal`], with progress counters.
///
/// # Errors
/// When the accounts can't be listed.
pub async fn seal_counting(
    store: &Arc<dyn Store>,
    engine: &Handle,
    scope: Scope,
    counts: &Counts,
) -> Result<SealReport, StoreError> {
    let started = Instant::now();
    let mut after: UserId = 0;
    let min_run = i64::try_from(scope.min_run.max(1)).unwrap_or(i64::MAX);
    loop {
        let page = store.sealable_accounts(after, scope.only, min_run, scope.before_ms, ACCOUNTS_PER_STEP).await?;
        let Some(last) = page.last() else { break };
        after = last.user;
        let each = |account: Sealable| async move {
            if counts.operations.load(Ordering::Relaxed) >= scope.max_ops {
                counts.budget_exhausted.store(true, Ordering::Relaxed);
                return;
            }
            match seal_account(store, engine, account, scope, counts).await {
                Ok(true) => {
                    counts.accounts.fetch_add(1, Ordering::Relaxed);
                }
                Ok(false) => {}
                Err(error) => {
                    counts.accounts_failed.fetch_add(1, Ordering::Relaxed);
                    metrics::counter!("supersync_seal_account_failures_total").increment(1);
                    tracing::warn!(%error, user_id = account.user, "account not sealed; the next run tries again");
                }
            }
        };
        futures_util::stream::iter(page).for_each_concurrent(scope.concurrency.max(1), each).await;
        if counts.budget_exhausted.load(Ordering::Relaxed) {
            break;
        }
    }
    metrics::histogram!("supersync_seal_seconds").record(started.elapsed().as_secs_f64());
    Ok(counts.report())
}

/// Seals what an account has. Whether anything changed.
async fn seal_account(
    store: &Arc<dyn Store>,
    engine: &Handle,
    account: Sealable,
    scope: Scope,
    counts: &Counts,
) -> Result<bool, SealError> {
    let Sealable { user, generation, mut after, last_seq, pages_after, sparse_up_to, last_segment } = account;
    let begin = after;
    let mut reopened = last_segment.filter(|last| has_room(last) && !ends_page(after, pages_after));
    while after < last_seq {
        let from = reopened.map_or(after, |last| last.first_seq - 1);
        let range = LogRange {
            user,
            after: from,
            up_to: last_seq,
            exclude_client: None,
            limit: STEP_OPS,
            max_bytes: STEP_BYTES,
        };
        let page = store.read_log(range).await?;
        let (ops, more) = (page.ops, page.has_more);
        let reading = Reading { generation, from, after, pages_after, sparse_up_to, more };
        let packed = tokio::task::spawn_blocking(move || pack(reading, &ops, scope)).await??;
        if packed.up_to == after {
            // A large operation behind the segment may be more than one step reads.
            if reopened.take().is_some() {
                continue;
            }
            break;
        }
        let up_to = packed.up_to;
        let segments: Arc<[Segment]> = packed.segments.into();
        let sealing = Sealing { generation, after, up_to, segments: Arc::clone(&segments) };
        if !engine.seal(user, sealing, Instant::now() + PATIENCE).await? {
            break;
        }
        let reopened = reopened.take().filter(|last| segments.first().is_some_and(|s| s.first_seq == last.first_seq));
        counts.add(&segments, reopened);
        after = up_to;
        if packed.done {
            break;
        }
    }
    Ok(after > begin)
}

/// Whether there is room in a log's last segment.
fn has_room(last: &LastSegment) -> bool {
    let used = usize::try_from(last.storage_bytes).unwrap_or(usize::MAX);
    last.op_count < MAX_OPS && used <= FULL_BYTES / MAX_OPS * (MAX_OPS - MIN_RUN)
}

/// Whether one of the pages that a joining device reads ends with this sequence. Segments end there too, so that each of
/// those pages is one segment.
fn ends_page(seq: Seq, pages_after: Seq) -> bool {
    let page = Seq::try_from(MAX_OPS).unwrap_or(Seq::MAX);
    (seq - pages_after).rem_euclid(page) == 0
}

/// What a step has read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) generation: i64,
    /// Reading began after this sequence.
    pub(super) from: Seq,
    /// Up to here everything has been packed, or stays as it is: what has been read before it was a segment.
    pub(super) after: Seq,
    /// See [`Sealable::pages_after`].
    pub(super) pages_after: Seq,
    /// See [`Sealable::sparse_up_to`].
    pub(super) sparse_up_to: Seq,
    /// There is more to read.
    pub(super) more: bool,
}

/// A step's result.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) segments: Vec<Segment>,
    /// How far the step came.
    pub(super) up_to: Seq,
    /// What follows is too young, or waits for more.
    done: bool,
}

/// Packs operations that follow each other from `from` on, as long as they are old enough. A full state or a large
/// operation stays as it is and ends a run, and so do numbers that belong to no operation. A run at the end that is not
/// full waits: for the rest of it when there is more to read, or until [`Scope::min_run`] of its operations are not packed
/// yet. What is packed already is not packed again for itself.
pub(super) fn pack(reading: Reading, ops: &[StoredOp], scope: Scope) -> Result<Packed, StoreError> {
    let Reading { from, more, .. } = reading;
    let mut packed = Packed { segments: Vec::new(), up_to: reading.after, done: !more };
    let min_run = scope.min_run;
    let mut run_start = 0;
    let (mut run_bytes, mut run_unpacked) = (0, 0);
    let mut before = from;
    for (at, op) in ops.iter().enumerate() {
        let is_next = op.server_seq == before + 1;
        if !follows(before, op.server_seq, reading.sparse_up_to) || op.received_at >= scope.before_ms {
            packed.done = true;
            return packed.with_last_run(reading, &ops[run_start..at], Some(min_run));
        }
        before = op.server_seq;
        let unpacked = packed_from(op);
        // What shares a segment already stays together, whatever the rules were then.
        let is_packed = op.server_seq <= reading.after;
        let fits = is_packed || is_packable(op);
        let full = !is_next
            || at - run_start == MAX_OPS
            || run_bytes + op.payload.len() > FULL_BYTES
            || (run_unpacked + unpacked > MAX_RUN_BYTES && !is_packed)
            || ends_page(op.server_seq - 1, reading.pages_after);
        if !fits || full {
            packed.push(reading, &ops[run_start..at])?;
            run_start = at;
            (run_bytes, run_unpacked) = (0, 0);
        }
        if fits {
            run_bytes += op.payload.len();
            run_unpacked += unpacked;
        } else {
            run_start = at + 1;
            packed.up_to = op.server_seq;
        }
    }
    packed.with_last_run(reading, &ops[run_start..], (!more).then_some(min_run))
}

impl Packed {
    fn push(&mut self, reading: Reading, run: &[StoredOp]) -> Result<(), StoreError> {
        let Some((first, last)) = run.first().zip(run.last()) else { return Ok(()) };
        if last.server_seq <= reading.after {
            return Ok(());
        }
        match Segment::pack(reading.generation, run) {
            Ok(segment) => self.segments.push(segment),
            // One that no rule has foreseen must not keep the whole account from being packed, day after day.
            Err(StoreError::Corrupt(what)) => {
                metrics::counter!("supersync_seal_runs_left_total").increment(1);
                tracing::warn!(
                    what,
                    from_seq = first.server_seq,
                    to_seq = last.server_seq,
                    "operations can't be packed and stay as they are"
                );
            }
            Err(error) => return Err(error),
        }
        self.up_to = last.server_seq;
        Ok(())
    }

    fn with_last_run(mut self, reading: Reading, run: &[StoredOp], min: Option<usize>) -> Result<Self, StoreError> {
        let fresh = run.iter().filter(|op| op.server_seq > reading.after).count();
        // With more to come the run is only packed as it is when nothing else has been: each step gets somewhere.
        let ripe = min.map_or(self.segments.is_empty(), |min| fresh >= min);
        if ripe {
            self.push(reading, run)?;
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests;
