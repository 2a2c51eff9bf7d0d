//! What the next clean-up would take away, and why the rest stays. Decides with the clean-up's own code and changes nothing,
//! so what it says is what a clean-up at the same moment does.

use std::collections::BTreeMap;

use super::archive::bound;
use super::retention::{EXPIRED_AT, Kept, Prefix, Standing, Verdict, judge};
use super::sweeper::{Sweeper, millis};
use crate::clock::Doubt;
use crate::protocol::{Seq, UserId};
use crate::store::{ArchiveReason, ArchivedRange, DueRows, RetentionRow, StoreError};

/// Accounts looked at in one step.
const ACCOUNTS_PER_STEP: usize = 200;
/// Archived ranges that are listed. More than that are too many for one run anyway.
const MAX_ARCHIVES: usize = 100_000;

/// An account whose superseded operations leave its data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Pruned {
    pub user: UserId,
    pub prefix: Prefix,
}

/// Accounts whose operations all stay for the same reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeptAccounts {
    /// How many.
    pub accounts: u64,
    /// Those of them that have received nothing within the retention.
    pub dormant: u64,
    /// The operations of all.
    pub operations: u64,
}

/// A range of operations outside the data sets whose time is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueRange {
    /// Whose.
    pub user: UserId,
    /// Its first operation.
    pub from_seq: Seq,
    /// Its last operation.
    pub to_seq: Seq,
    /// Why it left the data set.
    pub reason: ArchiveReason,
    /// What it was charged.
    pub bytes: i64,
    /// When it left the data set, Unix milliseconds; 0: it is due whenever that was.
    pub archived_at: i64,
    /// Operations that are stored of it.
    pub operations: u64,
    /// The budget is used up before: a later run deletes it.
    pub over_budget: bool,
}

/// What a clean-up would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forecast {
    /// Superseded operations leave these data sets.
    pub pruned: Vec<Pruned>,
    /// Why nothing leaves the others.
    pub kept: BTreeMap<Kept, KeptAccounts>,
    /// Accounts that can't be judged; the log says why.
    pub accounts_failed: u64,
    /// What is deleted of operations that have left their data sets, those of [`Forecast::pruned`] included, in this order.
    pub ranges: Vec<DueRange>,
    /// What is deleted besides.
    pub rows: DueRows,
    /// Why none of this would happen.
    pub held_back: Option<Doubt>,
}

impl Forecast {
    /// Operations that a run deletes.
    #[must_use]
    pub fn operations_deleted(&self) -> u64 {
        self.within_budget().map(|due| due.operations).sum()
    }

    /// Ranges that a run deletes.
    #[must_use]
    pub fn ranges_deleted(&self) -> u64 {
        self.within_budget().map(|_| 1).sum()
    }

    /// Whether a run leaves something to the next one.
    #[must_use]
    pub fn budget_exhausted(&self) -> bool {
        self.ranges.iter().any(|due| due.over_budget)
    }

    fn within_budget(&self) -> impl Iterator<Item = &DueRange> {
        self.ranges.iter().filter(|due| !due.over_budget)
    }
}

impl Sweeper {
    /// What a run would do now. Changes nothing; needs no turn.
    ///
    /// # Errors
    /// When the database fails as a whole; an account that can't be judged is counted.
    pub async fn forecast(&self) -> Result<Forecast, StoreError> {
        let now_ms = self.now_ms();
        let rows = self.store().due_rows(self.due_before(now_ms)).await?;
        let mut forecast = Forecast { rows, held_back: self.doubt().await?, ..Forecast::default() };
        self.judge_all(now_ms, &mut forecast).await?;
        self.order_ranges(now_ms, &mut forecast).await?;
        Ok(forecast)
    }

    async fn judge_all(&self, now_ms: i64, forecast: &mut Forecast) -> Result<(), StoreError> {
        let cutoff_ms = now_ms - millis(self.retention().superseded);
        let mut after: UserId = 0;
        loop {
            let rows = self.store().retention_rows(after, ACCOUNTS_PER_STEP).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = last.user;
            for row in rows {
                match judge(self.store(), Standing::from(&row), cutoff_ms).await {
                    Ok(Verdict::Prune(prefix)) => forecast.pruned.push(Pruned { user: row.user, prefix }),
                    Ok(Verdict::Keep(reason)) => forecast.keep(&row, reason, cutoff_ms),
                    Err(error) => {
                        forecast.accounts_failed += 1;
                        tracing::warn!(%error, user_id = row.user, "account can't be judged");
                    }
                }
            }
        }
    }

    /// The ranges that are due already and those that this run would add, in the order in which a run deletes them.
    async fn order_ranges(&self, now_ms: i64, forecast: &mut Forecast) -> Result<(), StoreError> {
        let before_ms = now_ms - millis(self.retention().archive);
        let mut due: Vec<DueRange> = forecast.pruned.iter().map(DueRange::of_pruned).collect();
        let mut ranges = self.store().expired_archives(before_ms, MAX_ARCHIVES).await?;
        let mut after: UserId = 0;
        while let Some((last, excess)) = self.archives_beyond_limit(after).await? {
            after = last;
            let given_up = |(user, of_user): (UserId, Vec<ArchivedRange>)| {
                of_user.into_iter().map(move |range| (user, bound::given_up(&range)))
            };
            let excess: Vec<_> = excess.into_iter().flat_map(given_up).collect();
            // What is over in any case goes because of the limit first.
            ranges.retain(|(user, range)| {
                !excess.iter().any(|(other, gone)| other == user && gone.from_seq == range.from_seq)
            });
            ranges.extend(excess);
        }
        for (user, range) in ranges {
            let (_, operations) = self.store().measure(user, range.from_seq - 1, range.to_seq).await?;
            due.push(DueRange::of_archived(user, &range, operations));
        }
        // What users have wiped goes before what was only superseded.
        due.sort_by_key(|range| (range.archived_at == 0, range.archived_at, range.user, range.from_seq));
        let budget = self.budget();
        let mut deleted = 0;
        for range in &mut due {
            range.over_budget = deleted >= budget;
            if !range.over_budget {
                deleted += range.operations;
            }
        }
        forecast.ranges = due;
        Ok(())
    }
}

impl Forecast {
    fn keep(&mut self, row: &RetentionRow, reason: Kept, cutoff_ms: i64) {
        let reason = if reason == Kept::NoFullState && row.has_legacy_repair { Kept::LegacyRepair } else { reason };
        let kept = self.kept.entry(reason).or_default();
        kept.accounts += 1;
        kept.dormant += u64::from(row.newest_received_at.is_none_or(|at| at < cutoff_ms));
        kept.operations += u64::try_from(row.last_seq - row.pruned_seq).unwrap_or(0);
    }
}

impl DueRange {
    fn of_pruned(pruned: &Pruned) -> Self {
        let Prefix { after, full_state_seq, operations, bytes } = pruned.prefix;
        Self {
            user: pruned.user,
            from_seq: after + 1,
            to_seq: full_state_seq - 1,
            reason: ArchiveReason::Expired,
            bytes,
            archived_at: EXPIRED_AT,
            operations,
            over_budget: false,
        }
    }

    fn of_archived(user: UserId, range: &ArchivedRange, operations: i64) -> Self {
        Self {
            user,
            from_seq: range.from_seq,
            to_seq: range.to_seq,
            reason: range.reason,
            bytes: range.bytes,
            archived_at: range.archived_at,
            operations: u64::try_from(operations).unwrap_or(0),
            over_budget: false,
        }
    }
}
