//! The drill: a server under load, a backup, more load, `kill -9`, a new server from the backup.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use serde_json::Value;
use tokio::task::JoinHandle;

use super::{done, text};
use crate::harness::{Account, Backend, Program, Server, TestDatabase, import, op};

across_databases! {
    what_was_acknowledged_before_the_backup_is_there_after_the_drill,
}

const ACCOUNTS: usize = 4;
/// Operations that each account gets at least before the backup, while it is made, and after it.
const STEPS: i64 = 20;

/// A device that uploads until it is told to stop.
struct Busy {
    account: Account,
    /// The last sequence that was acknowledged to it.
    acknowledged: Arc<AtomicI64>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Busy {
    fn start(account: Account) -> Self {
        let (acknowledged, stop) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicBool::new(false)));
        let task = tokio::spawn({
            let (account, acknowledged, stop) = (account.clone(), Arc::clone(&acknowledged), Arc::clone(&stop));
            async move {
                account.upload("A", &[import("A")]).await.ok();
                while !stop.load(Ordering::SeqCst) {
                    let reply = account.upload("A", &[op("A"), op("A")]).await;
                    let outcomes = reply.outcomes();
                    let last = outcomes.last().and_then(|seq| seq.strip_prefix('#')).expect("accepted");
                    acknowledged.store(last.parse().expect("a number"), Ordering::SeqCst);
                }
            }
        });
        Self { account, acknowledged, stop, task }
    }

    async fn reach(&self, seq: i64) {
        while self.acknowledged.load(Ordering::SeqCst) < seq {
            assert!(!self.task.is_finished(), "the load has ended");
            tokio::task::yield_now().await;
        }
    }
}

/// What a device gets that has seen everything up to `since`.
async fn pages(account: &Account, since: i64) -> Vec<Value> {
    let mut ops: Vec<Value> = Vec::new();
    loop {
        let after = ops.last().map_or(since, |op| op["serverSeq"].as_i64().expect("a number"));
        let page = account.get(&format!("/api/sync/ops?sinceSeq={after}&limit=1000")).await.ok();
        assert!(!page.has("gapDetected"), "{}", page.text);
        ops.extend(page["ops"].as_array().expect("a list").iter().cloned());
        if page["hasMore"] != true {
            return ops;
        }
    }
}

async fn what_was_acknowledged_before_the_backup_is_there_after_the_drill(from: Backend, to: Backend) {
    let server = Server::start(from).await;
    let mut accounts = Vec::new();
    for _ in 0..ACCOUNTS {
        accounts.push(server.account().await);
    }
    let (database, _) = server.stop().await;

    let program = Program::start(&database).await;
    let busy: Vec<_> =
        accounts.into_iter().map(|account| Busy::start(Account { base: program.base.clone(), ..account })).collect();
    for device in &busy {
        device.reach(STEPS).await;
    }
    let before: Vec<_> = busy.iter().map(|device| device.acknowledged.load(Ordering::SeqCst)).collect();
    let file = database.data_dir().join("drill.ssb");
    let said = done(&Program::run(&database, &["backup", text(&file)]).await);
    let after: Vec<_> = busy.iter().map(|device| device.acknowledged.load(Ordering::SeqCst)).collect();
    assert!(said.contains("what it holds is in order"), "{said}");
    assert!(before.iter().zip(&after).all(|(before, after)| before < after), "it was busy meanwhile");
    for (device, after) in busy.iter().zip(&after) {
        device.reach(after + STEPS).await;
        device.stop.store(true, Ordering::SeqCst);
    }
    let mut originals = Vec::new();
    for device in busy {
        device.task.await.expect("the load ends well");
        originals.push((device.account.clone(), pages(&device.account, 0).await));
    }
    program.kill().await;

    let target = TestDatabase::create(to).await;
    done(&Program::run(&target, &["restore", text(&file)]).await);
    let program = Program::start(&target).await;
    for (at, (account, original)) in originals.into_iter().enumerate() {
        // The old token, on the new server.
        let account = Account { base: program.base.clone(), ..account };
        let restored = pages(&account, 0).await;
        let last = i64::try_from(restored.len()).expect("few");
        // What was under way while the acknowledgements were read may be there or not.
        assert!((before[at]..=after[at] + 2).contains(&last), "{} ≤ {last} ≤ {}", before[at], after[at] + 2);
        assert_eq!(restored[..], original[..restored.len()]);
        // The old cursor.
        assert_eq!(pages(&account, before[at]).await[..], restored[usize::try_from(before[at]).expect("few")..]);
        let reply = account.upload_from("A", last, &[op("A")]).await;
        assert_eq!(reply.outcomes(), [format!("#{}", last + 1)]);
        // A device that has seen what is lost hears that it has.
        let ahead = account.get(&format!("/api/sync/ops?sinceSeq={}", last + 10)).await.ok();
        assert_eq!(ahead["gapDetected"], true, "{}", ahead.text);
    }
    program.kill().await;
}
