//! What every route answers: status, the headers that matter, and the shape of the body, compared with `golden.txt`.
//!
//! `UPDATE_GOLDEN=1 cargo test --test api signin::golden::sqlite` rewrites the file. Its diff shows the effect of a change on clients.

use std::fmt::Write as _;
use std::path::Path;

use axum::http::header;
use serde_json::{Value, json};
use supersync::http::route::Access;
use supersync::http::routes::ROUTES;

use crate::harness::Backend;
use crate::signin::authenticator::Key;
use crate::signin::matrix::body;
use crate::signin::world::{Answer, PASSWORD, World, world};

on_both_databases! { every_route_answers_as_before }

/// Members whose values a client may compare.
const COMPARED: [&str; 16] = [
    "error",
    "code",
    "errorCode",
    "message",
    "state",
    "kind",
    "status",
    "statusCode",
    "expected",
    "type",
    "alg",
    "attestation",
    "residentKey",
    "userVerification",
    "reason",
    "registration",
];

/// A body without what differs from run to run.
fn shape(name: &str, value: &Value) -> Value {
    match value {
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), shape(name, value))).collect(),
        // Lists of one kind of thing are as long as the databases happen to make them.
        Value::Array(items) if name == "path" => Value::Array(items.clone()),
        Value::Array(items) if name == "details" => items.iter().map(|item| shape("", item)).collect(),
        Value::Array(items) => items.iter().take(1).map(|item| shape("", item)).collect(),
        Value::String(text) if ["sqlite", "postgres"].contains(&text.as_str()) => "<database>".into(),
        value if COMPARED.contains(&name) => value.clone(),
        // Sessions that were seen at the same time are in no order.
        Value::Bool(_) if name == "current" => "<whether>".into(),
        Value::Number(_) => "<number>".into(),
        Value::String(_) => "<text>".into(),
        Value::Bool(_) | Value::Null => value.clone(),
    }
}

/// The names of members in the order in which they were sent.
fn names(text: &str) -> String {
    let quoted: Vec<&str> = text.split('"').collect();
    let is_name = |at: &usize| quoted.get(at + 1).is_some_and(|rest| rest.starts_with(':'));
    (1..quoted.len()).step_by(2).filter(is_name).map(|at| quoted[at]).collect::<Vec<_>>().join(" ")
}

/// Routes of released clients and of the old server's pages: even the order of members stays.
fn is_contract(path: &str) -> bool {
    let ours = ["/api/account/", "/api/admin", "/api/passkeys", "/api/sessions", "/api/invites", "/api/sync/archives"];
    path.starts_with("/api/") && path != "/api/sync/ws-ticket" && !ours.iter().any(|start| path.starts_with(start))
}

fn line(what: &str, path: &str, answer: &Answer) -> String {
    let mut line = format!("{what}: {}", answer.status);
    for name in [header::CONTENT_TYPE, header::CACHE_CONTROL, header::RETRY_AFTER, header::CONNECTION, header::VARY] {
        if let Some(value) = answer.headers.get(&name) {
            write!(line, " | {name}: {}", value.to_str().unwrap()).unwrap();
        }
    }
    if answer.headers.contains_key(header::SET_COOKIE) {
        line += " | with a cookie";
    }
    if path == "/api/openapi.json" {
        line += "\n    docs/openapi.json";
    } else if answer.body.is_null() {
        let is_page = answer.text.contains("<!") || answer.text.contains("<svg") || answer.text.len() > 200;
        line += if is_page { "\n    a document" } else { "" };
        if !is_page {
            write!(line, "\n    {}", answer.text.escape_debug()).unwrap();
        }
    } else {
        write!(line, "\n    {}", shape("", &answer.body)).unwrap();
        if is_contract(path) {
            write!(line, "\n    {}", names(&answer.text)).unwrap();
        }
    }
    line + "\n"
}

async fn seen(world: &World) -> String {
    let root = world.verified("root@b.co").await;
    world.accounts.set_admin(root, true).await.unwrap();
    let mut found = String::new();
    for (number, route) in ROUTES.iter().enumerate() {
        if matches!(route.access, Access::Socket | Access::Test) || route.path.starts_with("/assets/") {
            continue;
        }
        let method = route.method.as_str();
        let path = route.path.replace("{id}", "999999").replace("{server_seq}", "1");
        let has_body = method != "GET";
        let mut note = |what: &str, answer: &Answer| {
            found += &line(&format!("{method} {} {what}", route.path), route.path, answer);
        };
        let good = has_body.then(|| body(route.path));
        note("with nothing", &world.send(method, &path, None, has_body.then(|| json!({})).as_ref()).await);
        if has_body {
            note("with a list", &world.send(method, &path, None, Some(&json!([]))).await);
        }
        if matches!(route.access, Access::Everybody) {
            continue;
        }
        let email = format!("user{number}@b.co");
        let user = world.verified(&email).await;
        let token = world.token(user).await;
        note("without proof", &world.send(method, &path, Some(&token), good.as_ref()).await);
        if has_body {
            note("with a text", &world.send(method, &path, Some(&token), Some(&json!("text"))).await);
            let wrong = json!({ "currentPassword": 1, "email": 1, "name": "", "quotaBytes": -1, "token": "", "isAdmin": "x",
                "newPassword": "short", "signOutOthers": 1, "credential": 1, "locked": null, "verified": false, "admin": 1 });
            note("with wrong members", &world.send(method, &path, Some(&token), Some(&wrong)).await);
        }
        let token = world.signed_in(&email).await;
        note("signed in", &world.send(method, &path, Some(&token), good.as_ref()).await);
        if route.access.wants_admin() {
            let token = world.signed_in("root@b.co").await;
            note("as an administrator", &world.send(method, &path, Some(&token), good.as_ref()).await);
            let path = route.path.replace("{id}", &user.to_string());
            note("of an account", &world.send(method, &path, Some(&token), good.as_ref()).await);
        }
    }
    found += &stories(world).await;
    found
}

/// What needs more than one request.
async fn stories(world: &World) -> String {
    let mut found = String::new();
    let mut note = |what: &str, path: &str, answer: &Answer| found += &line(&format!("{what} {path}"), path, answer);
    let key = Key::es256();
    let registration = json!({ "email": "New@b.co", "password": PASSWORD, "termsAccepted": true });
    note("a new address", "/api/register", &world.post("/api/register", registration).await);
    let login = json!({ "email": "new@b.co", "password": PASSWORD });
    note("not verified", "/api/login", &world.post("/api/login", login.clone()).await);
    let token = world.link("new@b.co", "verify-email").await;
    let link = json!({ "token": token });
    note("a link", "/api/verify-email", &world.post("/api/verify-email", link.clone()).await);
    note("a used link", "/api/verify-email", &world.post("/api/verify-email", link).await);
    note("verified", "/api/login", &world.post("/api/login", login).await);
    for number in 0..6 {
        let wrong = json!({ "email": "new@b.co", "password": "not the password" });
        note(&format!("wrong {number}"), "/api/login", &world.post("/api/login", wrong).await);
    }
    world.verified("owner@b.co").await;
    let token = world.signed_in("owner@b.co").await;
    for path in ["/api/login/magic-link", "/api/forgot-password", "/api/recover/passkey", "/api/login/passkey/options"]
    {
        note("an address", path, &world.post(path, json!({ "email": "owner@b.co" })).await);
    }
    let link = json!({ "token": world.link("owner@b.co", "magic-login").await });
    note("a link", "/api/login/magic-link/verify", &world.post("/api/login/magic-link/verify", link).await);
    let link = world.link("owner@b.co", "reset-password").await;
    note("an old page", "/reset-password", &world.send("GET", "/reset-password", None, None).await);
    let reset = json!({ "token": link, "password": PASSWORD });
    note("a link", "/api/reset-password", &world.post("/api/reset-password", reset).await);
    note("a revoked token", "/api/sync/ops", &world.get_as(&token, "/api/sync/ops?sinceSeq=0").await);
    let token = world.signed_in("owner@b.co").await;
    let options = json!({ "email": "key@b.co", "termsAccepted": true });
    note("a new address", "/api/register/passkey/options", &world.post("/api/register/passkey/options", options).await);
    note("a key", "/api/register/passkey/verify", &world.register_key("key@b.co", &key).await);
    note("a key", "/api/passkeys/verify", &world.add_key(&token, &Key::es256(), "mine").await);
    let recovery = json!({ "email": "owner@b.co" });
    note("with a key", "/api/recover/passkey", &world.post("/api/recover/passkey", recovery).await);
    let link = json!({ "token": world.link("owner@b.co", "recover-passkey").await });
    note("a link", "/api/recover/passkey/options", &world.post("/api/recover/passkey/options", link).await);
    let operation = json!({ "clientId": "laptop", "ops": [{
        "id": "one", "clientId": "laptop", "actionType": "[Task] Add Task", "opType": "CRT", "entityType": "TASK",
        "entityId": "t", "payload": { "task": { "id": "t" } }, "vectorClock": { "laptop": 1 },
        "timestamp": world.clock.now_ms(), "schemaVersion": 4,
    }] });
    note("an operation", "/api/sync/ops", &world.post_as(&token, "/api/sync/ops", operation).await);
    for path in ["/api/passkeys", "/api/sessions", "/api/account", "/api/account/security-log", "/api/sync/devices"] {
        note("signed in", path, &world.get_as(&token, path).await);
    }
    for path in ["/api/sync/status", "/api/sync/ops?sinceSeq=0", "/api/sync/restore-points", "/api/sync/archives"] {
        note("with data", path, &world.get_as(&token, path).await);
    }
    note("with data", "/api/sync/data", &world.send("DELETE", "/api/sync/data", Some(&token), None).await);
    note("archived", "/api/sync/archives", &world.get_as(&token, "/api/sync/archives").await);
    note("a new token", "/api/replace-token", &world.post_as(&token, "/api/replace-token", json!({})).await);
    let root = world.signed_in("root@b.co").await;
    let invite = json!({ "email": "guest@b.co", "admin": false });
    note("with an address", "/api/invites", &world.post_as(&root, "/api/invites", invite).await);
    for path in
        ["/api/invites", "/api/admin/users", "/api/admin/users?search=owner&limit=1", "/api/admin/users?limit=0"]
    {
        note("as an administrator", path, &world.get_as(&root, path).await);
    }
    for path in ["/api/admin/users?limit=5abc", "/api/admin/users?after=x", "/api/sync/restore-points?limit=5abc"] {
        note("a sloppy query", path, &world.get_as(&root, path).await);
    }
    let owner = world.accounts.find("owner@b.co").await.unwrap().id;
    let path = format!("/api/admin/users/{owner}");
    let change = json!({ "locked": true, "quotaBytes": 5000, "verified": true });
    note("locked", "/api/admin/users/{id}", &world.send("PATCH", &path, Some(&root), Some(&change)).await);
    let path = format!("/api/admin/users/{}", world.accounts.find("root@b.co").await.unwrap().id);
    let change = json!({ "locked": true });
    note("oneself", "/api/admin/users/{id}", &world.send("PATCH", &path, Some(&root), Some(&change)).await);
    found
}

async fn every_route_answers_as_before(on: Backend) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/signin/golden.txt");
    let found = seen(&world(on).await).await;
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &found).unwrap();
    }
    let golden = std::fs::read_to_string(&file).unwrap();
    for (before, now) in golden.lines().zip(found.lines()) {
        assert_eq!(before, now);
    }
    assert_eq!(golden.lines().count(), found.lines().count());
}
