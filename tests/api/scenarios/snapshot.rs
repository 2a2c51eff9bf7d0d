//! Scenarios 55 to 57, and point 7 of section 17: uploads of the whole state.

use serde_json::json;

use crate::harness::{Backend, Server, import, op, snapshot};

on_both_databases! {
    s55_a_repair_on_the_newest_base_keeps_what_is_there,
    s55_a_repair_on_an_older_base_is_stale_and_frees_nothing,
    s55_a_committed_repair_may_be_sent_again,
    s56_an_initial_snapshot_needs_an_account_without_one,
    s56_the_same_initial_snapshot_may_be_sent_again,
    s57_a_clean_slate_starts_over_and_keeps_the_sequence,
    s57_a_clean_slate_sent_again_deletes_nothing,
    s57_a_clean_slate_that_fails_deletes_nothing,
    m07_any_snapshot_may_be_sent_again_after_a_restart,
    malformed_snapshots_are_refused_whole,
}

async fn s55_a_repair_on_the_newest_base_keeps_what_is_there(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    assert_eq!(account.snapshot(&snapshot("A").repair(0)).await.ok()["serverSeq"], 1);
    account.upload("A", &[op("A"), op("A")]).await.ok();
    let reply = account.snapshot(&snapshot("A").repair(3)).await.ok();
    assert_eq!((&reply["accepted"], &reply["serverSeq"]), (&json!(true), &json!(4)));
    assert_eq!(server.stored_seqs(&account).await, [1, 2, 3, 4]);
    // It does not move the fence.
    assert_eq!(account.upload_from("B", 0, &[op("B")]).await.outcomes(), ["#5"]);
}

async fn s55_a_repair_on_an_older_base_is_stale_and_frees_nothing(on: Backend) {
    let server = Server::start_with(on, |config| config.limits.default_quota_bytes = 1_000).await;
    let account = server.account().await;
    account.upload("A", &[op("A").sized(300), import("A").sized(300), import("A").sized(300)]).await.ok();
    for stale in [snapshot("A").repair(2), snapshot("A").repair(4), snapshot("A").with("snapshotOpType", "REPAIR")] {
        let stale = stale.with("state", json!({ "task": "x".repeat(500) }));
        let reply = account.snapshot(&stale).await.ok();
        assert_eq!((&reply["accepted"], &reply["errorCode"]), (&json!(false), &json!("REPAIR_STALE")));
    }
    assert_eq!(server.stored_seqs(&account).await, [1, 2, 3]);
}

async fn s55_a_committed_repair_may_be_sent_again(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[op("A")]).await.ok();
    let repair = snapshot("A").repair(1);
    assert_eq!(account.snapshot(&repair).await.ok()["serverSeq"], 2);
    account.upload("A", &[op("A")]).await.ok();
    let reply = account.snapshot(&repair).await.ok();
    assert_eq!((&reply["accepted"], &reply["serverSeq"]), (&json!(true), &json!(2)));
    let other = repair.with("state", json!({ "task": {} }));
    assert_eq!(account.snapshot(&other).await.ok()["errorCode"], "INVALID_OP_ID");
    assert_eq!(account.status().await["latestSeq"], 3);
}

async fn s56_an_initial_snapshot_needs_an_account_without_one(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let first = snapshot("A").reason("initial");
    assert_eq!(account.snapshot(&first).await.ok()["serverSeq"], 1);
    let reply = account.snapshot(&snapshot("B").reason("initial")).await.expect(409);
    assert_eq!(reply["error"], "SYNC_IMPORT_EXISTS");
    assert_eq!(reply["errorCode"], "SYNC_IMPORT_EXISTS");
    assert_eq!(reply["existingImportId"], first.op_id());
    assert!(reply["message"].is_string());
    let mut seq = 1;
    for reason in ["recovery", "migration"] {
        seq += 1;
        assert_eq!(account.snapshot(&snapshot("B").reason(reason)).await.ok()["serverSeq"], seq);
    }
    let reply = account.snapshot(&snapshot("B").reason("initial").clean_slate()).await.ok();
    assert_eq!(reply["serverSeq"], 4);
    // A legacy REPAIR is a full state, too.
    let account = server.account().await;
    account.snapshot(&snapshot("A").legacy_repair()).await.ok();
    account.snapshot(&snapshot("B").reason("initial")).await.expect(409);
}

async fn s56_the_same_initial_snapshot_may_be_sent_again(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let first = snapshot("A").reason("initial");
    account.snapshot(&first).await.ok();
    account.upload("A", &[op("A")]).await.ok();
    server.clock.advance_ms(10_000);
    for again in [first.clone(), first.clone().with("state", json!({ "other": 1 }))] {
        let reply = account.snapshot(&again).await.ok();
        assert_eq!((&reply["accepted"], &reply["serverSeq"]), (&json!(true), &json!(1)));
    }
    assert_eq!(account.status().await["latestSeq"], 2);
}

async fn s57_a_clean_slate_starts_over_and_keeps_the_sequence(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    for client in ["A", "B", "A", "B", "A", "B", "A"] {
        account.upload(client, &[op(client).task("t1").clock(json!({ "A": 9, client: 9 }))]).await;
        account.upload(client, &[op(client)]).await.ok();
    }
    let before = account.status().await["latestSeq"].as_i64().expect("a number");
    let reply = account.snapshot(&snapshot("C").clean_slate()).await.ok();
    assert_eq!((&reply["accepted"], &reply["serverSeq"]), (&json!(true), &json!(before + 1)));

    assert_eq!(account.devices().await, ["C"]);
    let page = account.download(0).await;
    assert_eq!((page.seqs(), &page["latestSeq"]), (vec![before + 1], &json!(before + 1)));
    assert_eq!(page["ops"][0]["op"]["actionType"], "[SP_ALL] Load(import) all data");
    assert_eq!(page["snapshotVectorClock"], json!({ "C": 1 }));
    assert_eq!(account.get("/api/sync/restore-points").await.ok()["restorePoints"].as_array().map(Vec::len), Some(1));
    // The fence stands at the new state; what the old data set knew of entities is gone.
    assert_eq!(account.upload_from("A", before, &[op("A")]).await.outcomes(), ["INTERNAL_ERROR"]);
    let reply = account.upload_from("A", before + 1, &[op("A").task("t1").clock(json!({ "A": 1 }))]).await;
    assert_eq!(reply.outcomes(), [format!("#{}", before + 2)]);
    // What was replaced is kept for a while.
    let archived = server.store.archived(account.id).await.expect("the archive");
    assert_eq!(archived.iter().map(|range| (range.from_seq, range.to_seq)).collect::<Vec<_>>(), [(1, before)]);
}

async fn s57_a_clean_slate_sent_again_deletes_nothing(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[op("A"), op("A")]).await.ok();
    let slate = snapshot("A").clean_slate();
    assert_eq!(account.snapshot(&slate).await.ok()["serverSeq"], 3);
    account.upload_from("B", 3, &[op("B")]).await.ok();
    server.clock.advance_ms(1_000);
    assert_eq!(account.snapshot(&slate).await.ok()["serverSeq"], 3);
    let other = slate.with("state", json!({ "other": 1 }));
    let reply = account.snapshot(&other).await.ok();
    assert_eq!((&reply["accepted"], &reply["errorCode"]), (&json!(false), &json!("INVALID_OP_ID")));
    assert_eq!(account.download(2).await.seqs(), [3, 4]);
}

async fn s57_a_clean_slate_that_fails_deletes_nothing(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[op("A").id("018f0000-0000-7000-8000-00000000aaaa"), op("A")]).await.ok();
    let invalid = snapshot("A").clean_slate().with("state", crate::harness::nested(51));
    assert_eq!(account.snapshot(&invalid).await.ok()["errorCode"], "INVALID_PAYLOAD");
    let too_long = (0..51).map(|n| (format!("c{n}"), json!(1))).collect::<serde_json::Map<_, _>>();
    let invalid = snapshot("A").clean_slate().clock(too_long.into());
    assert_eq!(account.snapshot(&invalid).await.ok()["errorCode"], "INVALID_VECTOR_CLOCK");
    let taken = snapshot("A").clean_slate().with("opId", "018f0000-0000-7000-8000-00000000aaaa");
    assert_eq!(account.snapshot(&taken).await.ok()["errorCode"], "INVALID_OP_ID");
    let without_id = snapshot("A").clean_slate().without("opId");
    assert_eq!(account.snapshot(&without_id).await.expect(400)["error"], "Validation failed");
    assert_eq!(account.download(0).await.seqs(), [1, 2]);
}

async fn m07_any_snapshot_may_be_sent_again_after_a_restart(on: Backend) {
    let mut server = Server::start(on).await;
    let mut account = server.account().await;
    let sent = ["recovery", "migration"].map(|reason| snapshot("A").reason(reason).with("requestId", reason));
    for (n, state) in sent.iter().enumerate() {
        assert_eq!(account.snapshot(state).await.ok()["serverSeq"], n + 1);
    }
    server.clock.advance_ms(60_000);
    server = server.restart().await;
    account = server.known(&account);
    for (n, state) in sent.iter().enumerate() {
        let reply = account.snapshot(state).await.ok();
        assert_eq!((&reply["accepted"], &reply["serverSeq"]), (&json!(true), &json!(n + 1)));
        let other = state.clone().with("state", json!({ "other": 1 })).without("requestId");
        assert_eq!(account.snapshot(&other).await.ok()["errorCode"], "INVALID_OP_ID");
    }
    assert_eq!(account.status().await["latestSeq"], 2);
    assert_eq!(account.upload("A", &[import("A")]).await.outcomes(), ["#3"]);
}

async fn malformed_snapshots_are_refused_whole(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    for fault in [
        snapshot("A").reason("nope"),
        snapshot("bad id!"),
        snapshot("A").clock(json!({ "A": "1" })),
        snapshot("A").with("schemaVersion", 101),
        snapshot("A").with("opId", "no-uuid"),
        snapshot("A").with("snapshotOpType", "UPD"),
        snapshot("A").with("syncImportReason", "NOPE"),
        snapshot("A").with("repairBaseServerSeq", -1),
        snapshot("A").with("requestId", json!(null)),
    ] {
        let reply = account.snapshot(&fault).await;
        assert_eq!((reply.status, &reply["error"]), (400, &json!("Validation failed")), "{}", fault.json());
    }
    assert_eq!(account.status().await["latestSeq"], 0);
    let minimal = snapshot("A").without("schemaVersion").without("opId");
    assert_eq!(account.snapshot(&minimal).await.ok()["serverSeq"], 1);
    assert_eq!(account.op_at(1).await["schemaVersion"], 1);
}
