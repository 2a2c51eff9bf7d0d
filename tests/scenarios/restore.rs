//! Scenarios 62 and 63: restore points, and the state as of one of them.

use serde_json::{Value, json};

use crate::harness::{Backend, Server, ciphertext, import, op, snapshot};

on_both_databases! {
    s62_a_plain_import_is_restored_as_it_was,
    s62_encrypted_ops_stand_in_the_way,
    s62_bad_sequences_are_refused,
    s63_restore_points_are_causal_full_states_newest_first,
    the_current_state_is_rebuilt_by_replay,
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
