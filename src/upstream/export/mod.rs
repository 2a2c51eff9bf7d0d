//! The way back: what this server holds, written into the old server's database, so that the old server can be started
//! again and devices keep syncing.
//!
//! # What it promises
//! - Our side is read as a backup: one instant, never changed.
//! - An account is written as a whole or not at all; what was written has been read back and compared before it is
//!   committed. One account's fault does not keep the others from being written.
//! - Only the difference is written: a second run right after the first changes nothing, and a run that broke off is
//!   continued by the next.
//! - Whatever it can't express in the old schema is reported, never dropped silently.
//! - Memory does not grow with the number of accounts or operations.
//!
//! # How the old schema says it
//! The old server knows one log per account that is numbered from 1, and a counter. Ours never begins again, and its data
//! set may begin anywhere. As the old server stores the result of its own clean slate: the operations keep their numbers,
//! the counter is our last sequence, what comes before the data set is not there. Cursors of devices then mean there what
//! they mean here: a device that has seen less than the first operation gets the full state that follows, or hears of a
//! gap. An account whose data was wiped has neither operations nor a counter there.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::{Connection as _, PgConnection};

use crate::backup::Checked;

mod account;
mod error;
mod jsonb;
mod known;
mod operations;
mod options;
mod report;
mod rows;
mod source;
mod stage;
mod target;

pub use error::ExportError;
pub use options::{Options, Taken};
pub use report::{Accounts, Counts, FailedAccount, Lost, Missing, MissingAccount, Named, Operations, Report, Rows};

use account::Fate;
use error::Stop;
use source::Source;

/// A target that is one to write to.
#[derive(Debug)]
pub struct Target(PgConnection);

impl Target {
    /// Reaches the target and looks at it. Changes nothing.
    ///
    /// # Errors
    /// When it is not one to write to.
    pub async fn open(url: &str, options: &Options) -> Result<Self, ExportError> {
        match target::open(url, options).await {
            Err(ExportError::Target(error)) => Err(ExportError::Unreachable(error)),
            opened => opened.map(Self),
        }
    }

    /// Writes what a backup of this server holds. `progress` counts its operations.
    ///
    /// # Errors
    /// When either side fails as a whole; the faults of single accounts are in the report.
    pub async fn write(
        mut self,
        checked: Arc<Checked>,
        file: &Path,
        options: &Options,
        progress: &AtomicU64,
    ) -> Result<Report, ExportError> {
        let source = Source { checked, file: file.into() };
        let report = if options.dry_run {
            let mut tx = self.0.begin().await?;
            let report = all(&mut tx, &source, options, progress).await?;
            tx.rollback().await?;
            report
        } else {
            all(&mut self.0, &source, options, progress).await?
        };
        self.0.close().await?;
        Ok(report)
    }
}

async fn all(
    connection: &mut PgConnection,
    source: &Source,
    options: &Options,
    progress: &AtomicU64,
) -> Result<Report, ExportError> {
    let header = &source.checked.header;
    let taken_at = header.taken_at;
    let highest = header.numbers.iter().find(|(table, _)| table == "users").map_or(0, |(_, number)| *number);
    let mut report = Report { dry_run: options.dry_run, taken_at, ..Report::default() };
    report.counts.lost.links = stage::fill(connection, source, taken_at).await?;
    let (missing, changed) = stage::missing(connection, highest, options).await?;
    report.missing = missing;
    for account in changed {
        let reason = "it was deleted here, but what the target holds of it is not what was taken over: the old server has \
                      gone on working, or an earlier export has written there. --delete-missing deletes it only with \
                      --overwrite";
        report.accounts.failed.add(FailedAccount { account, reason: reason.to_owned() });
    }
    stage::addresses(connection).await?;
    let writing = async |mut readings: tokio::sync::mpsc::Receiver<source::Reading>| {
        while let Some(mut reading) = readings.recv().await {
            // Of an account that can't be written nothing counts.
            let mut counts = report.counts;
            let done = account::write(connection, &mut reading, options, &mut counts, progress).await;
            let account = reading.account.id;
            let done = match done {
                Ok(done) => done,
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Fault(reason)) => {
                    report.accounts.failed.add(FailedAccount { account, reason });
                    continue;
                }
            };
            report.counts = counts;
            *match done.fate {
                Fate::Added => &mut report.accounts.added,
                Fate::Changed => &mut report.accounts.changed,
                Fate::Unchanged => &mut report.accounts.unchanged,
            } += 1;
            if done.is_beyond_restoring {
                report.beyond_restoring.add(account);
            }
        }
        Ok(())
    };
    source.accounts(writing).await?;
    if !options.dry_run {
        report.numbers_raised = stage::raise_numbers(connection, highest).await?;
    }
    progress.fetch_max(source.checked.operations, Ordering::Relaxed);
    Ok(report)
}
