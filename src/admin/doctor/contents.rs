//! The accounts' data: every operation there and once, packed ones readable, bytes counted, nothing without account.
//!
//! What has to hold is stated once, for backups and databases ([`backup::contents`](contents)).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot};

use super::database::failed;
use super::finding::{Report, Told};
use crate::admin::progress;
use crate::backup::Source;
use crate::backup::contents::{self, Fault, FaultKind, OF_ACCOUNTS};
use crate::diagnosis::{Finding, Verdict};
use crate::engine::recount::recount_account;
use crate::protocol::UserId;
use crate::store::backup::Row;
use crate::store::doctor::{IRREPLACEABLE, NextRows, Orphans, Selection};
use crate::store::{self, Store, StoreError};

/// Faults of one kind that are told one by one.
const TOLD: usize = 20;
/// Accounts recounted by one run; the next one continues.
const MAX_RECOUNTED: usize = 10_000;

const LOST: &str = "Operations can't be made up. Restore the last good backup (docs/backup.md), or let the devices start over: \
                    `supersync data clear`, after which they upload what they have.";
const UNREADABLE: &str = "Restore the last good backup (docs/backup.md) into a new database and compare; look at the disk and the \
                          memory.";
const SPOILED: &str = "Mend what else is wrong with the account first: then the count can be trusted.";

/// A table of the database, read piece by piece.
struct Asking {
    ask: mpsc::Sender<NextRows>,
    /// `None`: a table that is not looked at.
    place: Option<usize>,
    columns: &'static [&'static str],
    batch: std::vec::IntoIter<Row>,
    is_done: bool,
    rows: Arc<AtomicU64>,
}

/// The database does not answer any more; why is known to whoever reads it.
struct Interrupted;

impl Source for Asking {
    type Error = Interrupted;

    fn row(&mut self) -> Result<Option<Row>, Interrupted> {
        if let Some(row) = self.batch.next() {
            return Ok(Some(row));
        }
        let Some(table) = self.place.filter(|_| !self.is_done) else { return Ok(None) };
        let (answer, rows) = oneshot::channel();
        self.ask.blocking_send(NextRows { table, answer }).map_err(|_| Interrupted)?;
        let rows = rows.blocking_recv().map_err(|_| Interrupted)?;
        self.rows.fetch_add(u64::try_from(rows.len()).unwrap_or(0), Ordering::Relaxed);
        self.is_done = rows.is_empty();
        self.batch = rows.into_iter();
        Ok(self.batch.next())
    }

    fn position(&self, column: &str) -> Option<usize> {
        self.columns.iter().position(|known| *known == column)
    }
}

/// Faults of one check; so many are kept as are told.
#[derive(Default)]
struct Tally {
    count: usize,
    kept: Vec<Fault>,
}

impl Tally {
    fn tell(self, check: &'static str, fine: &str, advice: &str, report: &mut Report<'_>) -> io::Result<()> {
        if self.count == 0 {
            return report.tell(Finding::ok(check, fine));
        }
        let more = self.count - self.kept.len();
        for fault in self.kept {
            report.tell(Told::of(fault.user, Finding::fault(check, fault.what, advice)))?;
        }
        if more > 0 {
            let advice = "Mend those above first, and ask again.";
            report.tell(Finding::fault(check, format!("{more} more faults like these"), advice))?;
        }
        Ok(())
    }
}

/// Faults as they come.
#[derive(Default)]
struct Faults {
    sequences: Tally,
    segments: Tally,
    /// Where a recount would not help.
    counters: Tally,
    /// Accounts where nothing but the count is wrong.
    recount: Vec<(UserId, String)>,
    /// The account that has a fault of another kind.
    spoiled: Option<UserId>,
    /// What has no account is looked for by itself; more need not be said of it.
    without_account: Option<UserId>,
}

impl Faults {
    fn add(&mut self, fault: Fault) {
        if self.without_account == Some(fault.user) {
            return;
        }
        let tally = match fault.kind {
            FaultKind::NoAccount => {
                self.without_account = Some(fault.user);
                return;
            }
            // An account's count comes last. Where operations are gone, a recount would hide that they are.
            FaultKind::Charged if self.spoiled != Some(fault.user) && self.recount.len() < MAX_RECOUNTED => {
                self.recount.push((fault.user, fault.what));
                return;
            }
            FaultKind::Charged => &mut self.counters,
            FaultKind::Segment => &mut self.segments,
            FaultKind::State | FaultKind::Missing | FaultKind::Repeated | FaultKind::Stray => &mut self.sequences,
        };
        tally.count += 1;
        if fault.kind != FaultKind::Charged {
            self.spoiled = Some(fault.user);
        }
        if tally.kept.len() < TOLD {
            tally.kept.push(fault);
        }
    }
}

/// Looks at everything.
pub(super) async fn check(store: &Arc<dyn Store>, fix: bool, report: &mut Report<'_>) -> io::Result<()> {
    match read(store).await {
        Err(error) => report.tell(failed("sequences", &error))?,
        Ok((operations, faults)) => tell(store, operations, faults, fix, report).await?,
    }
    match store.orphans().await {
        Err(error) => report.tell(failed("orphans", &error)),
        Ok(orphans) => tell_orphans(&**store, orphans, fix, report).await,
    }
}

async fn read(store: &Arc<dyn Store>) -> store::Result<(u64, Faults)> {
    let (ask, asked) = mpsc::channel(1);
    let rows = Arc::new(AtomicU64::new(0));
    let selections: Option<Vec<_>> =
        contents::NEEDED.iter().map(|(table, columns)| Selection::of(table, columns)).collect();
    let selections = selections.ok_or_else(|| StoreError::Corrupt("a table has lost a column".to_owned()))?;
    let tables = OF_ACCOUNTS.map(|name| {
        let place = contents::NEEDED.iter().position(|(table, _)| *table == name);
        Asking {
            ask: ask.clone(),
            place,
            columns: place.map_or(&[], |place| contents::NEEDED[place].1),
            batch: Vec::new().into_iter(),
            is_done: false,
            rows: Arc::clone(&rows),
        }
    });
    drop(ask);
    let looking = tokio::task::spawn_blocking(move || {
        let mut faults = Faults::default();
        let operations = contents::check(tables.into(), |fault| faults.add(fault));
        operations.map(|operations| (operations, faults))
    });
    let both = async { tokio::join!(store.read_side_by_side(selections, asked), looking) };
    let (given, looked) = progress::watch(progress::spinner(), both, |bar| {
        bar.set_message(format!("{} rows looked at", rows.load(Ordering::Relaxed)));
        bar.tick();
    })
    .await;
    given?;
    match looked {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(Interrupted)) | Err(_) => Err(StoreError::Refused("the look ended early".to_owned())),
    }
}

async fn tell(
    store: &Arc<dyn Store>,
    operations: u64,
    faults: Faults,
    fix: bool,
    report: &mut Report<'_>,
) -> io::Result<()> {
    let Faults { sequences, segments, counters, recount, .. } = faults;
    let all_there = format!("{operations} operations, none missing, none twice");
    sequences.tell("sequences", &all_there, LOST, report)?;
    segments.tell("segments", "all packed operations can be read", UNREADABLE, report)?;
    if recount.is_empty() || counters.count > 0 {
        counters.tell("counters", "the bytes charged are those stored", SPOILED, report)?;
    }
    tell_counters(store, &recount, fix, report).await
}

async fn tell_counters(
    store: &Arc<dyn Store>,
    recount: &[(UserId, String)],
    fix: bool,
    report: &mut Report<'_>,
) -> io::Result<()> {
    const ID: &str = "counters";
    let mut untold = 0;
    for (place, (user, what)) in recount.iter().enumerate() {
        let finding = if fix {
            match recount_account(&**store, *user, true).await {
                Ok(_) => Finding::fixed(ID, format!("{what}: recounted")),
                Err(StoreError::Refused(_)) => Finding::warning(
                    ID,
                    format!("{what}, and the account changes faster than it can be counted"),
                    "Ask again later.",
                ),
                Err(error) => return report.tell(failed(ID, &error)),
            }
        } else {
            Finding::fault(ID, what.clone(), "`supersync doctor --fix` recounts.")
        };
        // All are mended; a few stand for the others.
        if place < TOLD || finding.verdict == Verdict::Warning {
            report.tell(Told::of(*user, finding))?;
        } else {
            untold += 1;
        }
    }
    if untold > 0 {
        let found = format!("{untold} more accounts with other bytes charged than stored");
        report.tell(if fix {
            Finding::fixed(ID, format!("{found}: recounted"))
        } else {
            Finding::fault(ID, found, "`supersync doctor --fix` recounts.")
        })?;
    }
    Ok(())
}

async fn tell_orphans(store: &dyn Store, orphans: Vec<Orphans>, fix: bool, report: &mut Report<'_>) -> io::Result<()> {
    const ID: &str = "orphans";
    if orphans.is_empty() {
        return report.tell(Finding::ok(ID, "there is no data without account"));
    }
    for Orphans { table, rows, accounts } in orphans {
        let accounts: Vec<String> = accounts.iter().map(ToString::to_string).collect();
        let found = format!("{rows} rows of {table} belong to accounts that are not there: {}", accounts.join(", "));
        report.tell(if IRREPLACEABLE.contains(&table) {
            Finding::fault(
                ID,
                found,
                "They are somebody's data, so they are never deleted here. Restore the accounts from a backup; if they were \
                 deleted on purpose, docs/doctor.md says how to delete the rest.",
            )
        } else if !fix {
            Finding::fault(ID, found, "`supersync doctor --fix` deletes them.")
        } else {
            match store.delete_orphans(table).await {
                Ok(deleted) => Finding::fixed(ID, format!("{found}: {deleted} deleted")),
                Err(error) => failed(ID, &error),
            }
        })?;
    }
    Ok(())
}
