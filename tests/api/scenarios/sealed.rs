//! Old operations are packed into segments: no device must notice. Scenarios of every kind with everything packed in
//! between.

use serde_json::{Value, json};

use crate::harness::{Account, Backend, Server, import, op, snapshot};

on_both_databases! {
    packed_ops_are_downloaded_as_before,
    packed_ops_are_duplicates_for_ever,
    conflicts_with_packed_ops_are_found,
    a_state_is_restored_from_packed_ops,
    a_clean_slate_and_a_wipe_leave_packed_ops_to_the_archive,
    a_superseded_packed_prefix_goes_when_all_of_it_is_old,
    packed_ops_count_against_the_quota,
    the_sweep_packs_what_is_old,
}

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// What a device sees of a log, page by page, in several ways.
async fn seen(account: &Account) -> Vec<Value> {
    let mut seen = Vec::new();
    for query in ["sinceSeq=0&limit=3", "sinceSeq=0&limit=1000", "sinceSeq=4", "sinceSeq=0&limit=2&excludeClient=A"] {
        let mut next = query.to_owned();
        for _ in 0..20 {
            let page = account.get(&format!("/api/sync/ops?{next}")).await.ok();
            let last = page.seqs().last().copied();
            seen.push(page["ops"].clone());
            match last {
                Some(last) if page["hasMore"] == true => {
                    next = query.replace("sinceSeq=0", &format!("sinceSeq={last}"));
                }
                _ => break,
            }
        }
    }
    seen
}

async fn packed_ops_are_downloaded_as_before(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let odd = json!({ "title": "ä😀\u{2028}\"\\\u{1}", "n": [1.50, 1e300, -0.0, null, true], "": {} });
    let ops = [
        op("A").payload(odd).clock(json!({ "B": 3, "A": 1 })),
        op("B").entity_ids(&["x", "y\"z"]).kind("BATCH"),
        op("A").encrypted("dGVzdA==".repeat(9)),
        op("B").with("syncImportReason", "REPAIR"),
        op("A").payload(Value::Null),
    ];
    for (op, client) in ops.iter().zip(["A", "B", "A", "B", "A"]) {
        account.upload_one(client, op).await.ok();
    }
    // Whatever of these the rules let in: it must look the same afterwards.
    account.upload("C", &[op("C"), op("C").schema(1)]).await.ok();
    let before = seen(&account).await;
    let last = account.status().await["latestSeq"].as_i64().expect("a number");
    assert!(last >= 5, "{last}");
    let report = server.seal().await;
    assert_eq!((i64::try_from(report.operations), report.segments), (Ok(last), 1));
    assert_eq!(seen(&account).await, before);
    account.upload("C", &[op("C")]).await.ok();
    assert_eq!(account.download(last - 1).await.seqs(), [last, last + 1], "across the border");
    let server = server.restart().await;
    assert_eq!(server.known(&account).download(0).await.seqs(), (1..=last + 1).collect::<Vec<_>>());
}

async fn packed_ops_are_duplicates_for_ever(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    // The second op's id is the highest: that of the third lies below it, though it is new.
    let first = op("A").id("m1").task("t1").clock(json!({ "A": 1 }));
    account.upload("A", &[first.clone(), op("A").id("z")]).await.ok();
    assert_eq!(server.seal().await.operations, 2);
    assert_eq!(account.upload("A", &[first.clone(), op("A").id("n1")]).await.outcomes(), ["DUPLICATE_OPERATION", "#3"]);
    let dominating = first.clone().clock(json!({ "A": 2 }));
    assert_eq!(account.upload_one("A", &dominating).await.outcomes(), ["INVALID_OP_ID"]);
    let elsewhere = op("A").id("m1").task("t9").kind("CRT");
    assert_eq!(account.upload_one("A", &elsewhere).await.outcomes(), ["INVALID_OP_ID"]);
    assert_eq!(account.upload_one("A", &op("A").id("zz")).await.outcomes(), ["#4"]);
    let server = server.restart().await;
    let account = server.known(&account);
    assert_eq!(
        account.upload("A", &[first, op("A").id("z")]).await.outcomes(),
        ["DUPLICATE_OPERATION", "INVALID_OP_ID"]
    );
    assert_eq!(account.status().await["latestSeq"], 4);
}

async fn conflicts_with_packed_ops_are_found(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[op("A").task("t1").clock(json!({ "A": 5 }))]).await.ok();
    assert_eq!(server.seal().await.operations, 1);
    let server = server.restart().await;
    let account = server.known(&account);
    let concurrent = op("B").task("t1").clock(json!({ "B": 1 }));
    assert_eq!(account.upload("B", &[concurrent]).await.outcomes(), ["CONFLICT_CONCURRENT"]);
    let newer = op("B").task("t1").clock(json!({ "A": 5, "B": 1 }));
    assert_eq!(account.upload("B", &[newer]).await.outcomes(), ["#2"]);
}

async fn a_state_is_restored_from_packed_ops(on: Backend) {
    let server = Server::start(on).await;
    let (plain, packed) = (server.account().await, server.account().await);
    for account in [&plain, &packed] {
        account.upload("A", &[op("A"), import("A"), op("A").task("t1"), op("A").task("t2")]).await.ok();
    }
    // The full state stays a row.
    assert_eq!(server.seal_account(&packed).await.segments, 2);
    for account in [&plain, &packed] {
        account.upload("A", &[op("A").task("t3")]).await.ok();
    }
    for path in ["restore/2", "restore/3", "restore/5", "snapshot"] {
        let path = format!("/api/sync/{path}");
        assert_eq!(packed.get(&path).await.ok()["state"], plain.get(&path).await.ok()["state"], "{path}");
    }
    let points = packed.get("/api/sync/restore-points").await.ok();
    assert_eq!(points["restorePoints"][0]["serverSeq"], 2);
}

async fn a_clean_slate_and_a_wipe_leave_packed_ops_to_the_archive(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[op("A").id("m1"), op("A"), op("A")]).await.ok();
    assert_eq!(server.seal().await.operations, 3);
    account.snapshot(&snapshot("A").clean_slate()).await.ok();
    assert_eq!(account.download(0).await.seqs(), [4]);
    assert_eq!(account.upload("A", &[op("A").id("m1")]).await.outcomes(), ["#5"], "the id is free again");
    assert_eq!(server.seal().await.operations, 1);
    account.delete("/api/sync/data").await.ok();
    assert_eq!(account.download(0).await.seqs(), Vec::<i64>::new());
    assert_eq!(server.rows(&account).await, [1, 2, 3, 4, 5], "it could be brought back");
    assert_eq!(account.upload("A", &[op("A").id("m1")]).await.outcomes(), ["#6"]);
    server.clock.advance_ms(31 * DAY_MS);
    server.sweep().await;
    assert_eq!(server.rows(&account).await, [6]);
}

async fn a_superseded_packed_prefix_goes_when_all_of_it_is_old(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[op("A"), op("A"), import("A"), op("A")]).await.ok();
    server.seal().await;
    server.clock.advance_ms(44 * DAY_MS);
    server.sweep().await;
    assert_eq!(server.stored_seqs(&account).await, [1, 2, 3, 4]);
    server.clock.advance_ms(2 * DAY_MS);
    server.sweep().await;
    assert_eq!(server.rows(&account).await, [3, 4]);
    assert_eq!(account.download(1).await.seqs(), [3, 4]);
    assert_eq!(account.upload_from("C", 4, &[op("C")]).await.outcomes(), ["#5"]);
}

async fn packed_ops_count_against_the_quota(on: Backend) {
    let server = Server::start_with(on, |config| config.limits.default_quota_bytes = 3_000).await;
    let account = server.account().await;
    account.upload("A", &[op("A").sized(1_000), op("A").sized(1_000)]).await.ok();
    server.seal().await;
    let used = account.status().await["storageUsedBytes"].clone();
    account.upload("A", &[op("A").sized(1_500)]).await.expect(413);
    assert_eq!(account.status().await["storageUsedBytes"], used, "counted again, with the same result");
    // A full state makes the packed ones superfluous: they make room for it.
    account.upload("A", &[import("A")]).await.ok();
    assert_eq!(account.upload("A", &[op("A").sized(1_500)]).await.outcomes(), ["#4"]);
    assert_eq!(server.stored_seqs(&account).await, [3, 4]);
}

async fn the_sweep_packs_what_is_old(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let ops: Vec<_> = (0..70).map(|_| op("A")).collect();
    account.upload("A", &ops).await.ok();
    server.clock.advance_ms(DAY_MS / 2);
    server.sweep().await;
    assert_eq!(server.state(&account).await.sealed_seq, 0, "too young");
    server.clock.advance_ms(DAY_MS);
    account.upload("A", &[op("A")]).await.ok();
    server.sweep().await;
    let state = server.state(&account).await;
    assert_eq!((state.sealed_seq, state.heads_seq >= 70), (70, true));
    assert_eq!(account.download(0).await.seqs(), (1..=71).collect::<Vec<_>>());
    assert_eq!(account.upload("A", &[op("A")]).await.outcomes(), ["#72"]);
}
