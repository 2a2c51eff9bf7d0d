//! What bringing a data set back does to the log, the archive, the counters and the sockets.

use serde_json::{Value, json};
use supersync::store::ArchiveReason;

use super::{archives, bring_back, contents_since, essence, id_of, newest_id};
use crate::harness::{Account, Backend, Server, ciphertext, import, op, snapshot};

on_both_databases! {
    the_list_says_what_is_there,
    a_change_of_the_password_is_told,
    the_sequence_goes_on_and_the_replaced_set_is_archived,
    the_set_is_the_same_operation_for_operation,
    restore_points_come_back_too,
    sockets_are_told,
    a_large_set_comes_back_in_parts,
    it_survives_a_restart_and_the_sweep,
    what_was_brought_back_is_charged,
    conflicts_are_found_in_what_was_brought_back,
    a_set_that_is_larger_than_the_quota_comes_back_from_its_full_state_on,
}

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

async fn the_list_says_what_is_there(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    assert_eq!(archives(&account).await, Vec::<Value>::new());
    account.upload("A", &[import("A"), op("A"), op("A")]).await.ok();
    let used = account.status().await["storageUsedBytes"].clone();
    account.snapshot(&snapshot("A").clean_slate().with("syncImportReason", "FORCE_UPLOAD")).await.ok();
    let now = server.clock.now_ms();
    let expected = json!([{
        "id": "0-1", "reason": "clean_slate", "archivedAt": now, "expiresAt": now + 30 * DAY_MS, "operations": 3,
        "bytes": used, "fromSeq": 1, "toSeq": 3, "isEncrypted": false, "formerPassword": "no", "restorable": true,
        "replacedBecause": "FORCE_UPLOAD",
    }]);
    assert_eq!(Value::from(archives(&account).await), expected);
    account.delete("/api/sync/data").await.ok();
    let all = archives(&account).await;
    let seen: Vec<_> = all.iter().map(|archive| (&archive["id"], &archive["reason"])).collect();
    assert_eq!(seen, [(&json!("1-4"), &json!("wipe")), (&json!("0-1"), &json!("clean_slate"))]);
    let stranger = server.account().await;
    assert_eq!(archives(&stranger).await, Vec::<Value>::new());
}

async fn a_change_of_the_password_is_told(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let encrypted = |reason: &str| snapshot("A").encrypted(40).clean_slate().with("syncImportReason", reason);
    account.snapshot(&encrypted("FORCE_UPLOAD")).await.ok();
    account.snapshot(&encrypted("PASSWORD_CHANGED")).await.ok();
    account.snapshot(&encrypted("FORCE_UPLOAD")).await.ok();
    let words = |all: Vec<Value>| -> Vec<Value> { all.iter().map(|a| a["formerPassword"].clone()).collect() };
    assert_eq!(words(archives(&account).await), ["no", "yes"]);
    account.delete("/api/sync/data").await.ok();
    assert_eq!(words(archives(&account).await), ["no", "no", "yes"], "nothing has come since");
    account.snapshot(&encrypted("SERVER_MIGRATION").reason("initial")).await.ok();
    assert_eq!(words(archives(&account).await), ["maybe", "maybe", "yes"]);
}

async fn the_sequence_goes_on_and_the_replaced_set_is_archived(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[import("A"), op("A")]).await.ok();
    account.snapshot(&snapshot("A").clean_slate()).await.ok();
    account.upload("A", &[op("A")]).await.ok();
    let before = server.state(&account).await;
    let devices = account.devices().await;
    let done = bring_back(&account, &newest_id(&account).await).await.ok();
    let after = server.state(&account).await;
    assert!(after.base_seq >= before.last_seq && after.generation > before.generation);
    assert_eq!(after.last_seq - after.base_seq, 2, "no hole");
    assert_eq!(done["latestSeq"], after.last_seq);
    assert_eq!(account.status().await["latestSeq"], after.last_seq);
    assert_eq!(after.replacement_seq, Some(after.base_seq + 1), "the fence stands at what devices start from");
    assert_eq!(account.devices().await, devices);
    let all = archives(&account).await;
    assert_eq!(all.len(), 1, "what was brought back is not in the archive any more");
    assert_eq!((&all[0]["reason"], &all[0]["fromSeq"], &all[0]["toSeq"]), (&json!("bring_back"), &json!(3), &json!(4)));
    assert_eq!(account.upload("A", &[op("A")]).await.outcomes(), [format!("#{}", after.last_seq + 1)]);
}

async fn the_set_is_the_same_operation_for_operation(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let odd = json!({ "title": "ä😀\u{2028}\"\\", "n": [1.50, 1e300, null, true], "": {} });
    account.upload("A", &[import("A").payload(odd.clone()), op("A").payload(odd)]).await.ok();
    let ops = [op("B").entity_ids(&["x", "y"]).kind("BATCH"), op("B").encrypted(ciphertext(50))];
    account.upload("B", &ops).await.ok();
    let before = contents_since(&account, 0).await;
    account.snapshot(&snapshot("A").clean_slate()).await.ok();
    bring_back(&account, &newest_id(&account).await).await.ok();
    let after = contents_since(&account, 0).await;
    assert_eq!(essence(&after), essence(&before));
    for (new, old) in after.iter().zip(&before) {
        for member in ["timestamp", "schemaVersion", "entityIds", "entityType", "opType"] {
            assert_eq!(new[member], old[member], "{member}");
        }
        assert_ne!(new["id"], old["id"], "devices would skip what they have seen");
    }
    let authors: Vec<_> = after.iter().map(|op| &op["clientId"]).collect();
    assert!(authors.windows(2).all(|pair| pair[0] == pair[1]), "{authors:?}");
}

async fn restore_points_come_back_too(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let state = |n: i64| json!({ "task": { "n": n } });
    account.upload("A", &[import("A").payload(state(1)), op("A"), import("A").payload(state(2)), op("A")]).await.ok();
    account.snapshot(&snapshot("A").clean_slate()).await.ok();
    bring_back(&account, &newest_id(&account).await).await.ok();
    let points = account.get("/api/sync/restore-points").await.ok();
    let seqs: Vec<i64> = points["restorePoints"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|p| p["serverSeq"].as_i64().expect("a number"))
        .collect();
    let base = server.state(&account).await.base_seq;
    assert_eq!(seqs, [base + 3, base + 1]);
    for (seq, n) in [(base + 1, 1), (base + 3, 2)] {
        assert_eq!(account.get(&format!("/api/sync/restore/{seq}")).await.ok()["state"], state(n));
    }
    assert_eq!(account.download(0).await.seqs(), [base + 3, base + 4], "a newcomer starts from the newest");
}

async fn sockets_are_told(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[import("A")]).await.ok();
    account.snapshot(&snapshot("A").clean_slate()).await.ok();
    let mut sockets = [account.socket("A").await, account.socket("B").await];
    let done = bring_back(&account, &newest_id(&account).await).await.ok();
    for socket in &mut sockets {
        let notice = socket.message().await;
        assert_eq!((&notice["type"], &notice["latestSeq"]), (&json!("new_ops"), &done["latestSeq"]));
    }
}

async fn a_large_set_comes_back_in_parts(on: Backend) {
    let server = Server::start_with(on, |config| config.limits.default_quota_bytes = 1 << 30).await;
    let account = server.account().await;
    account.upload("A", &[import("A")]).await.ok();
    // More than two parts, one with a large operation in the middle, half of it packed.
    for n in 0..46 {
        let mut ops: Vec<_> = (0..100).map(|at| op("A").task(&format!("t{}", at % 70))).collect();
        if n == 23 {
            ops[50] = op("A").sized(1_500_000);
        }
        account.upload("A", &ops).await.ok();
        if n == 20 {
            server.seal().await;
        }
    }
    let before = contents_since(&account, 0).await;
    account.snapshot(&snapshot("A").clean_slate()).await.ok();
    let done = bring_back(&account, &newest_id(&account).await).await.ok();
    assert_eq!(done["operations"], 4601);
    let after = contents_since(&account, 0).await;
    assert_eq!(essence(&after), essence(&before));
    let ids: Vec<_> = after.iter().map(|op| op["id"].as_str().expect("an id")).collect();
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "ids ascend");
    let first = account.get("/api/sync/ops?sinceSeq=0").await.ok();
    assert_eq!(first.seqs().len(), 500);
    // And it grows, is packed on, and is restored like any other.
    account.upload("C", &(0..70).map(|_| op("C")).collect::<Vec<_>>()).await.ok();
    assert_eq!(server.seal().await.operations, 70);
    assert_eq!(contents_since(&account, 0).await[..4601], after);
    assert_eq!(contents_since(&account, 0).await.len(), 4671);
    let id = after[4000]["id"].as_str().expect("an id");
    assert_eq!(
        account.upload("C", &[op("C").id(id)]).await.outcomes(),
        ["INVALID_OP_ID"],
        "it is stored under that id"
    );
}

async fn it_survives_a_restart_and_the_sweep(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[import("A"), op("A").task("t1")]).await.ok();
    account.snapshot(&snapshot("A").clean_slate()).await.ok();
    bring_back(&account, &newest_id(&account).await).await.ok();
    let (state, before) = (server.state(&account).await, contents_since(&account, 0).await);
    server.sweep().await;
    assert_eq!(server.rows(&account).await, [3, state.base_seq + 1, state.base_seq + 2], "what was moved is gone");
    let server = server.restart().await;
    let account = server.known(&account);
    assert_eq!(contents_since(&account, 0).await, before);
    account.upload("A", &[op("A")]).await.ok();
    server.clock.advance_ms(31 * DAY_MS);
    server.sweep().await;
    assert_eq!(contents_since(&account, 0).await.len(), 3);
    assert_eq!(archives(&account).await, Vec::<Value>::new());
    let left: Vec<ArchiveReason> =
        server.store.archived(account.id).await.expect("the archive").iter().map(|range| range.reason).collect();
    assert_eq!(left, []);
}

async fn what_was_brought_back_is_charged(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[import("A"), op("A").sized(10_000)]).await.ok();
    account.snapshot(&snapshot("A").clean_slate()).await.ok();
    bring_back(&account, &newest_id(&account).await).await.ok();
    let state = server.state(&account).await;
    let (counted, operations) =
        server.store.measure(account.id, state.pruned_seq, state.last_seq).await.expect("the store works");
    assert_eq!((state.storage_used_bytes, operations), (counted, 2));
    assert!(counted > 10_000);
}

async fn conflicts_are_found_in_what_was_brought_back(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[import("A"), op("A").task("t1").clock(json!({ "A": 2 }))]).await.ok();
    account.snapshot(&snapshot("A").clean_slate()).await.ok();
    bring_back(&account, &newest_id(&account).await).await.ok();
    let mut counter = 3;
    let mut one_round = async |account: &Account| {
        let stale = op("A").task("t1").clock(json!({ "A": counter }));
        assert_eq!(account.upload("A", &[stale]).await.outcomes(), ["CONFLICT_CONCURRENT"]);
        let newest = contents_since(account, 0).await.pop().expect("there are some");
        let mut clock = newest["vectorClock"].clone();
        clock["A"] = json!(counter);
        assert!(account.upload("A", &[op("A").task("t1").clock(clock)]).await.outcomes()[0].starts_with('#'));
        counter += 1;
    };
    one_round(&account).await;
    // And after the log has been read from the database.
    let server = server.restart().await;
    one_round(&server.known(&account)).await;
}

async fn a_set_that_is_larger_than_the_quota_comes_back_from_its_full_state_on(on: Backend) {
    let server = Server::start_with(on, |config| config.limits.default_quota_bytes = 10_000).await;
    let account = server.account().await;
    account.upload("A", &[op("A").sized(6_000), import("A"), op("A").sized(2_000)]).await.ok();
    account.snapshot(&snapshot("A").clean_slate()).await.ok();
    let id = id_of(&archives(&account).await[0]);
    server.store.set_quota(account.id, 4_000).await.expect("the store works");
    assert_eq!(bring_back(&account, &id).await.ok()["operations"], 2);
    assert_eq!(contents_since(&account, 0).await.len(), 2);
}
