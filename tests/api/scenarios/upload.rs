//! Scenarios 1 to 14: what an upload accepts.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{Backend, Server, import, nested, op, upload};

on_both_databases! {
    s01_three_ops_get_1_2_3,
    s02_alternating_uploads_leave_no_holes,
    s02_parallel_uploads_leave_no_holes,
    s03_one_bad_op_does_not_fail_its_siblings,
    s04_an_op_of_another_client_is_refused_alone,
    s05_malformed_requests_are_refused_whole,
    s06_a_batch_of_101_is_too_large_whatever_it_holds,
    s07_unknown_members_are_dropped,
    s08_schema_versions_are_integers_from_1_to_100,
    s09_timestamps_are_integers_of_any_age,
    s10_timestamps_far_ahead_are_clamped,
    s11_an_entity_id_is_required_but_for_all,
    s12_payload_depth_is_bounded_by_kind,
    s13_payload_size_is_counted_in_utf8_bytes,
    s14_payload_shape_depends_on_the_op_type,
}

async fn s01_three_ops_get_1_2_3(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let reply = account.upload("A", &[op("A"), op("A"), op("A")]).await;
    assert_eq!(reply.outcomes(), ["#1", "#2", "#3"]);
    assert_eq!(reply["latestSeq"], 3);
    assert_eq!(account.download(0).await.seqs(), [1, 2, 3]);
}

async fn s02_alternating_uploads_leave_no_holes(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    for n in 1..=6 {
        let client = if n % 2 == 0 { "A" } else { "B" };
        assert_eq!(account.upload(client, &[op(client)]).await.outcomes(), [format!("#{n}")]);
    }
}

async fn s02_parallel_uploads_leave_no_holes(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let uploads = (0..20).map(|n| {
        let (account, client) = (account.clone(), if n % 2 == 0 { "A" } else { "B" });
        async move { account.upload(client, &[op(client), op(client)]).await }
    });
    let mut seqs = BTreeSet::new();
    for reply in join_all(uploads).await {
        let of_reply: Vec<i64> = reply.ok()["results"]
            .as_array()
            .expect("results")
            .iter()
            .map(|result| result["serverSeq"].as_i64().expect("every operation is accepted"))
            .collect();
        assert_eq!(of_reply[1], of_reply[0] + 1, "the operations of a request stay together");
        assert!(of_reply.into_iter().all(|seq| seqs.insert(seq)), "a number was given twice");
    }
    assert_eq!(seqs, (1..=40).collect());
    assert_eq!(account.download(0).await.seqs(), (1..=40).collect::<Vec<_>>());
}

async fn s03_one_bad_op_does_not_fail_its_siblings(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let reply = account.upload("A", &[op("A"), op("A").with("entityType", "EVIL"), op("A")]).await;
    assert_eq!(reply.outcomes(), ["#1", "INVALID_ENTITY_TYPE", "#2"]);
    assert_eq!(reply["latestSeq"], 2);
}

async fn s04_an_op_of_another_client_is_refused_alone(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let reply = account.upload("A", &[op("B"), op("A")]).await;
    assert_eq!(reply.outcomes(), ["INVALID_CLIENT_ID", "#1"]);
}

async fn s05_malformed_requests_are_refused_whole(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let body = |bad| upload("A", None, &[op("A"), bad]);
    let mut faults = vec![
        upload("A", None, &[]),
        body(op("A").with("entityId", Value::Null)),
        body(op("A").with("actionType", "")),
        body(op("A").with("vectorClock", json!([]))),
        body(op("A").with("timestamp", "now")),
        body(op("A").with("syncImportReason", "NOPE")),
        body(op("A").with("repairBaseServerSeq", -1)),
        body(op("A").with("isPayloadEncrypted", "yes")),
        upload("bad id!", None, &[op("A")]),
        json!([]),
        json!({ "clientId": "A" }),
    ];
    for (member, value) in [
        ("lastKnownServerSeq", json!(null)),
        ("lastKnownServerSeq", json!(-1)),
        ("lastKnownServerSeq", json!(1.5)),
        ("requestId", json!("no spaces")),
        ("requestId", json!("x".repeat(65))),
    ] {
        let mut fault = upload("A", None, &[op("A")]);
        fault[member] = value;
        faults.push(fault);
    }
    for fault in faults {
        let reply = account.post("/api/sync/ops", &fault).await;
        assert_eq!((reply.status, &reply["error"]), (400, &json!("Validation failed")), "{fault}");
        assert!(reply["details"].as_array().is_some_and(|issues| !issues.is_empty()), "{fault}");
    }
    assert_eq!(account.status().await["latestSeq"], 0);
}

async fn s06_a_batch_of_101_is_too_large_whatever_it_holds(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    for garbage in [json!(7), json!({}), json!(null)] {
        let body = json!({ "ops": vec![garbage; 101] });
        let reply = account.post("/api/sync/ops", &body).await.expect(413);
        assert_eq!(reply["errorCode"], "PAYLOAD_TOO_LARGE");
        assert_eq!(reply["maxOpsPerBatch"], 100);
    }
    let ops: Vec<_> = (0..100).map(|_| op("A")).collect();
    assert_eq!(account.upload("A", &ops).await.ok()["latestSeq"], 100);
}

async fn s07_unknown_members_are_dropped(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let mut body = upload("A", None, &[op("A").with("extra", json!({ "dropped": true })).with("serverSeq", 99)]);
    body["lastKnownSeq"] = json!(5);
    let reply = account.post("/api/sync/ops", &body).await;
    assert_eq!(reply.outcomes(), ["#1"]);
    assert!(!reply.has("newOps"), "lastKnownSeq is no cursor");
    let stored = account.op_at(1).await;
    let members: BTreeSet<&str> = stored.as_object().expect("an object").keys().map(String::as_str).collect();
    let known = [
        "id",
        "clientId",
        "actionType",
        "opType",
        "entityType",
        "entityId",
        "payload",
        "vectorClock",
        "timestamp",
        "schemaVersion",
        "isPayloadEncrypted",
    ];
    assert_eq!(members, BTreeSet::from(known));
}

async fn s08_schema_versions_are_integers_from_1_to_100(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let versions = [json!(1.5), json!(101), json!(0), json!(-1), json!(100), json!(1), json!(5.0)];
    let ops: Vec<_> = versions.into_iter().map(|version| op("A").schema(version)).collect();
    let bad = "INVALID_SCHEMA_VERSION";
    assert_eq!(account.upload("A", &ops).await.outcomes(), [bad, bad, bad, bad, "#1", "#2", "#3"]);
}

async fn s09_timestamps_are_integers_of_any_age(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let day_ms = 24 * 60 * 60 * 1000;
    let times = [json!(1.5), json!(9_007_199_254_740_992_i64), json!(server.clock.now_ms() - 46 * day_ms), json!(-1)];
    let ops: Vec<_> = times.into_iter().map(|time| op("A").at(time)).collect();
    assert_eq!(account.upload("A", &ops).await.outcomes(), ["INVALID_TIMESTAMP", "INVALID_TIMESTAMP", "#1", "#2"]);
    assert_eq!(account.op_at(2).await["timestamp"], -1);
}

async fn s10_timestamps_far_ahead_are_clamped(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let now = server.clock.now_ms();
    let reply = account.upload("A", &[op("A").at(now + 60_000), op("A").at(now + 60_001)]).await;
    assert_eq!(reply.outcomes(), ["#1", "#2"]);
    assert_eq!(account.op_at(1).await["timestamp"], now + 60_000);
    assert_eq!(account.op_at(2).await["timestamp"], now + 60_000);
}

async fn s11_an_entity_id_is_required_but_for_all(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let ids_only = op("A").without("entityId").entity_ids(&["t1", "t2"]);
    let batch = op("A").kind("BATCH").with("entityType", "ALL").without("entityId").payload(json!({ "entities": {} }));
    let reply = account.upload("A", &[ids_only, batch]).await;
    assert_eq!(reply.outcomes(), ["MISSING_ENTITY_ID", "#1"]);
}

async fn s12_payload_depth_is_bounded_by_kind(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let ops = [
        op("A").payload(nested(21)),
        op("A").payload(nested(20)),
        import("A").payload(nested(21)),
        import("A").payload(nested(51)),
    ];
    assert_eq!(account.upload("A", &ops).await.outcomes(), ["INVALID_PAYLOAD", "#1", "#2", "INVALID_PAYLOAD"]);
}

async fn s13_payload_size_is_counted_in_utf8_bytes(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    // Fewer than 20 Mi characters, one byte too many with the quotes; then the same without the odd byte.
    let largest = 20 * 1024 * 1024;
    let wide = "é".repeat((largest - 2) / 2);
    let body = upload("A", None, &[op("A").payload(format!("{wide}x")), op("A")]);
    let reply = account.upload_gzip("/api/sync/ops", body.to_string().as_bytes()).await;
    assert_eq!(reply.outcomes(), ["PAYLOAD_TOO_LARGE", "#1"]);
    let body = upload("A", None, &[op("A").payload(wide)]);
    assert_eq!(account.upload_gzip("/api/sync/ops", body.to_string().as_bytes()).await.outcomes(), ["#2"]);
}

async fn s14_payload_shape_depends_on_the_op_type(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let ops = [
        op("A").payload(Value::Null),
        op("A").kind("BATCH").payload(json!({ "entities": [] })),
        op("A").payload(json!([1])),
        op("A").without("payload"),
        op("A").kind("DEL").payload(Value::Null),
        op("A").kind("BATCH").payload(json!({ "entities": {} })),
    ];
    let bad = "INVALID_PAYLOAD";
    assert_eq!(account.upload("A", &ops).await.outcomes(), [bad, bad, bad, bad, "#1", "#2"]);
}
