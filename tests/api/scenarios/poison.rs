//! Points 2 and 4 of section 17: what must neither fail a whole batch for ever nor leak across accounts.

use reqwest::Method;
use serde_json::json;

use crate::harness::{Account, Backend, Server, op, upload};

on_both_databases! {
    m02_op_ids_of_different_accounts_are_apart,
    m04_nul_characters_fail_at_most_their_own_op,
    m04_lone_surrogates_fail_at_most_their_own_op,
    m04_numbers_beyond_every_range_are_kept,
    m04_odd_clock_keys_are_stripped_like_other_invalid_ones,
    m04_large_integers_are_no_trouble,
    m11_a_cursor_that_is_no_count_is_refused,
}

async fn m02_op_ids_of_different_accounts_are_apart(on: Backend) {
    let server = Server::start(on).await;
    let (account, stranger) = (server.account().await, server.account().await);
    let shared = op("A");
    assert_eq!(account.upload_one("A", &shared).await.outcomes(), ["#1"]);
    assert_eq!(stranger.upload("A", &[shared.clone().payload(json!({ "mine": 1 }))]).await.outcomes(), ["#1"]);
    assert_eq!(account.op_at(1).await["payload"], *shared.get("payload"));
}

/// Each odd value of a payload is kept and served as it came: clients give up for good what is refused. In an id or a name
/// it fails its own operation with a permanent code. Siblings are accepted.
async fn survives(on: Backend, odd: &[(&str, &str)]) {
    let server = Server::start(on).await;
    for (member, value) in odd {
        let account = server.account().await;
        let outcomes = upload_odd(&account, member, value).await;
        let odd_one_accepted = outcomes[1] == "#2";
        assert_eq!(odd_one_accepted, *member == "payload", "{member} {value}: {outcomes:?}");
        assert!(odd_one_accepted || outcomes[1].starts_with("INVALID_"), "{member} {value}: {outcomes:?}");
        let stored = if odd_one_accepted { 3 } else { 2 };
        assert_eq!((outcomes[0].as_str(), outcomes[2].clone()), ("#1", format!("#{stored}")), "{member} {value}");
        // Other than JavaScript, this program's JSON parser refuses lone surrogates: count in the text.
        let page = account.download(0).await;
        assert_eq!(page.text.matches(r#""serverSeq":"#).count(), stored, "{member} {value}: {}", page.text);
        if odd_one_accepted {
            assert!(page.text.contains(value), "{member} {value} is served as it came: {}", page.text);
        }
    }
}

/// Uploads an operation whose member has this very JSON text, between two ordinary ones.
async fn upload_odd(account: &Account, member: &str, value: &str) -> Vec<String> {
    let marked = op("A").with(member, "MARK");
    let body = upload("A", Some(0), &[op("A"), marked, op("A")]).to_string().replace("\"MARK\"", value);
    account.send(Method::POST, "/api/sync/ops", &[], body.into_bytes()).await.outcomes()
}

async fn m04_nul_characters_fail_at_most_their_own_op(on: Backend) {
    survives(
        on,
        &[
            ("id", r#""a\u0000b""#),
            ("entityId", r#""a\u0000b""#),
            ("entityIds", r#"["a\u0000b"]"#),
            ("actionType", r#""a\u0000b""#),
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
        ],
    )
    .await;
}

async fn m04_numbers_beyond_every_range_are_kept(on: Backend) {
    survives(on, &[("payload", r#"{"numbers":[1e400,-1e999999,0.5e-99999]}"#)]).await;
}

async fn m04_odd_clock_keys_are_stripped_like_other_invalid_ones(on: Backend) {
    let server = Server::start(on).await;
    for clock in [r#"{"a\u0000b":1,"A":1}"#, r#"{"\ud800":1,"A":1}"#] {
        let account = server.account().await;
        assert_eq!(upload_odd(&account, "vectorClock", clock).await, ["#1", "#2", "#3"], "{clock}");
        assert_eq!(account.op_at(2).await["vectorClock"], json!({ "A": 1 }), "{clock}");
    }
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
