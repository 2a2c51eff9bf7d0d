//! Scenarios 41 to 50: what devices get, with an upload's answer and by asking.

use serde_json::{Value, json};

use crate::harness::{Account, Backend, Server, import, op, snapshot};

on_both_databases! {
    s41_what_others_wrote_comes_along,
    s42_at_most_500_ops_come_along,
    s43_pages_follow_each_other,
    s44_bad_queries_are_refused,
    s45_a_full_state_is_where_newcomers_start,
    s46_a_causal_repair_fast_forwards_a_legacy_one_does_not,
    s47_a_cursor_beyond_the_log_is_a_gap,
    s48_a_pruned_prefix_is_a_gap_unless_a_full_state_covers_it,
    s49_leaving_out_own_ops_is_no_gap,
    nothing_follows_the_last_operation_of_a_log_whose_counter_is_ahead,
    s50_metadata_comes_back_whole_and_nothing_is_null,
    m10_pages_are_bounded_in_bytes,
}

async fn upload_each(account: &Account, clients: &[&str]) {
    for client in clients {
        account.upload(client, &[op(client)]).await.ok();
    }
}

async fn s41_what_others_wrote_comes_along(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[op("A"), op("A"), op("A")]).await.ok();
    let reply = account.upload_from("B", 0, &[op("B")]).await;
    assert_eq!(reply.outcomes(), ["#4"]);
    assert_eq!(reply.new_seqs(), [1, 2, 3]);
    assert_eq!(reply["latestSeq"], 4);
    assert!(!reply.has("hasMorePiggyback"));
    // Also when nothing was accepted.
    let reply = account.upload_from("B", 1, &[op("B").kind("NOPE")]).await;
    assert_eq!((reply.new_seqs(), &reply["latestSeq"]), (vec![2, 3], &json!(4)));
}

async fn s42_at_most_500_ops_come_along(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    for size in [100, 100, 100, 100, 100, 1] {
        let ops: Vec<_> = (0..size).map(|_| op("A")).collect();
        account.upload("A", &ops).await.ok();
    }
    let reply = account.upload_from("B", 0, &[op("B")]).await;
    assert_eq!(reply.new_seqs(), (1..=500).collect::<Vec<_>>());
    assert_eq!((&reply["hasMorePiggyback"], &reply["latestSeq"]), (&json!(true), &json!(502)));
    let reply = account.upload("B", &[op("B")]).await.ok();
    assert!(!reply.has("newOps") && !reply.has("hasMorePiggyback"));
    assert_eq!(account.get("/api/sync/ops?sinceSeq=0").await.ok().seqs().len(), 500);
}

async fn s43_pages_follow_each_other(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[op("A"), op("A"), op("A"), op("A"), op("A")]).await.ok();
    let mut pages = Vec::new();
    for since in [0, 2, 4, 5] {
        let page = account.get(&format!("/api/sync/ops?sinceSeq={since}&limit=2")).await.ok();
        assert_eq!(page["latestSeq"], 5);
        assert!(!page.has("gapDetected") && !page.has("snapshotVectorClock"));
        pages.push((page.seqs(), page["hasMore"] == true));
    }
    assert_eq!(pages, [(vec![1, 2], true), (vec![3, 4], true), (vec![5], false), (vec![], false)]);
}

async fn s44_bad_queries_are_refused(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    for query in [
        "",
        "sinceSeq=1.5",
        "sinceSeq=-1",
        "sinceSeq=abc",
        "sinceSeq=9007199254740992",
        "sinceSeq=1&sinceSeq=2",
        "sinceSeq=0&limit=0",
        "sinceSeq=0&limit=1001",
        "sinceSeq=0&limit=x",
        "sinceSeq=0&excludeClient=bad%20id",
        "sinceSeq=0&excludeClient=",
    ] {
        let reply = account.get(&format!("/api/sync/ops?{query}")).await;
        assert_eq!((reply.status, &reply["error"]), (400, &json!("Validation failed")), "{query}");
    }
    account.get("/api/sync/ops?sinceSeq=&limit=1000&unknown=1").await.ok();
    account.get("/api/sync/ops?sinceSeq=9007199254740991").await.ok();
}

async fn s45_a_full_state_is_where_newcomers_start(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    for n in 1..=4 {
        account.upload("A", &[op("A").clock(json!({ "A": n, "old": 9 - n }))]).await.ok();
    }
    account.upload("B", &[op("B").clock(json!({ "B": 7 }))]).await.ok();
    account.upload("A", &[import("A").clock(json!({ "A": 5 }))]).await.ok();
    account.upload("C", &[op("C").clock(json!({ "C": 99 }))]).await.ok();

    for since in [0, 3, 5] {
        let page = account.download(since).await;
        assert_eq!(page.seqs(), [6, 7], "since {since}");
        assert_eq!(page["snapshotVectorClock"], json!({ "A": 5, "B": 7, "old": 8 }));
        assert!(!page.has("gapDetected"));
        assert_eq!(page["latestSnapshotSeq"], 6);
    }
    let page = account.download(6).await;
    assert_eq!(page.seqs(), [7]);
    assert!(!page.has("snapshotVectorClock") && !page.has("gapDetected"));
    // What comes along with an upload starts there as well, without a clock.
    let reply = account.upload("B", &[op("B")]).await.ok();
    assert_eq!(reply["latestSeq"], 8);
    let page = account.get("/api/sync/ops?sinceSeq=0&excludeClient=A").await.ok();
    assert_eq!(page.seqs(), [7, 8]);
    assert_eq!(page["snapshotVectorClock"]["A"], 5);
}

async fn s46_a_causal_repair_fast_forwards_a_legacy_one_does_not(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    upload_each(&account, &["A", "A"]).await;
    let legacy = account.snapshot(&snapshot("A").legacy_repair()).await.ok();
    assert_eq!((&legacy["accepted"], &legacy["serverSeq"]), (&json!(true), &json!(3)));
    let page = account.download(0).await;
    assert_eq!(page.seqs(), [1, 2, 3]);
    assert!(!page.has("latestSnapshotSeq") && !page.has("snapshotVectorClock"));
    assert!(page["ops"][2]["op"].get("repairBaseServerSeq").is_none());

    let causal = account.snapshot(&snapshot("A").repair(3)).await.ok();
    assert_eq!(causal["serverSeq"], 4);
    let page = account.download(0).await;
    assert_eq!((page.seqs(), &page["ops"][0]["op"]["repairBaseServerSeq"]), (vec![4], &json!(3)));
    assert!(page.has("snapshotVectorClock"));
}

async fn s47_a_cursor_beyond_the_log_is_a_gap(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let page = account.download(3).await;
    assert_eq!((&page["gapDetected"], &page["latestSeq"], &page["hasMore"]), (&json!(true), &json!(0), &json!(false)));
    let page = account.download(0).await;
    assert!(!page.has("gapDetected") && page.seqs().is_empty());
    upload_each(&account, &["A", "A"]).await;
    assert_eq!(account.download(3).await["gapDetected"], true);
    assert!(!account.download(2).await.has("gapDetected"));
    assert!(!account.download(0).await.has("gapDetected"));
}

async fn s48_a_pruned_prefix_is_a_gap_unless_a_full_state_covers_it(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    upload_each(&account, &["A", "B", "A", "B"]).await;
    server.prune(&account, 2).await;
    for query in ["sinceSeq=1&excludeClient=A", "sinceSeq=1"] {
        let page = account.get(&format!("/api/sync/ops?{query}")).await.ok();
        assert_eq!(page["gapDetected"], true, "{query}");
    }
    assert!(!account.download(2).await.has("gapDetected"));
    assert!(!account.download(0).await.has("gapDetected"), "a newcomer has no gap");
    account.upload("B", &[import("B")]).await.ok();
    let page = account.get("/api/sync/ops?sinceSeq=1&excludeClient=A").await.ok();
    assert_eq!(page.seqs(), [5]);
    assert!(!page.has("gapDetected"));
}

async fn s49_leaving_out_own_ops_is_no_gap(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    upload_each(&account, &["B", "A", "A", "B"]).await;
    let page = account.get("/api/sync/ops?sinceSeq=1&excludeClient=A").await.ok();
    assert_eq!(page.seqs(), [4]);
    assert!(!page.has("gapDetected"));
    let page = account.get("/api/sync/ops?sinceSeq=0&excludeClient=B&limit=1").await.ok();
    assert_eq!((page.seqs(), &page["hasMore"]), (vec![2], &json!(true)));
}

async fn nothing_follows_the_last_operation_of_a_log_whose_counter_is_ahead(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    for sealed in [false, true] {
        for _ in 0..5 {
            account.upload("A", &(0..100).map(|_| op("A")).collect::<Vec<_>>()).await.ok();
        }
        if sealed {
            server.seal().await;
        }
        let end = server.state(&account).await.last_seq;
        let start = end - 500;
        // As after taking over from a server that gave numbers to operations which it then refused.
        server
            .change_state(&account, |state| {
                state.last_seq += 30_000;
                state.sparse_up_to = state.last_seq;
            })
            .await;
        for exclude in ["", "&excludeClient=B"] {
            let page = |since: i64, limit: i64| {
                let path = format!("/api/sync/ops?sinceSeq={since}&limit={limit}{exclude}");
                let account = &account;
                async move { account.get(&path).await.ok() }
            };
            for (since, limit, has_more) in [
                (start, 500, false),
                (start, 499, true),
                (start + 499, 1, false),
                (start + 498, 1, true),
                (end, 10, false),
            ] {
                let page = page(since, limit).await;
                assert_eq!(page["hasMore"], has_more, "{sealed} {exclude} {limit} after {since}");
                assert_eq!(page["latestSeq"], end + 30_000);
                assert_eq!(page.seqs().len(), usize::try_from(limit.min(end - since)).expect("few"));
            }
        }
        let refused = account.upload_from("B", start, &[op("B").kind("NOPE")]).await.ok();
        assert_eq!((refused.new_seqs().len(), refused.has("hasMorePiggyback")), (500, false));
        let accepted = account.upload_from("B", start, &[op("B")]).await.ok();
        assert_eq!(
            (accepted.new_seqs().len(), accepted["results"][0]["serverSeq"].as_i64()),
            (500, Some(end + 30_001))
        );
    }
}

async fn s50_metadata_comes_back_whole_and_nothing_is_null(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let ids: Vec<String> = (0..1000).map(|n| format!("t{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let ops = [
        op("A").task("t0").entity_ids(&ids),
        op("A").task("s1").entity_ids(&["s1"]),
        op("A").task("s2").entity_ids(&[]),
        op("A").task("s3").entity_ids(&["s4", "s4"]),
        import("A").with("syncImportReason", "FILE_IMPORT"),
    ];
    assert_eq!(account.upload("A", &ops).await.outcomes(), ["#1", "#2", "#3", "#4", "#5"]);
    let page = account.upload_from("B", 0, &[op("B")]).await.ok();
    assert_eq!(page.new_seqs(), [5]);
    assert_no_null(&page.body);
    assert_eq!(page["newOps"][0]["op"]["syncImportReason"], "FILE_IMPORT");
    assert!(page["newOps"][0]["op"].get("entityId").is_none());

    let account = server.account().await;
    account.upload("A", &ops[..4]).await.ok();
    let page = account.download(0).await;
    assert_no_null(&page.body);
    let ids_of = |n: usize| page["ops"][n]["op"].get("entityIds").cloned();
    assert_eq!(ids_of(0), Some(json!(ids)));
    assert_eq!((ids_of(1), ids_of(2)), (None, None));
    assert_eq!(ids_of(3), Some(json!(["s4"])));
    let received: Vec<_> = page["ops"].as_array().expect("ops").iter().map(|op| op["receivedAt"].clone()).collect();
    assert_eq!(received, vec![json!(server.clock.now_ms()); 4]);
}

fn assert_no_null(value: &Value) {
    match value {
        Value::Null => panic!("a null"),
        Value::Array(items) => items.iter().for_each(assert_no_null),
        Value::Object(members) => members.values().for_each(assert_no_null),
        _ => {}
    }
}

async fn m10_pages_are_bounded_in_bytes(on: Backend) {
    let server = Server::start_with(on, |config| config.limits.page_bytes = 10_000).await;
    let account = server.account().await;
    let mut ops: Vec<_> = (0..9).map(|_| op("A").sized(3_000)).collect();
    ops.push(op("A").sized(30_000));
    account.upload("A", &ops).await.ok();
    let (mut cursor, mut pages) = (0, 0);
    loop {
        let page = account.get(&format!("/api/sync/ops?sinceSeq={cursor}")).await.ok();
        let seqs = page.seqs();
        assert_eq!(seqs, (cursor + 1..=cursor + i64::try_from(seqs.len()).expect("small")).collect::<Vec<_>>());
        assert!(page.text.len() < 16_000 || seqs == [10], "{} bytes", page.text.len());
        cursor = *seqs.last().expect("a page that says there is more is not empty");
        pages += 1;
        if page["hasMore"] == false {
            break;
        }
    }
    assert!(cursor == 10 && pages >= 4, "{pages} pages to {cursor}");
    let reply = account.upload_from("B", 0, &[op("B")]).await.ok();
    let seqs = reply.new_seqs();
    assert!(seqs.len() < 9 && seqs == (1..=seqs.len().try_into().expect("small")).collect::<Vec<i64>>(), "{seqs:?}");
    assert_eq!((&reply["hasMorePiggyback"], &reply["latestSeq"]), (&json!(true), &json!(11)));
}
