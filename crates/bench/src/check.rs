//! Compares what the server stored with what it acknowledged, through the reference client, which shares no encoder
//! with the server and checks every answer as the app does.

use std::collections::HashMap;

use super::device::Device;
use super::error::Result;
use super::ledger::Ledger;
use super::session::Session;
use crate::client::raw::{Encoding, Raw};
use crate::client::{Client, ClientError, Ladder};
use crate::protocol::Seq;

/// Operations that are downloaded for the comparison: all when there are no more.
const MAX_COMPARED: usize = 200_000;
/// Accounts that are compared: each costs at least one request.
const MAX_ACCOUNTS: usize = 2_500;
/// Operations per page of the comparison; the largest that the contract allows (section 15).
const PAGE: usize = 1000;

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    /// What must hold.
    pub name: String,
    /// Whether it does.
    pub passed: bool,
    /// How much was looked at, or what is wrong.
    pub detail: String,
}

impl Check {
    /// A check.
    pub fn new(name: impl Into<String>, passed: bool, detail: impl Into<String>) -> Self {
        Self { name: name.into(), passed, detail: detail.into() }
    }
}

/// What is known of an account's log: where it ended before the run, and what was acknowledged since, to any device.
#[derive(Debug, Default)]
struct Expected {
    start: Seq,
    acknowledged: Ledger,
}

/// Downloads the logs of a sample of accounts and compares them: every acknowledged operation is there exactly once,
/// under the sequence that was acknowledged; the sequence has no hole; nothing is there that nobody sent.
///
/// # Errors
/// When the logs can't be downloaded.
pub async fn compare_logs(session: &Session, devices: impl IntoIterator<Item = Device>) -> Result<Check> {
    const NAME: &str = "every acknowledged operation is stored exactly once, the sequence has no holes";
    let mut expected: HashMap<usize, Expected> = HashMap::new();
    for device in devices {
        let start = device.start();
        let entry = expected.entry(device.account());
        let of_account = entry.or_insert_with(|| Expected { start, acknowledged: Ledger::default() });
        of_account.start = of_account.start.min(start);
        of_account.acknowledged.append(device.into_ledger());
    }
    let raw = Raw::new(&session.target().base(), &Ladder::default())?;
    let mut accounts: Vec<usize> = expected.keys().copied().collect();
    accounts.sort_unstable();
    let all: usize = expected.values().map(|expected| expected.acknowledged.len()).sum();
    // Evenly over the accounts, so that no connection's are left out.
    let step = all.div_ceil(MAX_COMPARED).max(accounts.len().div_ceil(MAX_ACCOUNTS)).max(1);
    let mut compared = 0;
    for account in accounts.iter().step_by(step) {
        let client = Client::over(&raw, &session.accounts()[*account].token, Ladder::default())?;
        let expected = &expected[account];
        if let Err(wrong) = compare_log(&client, expected).await? {
            return Ok(Check::new(NAME, false, format!("account {account}: {wrong}")));
        }
        compared += expected.acknowledged.len();
    }
    let of = accounts.len();
    let sample = of.div_ceil(step);
    Ok(Check::new(NAME, true, format!("{compared} operations in {sample} of {of} accounts")))
}

async fn compare_log(client: &Client, expected: &Expected) -> Result<Result<(), String>, ClientError> {
    let mut wanted = HashMap::with_capacity(expected.acknowledged.len());
    for (id, seq) in expected.acknowledged.iter() {
        if wanted.insert(id, seq).is_some() {
            return Ok(Err(format!("operation {} was acknowledged twice", uuid::Uuid::from_u128(id))));
        }
    }
    let client = client.clone().with_encoding(Encoding::Plain);
    let mut last = expected.start;
    loop {
        let page = client.download(last, None, PAGE).await?;
        for op in &page.ops {
            if op.server_seq != last + 1 {
                return Ok(Err(format!("sequence {} follows {last}", op.server_seq)));
            }
            last = op.server_seq;
            let known = op.op.id.parse().ok().and_then(|id: uuid::Uuid| wanted.remove(&id.as_u128()));
            if known != Some(last) {
                return Ok(Err(match known {
                    Some(seq) => format!("operation {} was acknowledged as {seq} and is stored as {last}", op.op.id),
                    None => format!("operation {} at {last} is stored twice or was never sent", op.op.id),
                }));
            }
            // The payload of an operation names the entity that the operation is about.
            if !op.op.entity_id.as_deref().is_some_and(|entity| op.op.payload.get().contains(entity)) {
                return Ok(Err(format!("operation {} at {last} has another one's payload", op.op.id)));
            }
        }
        if !page.has_more {
            if page.latest_seq != last {
                return Ok(Err(format!("latestSeq is {}, the log ends at {last}", page.latest_seq)));
            }
            return Ok(match wanted.len() {
                0 => Ok(()),
                missing => Err(format!("{missing} acknowledged operations are missing")),
            });
        }
    }
}
