//! Stages an archived set as the next data set and has the account's actor adopt it.
//!
//! Reading, stamping, packing and writing go on beside the actor, part by part, while devices work with the present data
//! set. Only the last step is the actor's: one small commit. Until then nobody sees anything of it, and whatever
//! happens to this process, the sweep finds what was left.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::bound::due_bytes;
use super::stamp::{Stamp, time_after};
use super::{Archive, ArchiveError, ArchiveId, BroughtBack, MAX_FULL_STATES, end_of};
use crate::engine::reclaimer::delete_range;
use crate::engine::sealer::{Packed, Reading, STEP_BYTES, STEP_OPS, Scope, pack};
use crate::engine::user::work::StagedSet;
use crate::engine::user::work::{Answer, Work};
use crate::engine::view::UserView;
use crate::engine::within;
use crate::engine::{EngineError, Handle, QuotaExceeded, store_trouble};
use crate::protocol::{Seq, StoredOp, UserId};
use crate::store::{ArchiveReason, ArchivedRange, LogRange, StagedPart, StoreError};

/// So far above everything in use a set is staged. The data set goes on growing below it meanwhile, and should what was
/// staged be left behind by a crash, until it is swept.
const DISTANCE: Seq = 1_000_000;
/// So far above the present generation, for the same reason: clean slates and wipes take the numbers in between.
const GENERATIONS: i64 = 1 << 20;
/// After so long the sweep takes what is staged for left behind, in milliseconds. Every deadline is much shorter.
const LEFT_BEHIND_MS: i64 = 60 * 60 * 1000;
/// Sets staged at once: each takes memory for a part, and for where its entities are.
const MAX_AT_ONCE: usize = 2;
/// Operations deleted at once of what turned out not to be wanted.
const DELETE_BATCH: usize = 2000;
/// What an operation's clock may grow by, in bytes.
const CLOCK_GROWTH: i64 = 32;

/// The accounts whose data sets are being brought back: at most one set of each, and few in all.
#[derive(Clone, Debug)]
pub struct BringBackLocks {
    users: Arc<Mutex<HashSet<UserId>>>,
    all: Arc<Semaphore>,
}

impl Default for BringBackLocks {
    fn default() -> Self {
        Self { users: Arc::default(), all: Arc::new(Semaphore::new(MAX_AT_ONCE)) }
    }
}

/// The lock of an account; released when dropped.
struct BringBackLock {
    locks: BringBackLocks,
    user: UserId,
}

impl BringBackLocks {
    fn lock(&self, user: UserId) -> Option<BringBackLock> {
        let is_first = self.users.lock().unwrap_or_else(PoisonError::into_inner).insert(user);
        is_first.then(|| BringBackLock { locks: self.clone(), user })
    }
}

impl Drop for BringBackLock {
    fn drop(&mut self) {
        self.locks.users.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.user);
    }
}

fn random() -> [u8; 10] {
    rand::random()
}

impl Handle {
    /// Brings an archived data set back: it becomes the data set, under new sequences, and what was the data set until
    /// then is archived. Goes on to its end even if the caller goes away.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub async fn bring_back(
        &self,
        user: UserId,
        id: ArchiveId,
        deadline: Instant,
    ) -> Result<BroughtBack, ArchiveError> {
        let engine = self.clone();
        let started = Instant::now();
        let work = self.tasks().spawn(async move { engine.bring_back_now(user, id, deadline).await });
        let done = work.await.map_err(|died| EngineError::Internal(format!("bringing back died: {died}")))?;
        let outcome = match &done {
            Ok(_) => "done",
            Err(ArchiveError::Engine(_)) => "error",
            Err(_) => "refused",
        };
        metrics::counter!("supersync_bring_backs_total", "outcome" => outcome).increment(1);
        if let Ok(brought_back) = &done {
            let operations = u64::try_from(brought_back.operations).unwrap_or(0);
            metrics::counter!("supersync_bring_back_operations_total").increment(operations);
            metrics::histogram!("supersync_bring_back_seconds").record(started.elapsed().as_secs_f64());
        }
        done
    }

    async fn bring_back_now(
        &self,
        user: UserId,
        id: ArchiveId,
        deadline: Instant,
    ) -> Result<BroughtBack, ArchiveError> {
        self.check_room()?;
        let lock = self.bring_backs().lock(user).ok_or(ArchiveError::Running)?;
        let permit = within(deadline, Arc::clone(&lock.locks.all).acquire_owned()).await?;
        let _permit = permit.map_err(|_| EngineError::Busy)?;

        let archive = self.archive(user, id, deadline).await?;
        if let Some(obstacle) = archive.obstacle {
            return Err(ArchiveError::NotRestorable(obstacle));
        }
        let view = self.fresh_view(user, deadline).await?;
        // Otherwise the commit would be refused.
        if due_bytes(&self.context().store.archived(user).await?) > view.account.storage_quota_bytes {
            within(deadline, self.context().reclaimer.free(user)).await??;
        }
        let plan = Plan::make(self, user, &view, &archive).await?;
        let staged_from = plan.staged.from_seq;
        if !self.context().store.begin_staging(user, &plan.staged).await? {
            return Err(ArchiveError::Running);
        }
        let done = self.stage_and_adopt(user, &plan, deadline).await;
        if done.is_err() {
            self.abandon(user, &plan.staged).await;
        }
        let operations = done?;
        tracing::info!(user_id = user, operations, staged_from, "an archived data set was brought back");
        Ok(BroughtBack { operations, latest_seq: plan.staged.to_seq })
    }

    async fn stage_and_adopt(&self, user: UserId, plan: &Plan, deadline: Instant) -> Result<i64, ArchiveError> {
        let set = within(deadline, self.stage_set(user, plan)).await??;
        let operations = set.to_seq - set.from_seq + 1;
        let answered = self.submit(user, Work::BringBack(Box::new(set)), 0, deadline).await;
        match answered.map(|answered| answered.answer) {
            Ok(Answer::Done(true)) => Ok(operations),
            Ok(Answer::Quota(exceeded)) => Err(ArchiveError::Quota(exceeded)),
            Ok(_) => Err(ArchiveError::Outdated),
            // Adopted or not, nobody has said: giving it up tells.
            Err(error) => match self.was_adopted(user, plan).await {
                Some(true) => Ok(operations),
                _ => Err(error.into()),
            },
        }
    }

    /// Whether the commit whose answer was lost has been applied; `None`: the database does not answer.
    async fn was_adopted(&self, user: UserId, plan: &Plan) -> Option<bool> {
        let store = &self.context().store;
        if store.abandon_staged(user, plan.staged.from_seq).await.ok()? {
            return Some(false);
        }
        let account = store.load_account(user).await.ok()??;
        Some(account.sync.generation == plan.staged.generation)
    }

    /// Writes the whole set where nobody looks.
    async fn stage_set(&self, user: UserId, plan: &Plan) -> Result<StagedSet, ArchiveError> {
        let store = &self.context().store;
        let mut parts = Parts::new(plan);
        let mut after = plan.source_after;
        while after < plan.source_to {
            let range = LogRange {
                user,
                after,
                up_to: plan.source_to,
                exclude_client: None,
                limit: STEP_OPS,
                max_bytes: STEP_BYTES,
            };
            let page = store.read_log(range).await?;
            let sequences = page.ops.iter().map(|op| op.server_seq);
            let end = end_of(after, sequences, plan.source_sparse_up_to).ok_or(ArchiveError::Incomplete)?;
            let ends_unused = !page.has_more && plan.source_to <= plan.source_sparse_up_to;
            if end == after && !ends_unused {
                return Err(ArchiveError::Incomplete);
            }
            after = if ends_unused { plan.source_to } else { end };
            let (page, is_last) = (page.ops, after >= plan.source_to);
            let (back, part) = tokio::task::spawn_blocking(move || {
                let part = parts.add(page, is_last);
                (parts, part)
            })
            .await
            .map_err(|died| EngineError::Internal(format!("packing died: {died}")))?;
            parts = back;
            if !store.stage(user, part?).await? {
                return Err(ArchiveError::Outdated);
            }
        }
        let Parts { stamp, sealed_max_op_id, .. } = parts;
        Ok(StagedSet {
            beside_generation: plan.beside_generation,
            beside_empty: plan.start.is_none(),
            generation: plan.staged.generation,
            from_seq: plan.staged.from_seq,
            to_seq: plan.staged.to_seq,
            source_from: plan.source_from,
            bytes: stamp.bytes,
            clock: stamp.clock,
            full_state: stamp.full_state,
            heads: stamp.heads,
            sealed_max_op_id,
            sparse_up_to: plan.sparse_up_to,
        })
    }

    /// Gives up what has been staged, and deletes it; what can't be deleted now is left to the sweep.
    async fn abandon(&self, user: UserId, staged: &ArchivedRange) {
        let store = &self.context().store;
        let delete = async {
            // From now on no commit can adopt it. Without that an operation of the data set might be deleted.
            let is_ours = store.abandon_staged(user, staged.from_seq).await?
                || store
                    .archived(user)
                    .await?
                    .iter()
                    .any(|range| range.from_seq == staged.from_seq && range.reason == ArchiveReason::Abandoned);
            if !is_ours {
                return Ok(());
            }
            delete_range(store.as_ref(), user, staged, DELETE_BATCH).await.map(|_| ())
        };
        let deleted: Result<(), StoreError> = delete.await;
        if let Err(error) = deleted {
            tracing::warn!(%error, user_id = user, "what was staged is left to the sweep");
        }
    }
}

/// What is to be staged, where.
#[derive(Debug)]
struct Plan {
    beside_generation: i64,
    /// First sequence of the archived range.
    source_from: Seq,
    /// What is brought back begins after this.
    source_after: Seq,
    source_to: Seq,
    /// Its newest causal full state.
    start: Option<Seq>,
    /// Time of the first id, Unix milliseconds.
    first_ms: u64,
    /// Up to here numbers of what is brought back belong to no operation,
    sparse_up_to: Seq,
    /// and of what it is made from.
    source_sparse_up_to: Seq,
    staged: ArchivedRange,
}

impl Plan {
    async fn make(engine: &Handle, user: UserId, view: &UserView, archive: &Archive) -> Result<Self, ArchiveError> {
        let context = engine.context();
        let store = context.store.as_ref();
        let sync = view.sync();
        let source = &archive.range;
        let source_after = fitting_start(engine, user, view, archive).await?;
        let top = store.archived(user).await?.iter().map(|range| range.to_seq).fold(sync.last_seq, Seq::max);
        let from_seq = top + DISTANCE + 1;
        let now_ms = context.clock.now_ms();
        let kept_ms = i64::try_from(context.options.archive_retention.as_millis()).unwrap_or(i64::MAX);
        let known = store.full_states(user, 0, sync.last_seq, MAX_FULL_STATES).await?;
        let shift = from_seq - 1 - source_after;
        let is_sparse = sync.sparse_up_to > source_after;
        let sparse_up_to = if is_sparse { sync.sparse_up_to.min(source.to_seq) + shift } else { sync.sparse_up_to };
        let staged = ArchivedRange {
            generation: sync.generation + GENERATIONS,
            from_seq,
            to_seq: from_seq + (source.to_seq - source_after) - 1,
            reason: ArchiveReason::Staged,
            bytes: 0,
            archived_at: now_ms.saturating_sub(kept_ms).saturating_add(LEFT_BEHIND_MS),
        };
        Ok(Self {
            beside_generation: sync.generation,
            source_from: source.from_seq,
            source_after,
            source_to: source.to_seq,
            start: archive.start,
            first_ms: time_after(known.iter().map(|row| row.id.as_str()), now_ms),
            sparse_up_to,
            source_sparse_up_to: sync.sparse_up_to,
            staged,
        })
    }
}

/// What is brought back begins after the returned sequence: all of the set, or if that is more than the account may store,
/// what its newest full state does not supersede.
async fn fitting_start(engine: &Handle, user: UserId, view: &UserView, archive: &Archive) -> Result<Seq, ArchiveError> {
    let account = engine.context().store.load_account(user).await?.ok_or(EngineError::NoAccount)?;
    let quota_bytes = account.storage_quota_bytes;
    let ArchivedRange { from_seq, to_seq, .. } = archive.range;
    let starts = std::iter::once(from_seq - 1).chain(archive.start.map(|start| start - 1));
    for after in starts {
        let (bytes, count) = engine.context().store.measure(user, after, to_seq).await?;
        let is_complete = count == to_seq - after || (count < to_seq - after && after < view.sync().sparse_up_to);
        if !is_complete {
            return Err(ArchiveError::Incomplete);
        }
        if bytes.saturating_add(count.saturating_mul(CLOCK_GROWTH)) <= quota_bytes {
            return Ok(after);
        }
        // The estimate is too high by what clocks don't grow; the last start is left to the exact count.
        if bytes <= quota_bytes && archive.start.is_none_or(|start| after == start - 1) {
            return Ok(after);
        }
    }
    let used_bytes = view.sync().storage_used_bytes;
    Err(ArchiveError::Quota(QuotaExceeded { used_bytes, quota_bytes, cleanup: None }))
}

/// Turns pages of the archive into parts of the staged set.
#[derive(Debug)]
struct Parts {
    stamp: Stamp,
    staged_from: Seq,
    generation: i64,
    pages_after: Seq,
    sparse_up_to: Seq,
    /// Stamped, but waiting for company in a segment.
    waiting: Vec<StoredOp>,
    /// Everything up to here is in a part.
    after: Seq,
    sealed_max_op_id: Option<String>,
}

impl Parts {
    fn new(plan: &Plan) -> Self {
        let shift = plan.staged.from_seq - 1 - plan.source_after;
        let stamp = match plan.start {
            Some(start) => Stamp::of_new_author(shift, start, plan.first_ms, random),
            None => Stamp::unchanged(shift),
        };
        Self {
            stamp,
            staged_from: plan.staged.from_seq,
            generation: plan.staged.generation,
            pages_after: plan.start.map_or(plan.staged.from_seq - 1, |start| start - 1 + shift),
            sparse_up_to: plan.sparse_up_to,
            waiting: Vec::new(),
            after: plan.staged.from_seq - 1,
            sealed_max_op_id: None,
        }
    }

    /// Takes in the next operations; gives out what can be written. After the last ones nothing waits any more.
    fn add(&mut self, page: Vec<StoredOp>, is_last: bool) -> Result<StagedPart, ArchiveError> {
        self.waiting.extend(self.stamp.apply(page));
        let scope = Scope { before_ms: i64::MAX, only: None, min_run: 1, max_ops: u64::MAX, concurrency: 1 };
        let reading = Reading {
            generation: self.generation,
            from: self.after,
            after: self.after,
            pages_after: self.pages_after,
            sparse_up_to: self.sparse_up_to,
            more: !is_last,
        };
        let Packed { segments, up_to, .. } = pack(reading, &self.waiting, scope).map_err(store_trouble)?;
        let later = self.waiting.split_off(self.waiting.partition_point(|op| op.server_seq <= up_to));
        let mut rows = std::mem::replace(&mut self.waiting, later);
        rows.retain(|op| {
            let packed =
                |segment: &crate::store::Segment| (segment.first_seq..=segment.last_seq).contains(&op.server_seq);
            !segments.iter().any(packed)
        });
        self.after = up_to;
        let highest = segments.iter().map(|segment| &segment.max_op_id).chain(&self.sealed_max_op_id).max().cloned();
        self.sealed_max_op_id = highest;
        Ok(StagedPart { staged_from: self.staged_from, generation: self.generation, rows, segments })
    }
}
