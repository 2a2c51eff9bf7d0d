//! Numbers that belong to no operation: older releases gave them to operations which they then refused. Logs that have
//! such are as good as others, here and on the way back.

use serde_json::json;

use super::whole::device;
use super::{complained, imported, in_order};
use crate::harness::{Backend, Program, TestDatabase, op};
use crate::old_schema::{OldDatabase, State};

on_both_databases! {
    nothing_is_lost_and_devices_go_on,
    they_can_be_packed_replayed_and_brought_back,
    what_is_lost_later_is_found,
    they_go_back_as_they_came,
}

/// Account 1 lacks 10, 11 and 37; its counter is at 43. Account 2, whose log begins with 6, lacks 25, its last one.
async fn sparse() -> OldDatabase {
    let old = OldDatabase::with_data().await;
    old.run(
        "DELETE FROM operations WHERE user_id = 1 AND server_seq IN (10, 11, 37); \
         DELETE FROM operations WHERE user_id = 2 AND server_seq = 25; \
         UPDATE user_sync_state SET last_seq = 43 WHERE user_id = 1",
    )
    .await;
    old
}

async fn nothing_is_lost_and_devices_go_on(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = sparse().await;
    let report = imported(&old, &target, &[]).await;
    assert_eq!((&report["taken"], &report["operations"], &report["left_out"]), (&json!(3), &json!(56), &json!([])));
    assert_eq!((&report["unused_numbers"], &report["with_unused_numbers"]), (&json!(7), &json!(2)));
    assert_eq!(imported(&old, &target, &["--verify-only"]).await["differences"], json!([]));
    assert!(in_order(&target).await.contains("3 accounts, 56 operations"));
    let found = Program::run(&target, &["doctor"]).await;
    assert!(super::said(&found).contains("56 operations, none missing, none twice"), "{}", super::said(&found));
    let server = Program::start(&target).await;
    let ann = device(&server, 1, Some(3));
    let all = ann.download(0).await;
    let expected: Vec<i64> = (1..=40).filter(|seq| ![10, 11, 37].contains(seq)).collect();
    assert_eq!((all.seqs(), &all["latestSeq"], all.has("gapDetected")), (expected, &json!(43), false));
    // Nothing was missed by a device that stands before, in or behind such numbers.
    for (since, first) in [(9, 12), (10, 12), (36, 38), (37, 38)] {
        let some = ann.download(since).await;
        assert_eq!((some.seqs().first(), some.has("gapDetected")), (Some(&first), false), "{}", some.text);
    }
    for since in [40, 42, 43] {
        let nothing = ann.download(since).await;
        assert_eq!((nothing.seqs(), nothing.has("gapDetected")), (vec![], false), "{}", nothing.text);
    }
    assert!(ann.download(44).await.has("gapDetected"));
    let known = json!({ "A": 22, "B": 22 });
    assert_eq!(ann.upload_from("A", 43, &[op("A").task("task-0").clock(known)]).await.outcomes(), ["#44"]);
    assert_eq!(ann.download(40).await.seqs(), [44]);
    let bob = device(&server, 2, None);
    assert_eq!(bob.download(0).await.seqs(), (6..=24).collect::<Vec<_>>());
    assert_eq!(bob.upload("A", &[op("A").clock(json!({ "A": 99, "B": 99 }))]).await.outcomes(), ["#26"]);
    server.kill().await;
    assert!(in_order(&target).await.contains("3 accounts, 58 operations"));
}

async fn they_can_be_packed_replayed_and_brought_back(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = sparse().await;
    old.ops(1, 44, 1_300).await;
    old.run("DELETE FROM operations WHERE user_id = 1 AND server_seq IN (44, 700, 701)").await;
    imported(&old, &target, &[]).await;
    let server = Program::start(&target).await;
    let ann = device(&server, 1, Some(3));
    let before = ann.get("/api/sync/restore/1300").await.ok()["state"].clone();
    assert!(before.is_object(), "{before}");
    assert_eq!(ann.get("/api/sync/restore/701").await.ok()["serverSeq"], 701);
    server.kill().await;
    let sealed = Program::run(&target, &["data", "seal"]).await;
    assert!(sealed.status.success(), "{}", complained(&sealed));
    // 1 is a full state, and what is left behind 701 is one run that goes on to the end.
    assert!(super::said(&sealed).contains("1290 operations"), "{}", super::said(&sealed));
    assert!(in_order(&target).await.contains("3 accounts, 1310 operations"));

    let server = Program::start(&target).await;
    let ann = device(&server, 1, Some(3));
    assert_eq!(ann.get("/api/sync/restore/1300").await.ok()["state"], before);
    let seqs = ann.download(0).await.seqs();
    assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]) && !seqs.contains(&44));
    ann.delete("/api/sync/data").await.ok();
    let archive = ann.get("/api/sync/archives").await.ok()["archives"][0]["id"].clone();
    let archive = archive.as_str().expect("an archive").to_owned();
    let brought = ann.post(&format!("/api/sync/archives/{archive}/restore"), &serde_json::Value::Null).await;
    brought.expect(200);
    let seqs = ann.download(0).await.seqs();
    assert!(!seqs.is_empty() && seqs.windows(2).all(|pair| pair[0] < pair[1]));
    server.kill().await;
    in_order(&target).await;
}

async fn what_is_lost_later_is_found(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = sparse().await;
    imported(&old, &target, &[]).await;
    let server = Program::start(&target).await;
    let ann = device(&server, 1, Some(3));
    for count in 1..4 {
        let known = json!({ "A": 22 + count, "B": 22 });
        ann.upload_from("A", 43, &[op("A").task("task-0").clock(known)]).await.ok();
    }
    server.kill().await;
    target.tamper("DELETE FROM operations WHERE user_id = 1 AND server_seq = 45").await;
    let found = Program::run(&target, &["doctor"]).await;
    assert!(super::said(&found).contains("account 1: operations 45 to 45 are missing"), "{}", super::said(&found));
}

async fn they_go_back_as_they_came(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = sparse().await;
    imported(&old, &target, &[]).await;
    let back = OldDatabase::create(State::Head).await;
    for place in [&back, &old] {
        let done = Program::run(&target, &["export", "--upstream", "--to", &place.url()]).await;
        assert!(done.status.success(), "{}", complained(&done));
    }
    for query in [
        "SELECT user_id, server_seq, id FROM operations ORDER BY user_id, server_seq",
        "SELECT user_id, last_seq FROM user_sync_state WHERE user_id < 7 ORDER BY user_id",
    ] {
        assert_eq!(back.rows(query).await, old.rows(query).await, "{query}");
    }
    assert_eq!(old.row("SELECT count(*) FROM operations").await, json!({ "count": 56 }));
}
