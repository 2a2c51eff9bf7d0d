//! Cached states that stand for operations which older releases have deleted, and what they remember of full states.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use super::whole::device;
use super::{complained, imported, in_order};
use crate::harness::{Backend, Program, TestDatabase, op};
use crate::old_schema::OldDatabase;

on_both_databases! {
    what_only_the_cached_state_holds_comes_along,
    one_that_can_not_be_read_is_named,
    one_that_is_not_needed_is_left_out,
    what_a_full_state_covers_is_remembered,
}

/// A cached state of an account, complete up to `seq`.
async fn cache(old: &OldDatabase, user: i64, seq: i64, state: &str) {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(state.as_bytes()).expect("written to memory");
    let data = hex::encode(gzip.finish().expect("written to memory"));
    old.run(&format!(
        "UPDATE user_sync_state SET snapshot_data = '\\x{data}', last_snapshot_seq = {seq}, \
         snapshot_at = 1760000000000, snapshot_schema_version = 2 WHERE user_id = {user}"
    ))
    .await;
}

async fn what_only_the_cached_state_holds_comes_along(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    // Nothing of the first five operations is left but the state, and of account 7 there is nothing else.
    old.run(
        "UPDATE operations SET op_type = 'UPD', entity_type = 'TASK', entity_id = 'task-6', is_payload_encrypted = FALSE, \
         payload = '{\"title\": \"six\"}' WHERE user_id = 2; \
         INSERT INTO user_sync_state (user_id, last_seq) VALUES (7, 12)",
    )
    .await;
    cache(&old, 2, 5, r#"{"TASK":{"task-0":{"id":"task-0","title":"kept"}}}"#).await;
    cache(&old, 7, 12, r#"{"TASK":{"task-7":{"id":"task-7","title":"alone"}}}"#).await;
    let report = imported(&old, &target, &[]).await;
    assert_eq!((&report["snapshots"], &report["snapshots_dropped"]), (&json!(2), &json!(1)), "{report}");
    assert_eq!(imported(&old, &target, &["--verify-only"]).await["differences"], json!([]));
    assert_eq!(imported(&old, &target, &[]).await["unchanged"], 3);
    in_order(&target).await;
    let server = Program::start(&target).await;
    let bob = device(&server, 2, Some(0));
    let restored = bob.get("/api/sync/restore/25").await.ok();
    assert_eq!(restored["state"]["TASK"]["task-0"]["title"], "kept", "{}", restored.text);
    let cy = device(&server, 7, Some(0));
    let restored = cy.get("/api/sync/restore/12").await.ok();
    assert_eq!(restored["state"]["TASK"]["task-7"]["title"], "alone", "{}", restored.text);
    let nothing = cy.download(12).await;
    assert_eq!((nothing.seqs(), &nothing["latestSeq"], nothing.has("gapDetected")), (vec![], &json!(12), false));
    assert_eq!(cy.upload_from("A", 12, &[op("A")]).await.outcomes(), ["#13"]);
    let known = json!({ "A": 99, "B": 99 });
    assert_eq!(bob.upload_from("A", 25, &[op("A").clock(known)]).await.outcomes(), ["#26"]);
    server.kill().await;
    in_order(&target).await;

    // On the way back it is still there.
    let query = "SELECT user_id, last_snapshot_seq, snapshot_at, snapshot_schema_version, snapshot_data \
                 FROM user_sync_state WHERE user_id > 1 ORDER BY user_id";
    let before = old.rows(query).await;
    let done = Program::run(&target, &["export", "--upstream", "--to", &old.url()]).await;
    assert!(done.status.success(), "{}", complained(&done));
    assert_eq!(old.rows(query).await, before);
    let last = "SELECT array_agg(last_seq ORDER BY user_id) AS last FROM user_sync_state WHERE user_id > 1";
    assert_eq!(old.row(last).await["last"], json!([26, 13]));
}

async fn one_that_can_not_be_read_is_named(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    old.run(
        "DELETE FROM operations WHERE user_id = 1 AND server_seq < 4; \
         UPDATE user_sync_state SET last_snapshot_seq = 3 WHERE user_id = 1",
    )
    .await;
    let report = imported(&old, &target, &[]).await;
    let named = json!([{ "user": 1, "what": "its cached state can't be read and is left out" }]);
    assert_eq!((&report["repaired"], &report["snapshots"]), (&named, &json!(0)));
    in_order(&target).await;
}

async fn one_that_is_not_needed_is_left_out(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    // Account 2 begins with a full state; what is cached of account 1 is all in its log.
    cache(&old, 2, 20, "{}").await;
    cache(&old, 1, 20, "{}").await;
    let report = imported(&old, &target, &[]).await;
    assert_eq!((&report["snapshots"], &report["snapshots_dropped"]), (&json!(0), &json!(2)));
    in_order(&target).await;
}

async fn what_a_full_state_covers_is_remembered(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    old.run(
        "UPDATE user_sync_state SET latest_full_state_seq = 6, \
         latest_full_state_vector_clock = '{\"A\": 3, \"gone\": 9}' WHERE user_id = 2; \
         UPDATE user_sync_state SET latest_full_state_seq = 7, \
         latest_full_state_vector_clock = '{\"stale\": 9}' WHERE user_id = 1",
    )
    .await;
    imported(&old, &target, &[]).await;
    in_order(&target).await;
    let server = Program::start(&target).await;
    let clock = device(&server, 2, Some(0)).download(0).await["snapshotVectorClock"].clone();
    assert_eq!(clock["gone"], 9, "{clock}");
    let clock = device(&server, 1, Some(3)).download(0).await["snapshotVectorClock"].clone();
    assert_eq!((clock["A"].is_i64(), &clock["stale"]), (true, &serde_json::Value::Null), "{clock}");
    server.kill().await;
}
