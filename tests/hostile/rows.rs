//! Rows that grow with requests, not with data: devices, sessions, tickets, tokens, challenges, pending accounts.

use reqwest::Method;
use secrecy::SecretString;
use serde_json::json;
use supersync::accounts::Address;

use crate::arena::Arena;
use crate::foe::plain;
use crate::harness::Backend;

const PASSWORD: &str = "a long passphrase of the owner";

async fn invented(backend: Backend) {
    let mut arena = Arena::open(backend).await;
    arena
        .attack("rows: polls of invented devices", async |stage| {
            let foe = stage.foe().await;
            let poll = async |n: usize| {
                foe.get(&format!("/api/sync/ops?sinceSeq=0&limit=1&excludeClient=B_invented{n}")).await;
            };
            stage.again(8, poll).await;
        })
        .await;
    arena
        .attack("rows: uploads of invented devices", async |stage| {
            let foe = stage.foe().await;
            let body = |n: usize| {
                let client = format!("B_invented{n}");
                crate::harness::upload(&client, None, &[crate::harness::op(&client)])
            };
            stage.again(4, async |n| _ = foe.post("/api/sync/ops", &body(n)).await).await;
        })
        .await;
    let devices = arena
        .number("SELECT max(n) FROM (SELECT count(*) AS n FROM sync_devices GROUP BY user_id) AS of_account")
        .await;
    arena.demand(devices <= 200, || format!("one account has {devices} devices"));
    arena
        .attack("rows: tickets", async |stage| {
            let foe = stage.foe().await;
            stage.again(4, async |_| _ = foe.post("/api/sync/ws-ticket", &json!({})).await).await;
        })
        .await;
    let owner = Address::parse("rows@example.org").expect("an address");
    arena.stage.accounts.create_verified(&owner, &SecretString::from(PASSWORD)).await.expect("a new account");
    arena
        .attack("rows: sessions of one account", async |stage| {
            let body = plain(&json!({ "email": owner.as_str(), "password": PASSWORD }));
            stage.again(8, async |_| _ = stage.send(Method::POST, "/api/login", Some(&body)).await).await;
        })
        .await;
    let sessions =
        arena.number("SELECT max(n) FROM (SELECT count(*) AS n FROM sessions GROUP BY user_id) AS of_account");
    let sessions = sessions.await;
    arena.demand(sessions <= 200, || format!("one account has {sessions} sessions"));
    arena
        .attack("rows: registrations and challenges of nobody", async |stage| {
            let ask = async |n: usize| {
                let email = format!("invented-{n}@example.org");
                let body = plain(&json!({ "email": email, "termsAccepted": true }));
                stage.send(Method::POST, "/api/login/passkey/options", Some(&body)).await;
                stage.send(Method::POST, "/api/register/passkey/options", Some(&body)).await;
            };
            stage.again(4, ask).await;
        })
        .await;
    arena.close().await;
}

on_both_databases!(invented);
