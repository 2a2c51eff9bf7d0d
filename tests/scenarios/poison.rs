//! Points 2 and 4 of section 17: what must neither fail a whole batch for ever nor leak across accounts.

use reqwest::Method;
use serde_json::json;

use crate::harness::{Backend, Server, op, upload};

on_both_databases! {
    m02_op_ids_of_different_accounts_are_apart,
    m04_nul_characters_fail_at_most_their_own_op,
    m04_lone_surrogates_fail_at_most_their_own_op,
    m04_large_integers_are_no_trouble,
    m11_a_cursor_that_is_no_count_is_refused,
}

async fn m02_op_ids_of_different_accounts_are_apart(on: Backend) {
    let server = Server::start(on).await;
    let (account, stranger) = (server.account().await, server.account().await);
    let shared = op("A");
    assert_eq!(account.upload("A", &[shared.clone()]).await.outcomes(), ["#1"]);
    assert_eq!(stranger.upload("A", &[shared.clone().payload(json!({ "mine": 1 }))]).await.outcomes(), ["#1"]);
    assert_eq!(account.op_at(1).await["payload"], *shared.get("payload"));
}

/// Each odd operation is accepted and served as it was, or refused alone with a permanent code; its siblings are accepted.
async fn survives(on: Backend, odd: &[(&str, &str)]) {
    let server = Server::start(on).await;
    for (member, value) in odd {
        let account = server.account().await;
        let marked = op("A").with(member, "MARK");
        let body = upload("A", Some(0), &[op("A"), marked, op("A")]).to_string().replace("\"MARK\"", value);
        let reply = account.send(Method::POST, "/api/sync/ops", &[], body.into_bytes()).await;
        let outcomes = reply.outcomes();
        let odd_one_accepted = outcomes[1] == "#2";
        assert!(odd_one_accepted || outcomes[1].starts_with("INVALID_"), "{member} {value}: {outcomes:?}");
        let stored = if odd_one_accepted { 3 } else { 2 };
        assert_eq!((outcomes[0].as_str(), outcomes[2].clone()), ("#1", format!("#{stored}")), "{member} {value}");
        let page = account.download(0).await;
        assert_eq!(page.seqs(), (1..=stored).collect::<Vec<_>>());
        if odd_one_accepted {
            assert!(page.text.contains(value), "{member} {value} is served as it came");
        }
    }
}

async fn m04_nul_characters_fail_at_most_their_own_op(on: Backend) {
    survives(
        on,
        &[
            ("id", r#""a\u0000b""#),
            ("entityId", r#""a\u0000b""#),
            ("entityIds", r#"["a\u0000b"]"#),
            ("actionType", r#""a\u0000b""#),
            ("vectorClock", r#"{"a\u0000b":1}"#),
            ("payload", r#"{"a\u0000b":"\u0000"}"#),
        ],
    )
    .await;
}

async fn m04_lone_surrogates_fail_at_most_their_own_op(on: Backend) {
    survives(
        on,
        &[
            ("payload", r#"{"text":"\ud800"}"#),
            ("payload", r#"{"\udfff":1}"#),
            ("payload", r#""\ud83d x""#),
            ("id", r#""\ud800""#),
            ("entityId", r#""\ud800""#),
            ("vectorClock", r#"{"\ud800":1}"#),
        ],
    )
    .await;
}

async fn m04_large_integers_are_no_trouble(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let reply = account.upload("A", &[op("A").with("repairBaseServerSeq", 9_007_199_254_740_991_i64), op("A")]).await;
    assert_eq!(reply.outcomes(), ["#1", "#2"]);
    assert_eq!(account.op_at(1).await["repairBaseServerSeq"], 9_007_199_254_740_991_i64);
    let page = account.download(5_000_000_000).await;
    assert_eq!(page["gapDetected"], true);
    let reply = account.upload_from("A", 5_000_000_000, &[op("A")]).await;
    assert_eq!(reply.outcomes(), ["#3"]);
    assert!(!reply.has("newOps"));
}

async fn m11_a_cursor_that_is_no_count_is_refused(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    for cursor in [json!(-1), json!(0.5), json!("0"), json!(null), json!(1e300)] {
        let mut body = upload("A", None, &[op("A")]);
        body["lastKnownServerSeq"] = cursor;
        account.post("/api/sync/ops", &body).await.expect(400);
    }
    let mut body = upload("A", None, &[op("A")]);
    body["lastKnownServerSeq"] = json!(0.0);
    assert_eq!(account.post("/api/sync/ops", &body).await.outcomes(), ["#1"]);
}
