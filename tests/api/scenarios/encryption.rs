//! Scenarios 18 and 19, and point 18 of section 17: the end-to-end-encryption gate.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use supersync::config::EncryptionPolicy;

use crate::harness::{Account, Backend, Server, ciphertext, import, op, snapshot, upload};

on_both_databases! {
    s18_with_the_gate_on_one_plain_op_refuses_the_request,
    s18_with_the_gate_on_plain_snapshots_are_refused,
    s19_with_the_gate_off_plaintext_is_served_as_such,
    test_mode_makes_plaintext_that_older_servers_stored_in_accounts_that_encrypt,
    m18_an_encrypted_account_takes_no_plain_operation,
    m18_encryption_begins_with_the_full_state_that_is_encrypted,
    m18_encryption_is_turned_off_by_what_takes_the_place_of_the_full_state,
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

async fn test_mode_makes_plaintext_that_older_servers_stored_in_accounts_that_encrypt(on: Backend) {
    for policy in [EncryptionPolicy::Optional, EncryptionPolicy::Required] {
        let server = Server::start_with(on, |config| {
            config.test_mode = true;
            config.encryption_policy = policy;
        })
        .await;
        let account = server.account().await;
        assert_eq!(account.upload_one("A", &import("A").encrypted(ciphertext(40))).await.outcomes(), ["#1"]);
        let plain = op("A").with("isPayloadEncrypted", false);
        account.upload_one("A", &plain).await.expect(400);
        let path = format!("/api/test/user/{}/legacy-plaintext-ops", account.id);
        let seeded = account.post(&path, &json!({ "op": plain.json() })).await.expect(201);
        assert_eq!(seeded["serverSeq"], 2, "{policy:?}");
    }
}

/// An account whose devices encrypt, on a server that leaves it to them: its newest full state is at 1, an operation at 2.
async fn encrypting(server: &Server) -> Account {
    let account = server.account().await;
    account.snapshot(&snapshot("A").encrypted(40)).await.ok();
    let encrypted = op("A").encrypted(ciphertext(28));
    assert_eq!(account.upload_from("A", 1, &[encrypted]).await.outcomes(), ["#2"]);
    account
}

async fn m18_an_encrypted_account_takes_no_plain_operation(on: Backend) {
    let server = Server::start(on).await;
    let account = encrypting(&server).await;
    let good = op("A").encrypted(ciphertext(28));
    let bad = [
        op("A").kind("CRT"),
        op("A"),
        op("A").kind("DEL").payload(json!(null)),
        op("A").kind("MOV"),
        op("A").kind("BATCH"),
        import("A"),
        import("A").kind("BACKUP_IMPORT"),
        import("A").kind("REPAIR"),
        op("A").encrypted(json!({ "title": "t" })),
        op("A").encrypted(ciphertext(27)),
        op("A").payload(ciphertext(28)),
    ];
    for cold in [false, true] {
        for bad in &bad {
            if cold {
                server.engine.forget(account.id);
            }
            // Whatever the device has seen, and whatever comes along.
            for reply in [
                account.upload_from("A", 2, &[good.clone(), bad.clone()]).await,
                account.upload_from("B", 0, &[bad.clone().with("clientId", "B")]).await,
                account.upload_one("A", bad).await,
            ] {
                assert_eq!(reply.expect(400)["errorCode"], "E2EE_REQUIRED", "{:?}", bad.json());
            }
        }
    }
    assert_eq!(server.rows(&account).await, [1, 2], "nothing was stored");
    assert_eq!(account.devices().await, ["A"]);
    // What is refused for itself can't get there, and hinders nobody: some devices send operations without a payload.
    let invalid = [op("A").kind("NOPE"), op("A").encrypted(json!(null))];
    let outcomes = account.upload_from("A", 2, &[good, invalid[0].clone(), invalid[1].clone()]).await.outcomes();
    assert_eq!(outcomes, ["#3", "INVALID_OP_TYPE", "INVALID_PAYLOAD"]);
    // An account beside it does as it likes.
    assert_eq!(server.account().await.upload_one("A", &op("A")).await.outcomes(), ["#1"]);
}

async fn m18_encryption_begins_with_the_full_state_that_is_encrypted(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[op("A"), import("A"), op("A")]).await.ok();
    let encrypted = import("A").encrypted(ciphertext(40));
    // What precedes it in a request is superseded by it, what follows is not.
    let refused = account.upload("A", &[encrypted.clone(), op("A")]).await.expect(400);
    assert_eq!(refused["errorCode"], "E2EE_REQUIRED");
    assert_eq!(account.status().await["latestSeq"], 3, "all or nothing");
    assert_eq!(account.upload("A", &[op("A"), encrypted]).await.outcomes(), ["#4", "#5"]);
    account.upload_one("A", &op("A")).await.expect(400);
    let server = server.restart().await;
    let account = server.known(&account);
    assert_eq!(account.upload_one("A", &op("A")).await.expect(400)["errorCode"], "E2EE_REQUIRED");
    assert_eq!(account.upload_one("A", &op("A").encrypted(ciphertext(28))).await.outcomes(), ["#6"]);
    // Two requests at once, of which one makes the other's operations wrong.
    let fresh = server.account().await;
    let (encrypted, plain) = (import("A").encrypted(ciphertext(40)), op("B"));
    let (_, plain) = tokio::join!(fresh.upload_one("A", &encrypted), fresh.upload_one("B", &plain));
    let newest = fresh.download(0).await;
    let flags = newest["ops"].as_array().expect("ops").iter().map(|op| op["op"]["isPayloadEncrypted"] == true);
    assert!(flags.into_iter().all(|encrypted| encrypted), "{} {}", plain.text, newest.text);
}

async fn m18_encryption_is_turned_off_by_what_takes_the_place_of_the_full_state(on: Backend) {
    let server = Server::start(on).await;
    let off = [
        snapshot("A").clean_slate(),
        snapshot("A"),
        snapshot("A").with("snapshotOpType", "BACKUP_IMPORT"),
        snapshot("A").repair(2),
    ];
    for off in off {
        let account = encrypting(&server).await;
        let reply = account.snapshot(&off).await.ok();
        assert_eq!((&reply["accepted"], &reply["serverSeq"]), (&json!(true), &json!(3)), "{}", off.json());
        assert_eq!(account.upload_from("A", 3, &[op("A")]).await.outcomes(), ["#4"], "{}", off.json());
        let page = account.download(0).await;
        assert_eq!(page.seqs(), [3, 4], "devices start there");
    }
    // A wipe as well.
    let account = encrypting(&server).await;
    account.delete("/api/sync/data").await.ok();
    assert_eq!(account.upload_one("A", &op("A")).await.outcomes(), ["#3"]);
    // Not what devices would meet after the encrypted state, nor what only says that it is encrypted.
    let account = encrypting(&server).await;
    for bad in [
        snapshot("A").legacy_repair(),
        snapshot("A").with("isPayloadEncrypted", true),
        snapshot("A").encrypted(27),
        snapshot("A").encrypted(27).repair(2),
    ] {
        let reply = account.snapshot(&bad).await.expect(400);
        assert_eq!(reply["errorCode"], "E2EE_REQUIRED", "{}", bad.json());
    }
    assert_eq!(server.rows(&account).await, [1, 2]);
    account.snapshot(&snapshot("A").encrypted(40).repair(2)).await.ok();
    account.upload_one("A", &op("A")).await.expect(400);
}
