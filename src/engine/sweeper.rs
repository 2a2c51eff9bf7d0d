//! Housekeeping (contract, section 11.4): gives up superseded history, deletes what is due in the archive, forgets
//! devices, sessions and tokens, packs old operations. In small steps, one instance at a time.
//!
//! Trouble with one account never stops the others, nor does one step that fails keep the next ones from being taken. That
//! a run is under way is marked in the database, so that two never meet; the mark of a process that has died is good for
//! `LEASE` only. After a run in which every step was taken no server begins another one within the hour, whichever
//! instance it is.
//!
//! Everything here goes by age, so nothing is done while the clock is in doubt ([`crate::timekeeper`]).

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::archive::bound::{archive_limit, beyond_limit};
use super::reclaimer::delete_range;
use super::recount::recount_account;
use super::retention::{Standing, Verdict, judge};
use super::sealer::{self, MIN_RUN, Scope, SealReport};
use super::{EngineError, Handle};
use crate::clock::{Clock, Doubt};
use crate::config::Retention;
use crate::protocol::{Seq, UserId};
use crate::store::{ArchiveReason, ArchivedRange, DueBefore, EVENT_RETENTION, Store, StoreError};
use crate::timekeeper;

/// Accounts looked at in one step.
const ACCOUNTS_PER_STEP: usize = 200;
/// Archived ranges deleted in one step.
const ARCHIVES_PER_STEP: usize = 50;
/// After so many packed operations a run starts no further account.
const MAX_SEALED_PER_RUN: u64 = 2_000_000;
/// Accounts packed at a time: a few, so that their commits share transactions, and requests hardly notice.
const SEAL_CONCURRENCY: usize = 4;
/// So many accounts in a row that fail are the database's trouble, not theirs: the step ends.
const MAX_FAILURES_IN_A_ROW: u32 = 10;
/// How long a run counts as under way after it was last heard of, and how often it says so.
const LEASE: Duration = Duration::from_secs(20);
const RENEW_EVERY: Duration = Duration::from_secs(4);
/// How long an account's actor may take to give up a prefix.
const RETIRE_PATIENCE: Duration = Duration::from_mins(1);

/// How long accounts that were never verified, and expired invitations, are kept.
const UNVERIFIED_FOR: Duration = Duration::from_hours(30 * 24);
/// How long entries of security logs are kept.
const SECURITY_LOG_FOR: Duration = Duration::from_hours(90 * 24);

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SweepReport {
    /// Whether this instance has swept; if not, another one does, or has just done so.
    pub led: bool,
    /// Why nothing was done although it may.
    pub held_back: Option<Doubt>,
    /// Whether another one does.
    pub under_way: bool,
    /// Steps that ended early because the database failed.
    pub steps_failed: u64,
    pub accounts_pruned: u64,
    pub accounts_failed: u64,
    /// Of those pruned, the ones that were charged something else than they stored.
    pub accounts_recounted: u64,
    pub operations_deleted: u64,
    pub archives_deleted: u64,
    pub devices_deleted: u64,
    pub tokens_deleted: u64,
    pub sessions_deleted: u64,
    pub tickets_deleted: u64,
    /// Entries of security logs.
    pub security_deleted: u64,
    pub events_deleted: u64,
    /// What was packed into segments.
    pub sealed: SealReport,
    /// The budget was used up: the next run goes on.
    pub budget_exhausted: bool,
}

impl SweepReport {
    /// What a step came to; one that failed has done nothing worth counting.
    fn note<T: Default>(&mut self, step: &'static str, outcome: Result<T, StoreError>) -> T {
        outcome.unwrap_or_else(|error| {
            self.steps_failed += 1;
            tracing::error!(%error, step, "a step of the clean-up failed; the next run tries again");
            T::default()
        })
    }

    fn measured(&self, now_ms: i64, duration: Duration) {
        let outcome = if self.steps_failed == 0 { "ok" } else { "error" };
        metrics::counter!("supersync_sweeps_total", "outcome" => outcome).increment(1);
        metrics::counter!("supersync_sweep_operations_deleted_total").increment(self.operations_deleted);
        metrics::counter!("supersync_sweep_account_failures_total").increment(self.accounts_failed);
        if self.steps_failed == 0 {
            metrics::gauge!("supersync_sweep_last_success_timestamp_seconds").set(seconds(now_ms));
        }
        for (kind, deleted) in self.deleted() {
            metrics::counter!("supersync_sweep_deleted_total", "kind" => kind).increment(deleted);
        }
        metrics::counter!("supersync_sweep_accounts_pruned_total").increment(self.accounts_pruned);
        metrics::counter!("supersync_sweep_budgets_exhausted_total").increment(self.budget_exhausted.into());
        metrics::histogram!("supersync_sweep_seconds").record(duration.as_secs_f64());
    }

    /// What was deleted besides operations, by kind.
    const fn deleted(&self) -> [(&'static str, u64); 7] {
        [
            ("archives", self.archives_deleted),
            ("devices", self.devices_deleted),
            ("tokens", self.tokens_deleted),
            ("sessions", self.sessions_deleted),
            ("tickets", self.tickets_deleted),
            ("security", self.security_deleted),
            ("events", self.events_deleted),
        ]
    }
}

/// Sweeps now and then.
#[derive(Clone)]
pub struct Sweeper {
    store: Arc<dyn Store>,
    engine: Handle,
    clock: Clock,
    retention: Retention,
    /// Names this process among those that share the database.
    owner: String,
    /// Whether somebody has confirmed the clock.
    is_confirmed: bool,
}

pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Up to a tenth longer, so that instances that were started together don't go on sweeping together.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(1.0 + rand::random_range(0.0..0.1))
}

impl Sweeper {
    /// A sweeper; `owner` names this process among those that share the database.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, engine: Handle, clock: Clock, retention: Retention, owner: String) -> Self {
        Self { store, engine, clock, retention, owner, is_confirmed: false }
    }

    /// The same for an operator who has confirmed that the clock is right.
    #[must_use]
    pub fn confirmed(self) -> Self {
        Self { is_confirmed: true, ..self }
    }

    /// Sweeps after the start and then regularly, until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let mut wait = jittered(self.retention.first_sweep);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            let Some(swept) = cancel.run_until_cancelled(self.sweep()).await else {
                // What is half done goes on with the next run, of whichever instance; it need not wait.
                if let Err(error) = self.store.end_sweep(&self.owner).await {
                    tracing::debug!(%error, "the end of the clean-up could not be noted");
                }
                return;
            };
            let mut next = self.retention.sweep_every;
            match swept {
                Ok(report) if report.led => tracing::info!(
                    accounts_pruned = report.accounts_pruned,
                    accounts_failed = report.accounts_failed,
                    steps_failed = report.steps_failed,
                    operations_deleted = report.operations_deleted,
                    archives_deleted = report.archives_deleted,
                    devices_deleted = report.devices_deleted,
                    operations_sealed = report.sealed.operations,
                    budget_exhausted = report.budget_exhausted,
                    "sweep finished"
                ),
                Ok(SweepReport { held_back: Some(doubt), .. }) => {
                    tracing::error!(advice = Doubt::ADVICE, "the clean-up is held back: {doubt}");
                    next = self.turn();
                }
                Ok(report) => {
                    tracing::debug!("another instance sweeps, or has just done so");
                    if report.under_way {
                        // It may be one that has been killed in the middle of it.
                        next = LEASE;
                    }
                }
                Err(error) => {
                    metrics::counter!("supersync_sweeps_total", "outcome" => "error").increment(1);
                    tracing::error!(%error, "sweep failed");
                }
            }
            wait = jittered(next);
        }
    }

    /// One run, unless another one is under way, or another instance has just finished one.
    ///
    /// # Errors
    /// When the database does not say so, or another instance has taken over from this one because it was not heard of for
    /// so long; what else fails is counted in the report.
    pub async fn sweep(&self) -> Result<SweepReport, StoreError> {
        if let Some(held_back) = self.hold_back().await? {
            return Ok(held_back);
        }
        self.run_once(Box::pin(async {
            if !self.store.try_lead(&self.owner, self.now_ms(), Duration::ZERO).await? {
                return Ok(SweepReport::default());
            }
            let report = self.take_steps().await;
            // What has failed, whoever comes next may try again at once.
            if report.steps_failed == 0 {
                self.store.try_lead(&self.owner, self.now_ms(), self.turn()).await?;
            }
            Ok(report)
        }))
        .await
    }

    /// Why nothing may be deleted now, if so.
    pub(super) async fn doubt(&self) -> Result<Option<Doubt>, StoreError> {
        if self.is_confirmed { Ok(None) } else { timekeeper::doubt(&*self.store, &self.clock).await }
    }

    /// The report of a run that the clock forbids.
    async fn hold_back(&self) -> Result<Option<SweepReport>, StoreError> {
        Ok(self.doubt().await?.map(|doubt| {
            metrics::counter!("supersync_sweeps_total", "outcome" => "held_back").increment(1);
            SweepReport { held_back: Some(doubt), ..SweepReport::default() }
        }))
    }

    /// One run, whoever has just finished one, unless another one is under way.
    ///
    /// # Errors
    /// Like [`Sweeper::sweep`].
    pub async fn sweep_now(&self) -> Result<SweepReport, StoreError> {
        if let Some(held_back) = self.hold_back().await? {
            return Ok(held_back);
        }
        self.run_once(Box::pin(async { Ok(self.take_steps().await) })).await
    }

    async fn run_once(
        &self,
        mut run: Pin<Box<impl Future<Output = Result<SweepReport, StoreError>>>>,
    ) -> Result<SweepReport, StoreError> {
        if !self.store.begin_sweep(&self.owner, self.now_ms(), LEASE).await? {
            return Ok(SweepReport { under_way: true, ..SweepReport::default() });
        }
        let mut renewals = tokio::time::interval_at(Instant::now() + RENEW_EVERY, RENEW_EVERY);
        loop {
            tokio::select! {
                report = &mut run => {
                    if let Err(error) = self.store.end_sweep(&self.owner).await {
                        tracing::warn!(%error, "the end of the clean-up could not be noted: for some seconds nobody begins another");
                    }
                    return report;
                }
                _ = renewals.tick() => match self.store.begin_sweep(&self.owner, self.now_ms(), LEASE).await {
                    Ok(true) => {}
                    Ok(false) => return Err(StoreError::Refused("another instance has begun to sweep".to_owned())),
                    // Whoever takes over meanwhile does the same again, which does no harm.
                    Err(error) => tracing::warn!(%error, "that the clean-up goes on could not be noted"),
                },
            }
        }
    }

    async fn take_steps(&self) -> SweepReport {
        let started = Instant::now();
        let now_ms = self.now_ms();
        let due = self.due_before(now_ms);
        let mut report = SweepReport { led: true, ..SweepReport::default() };
        let superseded = self.retire_superseded(now_ms, &mut report).await;
        report.note("superseded operations", superseded);
        let trimmed = self.trim_archives().await;
        report.note("archives beyond their limit", trimmed);
        let archives = self.delete_archives(now_ms, &mut report).await;
        report.note("archives", archives);
        let deleted = self.in_batches(|batch| self.store.delete_stale_devices(due.devices_ms, batch)).await;
        report.devices_deleted = report.note("devices", deleted);
        report.tokens_deleted = report.note("tokens", self.store.delete_expired_tokens(due.now_ms).await);
        let sign_in = self.store.delete_expired_sign_in(due.now_ms, due.unverified_ms).await;
        report.tokens_deleted += report.note("sign-in", sign_in);
        let deleted = self.in_batches(|batch| self.store.delete_expired_sessions(due.now_ms, batch)).await;
        report.sessions_deleted = report.note("sessions", deleted);
        report.tickets_deleted = report.note("tickets", self.store.delete_expired_tickets(due.now_ms).await);
        let deleted = self.in_batches(|batch| self.store.delete_old_security_events(due.security_ms, batch)).await;
        report.security_deleted = report.note("security log", deleted);
        report.events_deleted = report.note("events", self.store.delete_old_events(due.events).await);
        report.sealed = report.note("packing", self.seal_old(now_ms).await);
        report.measured(now_ms, started.elapsed());
        report
    }

    pub(super) fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    pub(super) fn store(&self) -> &dyn Store {
        &*self.store
    }

    pub(super) const fn retention(&self) -> &Retention {
        &self.retention
    }

    /// After so many deleted operations a run begins no further range.
    pub(super) fn budget(&self) -> u64 {
        u64::try_from(self.retention.max_deleted_per_run).unwrap_or(u64::MAX)
    }

    pub(super) fn due_before(&self, now_ms: i64) -> DueBefore {
        DueBefore {
            devices_ms: now_ms - millis(self.retention.superseded),
            now_ms,
            unverified_ms: now_ms - millis(UNVERIFIED_FOR),
            security_ms: now_ms - millis(SECURITY_LOG_FOR),
            events: EVENT_RETENTION,
        }
    }

    /// For so long nobody else begins a run after a whole one.
    fn turn(&self) -> Duration {
        (self.retention.sweep_every / 2).min(Duration::from_hours(1))
    }

    /// Takes the prefixes that are superseded and old enough out of their data sets. The rows go with the archive's.
    async fn retire_superseded(&self, now_ms: i64, report: &mut SweepReport) -> Result<(), StoreError> {
        let cutoff_ms = now_ms - millis(self.retention.superseded);
        let mut after: UserId = 0;
        let mut failures = 0;
        loop {
            let users = self.store.prunable_accounts(after, ACCOUNTS_PER_STEP).await?;
            let Some(last) = users.last() else { return Ok(()) };
            after = *last;
            for user in users {
                match self.retire_account(user, cutoff_ms).await {
                    Ok(None) => failures = 0,
                    Ok(Some(recounted)) => {
                        failures = 0;
                        report.accounts_pruned += 1;
                        report.accounts_recounted += u64::from(recounted);
                    }
                    Err(error) => {
                        failures += 1;
                        report.accounts_failed += 1;
                        tracing::warn!(%error, user_id = user, "account not swept; the next run tries again");
                        if let SweepError::Store(error) = error
                            && failures >= MAX_FAILURES_IN_A_ROW
                        {
                            return Err(error);
                        }
                    }
                }
            }
        }
    }

    /// Gives up what the account has of superseded operations, and recounts what the rest is charged. `None`: nothing
    /// goes. `Some(true)`: the account was charged something else than it stores.
    async fn retire_account(&self, user: UserId, cutoff_ms: i64) -> Result<Option<bool>, SweepError> {
        let Some(account) = self.store.load_account(user).await? else { return Ok(None) };
        let prefix = match judge(&*self.store, Standing::of(user, &account.sync), cutoff_ms).await? {
            Verdict::Keep(_) => return Ok(None),
            Verdict::Prune(prefix) => prefix,
        };
        if !self.engine.retire(user, prefix, Instant::now() + RETIRE_PATIENCE).await? {
            return Ok(None);
        }
        let wrong = recount_account(&*self.store, user, true).await?;
        if let Some(wrong) = &wrong {
            let (charged_bytes, counted_bytes) = (wrong.charged_bytes, wrong.counted_bytes);
            tracing::warn!(
                user_id = user,
                charged_bytes,
                counted_bytes,
                "account was charged something else than it stores"
            );
        }
        Ok(Some(wrong.is_some()))
    }

    /// Gives up the oldest of archives that are larger than they may be: from before there was a limit, or before it was
    /// lowered. Commits keep to it.
    async fn trim_archives(&self) -> Result<(), StoreError> {
        let mut after: UserId = 0;
        while let Some((last, excess)) = self.archives_beyond_limit(after).await? {
            after = last;
            for (user, ranges) in excess {
                self.store.give_up_archives(user, &ranges).await?;
            }
        }
        Ok(())
    }

    /// The next accounts with an archive: the last one's number, and of those whose archive is too large the ranges that
    /// have to go.
    pub(super) async fn archives_beyond_limit(
        &self,
        after: UserId,
    ) -> Result<Option<(UserId, Vec<(UserId, Vec<ArchivedRange>)>)>, StoreError> {
        let sizes = self.store.archive_sizes(after, ACCOUNTS_PER_STEP).await?;
        let Some(last) = sizes.last() else { return Ok(None) };
        let mut excess = Vec::new();
        for size in &sizes {
            let limit = archive_limit(size.quota_bytes, self.retention.archive_percent);
            if size.kept_bytes > limit {
                let mut ranges = self.store.archived(size.user).await?;
                let gone = beyond_limit(&ranges, limit);
                ranges.retain(|range| gone.contains(&range.from_seq));
                excess.push((size.user, ranges));
            }
        }
        Ok(Some((last.user, excess)))
    }

    async fn delete_archives(&self, now_ms: i64, report: &mut SweepReport) -> Result<(), StoreError> {
        let before_ms = now_ms - millis(self.retention.archive);
        let mut failed: HashSet<(UserId, Seq)> = HashSet::new();
        let mut failures = 0;
        loop {
            // Those that failed are listed again each time.
            let mut due = self.store.expired_archives(before_ms, ARCHIVES_PER_STEP + failed.len()).await?;
            due.retain(|(user, range)| !failed.contains(&(*user, range.from_seq)));
            if due.is_empty() {
                return Ok(());
            }
            for (user, range) in due {
                if report.operations_deleted >= self.budget() {
                    report.budget_exhausted = true;
                    return Ok(());
                }
                match self.delete_archive(user, &range, report).await {
                    Ok(deleted) => {
                        failures = 0;
                        // Adopted meanwhile if not, so that it is in no list of archives any more.
                        report.archives_deleted += u64::from(deleted);
                    }
                    Err(error) => {
                        failures += 1;
                        failed.insert((user, range.from_seq));
                        report.accounts_failed += 1;
                        tracing::warn!(%error, user_id = user, "archive not deleted; the next run tries again");
                        if failures >= MAX_FAILURES_IN_A_ROW {
                            return Err(error);
                        }
                    }
                }
            }
        }
    }

    /// Deletes a range with its operations. `false`: it is not due after all.
    async fn delete_archive(
        &self,
        user: UserId,
        range: &ArchivedRange,
        report: &mut SweepReport,
    ) -> Result<bool, StoreError> {
        // What was staged and left behind by a crash. From now on nobody can adopt it; if somebody has, it is data.
        if range.reason == ArchiveReason::Staged && !self.store.abandon_staged(user, range.from_seq).await? {
            return Ok(false);
        }
        report.operations_deleted += delete_range(&*self.store, user, range, self.retention.delete_batch).await?;
        Ok(true)
    }

    /// Packs operations that are old enough, unless that is switched off.
    async fn seal_old(&self, now_ms: i64) -> Result<SealReport, StoreError> {
        if self.retention.seal_after.is_zero() {
            return Ok(SealReport::default());
        }
        let scope = Scope {
            before_ms: now_ms - millis(self.retention.seal_after),
            only: None,
            min_run: MIN_RUN,
            max_ops: MAX_SEALED_PER_RUN,
            concurrency: SEAL_CONCURRENCY,
        };
        sealer::seal(&self.store, &self.engine, scope).await
    }

    /// Deletes batch after batch, until one is not full. Returns how many rows.
    async fn in_batches<F>(&self, delete: impl Fn(usize) -> F) -> Result<u64, StoreError>
    where
        F: Future<Output = Result<u64, StoreError>>,
    {
        let batch = self.retention.delete_batch.max(1);
        let mut total = 0;
        loop {
            let deleted = delete(batch).await?;
            total += deleted;
            if deleted < u64::try_from(batch).unwrap_or(u64::MAX) {
                return Ok(total);
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum SweepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Unix seconds, for a gauge: exact far beyond any date.
fn seconds(now_ms: i64) -> f64 {
    Duration::from_millis(u64::try_from(now_ms).unwrap_or(0)).as_secs_f64()
}
