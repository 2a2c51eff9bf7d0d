//! Devices go on: whatever a device has seen, the old server tells it on what was written what this server tells it.
//!
//! The old server does not run here. What it answers to a download is stated by the contract (sync, section 6) as a function
//! of its rows; that function is evaluated on what was written, for every cursor, and compared with our answer.

use serde_json::{Map, Value, json};

use super::{export, exported};
use crate::harness::{Account, Backend, Server, import, op, snapshot};
use crate::old_schema::{OldDatabase, State};

on_both_databases! {
    every_cursor_gets_the_same_answer,
}

/// An answer to a download, without the payloads.
#[derive(Debug, PartialEq)]
struct Answer {
    latest: i64,
    ids: Vec<(i64, String)>,
    gap: bool,
    clock: Value,
}

/// What this server says.
async fn ours(account: &Account, since: i64, exclude: Option<&str>) -> Answer {
    let exclude = exclude.map(|client| format!("&excludeClient={client}")).unwrap_or_default();
    let page = account.get(&format!("/api/sync/ops?sinceSeq={since}&limit=1000{exclude}")).await.ok();
    let id =
        |op: &Value| (op["serverSeq"].as_i64().expect("a number"), op["op"]["id"].as_str().expect("text").to_owned());
    Answer {
        latest: page["latestSeq"].as_i64().expect("a number"),
        ids: page["ops"].as_array().expect("a list").iter().map(id).collect(),
        gap: page["gapDetected"] == true,
        clock: page["snapshotVectorClock"].clone(),
    }
}

fn seq(op: &Value) -> i64 {
    op["server_seq"].as_i64().expect("a number")
}

fn is_causal_full_state(op: &Value) -> bool {
    let kind = op["op_type"].as_str().expect("text");
    matches!(kind, "SYNC_IMPORT" | "BACKUP_IMPORT") || (kind == "REPAIR" && !op["repair_base_server_seq"].is_null())
}

/// What the old server says.
fn theirs(ops: &[Value], state: Option<&Value>, since: i64, exclude: Option<&str>) -> Answer {
    let latest = state.map_or(0, |state| state["last_seq"].as_i64().expect("a number"));
    if latest == 0 {
        return Answer { latest, ids: Vec::new(), gap: since > 0, clock: Value::Null };
    }
    let full_state = ops.iter().rev().find(|op| is_causal_full_state(op)).filter(|op| since < seq(op));
    let after = full_state.map_or(since, |op| seq(op) - 1);
    let wanted = |op: &&Value| seq(op) > after && exclude != op["client_id"].as_str();
    let page: Vec<_> = ops.iter().filter(wanted).collect();
    let first_kept = ops.first().map(seq);
    let gap = since > 0
        && (since > latest
            || first_kept.is_some_and(|first| after < first - 1)
            || (exclude.is_none() && page.first().is_some_and(|op| seq(op) > after + 1)));
    let clock = full_state.map_or(Value::Null, |mark| {
        let state = state.expect("there is a counter");
        if state["latest_full_state_seq"] == mark["server_seq"] {
            return state["latest_full_state_vector_clock"].clone();
        }
        let mut clock = Map::new();
        for op in ops.iter().filter(|op| seq(op) <= seq(mark)) {
            for (client, count) in op["vector_clock"].as_object().expect("a clock") {
                let known = clock.get(client).and_then(Value::as_i64).unwrap_or(0);
                clock.insert(client.clone(), json!(known.max(count.as_i64().expect("a number"))));
            }
        }
        Value::Object(clock)
    });
    let ids = page.iter().map(|op| (seq(op), op["id"].as_str().expect("text").to_owned())).collect();
    Answer { latest, ids, gap, clock }
}

async fn prune(server: &Server, account: &Account, seq: i64) {
    server.prune(account, seq).await;
    let (bytes, _) = server.store.measure(account.id, seq, i64::MAX).await.expect("the store works");
    server.change_state(account, |state| state.storage_used_bytes = bytes).await;
}

async fn bring_back(account: &Account) {
    let archives = account.get("/api/sync/archives").await.ok();
    let id = archives["archives"][0]["id"].as_str().expect("there is one").to_owned();
    account.post(&format!("/api/sync/archives/{id}/restore"), &Value::Null).await.ok();
}

async fn compare(server: &Server, old: &OldDatabase, accounts: &[(&str, Account)]) {
    for (name, account) in accounts {
        let (ops, state) = (old.operations(account).await, old.state(account).await);
        let last = server.state(account).await.last_seq;
        // All that any device can have seen: numbers that were given out, and beyond.
        let cursors: Vec<i64> =
            if last < 100 { (0..last + 3).collect() } else { (0..12).chain(last - 5..last + 3).collect() };
        for since in cursors {
            for exclude in [None, Some("A"), Some("B")] {
                let (ours, theirs) =
                    (ours(account, since, exclude).await, theirs(&ops, state.as_ref(), since, exclude));
                assert_eq!(theirs, ours, "{name}, a device that has seen {since}, without {exclude:?}");
            }
        }
    }
}

async fn every_cursor_gets_the_same_answer(from: Backend) {
    let server = Server::start(from).await;
    let mut accounts = Vec::new();
    for name in [
        "plain",
        "imported",
        "clean slate",
        "wiped",
        "begun again",
        "begun again without a full state",
        "pruned",
        "pruned to its full state",
        "brought back",
        "brought back without a full state",
        "repaired",
        "empty",
    ] {
        let account = server.account().await;
        if name != "empty" {
            account.upload("A", &[op("A"), op("A").clock(json!({ "A": 2 }))]).await.ok();
            account.upload("B", &[op("B"), op("B")]).await.ok();
        }
        accounts.push((name, account));
    }
    let old = OldDatabase::create(State::Head).await;
    exported(&server.database, &old, &[]).await;
    compare(&server, &old, &accounts).await;

    for (name, account) in &accounts {
        match *name {
            "imported" => {
                account.upload("B", &[import("B").clock(json!({ "A": 2, "B": 5 })), op("B")]).await.ok();
            }
            "clean slate" => {
                account.snapshot(&snapshot("N").clean_slate()).await.ok();
                account.upload("N", &[op("N")]).await.ok();
            }
            "wiped" | "brought back without a full state" => {
                account.delete("/api/sync/data").await.ok();
            }
            "begun again" => {
                account.delete("/api/sync/data").await.ok();
                account.upload("A", &[import("A"), op("A")]).await.ok();
            }
            "begun again without a full state" => {
                account.delete("/api/sync/data").await.ok();
                account.upload("A", &[op("A"), op("A")]).await.ok();
            }
            "pruned" => prune(&server, account, 2).await,
            "pruned to its full state" => {
                account.upload("A", &[import("A").clock(json!({ "A": 3 })), op("A")]).await.ok();
                prune(&server, account, 4).await;
            }
            "brought back" => {
                account.upload("A", &[import("A"), op("A")]).await.ok();
                account.snapshot(&snapshot("N").clean_slate()).await.ok();
            }
            "repaired" => {
                account.snapshot(&snapshot("B").repair(4).clock(json!({ "A": 2, "B": 1 }))).await.ok();
                account.upload("A", &[op("A")]).await.ok();
            }
            _ => {}
        }
        if name.starts_with("brought back") {
            bring_back(account).await;
            assert!(server.state(account).await.last_seq > 1_000_000);
        }
    }
    let report = exported(&server.database, &old, &[]).await;
    assert_eq!(report["accounts"]["failed"]["count"], 0, "{report}");
    // The old server counts from 1 to a restore point.
    let brought_back = accounts.iter().find(|(name, _)| *name == "brought back").map(|(_, account)| account.id);
    assert_eq!(report["beyondRestoring"], json!({ "count": 1, "first": [brought_back] }));
    let said = export(&server.database, &old, &["--dry-run"]).await;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("1 account(s) have restore points that the old server can't restore"), "{said}");
    compare(&server, &old, &accounts).await;
    // And into an empty database.
    let another = OldDatabase::create(State::Head).await;
    exported(&server.database, &another, &[]).await;
    compare(&server, &another, &accounts).await;
}
