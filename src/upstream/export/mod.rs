//! The way back: what this server holds, written into the old server's database, so that the old server can be started
//! again and every device goes on.
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

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::{Connection as _, PgConnection};
use tokio::sync::mpsc;

use crate::backup::Checked;
use crate::protocol::UserId;

mod account;
mod error;
mod jsonb;
mod known;
mod operations;
mod report;
mod rows;
mod schema;
mod source;
mod stage;
mod target;

pub use error::{AccountFault, ExportError, Refusal, Unstorable};
pub use known::Taken;
pub use report::{Accounts, FailedAccount, Lost, Missing, MissingAccount, Named, Operations, Report, Rows};

use account::Fate;
use error::Stop;
use operations::Stream;

/// Pieces under way at a time.
const QUEUE: usize = 4;
/// Small rows under way at a time.
const SMALL_QUEUE: usize = 1_000;

/// What is wanted of an export.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches of the command line")]
pub struct Options {
    /// Say what would be done, and change nothing.
    pub dry_run: bool,
    /// Go on even if others work on the target.
    pub force: bool,
    /// Where the target has operations that this server never had, they give way.
    pub overwrite: bool,
    /// Delete the target's accounts that were deleted here.
    pub delete_missing: bool,
    /// Values that JSONB can't hold are replaced.
    pub replace: bool,
    /// What was taken over from the old server, by account, if that is known.
    pub taken: Option<HashMap<UserId, Taken>>,
    /// Read back what was written before it is committed.
    pub verify: bool,
}

impl Options {
    /// What was taken over of an account, if that is known.
    fn taken_of(&self, user: UserId) -> Option<&Taken> {
        self.taken.as_ref().and_then(|taken| taken.get(&user))
    }
}

/// A target that is one to write to.
#[derive(Debug)]
pub struct Target(PgConnection);

impl Target {
    /// Reaches the target and looks at it. Changes nothing.
    ///
    /// # Errors
    /// When it is not one to write to.
    pub async fn open(url: &str, options: &Options) -> Result<Self, Refusal> {
        Ok(Self(target::open(url, options).await?))
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

/// A backup, from which several things are read one after the other.
struct Source {
    checked: Arc<Checked>,
    file: Arc<Path>,
}

impl Source {
    /// Has something read on a thread of its own while `work` takes it.
    async fn read<T: Send + 'static, R>(
        &self,
        queue: usize,
        read: fn(&Checked, &Path, &mpsc::Sender<T>) -> Result<(), ExportError>,
        work: impl AsyncFnOnce(mpsc::Receiver<T>) -> Result<R, ExportError>,
    ) -> Result<R, ExportError> {
        let (to, from) = mpsc::channel(queue);
        let (checked, file) = (Arc::clone(&self.checked), Arc::clone(&self.file));
        let reading = tokio::task::spawn_blocking(move || read(&checked, &file, &to));
        let worked = work(from).await;
        // Why the stream ended early explains what the other side says of that.
        reading.await.map_err(|_| ExportError::Crashed)??;
        worked
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
    stage::create(connection).await?;
    source.read(SMALL_QUEUE, source::users, async |from| stage::users(connection, from).await).await?;
    source.read(SMALL_QUEUE, source::passkeys, async |from| stage::passkeys(connection, from).await).await?;
    let links = source.read(SMALL_QUEUE, source::links, async |from| stage::links(connection, from, taken_at).await);
    report.lost.links = links.await?;
    let (missing, changed) = stage::missing(connection, highest, options).await?;
    report.missing = missing;
    for account in changed {
        report.accounts.failed.add(FailedAccount { account, reason: AccountFault::DeletedHere.to_string() });
    }
    stage::addresses(connection).await?;
    let accounts = source.read(QUEUE, source::accounts, async |from| {
        let mut stream = Stream::new(from, progress);
        while let Some(account) = stream.account().await? {
            let done = account::write(connection, &account, &mut stream, options).await;
            note(&mut report, &account, done)?;
        }
        Ok(())
    });
    accounts.await?;
    if !options.dry_run {
        report.numbers_raised = stage::raise_numbers(connection, highest).await?;
    }
    progress.fetch_max(source.checked.operations, Ordering::Relaxed);
    Ok(report)
}

/// Adds an account to the report.
fn note(report: &mut Report, account: &source::Account, done: Result<account::Done, Stop>) -> Result<(), ExportError> {
    let done = match done {
        Ok(done) => done,
        Err(Stop::Failed(error)) => return Err(error),
        Err(Stop::Fault(fault)) => {
            report.accounts.failed.add(FailedAccount { account: account.id, reason: fault.to_string() });
            return Ok(());
        }
    };
    let counter = match done.fate {
        Fate::Added => &mut report.accounts.added,
        Fate::Changed => &mut report.accounts.changed,
        Fate::Unchanged => &mut report.accounts.unchanged,
    };
    *counter += 1;
    report.operations.add(done.operations);
    report.passkeys.add(done.passkeys);
    report.devices.add(done.devices);
    report.lost.passwords += u64::from(done.password_lost);
    report.lost.passwords_without_passkey += u64::from(done.password_lost && !done.has_passkey);
    report.lost.links = report.lost.links.saturating_sub(done.links);
    report.lost.locks += u64::from(account.is_locked);
    report.lost.values += done.replaced;
    if done.is_beyond_restoring {
        report.beyond_restoring.add(account.id);
    }
    Ok(())
}
