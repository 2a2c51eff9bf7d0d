//! Whether what is here is what the source has: counts, last sequences, and a digest of every operation as clients get it,
//! read back through the store like any download.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};

use super::digest::LogDigest;
use super::error::ImportError;
use super::reading;
use super::report::{Noted, Progress, Report};
use super::source::Source;
use super::take::{self, Sink};
use super::transform::{self, Account};
use crate::protocol::{Seq, UserId};
use crate::store::adopt::{AdoptionRow, Portion};
use crate::store::{LogRange, Store, SyncState};

/// Operations of one page,
const PAGE: usize = 2_000;
/// and bytes of their payloads.
const PAGE_BYTES: usize = 4 << 20;

/// What an account should look like here.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub(super) user: UserId,
    pub(super) last_seq: Seq,
    pub(super) op_count: i64,
    pub(super) digest: String,
    pub(super) mark: String,
}

/// Compares the accounts that this run has taken with what it meant to take.
pub(super) async fn compare(
    store: &dyn Store,
    expected: &[Expected],
    report: &mut Report,
    progress: &Progress,
) -> Result<(), ImportError> {
    let (_, here) = store.adoptions().await?;
    let marks: HashMap<UserId, String> = here.into_iter().map(|resident| (resident.user, resident.mark)).collect();
    for account in expected {
        report.verified += 1;
        let found = differences(store, account, marks.get(&account.user), None, &progress.compared).await?;
        report.differences.extend(found.map(|what| Noted { user: account.user, what }));
    }
    Ok(())
}

/// `account`: as the source has it, if it is to be told what of it differs.
async fn differences(
    store: &dyn Store,
    expected: &Expected,
    mark: Option<&String>,
    account: Option<&Account>,
    compared: &AtomicU64,
) -> Result<Option<String>, ImportError> {
    let state = if mark.is_some() { store.load_account(expected.user).await? } else { None };
    let (Some(mark), Some(state)) = (mark, state) else { return Ok(Some("it is not here".to_owned())) };
    let mut all = Vec::new();
    if state.sync.generation > 0 {
        all.push("its data was wiped or replaced here".to_owned());
    } else {
        all.extend(difference_of_log(store, expected, &state.sync, compared).await?);
    }
    if *mark != expected.mark {
        let changed = match account {
            Some(account) => changed_here(store, account).await?,
            None => Vec::new(),
        };
        if !changed.is_empty() {
            all.push(format!("other here than in the source: {}", changed.join(", ")));
        } else if all.is_empty() {
            all.push("its address, password, quota, token version or passkeys differ".to_owned());
        }
    }
    Ok((!all.is_empty()).then(|| all.join("; ")))
}

async fn difference_of_log(
    store: &dyn Store,
    expected: &Expected,
    sync: &SyncState,
    compared: &AtomicU64,
) -> Result<Option<String>, ImportError> {
    let last_seq = sync.last_seq;
    if last_seq != expected.last_seq {
        return Ok(Some(format!("its last sequence is {last_seq} here, but {} in the source", expected.last_seq)));
    }
    let (op_count, digest) = read_back(store, expected.user, sync.pruned_seq, last_seq, compared).await?;
    if op_count != expected.op_count {
        return Ok(Some(format!("it has {op_count} operations here, but {} in the source", expected.op_count)));
    }
    Ok((digest != expected.digest).then(|| "its operations differ".to_owned()))
}

async fn changed_here(store: &dyn Store, account: &Account) -> Result<Vec<&'static str>, ImportError> {
    let user = account.user.id;
    let Some(row) = store.user_by_id(user).await? else { return Ok(Vec::new()) };
    let credentials = store.passkeys_of(user).await?.into_iter().map(|row| row.key.credential_id).collect();
    Ok(transform::changed_here(account, &row, credentials))
}

async fn read_back(
    store: &dyn Store,
    user: UserId,
    mut after: Seq,
    up_to: Seq,
    compared: &AtomicU64,
) -> Result<(i64, String), ImportError> {
    let mut digest = LogDigest::default();
    while after < up_to {
        let range = LogRange { user, after, up_to, exclude_client: None, limit: PAGE, max_bytes: PAGE_BYTES };
        let page = store.read_log(range).await?;
        let Some(last) = page.ops.last() else { break };
        after = last.server_seq;
        for op in &page.ops {
            digest.add(op);
        }
        compared.fetch_add(page.ops.len() as u64, Ordering::Relaxed);
    }
    Ok((digest.count, digest.done()))
}

/// Compares everything that the source has with what is here. Changes nothing. `marks` are those of the accounts here.
pub(super) async fn only(
    source: Box<dyn Source>,
    store: &dyn Store,
    accounts: &[Account],
    taken: &HashMap<UserId, AdoptionRow>,
    marks: &HashMap<UserId, String>,
    report: &mut Report,
    progress: &Progress,
) -> Result<(), ImportError> {
    let is_taken = |account: &&Account| taken.get(&account.user.id).is_some_and(|row| row.finished_at.is_some());
    let with_ops = accounts.iter().filter(is_taken);
    progress.of.store(with_ops.clone().map(Account::op_count).sum::<i64>().unsigned_abs(), Ordering::Relaxed);
    let comparing = async |mut readings: reading::Readings| {
        for account in accounts {
            let user = account.user.id;
            report.verified += 1;
            let what = if is_taken(&account) {
                // What a clean-up has removed here since can't be compared.
                let pruned = store.load_account(user).await?.map_or(0, |state| state.sync.pruned_seq);
                match take::log(account, readings.of(account).await, &mut Sink::default(), pruned).await? {
                    Err(what) => Some(what),
                    Ok(log) => {
                        let last_seq = Portion::default().put_log(user, log.log).last_seq;
                        let mark = transform::mark_of(account, last_seq);
                        let expected = Expected { user, last_seq, op_count: log.compared, digest: log.digest, mark };
                        differences(store, &expected, marks.get(&user), Some(account), &progress.compared).await?
                    }
                }
            } else {
                let why = account.fault.as_ref().map_or_else(String::new, |fault| format!(": {fault}"));
                Some(format!("it has not been taken over{why}"))
            };
            report.differences.extend(what.map(|what| Noted { user, what }));
        }
        Ok(())
    };
    reading::read(source, with_ops, comparing).await?;
    let in_source: HashSet<UserId> = accounts.iter().map(|account| account.user.id).collect();
    for user in marks.keys().filter(|user| !in_source.contains(user)) {
        report.differences.push(Noted { user: *user, what: "the source has no such account".to_owned() });
    }
    Ok(())
}
