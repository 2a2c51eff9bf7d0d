//! Scenarios 62 and 63, points 19 and 20 of section 17: restore points, and the state as of one of them.

use serde_json::{Value, json};

use supersync::store::{SnapshotBlob, SnapshotChange, SnapshotMeta};

use crate::harness::{Account, Backend, Log, Op, Server, ciphertext, import, op, snapshot};

on_both_databases! {
    s62_a_plain_import_is_restored_as_it_was,
    s62_encrypted_ops_stand_in_the_way,
    s62_bad_sequences_are_refused,
    s63_restore_points_are_causal_full_states_newest_first,
    the_current_state_is_rebuilt_by_replay,
    a_state_that_would_grow_beyond_its_bounds_is_refused_for_good,
    what_cannot_be_rebuilt_is_no_fault_of_the_server,
    m19_what_was_replaced_or_wiped_is_gone_and_says_so,
    m19_more_operations_than_a_replay_takes_are_refused_for_good,
    m20_newer_schemas_are_neither_replayed_nor_kept,
    a_flood_of_restores_leaves_room_for_others,
}

async fn s62_a_plain_import_is_restored_as_it_was(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let state = json!({ "task": { "ids": ["x"], "entities": { "x": { "id": "x", "n": 1.5 } } }, "globalConfig": { "a": [null] } });
    account.upload("A", &[op("A"), op("A")]).await.ok();
    let wrapped = json!({ "appDataComplete": state.clone(), "timestamp": 1 });
    account.upload("A", &[import("A").payload(wrapped), op("A")]).await.ok();
    let restored = account.get("/api/sync/restore/3").await.ok();
    assert_eq!((&restored["state"], &restored["serverSeq"]), (&state, &json!(3)));
    assert_eq!(restored["generatedAt"], server.clock.now_ms());
    // The same again, now that a state is kept ready.
    assert_eq!(account.get("/api/sync/restore/3").await.ok()["state"], state);
    assert_eq!(account.get("/api/sync/restore/3abc").await.ok()["serverSeq"], 3);
}

async fn s62_encrypted_ops_stand_in_the_way(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[op("A").encrypted(ciphertext(40)), op("A")]).await.ok();
    for path in ["restore/1", "restore/2", "snapshot"] {
        let reply = account.get(&format!("/api/sync/{path}")).await.expect(400);
        assert_eq!(reply["errorCode"], "ENCRYPTED_OPS_NOT_SUPPORTED", "{path}");
        let shown: String = reply["error"].as_str().expect("a text").chars().take(80).collect();
        assert!(shown.to_lowercase().contains("encrypt"), "{shown}");
        assert!(!shown.contains(|c: char| c.is_ascii_digit()), "no counts: {shown}");
    }
}

async fn s62_bad_sequences_are_refused(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[import("A")]).await.ok();
    for seq in ["0", "abc", "-1", "2", "9007199254740993", "99999999999999999999"] {
        let reply = account.get(&format!("/api/sync/restore/{seq}")).await.expect(400);
        assert!(reply["error"].is_string(), "{seq}");
    }
}

async fn s63_restore_points_are_causal_full_states_newest_first(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[op("A"), import("A").at(11), import("A").kind("BACKUP_IMPORT").at(12)]).await.ok();
    account.snapshot(&snapshot("B").legacy_repair()).await.ok();
    account.snapshot(&snapshot("B").repair(4)).await.ok();
    account.upload("A", &[op("A")]).await.ok();
    let points = account.get("/api/sync/restore-points").await.ok();
    let expected = json!([
        { "serverSeq": 5, "timestamp": server.clock.now_ms(), "type": "REPAIR", "clientId": "B", "description": "Auto-repair" },
        { "serverSeq": 3, "timestamp": 12, "type": "BACKUP_IMPORT", "clientId": "A", "description": "Backup restore" },
        { "serverSeq": 2, "timestamp": 11, "type": "SYNC_IMPORT", "clientId": "A", "description": "Full sync import" },
    ]);
    assert_eq!(points["restorePoints"], expected);
    let two = account.get("/api/sync/restore-points?limit=2").await.ok();
    assert_eq!(two["restorePoints"].as_array().map(Vec::as_slice), Some(&expected.as_array().expect("a list")[..2]));
    for limit in ["", "100x"] {
        let all = account.get(&format!("/api/sync/restore-points?limit={limit}")).await.ok();
        assert_eq!(all["restorePoints"], expected, "{limit}");
    }
    for limit in ["0", "101", "x", "-1"] {
        let reply = account.get(&format!("/api/sync/restore-points?limit={limit}")).await.expect(400);
        assert!(reply["error"].is_string());
    }
}

async fn the_current_state_is_rebuilt_by_replay(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let ops = [
        import("A").payload(json!({ "TASK": { "old": { "n": 1 } }, "kept": 1 })),
        op("A").kind("CRT").task("new").payload(json!({ "title": "a", "n": 1 })).clock(json!({ "A": 2 })),
        op("A").task("new").payload(json!({ "title": "b" })).clock(json!({ "A": 3 })),
        op("A").kind("DEL").task("old").payload(Value::Null).clock(json!({ "A": 4 })),
    ];
    assert_eq!(account.upload("A", &ops).await.outcomes(), ["#1", "#2", "#3", "#4"]);
    let rebuilt = account.get("/api/sync/snapshot").await.ok();
    assert_eq!(rebuilt["state"], json!({ "TASK": { "new": { "title": "b", "n": 1 } }, "kept": 1 }));
    assert_eq!((&rebuilt["serverSeq"], &rebuilt["schemaVersion"]), (&json!(4), &json!(4)));
}

/// Few bytes on the wire that a replay would make many of.
fn amplifiers() -> Vec<(&'static str, Vec<Op>)> {
    let text = "x".repeat(9_000);
    let batch = |entity: &Value| {
        let entities: serde_json::Map<_, _> = (0..40).map(|n| (format!("t{n}"), entity.clone())).collect();
        op("A").kind("BATCH").payload(json!({ "entities": entities }))
    };
    let array: Vec<_> = (0..400).collect();
    let each = |payload: &Value| (0..60).map(|n| op("A").task(&format!("t{n}")).payload(payload.clone())).collect();
    vec![
        ("strings", vec![batch(&json!(text))]),
        (
            "many members",
            (0..8)
                .map(|n| batch(&json!(array)).kind("BATCH").task(&format!("b{n}")))
                .chain(vec![batch(&json!(text))])
                .collect(),
        ),
        ("one after the other", each(&json!({ "text": "y".repeat(20_000) }))),
    ]
}

async fn a_state_that_would_grow_beyond_its_bounds_is_refused_for_good(on: Backend) {
    let server = Server::start_with(on, |config| config.limits.max_replay_state_bytes = 1 << 20).await;
    for (name, ops) in amplifiers() {
        let account = server.account().await;
        account.upload("A", &[import("A")]).await.ok();
        for (n, op) in (2..).zip(ops) {
            let outcomes = account.upload("A", &[op.clock(json!({ "A": n }))]).await.outcomes();
            assert_eq!(outcomes, [format!("#{n}")], "{name}");
        }
        for path in ["snapshot".to_owned(), format!("restore/{}", account.status().await["latestSeq"])] {
            let reply = account.get(&format!("/api/sync/{path}")).await.expect(400);
            assert_eq!(reply["errorCode"], "STATE_TOO_LARGE", "{name}");
            assert!(!reply["error"].to_string().contains("retry"), "trying again can't help");
        }
        // What can be rebuilt still is, and what can't is in the export as operations.
        account.get("/api/sync/restore/1").await.ok();
    }
}

async fn what_cannot_be_rebuilt_is_no_fault_of_the_server(on: Backend) {
    let server = Server::start(on).await;
    let pruned = server.account().await;
    pruned.upload("A", &[op("A"), op("A"), import("A"), op("A")]).await.ok();
    server.prune(&pruned, 2).await;
    let gone = pruned.get("/api/sync/restore/2").await.expect(400);
    assert_eq!(gone["errorCode"], "RESTORE_POINT_GONE");
    pruned.get("/api/sync/restore/3").await.ok();

    let repaired = server.account().await;
    repaired.snapshot(&snapshot("B").legacy_repair()).await.ok();
    for path in ["restore/1", "snapshot"] {
        let refused = repaired.get(&format!("/api/sync/{path}")).await.expect(400);
        assert_eq!(refused["errorCode"], "STATE_NOT_REPLAYABLE", "{path}");
    }
}

/// Asserts that a state can't be rebuilt, for this reason, and that the client is not told to try again.
async fn refused(account: &Account, path: &str, code: &str) {
    let reply = account.get(&format!("/api/sync/{path}")).await.expect(400);
    assert_eq!(reply["errorCode"], code, "{path}");
    let text = reply["error"].as_str().expect("a reason");
    assert!(!text.is_empty() && !text.contains("retry") && !text.contains(|c: char| c.is_ascii_digit()), "{text}");
}

async fn m19_what_was_replaced_or_wiped_is_gone_and_says_so(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[import("A"), op("A")]).await.ok();
    account.snapshot(&snapshot("A").clean_slate()).await.ok();
    for path in ["restore/1", "restore/2"] {
        refused(&account, path, "RESTORE_POINT_GONE").await;
    }
    account.get("/api/sync/restore/3").await.ok();
    account.delete("/api/sync/data").await.ok();
    for path in ["restore/1", "restore/3"] {
        refused(&account, path, "RESTORE_POINT_GONE").await;
    }
    assert!(!account.get("/api/sync/restore/4").await.expect(400).has("errorCode"), "there has never been one");
    assert_eq!(account.get("/api/sync/snapshot").await.ok()["serverSeq"], 0);
    // It goes on without a full state.
    account.upload("A", &[op("A")]).await.ok();
    refused(&account, "restore/3", "RESTORE_POINT_GONE").await;
    for path in ["restore/4", "snapshot"] {
        refused(&account, path, "STATE_NOT_REPLAYABLE").await;
    }
    account.upload("A", &[import("A")]).await.ok();
    account.get("/api/sync/snapshot").await.ok();
}

async fn m19_more_operations_than_a_replay_takes_are_refused_for_good(on: Backend) {
    let server = Server::start_with(on, |config| config.limits.max_replay_ops = 3).await;
    let account = server.account().await;
    account.upload("A", &[import("A"), op("A"), op("A")]).await.ok();
    account.get("/api/sync/snapshot").await.ok();
    account.upload("A", &[op("A")]).await.ok();
    for path in ["restore/4", "snapshot"] {
        refused(&account, path, "STATE_TOO_LARGE").await;
    }
    account.get("/api/sync/restore/3").await.ok();
}

/// On one thread, so that everything is logged where this test listens.
#[tokio::test]
async fn what_can_not_be_rebuilt_is_told_to_the_client_and_not_to_the_operator() {
    for backend in [Backend::Sqlite, Backend::Postgres] {
        let (log, _listening) = Log::of_thread();
        let server = Server::start_with(backend, |config| config.limits.max_replay_ops = 2).await;
        let account = server.account().await;
        account.upload("A", &[op("A"), op("A"), op("A")]).await.ok();
        for path in ["restore/3", "snapshot"] {
            refused(&account, path, "STATE_TOO_LARGE").await;
        }
        account.delete("/api/sync/data").await.ok();
        refused(&account, "restore/2", "RESTORE_POINT_GONE").await;
        account.upload("A", &[op("A")]).await.ok();
        for path in ["restore/4", "snapshot"] {
            refused(&account, path, "STATE_NOT_REPLAYABLE").await;
        }
        let log = log.text();
        assert!(log.contains("more than 2 operations"), "what the matter is can be found: {log}");
        // A machine under load may warn of other things.
        let alarms = |line: &&str| line.contains(" WARN ") || line.contains(" ERROR ");
        assert!(
            !log.lines().filter(alarms).any(|line| line.contains("request refused") || line.contains("operations"))
        );
    }
}

async fn m20_newer_schemas_are_neither_replayed_nor_kept(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.snapshot(&snapshot("A")).await.ok();
    let kept = server.state(&account).await.snapshot;
    assert!(kept.is_some(), "a state of a schema that the server knows");
    account.upload("A", &[op("A").schema(5)]).await.ok();
    account.snapshot(&snapshot("A").with("schemaVersion", 5)).await.ok();
    account.upload("A", &[op("A")]).await.ok();
    account.upload("A", &[import("A").schema(100)]).await.ok();
    account.get("/api/sync/restore/1").await.ok();
    for path in ["restore/2", "restore/3", "restore/4", "restore/5", "snapshot"] {
        refused(&account, path, "STATE_SCHEMA_TOO_NEW").await;
    }
    assert_eq!(server.state(&account).await.snapshot, kept, "none of them is kept");
    assert_eq!(account.op_at(5).await["schemaVersion"], 100, "devices get it as it is");

    // A newer server was here and kept a state of its schema; the log is all that this one understands.
    let account = server.account().await;
    let ops: Vec<_> =
        (0..100).map(|n| op("A").task("t").payload(json!({ "n": n })).clock(json!({ "A": n + 1 }))).collect();
    account.upload("A", &[import("A")]).await.ok();
    for at in 0..6 {
        let later = |op: &Op| op.clone().id(&format!("{at}-{}", op.get("id"))).task(&format!("t{at}"));
        account.upload("A", &ops.iter().map(later).collect::<Vec<_>>()).await.ok();
    }
    let rebuilt = account.get("/api/sync/snapshot").await.ok();
    assert!(server.state(&account).await.snapshot.is_some_and(|kept| kept.seq == 601), "it was worth keeping");
    let packed = crate::harness::gzip(br#"{"of":"a newer server"}"#);
    let mut kept = None;
    server
        .change_state_with(&account, |state| {
            let meta =
                SnapshotMeta { bytes: i64::try_from(packed.len()).expect("small"), ..state.snapshot.expect("kept") };
            state.snapshot = Some(meta);
            kept = Some(meta);
            SnapshotChange::Set(SnapshotBlob { data: packed, schema_version: 5 })
        })
        .await;
    assert_eq!(server.state(&account).await.snapshot, kept);
    assert_eq!(account.get("/api/sync/snapshot").await.ok()["state"], rebuilt["state"]);
}

async fn a_flood_of_restores_leaves_room_for_others(on: Backend) {
    let server = Server::start(on).await;
    let (flooder, neighbour) = (server.account().await, server.account().await);
    let ops: Vec<_> = (0..40).map(|n| op("A").task(&format!("t{n}")).payload(json!({ "n": n }))).collect();
    flooder.upload("A", &ops).await.ok();
    neighbour.upload("A", &[op("A").task("mine").payload(json!({ "n": 1 }))]).await.ok();
    let flood = futures_util::future::join_all((1..=40).map(|seq| {
        let flooder = &flooder;
        async move { flooder.get(&format!("/api/sync/restore/{seq}")).await.status }
    }));
    let (statuses, mine) = tokio::join!(flood, neighbour.get("/api/sync/snapshot"));
    assert_eq!(mine.ok()["state"], json!({ "TASK": { "mine": { "n": 1 } } }));
    assert!(statuses.iter().all(|status| matches!(status, 200 | 429 | 503)), "{statuses:?}");
    assert!(statuses.contains(&200), "the flooder gets its turns too");
}
