//! Scenarios 32 to 40: what is sent twice is stored once.

use reqwest::Method;
use serde_json::json;

use crate::harness::{Backend, Server, ciphertext, fresh, import, op, snapshot, upload};

on_both_databases! {
    s32_a_resent_op_is_a_duplicate_for_ever,
    s33_the_same_id_with_other_content_is_refused,
    s33_ciphertexts_are_not_compared,
    s34_the_order_of_keys_does_not_matter,
    s35_a_clamped_op_stays_recognisable,
    s36_the_same_id_twice_in_one_request,
    s37_a_repeated_request_is_answered_alike_for_five_minutes,
    s37_a_repeated_request_passes_a_full_quota,
    s38_the_same_request_id_with_other_ops_is_a_new_request,
    s39_a_batch_that_was_rolled_back_may_be_repeated,
    s40_request_ids_of_uploads_and_snapshots_are_apart,
}

const DUPLICATE: &str = "DUPLICATE_OPERATION";
const INVALID_ID: &str = "INVALID_OP_ID";

async fn s32_a_resent_op_is_a_duplicate_for_ever(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let first = op("A").task("t1").clock(json!({ "A": 1 }));
    account.upload_one("A", &first).await.ok();
    assert_eq!(account.upload_one("A", &first).await.outcomes(), [DUPLICATE]);
    let newer = op("B").task("t1").clock(json!({ "A": 1, "B": 1 }));
    assert_eq!(account.upload("B", &[newer]).await.outcomes(), ["#2"]);
    let reply = account.upload("A", &[first.clone(), op("A")]).await;
    assert_eq!(reply.outcomes(), [DUPLICATE, "#3"]);
    // A restart forgets nothing about it.
    let server = server.restart().await;
    let account = server.known(&account);
    assert_eq!(account.upload("A", &[first]).await.outcomes(), [DUPLICATE]);
    assert_eq!(account.status().await["latestSeq"], 3);
}

async fn s33_the_same_id_with_other_content_is_refused(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let first = op("A").task("t1").entity_ids(&["t1", "t2"]);
    account.upload_one("A", &first).await.ok();
    let others = [
        first.clone().payload(json!({ "title": "u" })),
        first.clone().payload(json!({ "title": "t", "more": null })),
        first.clone().clock(json!({ "A": 2 })),
        first.clone().entity_ids(&["t1", "t3"]),
        first.clone().without("entityIds"),
        first.clone().task("t9"),
        first.clone().kind("CRT"),
        first.clone().with("actionType", "[Task] Other"),
        first.clone().schema(3),
        first.clone().at(1),
        first.clone().with("syncImportReason", "REPAIR"),
        first.clone().with("repairBaseServerSeq", 1),
        first.clone().encrypted(ciphertext(28)),
    ];
    for other in others {
        assert_eq!(account.upload_one("A", &other).await.outcomes(), [INVALID_ID], "{:?}", other.json());
    }
    assert_eq!(account.upload("B", &[first.clone().with("clientId", "B")]).await.outcomes(), [INVALID_ID]);
    // Repeating an id within the list changes nothing.
    assert_eq!(account.upload("A", &[first.entity_ids(&["t1", "t2", "t1"])]).await.outcomes(), [DUPLICATE]);
}

async fn s33_ciphertexts_are_not_compared(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let first = op("A").encrypted(ciphertext(28));
    account.upload_one("A", &first).await.ok();
    assert_eq!(account.upload("A", &[first.clone().payload(ciphertext(64))]).await.outcomes(), [DUPLICATE]);
    assert_eq!(account.upload("A", &[first.clone().with("isPayloadEncrypted", false)]).await.outcomes(), [INVALID_ID]);
    assert_eq!(account.op_at(1).await["payload"], *first.get("payload"));
}

async fn s34_the_order_of_keys_does_not_matter(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let first = op("A").payload("PAYLOAD");
    let send = async |payload: &str| {
        let body = upload("A", None, std::slice::from_ref(&first)).to_string().replace("\"PAYLOAD\"", payload);
        account.send(Method::POST, "/api/sync/ops", &[], body.into_bytes()).await
    };
    assert_eq!(send(r#"{"b":1,"a":{"d":[1,2],"c":"\u00e9"}}"#).await.outcomes(), ["#1"]);
    assert_eq!(send(r#"{"a": {"c": "é", "d": [1, 2.0]}, "b": 1e0}"#).await.outcomes(), [DUPLICATE]);
    assert_eq!(send(r#"{"a":{"c":"é","d":[2,1]},"b":1}"#).await.outcomes(), [INVALID_ID]);
}

async fn s35_a_clamped_op_stays_recognisable(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let ahead = op("A").at(server.clock.now_ms() + 600_000);
    assert_eq!(account.upload_one("A", &ahead).await.outcomes(), ["#1"]);
    server.clock.advance_ms(5_000);
    assert_eq!(account.upload_one("A", &ahead).await.outcomes(), [DUPLICATE]);
    server.clock.advance_ms(600_000);
    assert_eq!(account.upload_one("A", &ahead).await.outcomes(), [DUPLICATE]);
    // Earlier than what was stored it can't have been.
    let earlier = ahead.at(server.clock.now_ms() - 600_000);
    assert_eq!(account.upload("A", &[earlier]).await.outcomes(), [INVALID_ID]);
}

async fn s36_the_same_id_twice_in_one_request(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let x = op("A");
    assert_eq!(account.upload("A", &[x.clone(), x]).await.outcomes(), ["#1", DUPLICATE]);
    let x = op("A");
    assert_eq!(account.upload("A", &[x.clone(), x.schema(3)]).await.outcomes(), ["#2", INVALID_ID]);
    let bad = op("A").with("entityType", "EVIL");
    let good = bad.clone().with("entityType", "TASK");
    let reply = account.upload("A", &[bad.clone(), bad, good]).await;
    assert_eq!(reply.outcomes(), ["INVALID_ENTITY_TYPE", DUPLICATE, INVALID_ID]);
}

async fn s37_a_repeated_request_is_answered_alike_for_five_minutes(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let ops = [op("A"), op("A").with("entityType", "EVIL"), op("A")];
    let mut body = upload("A", Some(0), &ops);
    let first = account.post("/api/sync/ops", &body).await;
    assert_eq!(first.outcomes(), ["#1", "INVALID_ENTITY_TYPE", "#2"]);
    assert!(!first.has("deduplicated") && !first.has("newOps"));
    account.upload("B", &[op("B"), op("B")]).await.ok();

    server.clock.advance_ms(299_000);
    let again = account.post("/api/sync/ops", &body).await;
    assert_eq!(again["results"], first["results"]);
    assert_eq!(again["deduplicated"], true);
    assert_eq!((again.new_seqs(), &again["latestSeq"]), (vec![3, 4], &json!(4)));
    body["lastKnownServerSeq"] = json!(3);
    let again = account.post("/api/sync/ops", &body).await;
    assert_eq!((again["deduplicated"].clone(), again.new_seqs()), (json!(true), vec![4]));

    server.clock.advance_ms(2_000);
    let late = account.post("/api/sync/ops", &body).await;
    assert_eq!(late.outcomes(), [DUPLICATE, "INVALID_ENTITY_TYPE", DUPLICATE]);
    assert!(!late.has("deduplicated"));
}

async fn s37_a_repeated_request_passes_a_full_quota(on: Backend) {
    let server = Server::start_with(on, |config| config.limits.default_quota_bytes = 1_000).await;
    let account = server.account().await;
    let body = upload("A", None, &[op("A").sized(400)]);
    assert_eq!(account.post("/api/sync/ops", &body).await.outcomes(), ["#1"]);
    assert_eq!(account.upload("B", &[op("B").sized(600)]).await.outcomes(), ["#2"]);
    account.upload("B", &[op("B").sized(100)]).await.expect(413);
    let again = account.post("/api/sync/ops", &body).await;
    assert_eq!((again.outcomes(), &again["deduplicated"]), (vec!["#1".to_owned()], &json!(true)));
}

async fn s38_the_same_request_id_with_other_ops_is_a_new_request(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let mut body = upload("A", None, &[op("A")]);
    account.post("/api/sync/ops", &body).await.ok();
    body["ops"] = json!([op("A").json()]);
    let reply = account.post("/api/sync/ops", &body).await;
    assert_eq!(reply.outcomes(), ["#2"]);
    assert!(!reply.has("deduplicated"));
}

async fn s39_a_batch_that_was_rolled_back_may_be_repeated(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("B", &[import("B")]).await.ok();
    let mut body = upload("A", Some(0), &[op("A"), op("A")]);
    let reply = account.post("/api/sync/ops", &body).await;
    assert_eq!(reply.outcomes(), ["INTERNAL_ERROR", "INTERNAL_ERROR"]);
    body["lastKnownServerSeq"] = json!(1);
    let reply = account.post("/api/sync/ops", &body).await;
    assert_eq!(reply.outcomes(), ["#2", "#3"]);
    assert!(!reply.has("deduplicated"));
}

async fn s40_request_ids_of_uploads_and_snapshots_are_apart(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let request_id = format!("shared-{}", fresh());
    let mut body = upload("A", None, &[op("A")]);
    body["requestId"] = json!(request_id);
    assert_eq!(account.post("/api/sync/ops", &body).await.outcomes(), ["#1"]);
    let state = snapshot("A").with("requestId", request_id.as_str());
    assert_eq!(account.snapshot(&state).await.ok()["serverSeq"], 2);
    assert_eq!(account.post("/api/sync/ops", &body).await["deduplicated"], true);
    assert_eq!(account.snapshot(&state).await.ok()["serverSeq"], 2);
    assert_eq!(account.status().await["latestSeq"], 2);
}
