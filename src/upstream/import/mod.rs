//! Taking over the old (Node) server's database (operations contract, sections 8.4 to 8.6).
//!
//! Reads the source as it is at one instant and never writes to it. Three work at once: one reads, one transforms, one
//! writes portions of some thousand operations, each a transaction. Memory stays the same however long a log is, but for
//! a head per entity of one account; accounts without their operations are held all at once.
//!
//! What it promises: an account is here with all that belongs to it or not at all; a run that was broken off goes on
//! where it was; a later run takes again only what the source has changed since, and never what has changed here.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;

use crate::protocol::UserId;
use crate::store::Store;
use crate::store::adopt::{AdoptOutcome, AdoptionRow, Portion, Resident, UNDER_WAY};

mod digest;
pub mod dump;
mod error;
mod live;
mod reading;
mod report;
pub mod rows;
mod shape;
mod source;
mod take;
mod transform;
mod verify;

pub use dump::{Dump, DumpSource};
pub use error::ImportError;
pub use live::{LiveSource, log_digest, operations_at_head};
pub use report::{Duplicate, Noted, Progress, Report};
pub use source::Source;
pub use transform::raw_id;

use take::Sink;
use transform::Account;
use verify::Expected;

/// What to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Mend what can be mended.
    pub repair: bool,
    /// Others may work on the source.
    pub rehearsal: bool,
    /// Only compare.
    pub verify_only: bool,
}

/// Takes over what `source` holds, and compares.
///
/// # Errors
/// See [`ImportError`]. Accounts that are not as they should be are no error, but in the report.
pub async fn run(
    mut source: Box<dyn Source>,
    store: Arc<dyn Store>,
    options: Options,
    progress: &Progress,
    now_ms: i64,
) -> Result<Report, ImportError> {
    let wants_quiet = !options.rehearsal && !options.verify_only;
    if wants_quiet {
        let others = source.others().await?;
        if !others.is_empty() {
            return Err(ImportError::Refused(format!(
                "others work on the source: {others}. Stop the old server first, or what it writes from now on is lost; \
                 --rehearsal takes over what there is all the same"
            )));
        }
    }
    let tables = source.open().await?;
    let mut report =
        Report { missing_columns: tables.missing.clone(), accounts: tables.users.len() as u64, ..Report::default() };
    // An account's number and birth stay; a rehearsal from a copy and the evening from the original are the same source.
    let first = tables.users.values().next();
    let name = first.map_or_else(String::new, |user| format!("{} {}", user.id, user.created_at));
    let numbers_up_to = tables.highest_number;
    let accounts = transform::accounts(tables, &mut report);
    let (taken, here) = store.adoptions().await?;
    let taken: HashMap<UserId, AdoptionRow> =
        taken.into_iter().filter(|row| row.user != UNDER_WAY).map(|row| (row.user, row)).collect();
    let is_strange = |resident: &&Resident| taken.get(&resident.user).is_none_or(|row| row.source != name);
    let foreign = here.iter().filter(is_strange).count();
    if foreign > 0 {
        return Err(ImportError::Refused(format!(
            "this server's database has {foreign} account(s) that were not taken over from this source; import into an \
             empty database"
        )));
    }
    let marks = here.iter().map(|resident| (resident.user, resident.mark.clone())).collect();
    if options.verify_only {
        verify::only(source, &*store, &accounts, &taken, &marks, &mut report, progress).await?;
        return Ok(report);
    }
    let mut plan = plan(accounts, &taken, &here, options, &mut report);
    let mut first = Portion { remove: std::mem::take(&mut plan.gone), numbers_up_to, ..Portion::default() };
    first.put_adoption(&AdoptionRow::under_way(&name));
    progress.of.store(plan.accounts.iter().map(Account::op_count).sum::<i64>().unsigned_abs(), Ordering::Relaxed);
    let (portions, writing) = mpsc::channel(1);
    let writer = {
        let (store, written) = (Arc::clone(&store), Arc::clone(&progress.written));
        tokio::spawn(async move { store.adopt(writing, written).await })
    };
    // If nobody takes it, the writer says why.
    portions.send(first).await.ok();
    let expected = take_all(source, &plan, &name, now_ms, Sink::to(portions), &mut report).await;
    let outcome = writer.await.map_err(|_| ImportError::Crashed)??;
    stored(outcome)?;
    let (expected, mut source) = expected?;
    if wants_quiet {
        report.others = source.others().await?;
    }
    drop(source);
    verify::compare(&*store, &expected, &mut report, progress).await?;
    Ok(report)
}

fn stored(outcome: AdoptOutcome) -> Result<(), ImportError> {
    match outcome {
        AdoptOutcome::Stored => Ok(()),
        AdoptOutcome::InUse => {
            Err(ImportError::Refused("a server or a command works on this server's database; stop it first".to_owned()))
        }
    }
}

/// Lets a server start on what a broken-off import has left. Returns whether there is such.
///
/// # Errors
/// When somebody works on our database, or it fails.
pub async fn accept_partial(store: &Arc<dyn Store>) -> Result<bool, ImportError> {
    if !store.is_adopting().await? {
        return Ok(false);
    }
    let (portions, writing) = mpsc::channel(1);
    // There is room for one.
    portions.send(Portion { remove: vec![UNDER_WAY], ..Portion::default() }).await.ok();
    drop(portions);
    stored(store.adopt(writing, Arc::default()).await?)?;
    Ok(true)
}

/// What is to be done.
#[derive(Debug, Default)]
struct Plan {
    /// Accounts to take.
    accounts: Vec<Account>,
    /// Those of them of which there is something here, which goes when they are written.
    replaced: HashSet<UserId>,
    /// Accounts of which there is something here, which goes before any account is written.
    gone: Vec<UserId>,
}

fn plan(
    accounts: Vec<Account>,
    taken: &HashMap<UserId, AdoptionRow>,
    here: &[Resident],
    options: Options,
    report: &mut Report,
) -> Plan {
    let mut plan = Plan::default();
    let marks: HashMap<UserId, &String> = here.iter().map(|resident| (resident.user, &resident.mark)).collect();
    let is_as_taken = |row: &AdoptionRow| marks.get(&row.user) == Some(&&row.mark);
    let in_source: HashSet<UserId> = accounts.iter().map(|account| account.user.id).collect();
    for account in accounts {
        let user = account.user.id;
        if let Some(row) = taken.get(&user) {
            if row.finished_at.is_some() && row.account_digest == account.digest {
                report.unchanged += 1;
                continue;
            }
            if row.finished_at.is_some() && !is_as_taken(row) {
                let what = "it has changed in the source and here since it was taken over".to_owned();
                report.conflicts.push(Noted { user, what });
                continue;
            }
        }
        match &account.fault {
            Some(fault) if !options.repair => {
                let remedy = if account.is_log_good {
                    "takes it over all the same"
                } else {
                    "takes it over without operations: its devices upload their state"
                };
                report.left_out.push(Noted { user, what: format!("{fault}; --repair {remedy}") });
                // What was half taken goes, what an earlier run took stays.
                if taken.get(&user).is_some_and(|row| row.finished_at.is_none()) {
                    plan.gone.push(user);
                }
            }
            _ => {
                plan.replaced.extend(taken.get(&user).map(|row| row.user));
                plan.accounts.push(account);
            }
        }
    }
    for row in taken.values().filter(|row| !in_source.contains(&row.user)) {
        if row.finished_at.is_none() || is_as_taken(row) {
            plan.gone.push(row.user);
            report.removed += u64::from(row.finished_at.is_some());
        } else if marks.contains_key(&row.user) {
            let what = "it is gone from the source, but has changed here since it was taken over".to_owned();
            report.conflicts.push(Noted { user: row.user, what });
        }
    }
    let in_the_way = in_the_way(&plan, here);
    plan.gone.extend(in_the_way);
    plan
}

/// Accounts that are to be replaced, but whose address or passkey is another one's by now: they go first.
fn in_the_way(plan: &Plan, here: &[Resident]) -> Vec<UserId> {
    let addresses: HashMap<&str, UserId> =
        plan.accounts.iter().map(|account| (account.user.email.as_str(), account.user.id)).collect();
    let credentials: HashMap<&[u8], UserId> =
        plan.accounts.iter().flat_map(|account| account.credentials().map(|id| (id, account.user.id))).collect();
    let is_others = |resident: &Resident, owner: Option<&UserId>| owner.is_some_and(|owner| *owner != resident.user);
    here.iter()
        .filter(|resident| plan.replaced.contains(&resident.user))
        .filter(|resident| {
            is_others(resident, addresses.get(resident.email.as_str()))
                || resident.credentials.iter().any(|id| is_others(resident, credentials.get(id.as_slice())))
        })
        .map(|resident| resident.user)
        .collect()
}

/// Takes these accounts. Gives back what they should look like here, and the source.
async fn take_all(
    source: Box<dyn Source>,
    plan: &Plan,
    name: &str,
    now_ms: i64,
    mut sink: Sink,
    report: &mut Report,
) -> Result<(Vec<Expected>, Box<dyn Source>), ImportError> {
    let taking = async |mut readings: reading::Readings| {
        let mut expected = Vec::with_capacity(plan.accounts.len());
        let mut links = HashSet::new();
        for account in &plan.accounts {
            let user = account.user.id;
            let mut row = AdoptionRow {
                user,
                source: name.to_owned(),
                account_digest: account.digest.clone(),
                first_seq: account.log.first_seq,
                last_seq: account.last_seq(),
                op_count: account.log.op_count,
                digest: String::new(),
                mark: String::new(),
                finished_at: None,
            };
            sink.begin(&row, plan.replaced.contains(&user));
            let log = match take::log(account, readings.of(account).await, &mut sink, 0).await? {
                Ok(log) => log,
                Err(what) => {
                    report.left_out.push(Noted { user, what });
                    sink.give_up(user);
                    continue;
                }
            };
            if let Some(fault) = &account.fault {
                let without = if account.is_log_good { "" } else { "; taken over without operations" };
                report.repaired.push(Noted { user, what: format!("{fault}{without}") });
            }
            let unused = u64::try_from(log.log.unused()).unwrap_or(0);
            report.unused_numbers += unused;
            report.with_unused_numbers += u64::from(unused > 0);
            report.snapshots += u64::from(log.has_snapshot);
            report.snapshots_dropped += u64::from(account.user.marks.has_snapshot && !log.has_snapshot);
            if let Some(what) = log.unusable_snapshot {
                report.repaired.push(Noted { user, what: what.to_owned() });
            }
            transform::put_account(sink.portion(), account, now_ms, &mut links, report);
            report.taken += 1;
            report.operations += u64::try_from(log.op_count).unwrap_or(0);
            let last_seq = sink.portion().put_log(user, log.log).last_seq;
            let mark = transform::mark_of(account, last_seq);
            (row.digest, row.mark, row.finished_at) = (log.digest.clone(), mark.clone(), Some(now_ms));
            expected.push(Expected { user, last_seq, op_count: log.op_count, digest: log.digest, mark });
            sink.end(&row).await?;
        }
        Ok(expected)
    };
    let taken = reading::read(source, plan.accounts.iter(), taking).await?;
    sink.finish().await?;
    Ok(taken)
}
