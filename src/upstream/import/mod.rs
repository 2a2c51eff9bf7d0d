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
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use crate::protocol::{Seq, UserId};
use crate::store::Store;
use crate::store::adopt::{AdoptOutcome, AdoptionRow, Portion, Resident, UNDER_WAY};

pub mod dump;
pub mod error;
pub mod postgres;
pub mod report;
pub mod shape;
pub mod source;
mod take;
mod transform;
mod verify;

pub use dump::{Dump, DumpError, DumpSource};
pub use error::ImportError;
pub use postgres::{LiveSource, log_digest};
pub use report::{Duplicate, Noted, Report};
pub use source::Source;
pub use transform::raw_id;

use source::SourceOp;
use take::{Outcome, Sink};
use transform::{Account, Read, Take};

/// Accounts whose operations are read before they are needed.
const AHEAD: usize = 4;
/// Batches of an account's operations that are read before they are needed.
const BATCHES: usize = 2;

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

/// How far an import is.
#[derive(Debug, Default)]
pub struct Progress {
    /// Operations to write, and then to compare.
    pub of: AtomicU64,
    /// Operations written.
    pub written: Arc<AtomicU64>,
    /// Operations compared.
    pub compared: AtomicU64,
}

/// What an account should look like here.
#[derive(Clone, Debug)]
struct Expected {
    user: UserId,
    last_seq: Seq,
    op_count: i64,
    digest: String,
    mark: String,
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
            return Err(ImportError::SourceInUse(others));
        }
    }
    let mut report = Report { missing_columns: source.open().await?, ..Report::default() };
    let users = source.users().await?;
    report.accounts = users.len() as u64;
    // An account's number and birth stay; a rehearsal from a copy and the evening from the original are the same source.
    let name = users.first().map_or_else(String::new, |user| format!("{} {}", user.id, user.created_at));
    let read = Read {
        users,
        passkeys: source.passkeys().await?,
        pending: source.pending().await?,
        devices: source.devices().await?,
        logs: source.logs().await?,
        knows_pending: !report.missing_columns.iter().any(|name| name == "pending_passkey_registrations"),
    };
    let numbers_up_to = source.highest_number().await?;
    let accounts = transform::accounts(read, &mut report);
    let (taken, here) = store.adoptions().await?;
    let taken: HashMap<UserId, AdoptionRow> =
        taken.into_iter().filter(|row| row.user != UNDER_WAY).map(|row| (row.user, row)).collect();
    let is_strange = |resident: &&Resident| taken.get(&resident.user).is_none_or(|row| row.source != name);
    let foreign = here.iter().filter(is_strange).count();
    if foreign > 0 {
        return Err(ImportError::ForeignAccounts(foreign as u64));
    }
    if options.verify_only {
        return verify::only(source, &*store, accounts, &taken, report, progress).await;
    }
    let mut plan = plan(accounts, &taken, &here, options, &mut report);
    let mut first = Portion { remove: std::mem::take(&mut plan.gone), numbers_up_to, ..Portion::default() };
    first.put_adoption(&AdoptionRow::under_way(&name));
    progress.of.store(plan.accounts.iter().map(ops_of).sum(), Ordering::Relaxed);
    let (portions, writing) = mpsc::channel(1);
    let writer = {
        let (store, written) = (Arc::clone(&store), Arc::clone(&progress.written));
        tokio::spawn(async move { store.adopt(writing, written).await })
    };
    // If nobody takes it, the writer says why.
    portions.send(first).await.ok();
    let mut sink = Sink::new(Some(portions));
    let expected = take_all(source, &plan, &name, now_ms, &mut sink, &mut report).await;
    let finished = if expected.is_ok() { sink.finish().await } else { Ok(()) };
    drop(sink);
    let outcome = writer.await.map_err(|_| ImportError::Crashed)??;
    if outcome == AdoptOutcome::InUse {
        return Err(ImportError::TargetInUse);
    }
    let (expected, mut source) = expected?;
    finished?;
    if wants_quiet {
        report.others = source.others().await?;
    }
    drop(source);
    verify::compare(&*store, &expected, &mut report, progress).await?;
    Ok(report)
}

/// Lets a server start on what a broken-off import has left. Returns whether there is such.
///
/// # Errors
/// [`ImportError::TargetInUse`], [`ImportError::Store`].
pub async fn accept_partial(store: &Arc<dyn Store>) -> Result<bool, ImportError> {
    if !store.is_adopting().await? {
        return Ok(false);
    }
    let (portions, writing) = mpsc::channel(1);
    // There is room for one.
    portions.send(Portion { remove: vec![UNDER_WAY], ..Portion::default() }).await.ok();
    drop(portions);
    match store.adopt(writing, Arc::default()).await? {
        AdoptOutcome::Stored => Ok(true),
        AdoptOutcome::InUse => Err(ImportError::TargetInUse),
    }
}

fn ops_of(account: &Account) -> u64 {
    if account.take == Take::Nothing { 0 } else { u64::try_from(account.log.op_count).unwrap_or(0) }
}

/// Whether something of its log is read.
fn has_log(account: &Account) -> bool {
    ops_of(account) > 0 || account.may_need_snapshot()
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
                report.left_out.push(Noted { user, what: format!("{fault}; --repair {}", account.take.remedy()) });
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

impl Take {
    fn remedy(self) -> &'static str {
        match self {
            Self::Whole => "takes it over all the same",
            Self::Nothing => "takes it over without operations: its devices upload their state",
        }
    }
}

/// An account's log as it is read.
#[derive(Debug)]
struct Reading {
    /// The cached state, if the log may need it.
    snapshot: Option<Vec<u8>>,
    operations: mpsc::Receiver<Vec<SourceOp>>,
}

/// Gives the source back.
type Reader = tokio::task::JoinHandle<Result<Box<dyn Source>, ImportError>>;

/// Reads the logs of those of the accounts that have one, in this order.
fn read_all<'a>(
    mut source: Box<dyn Source>,
    accounts: impl Iterator<Item = &'a Account>,
) -> (mpsc::Receiver<Reading>, Reader) {
    let users: Vec<_> =
        accounts.filter(|account| has_log(account)).map(|a| (a.user.id, a.may_need_snapshot())).collect();
    let (to, readings) = mpsc::channel(AHEAD);
    let reader = tokio::spawn(async move {
        for (user, may_need_snapshot) in users {
            let snapshot = if may_need_snapshot { source.snapshot(user).await? } else { None };
            let (batches, operations) = mpsc::channel(BATCHES);
            if to.send(Reading { snapshot, operations }).await.is_err() {
                break;
            }
            source.operations(user, &batches).await?;
        }
        Ok(source)
    });
    (readings, reader)
}

async fn take_all(
    source: Box<dyn Source>,
    plan: &Plan,
    name: &str,
    now_ms: i64,
    sink: &mut Sink,
    report: &mut Report,
) -> Result<(Vec<Expected>, Box<dyn Source>), ImportError> {
    let (mut readings, reader) = read_all(source, plan.accounts.iter());
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
        let reading = if has_log(account) { readings.recv().await } else { None };
        sink.begin(&row, plan.replaced.contains(&user));
        match take::log(account, reading, sink, 0).await? {
            // The reader says why.
            Outcome::BrokenOff => {
                drop(readings);
                reader.await.map_err(|_| ImportError::Crashed)??;
                return Err(ImportError::Crashed);
            }
            Outcome::Faulty(what) => {
                report.left_out.push(Noted { user, what });
                sink.give_up(user);
            }
            Outcome::Taken(log) => {
                let log = *log;
                if let Some(what) = log.repair {
                    report.repaired.push(Noted { user, what });
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
                let state = sink.portion().put_log(user, log.log);
                row.digest.clone_from(&log.digest);
                row.mark = transform::mark_of(account, state.last_seq);
                row.finished_at = Some(now_ms);
                report.taken += 1;
                report.operations += u64::try_from(log.op_count).unwrap_or(0);
                expected.push(Expected {
                    user,
                    last_seq: state.last_seq,
                    op_count: log.op_count,
                    digest: log.digest,
                    mark: row.mark.clone(),
                });
                sink.end(&row).await?;
            }
        }
    }
    let source = reader.await.map_err(|_| ImportError::Crashed)??;
    Ok((expected, source))
}
