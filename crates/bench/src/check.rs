//! Compares what the server stored with what it acknowledged, through the reference client, which checks every answer as
//! the app does.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use supersync_client::{Client, ClientError, Seq};
use uuid::Uuid;

use crate::device::Device;
use crate::report::Check;
use crate::session::Session;

/// Operations that are downloaded for the comparison: all when there are no more.
const MAX_COMPARED: usize = 200_000;
/// Accounts that are compared: each costs at least one request.
const MAX_ACCOUNTS: usize = 2_500;
/// Operations per page of the comparison; the largest that the contract allows (section 15).
const PAGE: usize = 1000;

/// Downloads the logs of a sample of accounts and compares them: every acknowledged operation is there exactly once,
/// under the sequence that was acknowledged; the sequence has no hole; nothing is there that nobody sent.
pub async fn compare_logs(session: &Session, devices: Vec<Device>) -> Result<Check> {
    const NAME: &str = "every acknowledged operation is stored exactly once, the sequence has no holes";
    // By account: where its log ended before the run, and what was acknowledged since, to any device.
    let mut accounts: BTreeMap<usize, (Seq, Vec<(Uuid, Seq)>)> = BTreeMap::new();
    for device in devices {
        let (start, acknowledged) = accounts.entry(device.account).or_insert((device.start, Vec::new()));
        *start = device.start.min(*start);
        acknowledged.extend(device.acknowledged);
    }
    let all: usize = accounts.values().map(|(_, acknowledged)| acknowledged.len()).sum();
    // Evenly over the accounts, so that no connection's are left out.
    let step = all.div_ceil(MAX_COMPARED).max(accounts.len().div_ceil(MAX_ACCOUNTS)).max(1);
    let client = session.client()?;
    let mut compared = 0;
    for (account, (start, acknowledged)) in accounts.iter().step_by(step) {
        let client = client.with_token(&session.tokens[*account])?;
        if let Err(wrong) = compare_log(&client, *start, acknowledged).await? {
            return Ok(Check::new(NAME, false, format!("account {account}: {wrong}")));
        }
        compared += acknowledged.len();
    }
    let (of, sample) = (accounts.len(), accounts.len().div_ceil(step));
    Ok(Check::new(NAME, true, format!("{compared} operations in {sample} of {of} accounts")))
}

async fn compare_log(
    client: &Client,
    start: Seq,
    acknowledged: &[(Uuid, Seq)],
) -> Result<Result<(), String>, ClientError> {
    let mut wanted: HashMap<Uuid, Seq> = acknowledged.iter().copied().collect();
    if wanted.len() < acknowledged.len() {
        return Ok(Err("an operation was acknowledged twice".to_owned()));
    }
    let mut last = start;
    loop {
        let page = client.download(last, None, PAGE).await?;
        for op in &page.ops {
            if op.server_seq != last + 1 {
                return Ok(Err(format!("sequence {} follows {last}", op.server_seq)));
            }
            last = op.server_seq;
            let known = op.op.id.parse().ok().and_then(|id: Uuid| wanted.remove(&id));
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
        if page.has_more {
            continue;
        }
        return Ok(match wanted.len() {
            _ if page.latest_seq != last => Err(format!("latestSeq is {}, the log ends at {last}", page.latest_seq)),
            0 => Ok(()),
            missing => Err(format!("{missing} acknowledged operations are missing")),
        });
    }
}
