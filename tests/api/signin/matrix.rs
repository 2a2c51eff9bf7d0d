//! Every route, with every kind of token that must not open it, and with somebody else's.

use axum::http::Method;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};
use supersync::http::route::Route;
use supersync::http::routes::ROUTES;

use crate::harness::Backend;
use crate::signin::authenticator::Key;
use crate::signin::world::{Answer, World, world};

on_both_databases! {
    no_route_opens_to_a_token_that_is_not_good,
    nobody_reaches_what_is_somebody_elses,
}

/// A body that is right.
pub fn body(path: &str) -> Value {
    match path {
        "/api/account/password" => json!({ "newPassword": "a new good password" }),
        "/api/account/email" => json!({ "email": "elsewhere@b.co" }),
        "/api/sessions/{id}" | "/api/passkeys/{id}" => json!({ "name": "mine" }),
        "/api/passkeys/verify" => json!({ "credential": {}, "name": "mine" }),
        "/api/admin/users/{id}" => json!({ "quotaBytes": 7 }),
        "/api/account/step-up" => json!({ "credential": {} }),
        _ => json!({}),
    }
}

async fn ask(world: &World, token: Option<&str>, route: &Route, id: &str) -> Answer {
    let body = (route.method != Method::GET).then(|| body(route.path));
    let path = route.path.replace("{id}", id).replace("{server_seq}", "1");
    world.send(route.method.as_str(), &path, token, body.as_ref()).await
}

/// Routes whose sender shows a token in the usual place.
fn with_token() -> impl Iterator<Item = &'static Route> {
    ROUTES.iter().filter(|route| route.access.wants_token())
}

fn signed(claims: &Value, secret: &str) -> String {
    jsonwebtoken::encode(&Header::default(), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

async fn no_route_opens_to_a_token_that_is_not_good(on: Backend) {
    const REVOKED: &str = "Token was revoked. Please log in again to get a new token.";
    const SECRET: &str = "a secret of the tests, long enough to be one";
    let world = world(on).await;
    let root = world.verified("root@b.co").await;
    world.accounts.set_admin(root, true).await.unwrap();
    let good = world.token(root).await;
    let now = world.clock.now_ms() / 1000;
    let claims = |exp: i64, version: i64| json!({ "userId": root, "email": "root@b.co", "tokenVersion": version, "iat": now - 60, "exp": exp });

    let ended =
        world.login("root@b.co", crate::signin::world::PASSWORD).await.ok()["token"].as_str().unwrap().to_owned();
    let sessions = world.get_as(&ended, "/api/sessions").await.ok();
    let current = sessions["sessions"].as_array().unwrap().iter().find(|one| one["current"] == true).unwrap().clone();
    let path = format!("/api/sessions/{}", current["id"].as_str().unwrap());
    world.send("DELETE", &path, Some(&good), None).await.ok();
    let gone = world.verified("gone@b.co").await;
    let deleted = world.token(gone).await;
    world.accounts.delete(gone).await.unwrap();
    let barred = world.verified("barred@b.co").await;
    let locked = world.token(barred).await;
    world.accounts.set_locked(barred, true).await.unwrap();

    let bad = [
        (None, "Missing or invalid Authorization header"),
        (Some("nonsense".to_owned()), "Invalid token"),
        (Some(signed(&claims(now + 3600, 0), "another secret, which is as long as it must be")), "Invalid token"),
        (Some(signed(&claims(now - 1, 0), SECRET)), "Token expired. Please log in again to get a new token."),
        (Some(signed(&claims(now + 3600, 7), SECRET)), REVOKED),
        (Some(ended), REVOKED),
        (Some(deleted), "Account unavailable"),
        (Some(locked), "Account unavailable"),
    ];
    for route in with_token() {
        for (token, reason) in &bad {
            let answer = ask(&world, token.as_deref(), route, "1").await;
            assert_eq!(
                (answer.status, answer.body["error"].as_str()),
                (401, Some(*reason)),
                "{route:?}: {}",
                answer.text
            );
        }
    }
    // The checks above would pass as well if nothing worked at all.
    world.get_as(&signed(&claims(now + 3600, 0), SECRET), "/api/admin/server").await.ok();
    assert_eq!(world.get_as(&good, "/api/account").await.ok()["email"], "root@b.co");
}

async fn nobody_reaches_what_is_somebody_elses(on: Backend) {
    let world = world(on).await;
    let owner = world.with_key("owner@b.co", &Key::es256()).await;
    let mine = world.token(owner).await;
    let upload = |client: &str, id: &str| {
        json!({ "clientId": client, "ops": [{
            "id": id, "clientId": client, "actionType": "[Task] Add Task", "opType": "CRT", "entityType": "TASK", "entityId": id,
            "payload": { "task": { "id": id } }, "vectorClock": { client: 1 }, "timestamp": world.clock.now_ms(), "schemaVersion": 4,
        }] })
    };
    world.post_as(&mine, "/api/sync/ops", upload("laptop", "one")).await.ok();
    world.send("DELETE", "/api/sync/data", Some(&mine), None).await.ok();
    world.post_as(&mine, "/api/sync/ops", upload("laptop", "two")).await.ok();
    let first = |body: &Value, list: &str| body[list][0]["id"].as_str().unwrap().to_owned();
    let session = first(&world.get_as(&mine, "/api/sessions").await.ok(), "sessions");
    let passkey = first(&world.get_as(&mine, "/api/passkeys").await.ok(), "passkeys");
    let archive = first(&world.get_as(&mine, "/api/sync/archives").await.ok(), "archives");
    let facts = async || {
        let mut all = Vec::new();
        for path in [
            "/api/account",
            "/api/sessions",
            "/api/passkeys",
            "/api/sync/archives",
            "/api/sync/ops?sinceSeq=0",
            "/api/sync/devices",
        ] {
            all.push(world.get_as(&mine, path).await.ok());
        }
        all
    };
    let before = facts().await;

    for (number, route) in with_token().enumerate() {
        let path = route.path;
        // A fresh one each time, since some of these routes end it.
        let other = format!("other{number}@b.co");
        world.verified(&other).await;
        let theirs = world.signed_in(&other).await;
        let id = match path.split('/').nth(2) {
            Some("sessions") => session.clone(),
            Some("passkeys") => passkey.clone(),
            Some("sync") => archive.clone(),
            _ => owner.to_string(),
        };
        let answer = ask(&world, Some(&theirs), route, &id).await;
        if route.access.wants_admin() {
            answer.refused(403, "Administrators only");
        } else if path.contains("{id}") {
            assert_eq!(answer.status, 404, "{route:?}: {}", answer.text);
        } else {
            assert_ne!(answer.status, 401, "{route:?}: {}", answer.text);
            assert!(
                !answer.text.contains("owner@b.co") && !answer.text.contains("laptop"),
                "{route:?}: {}",
                answer.text
            );
        }
        assert!(facts().await == before, "{route:?} changed what is somebody else's");
    }
}
