//! Scenarios 18 and 19: the end-to-end-encryption gate.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use supersync::config::EncryptionPolicy;

use crate::harness::{Backend, Server, ciphertext, op, snapshot, upload};

on_both_databases! {
    s18_with_the_gate_on_one_plain_op_refuses_the_request,
    s18_with_the_gate_on_plain_snapshots_are_refused,
    s19_with_the_gate_off_plaintext_is_served_as_such,
}

async fn gated(on: Backend) -> Server {
    Server::start_with(on, |config| config.encryption_policy = EncryptionPolicy::Required).await
}

async fn s18_with_the_gate_on_one_plain_op_refuses_the_request(on: Backend) {
    let server = gated(on).await;
    let account = server.account().await;
    let base64url = URL_SAFE_NO_PAD.encode([0xFB; 30]);
    assert!(base64url.contains('-') || base64url.contains('_'));
    let good = op("A").encrypted(ciphertext(28));
    let bad = [
        op("A").payload(ciphertext(28)),
        op("A").with("isPayloadEncrypted", false).payload(ciphertext(28)),
        op("A").encrypted(json!({ "title": "t" })),
        op("A").encrypted(ciphertext(27)),
        op("A").encrypted(base64url),
        op("A").encrypted(format!("{}\n", ciphertext(30))),
        op("A").kind("DEL").encrypted(json!(null)),
        op("A").encrypted(ciphertext(28)).without("payload"),
    ];
    for bad in bad {
        let reply = account.upload("A", &[good.clone(), bad.clone()]).await.expect(400);
        assert_eq!(reply["errorCode"], "E2EE_REQUIRED", "{:?}", bad.json());
        assert!(reply["error"].is_string());
    }
    assert_eq!(account.status().await["latestSeq"], 0);
    // The refusal is not remembered: the same request id goes through with content that passes.
    let mut body = upload("A", None, &[good.clone(), op("A")]);
    account.post("/api/sync/ops", &body).await.expect(400);
    body["ops"] = json!([good.json()]);
    let reply = account.post("/api/sync/ops", &body).await;
    assert_eq!(reply.outcomes(), ["#1"]);
    assert!(!reply.has("deduplicated"));
    assert_eq!(account.op_at(1).await["payload"], *good.get("payload"));
}

async fn s18_with_the_gate_on_plain_snapshots_are_refused(on: Backend) {
    let server = gated(on).await;
    let account = server.account().await;
    for bad in [
        snapshot("A"),
        snapshot("A").with("isPayloadEncrypted", true),
        snapshot("A").encrypted(27),
        snapshot("A").encrypted(40).with("isPayloadEncrypted", false),
    ] {
        let reply = account.snapshot(&bad).await.expect(400);
        assert_eq!(reply["errorCode"], "E2EE_REQUIRED", "{}", bad.json());
    }
    assert_eq!(account.status().await["latestSeq"], 0);
    let reply = account.snapshot(&snapshot("A").encrypted(28)).await.ok();
    assert_eq!((&reply["accepted"], &reply["serverSeq"]), (&json!(true), &json!(1)));
}

async fn s19_with_the_gate_off_plaintext_is_served_as_such(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let ops = [op("A"), op("A").encrypted(ciphertext(28))];
    assert_eq!(account.upload("A", &ops).await.outcomes(), ["#1", "#2"]);
    let page = account.download(0).await;
    let flags: Vec<_> = page["ops"].as_array().expect("ops").iter().map(|op| &op["op"]["isPayloadEncrypted"]).collect();
    assert_eq!(flags, [false, true]);
    assert_eq!(page["ops"][0]["op"]["payload"], json!({ "title": "t" }));
}
