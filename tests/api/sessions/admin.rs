//! What administrators may do, and nobody else.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Account, Backend, Ended, Reply, Server, op};

on_both_databases! {
    nobody_else_gets_in,
    who_is_no_administrator_any_more_is_refused_at_once,
    what_is_malformed_is_refused_and_changes_nothing,
    a_missing_account_is_not_found,
    one_can_not_lock_oneself_out,
    too_many_requests_are_refused,
    accounts_are_listed_in_pages_and_searched,
    an_account_shows_what_it_holds,
    a_quota_counts_at_once,
    a_locked_account_is_out_and_its_sockets_with_it,
    a_verified_account_gets_a_password_that_nobody_knew,
    revoking_voids_every_token,
    a_deleted_account_is_gone,
    the_server_tells_what_it_is,
    diagnostics_say_what_is_wrong_and_what_to_do,
}

async fn administrator(server: &Server) -> Account {
    let account = server.account().await;
    server.accounts.set_admin(account.id, true).await.expect("the account exists");
    server.prove(&account).await;
    account
}

async fn patch(admin: &Account, id: i64, body: &Value) -> Reply {
    admin.send(Method::PATCH, &format!("/api/admin/users/{id}"), &[], body.to_string().into_bytes()).await
}

async fn login(account: &Account, password: &str) -> Reply {
    let login = account.http.post(format!("{}/api/login", account.base));
    crate::harness::receive(login.json(&json!({ "email": account.email, "password": password }))).await
}

/// Every route, asked about this account.
async fn every_route(sender: &Account, id: i64) -> Vec<Reply> {
    vec![
        sender.get("/api/admin/users").await,
        sender.get(&format!("/api/admin/users/{id}")).await,
        patch(sender, id, &json!({ "quotaBytes": 7 })).await,
        sender.post(&format!("/api/admin/users/{id}/revoke"), &json!({})).await,
        sender.delete(&format!("/api/admin/users/{id}")).await,
        sender.get("/api/admin/server").await,
        sender.get("/api/admin/diagnostics").await,
    ]
}

#[track_caller]
fn refused(reply: &Reply, status: u16, error: &str) {
    assert_eq!((reply.status, reply["error"].as_str()), (status, Some(error)), "{}", reply.text);
}

async fn nobody_else_gets_in(on: Backend) {
    let server = Server::start(on).await;
    let (admin, account) = (administrator(&server).await, server.account().await);
    for reply in every_route(&account, admin.id).await {
        refused(&reply, 403, "Administrators only");
    }
    let stranger = Account { token: "bad".to_owned(), ..account.clone() };
    for reply in every_route(&stranger, admin.id).await {
        refused(&reply, 401, "Invalid token");
    }
    let revoked = administrator(&server).await;
    server.revoke(&revoked).await;
    for reply in every_route(&revoked, admin.id).await {
        assert_eq!(reply.status, 401, "{}", reply.text);
    }
    let shown = admin.get(&format!("/api/admin/users/{}", admin.id)).await.ok();
    assert_ne!(shown["storage"]["quotaBytes"], 7);
    server.store.close().await;
    for reply in every_route(&admin, account.id).await {
        refused(&reply, 503, "database unavailable, please retry");
    }
}

async fn who_is_no_administrator_any_more_is_refused_at_once(on: Backend) {
    let server = Server::start(on).await;
    let (one, two) = (administrator(&server).await, administrator(&server).await);
    two.get("/api/admin/users").await.ok();
    patch(&one, two.id, &json!({ "isAdmin": false })).await.ok();
    refused(&two.get("/api/admin/users").await, 403, "Administrators only");
    patch(&one, two.id, &json!({ "isAdmin": true })).await.ok();
    two.get("/api/admin/users").await.ok();
}

async fn what_is_malformed_is_refused_and_changes_nothing(on: Backend) {
    let server = Server::start(on).await;
    let (admin, account) = (administrator(&server).await, server.account().await);
    for (body, path, message) in [
        (json!({ "quotaBytes": "1" }), "quotaBytes", "Invalid input: expected integer, received string"),
        (json!({ "quotaBytes": 1.5 }), "quotaBytes", "Invalid input: expected integer, received number"),
        (json!({ "quotaBytes": 0 }), "quotaBytes", "A number above 0 is needed"),
        (json!({ "locked": 1 }), "locked", "Invalid input: expected boolean, received number"),
        (json!({ "locked": true, "isAdmin": null }), "isAdmin", "Invalid input: expected boolean, received null"),
        (json!({ "verified": false }), "verified", "This can't be taken back"),
    ] {
        let reply = patch(&admin, account.id, &body).await;
        refused(&reply, 400, "Validation failed");
        let issue = &reply["details"][0];
        assert_eq!((&issue["path"], &issue["message"]), (&json!([path]), &json!(message)));
    }
    refused(&patch(&admin, account.id, &json!([])).await, 400, "Validation failed");
    for (query, message) in [
        ("limit=0", "Invalid limit: an integer from 1 to 200 is needed"),
        ("limit=201", "Invalid limit: an integer from 1 to 200 is needed"),
        ("limit=5abc", "Invalid query: limit: invalid digit found in string"),
        ("limit=1&limit=2", "Invalid query: duplicate field `limit`"),
        ("after=x", "Invalid query: after: invalid digit found in string"),
    ] {
        refused(&admin.get(&format!("/api/admin/users?{query}")).await, 400, message);
    }
    admin.get("/api/admin/users?search=&after=&limit=").await.ok();
    let long = admin.get(&format!("/api/admin/users?search={}", "x".repeat(255))).await;
    refused(&long, 400, "Invalid search: at most 254 characters");
    account.status().await;
}

async fn a_missing_account_is_not_found(on: Backend) {
    let server = Server::start(on).await;
    let admin = administrator(&server).await;
    for id in ["999999", "0", "-1", "x", "99999999999999999999"] {
        let path = format!("/api/admin/users/{id}");
        let quota = json!({ "quotaBytes": 7 }).to_string().into_bytes();
        for reply in [
            admin.get(&path).await,
            admin.send(Method::PATCH, &path, &[], quota).await,
            admin.post(&format!("{path}/revoke"), &json!({})).await,
            admin.delete(&path).await,
        ] {
            refused(&reply, 404, "No such account");
        }
    }
}

async fn one_can_not_lock_oneself_out(on: Backend) {
    let server = Server::start(on).await;
    let admin = administrator(&server).await;
    let path = format!("/api/admin/users/{}", admin.id);
    for reply in [
        patch(&admin, admin.id, &json!({ "locked": true })).await,
        patch(&admin, admin.id, &json!({ "isAdmin": false })).await,
        admin.delete(&path).await,
    ] {
        refused(&reply, 409, "You can't do this to your own account");
    }
    let changed = patch(&admin, admin.id, &json!({ "quotaBytes": 7, "locked": false, "isAdmin": true })).await.ok();
    assert_eq!((&changed["storage"]["quotaBytes"], &changed["isAdmin"]), (&json!(7), &json!(true)));
}

async fn too_many_requests_are_refused(on: Backend) {
    let server = Server::start_with(on, |config| {
        config.rate_limits.per_address = true;
        config.rate_limits.admin.max = 2;
    })
    .await;
    let admin = administrator(&server).await;
    admin.get("/api/admin/users").await.ok();
    admin.get("/api/admin/server").await.ok();
    admin.get("/api/admin/users").await.expect(429);
    admin.status().await;
}

async fn accounts_are_listed_in_pages_and_searched(on: Backend) {
    let server = Server::start(on).await;
    let admin = administrator(&server).await;
    let mut all = vec![admin.clone()];
    for _ in 0..3 {
        all.push(server.account().await);
    }
    let page = async |query: &str| {
        let reply = admin.get(&format!("/api/admin/users?{query}")).await.ok();
        let users = reply["users"].as_array().expect("a list");
        let ids: Vec<i64> = users.iter().map(|user| user["id"].as_i64().expect("a number")).collect();
        (ids, reply["next"].clone())
    };
    let ids: Vec<i64> = all.iter().map(|account| account.id).collect();
    assert_eq!(page("").await, (ids.clone(), Value::Null));
    assert_eq!(page("limit=3").await, (ids[..3].to_vec(), json!(ids[2])));
    assert_eq!(page(&format!("limit=3&after={}", ids[2])).await, (ids[3..].to_vec(), Value::Null));
    assert_eq!(page(&format!("search={}", all[2].email.to_uppercase())).await.0, [ids[2]]);
    assert_eq!(page("search=EXAMPLE.org").await.0, ids);
    for nobody in ["%25", "_", "nobody@"] {
        assert!(page(&format!("search={nobody}")).await.0.is_empty(), "{nobody}");
    }
    assert!(page(&format!("search={}", ids[3])).await.0.contains(&ids[3]));
}

async fn an_account_shows_what_it_holds(on: Backend) {
    let server = Server::start(on).await;
    let (admin, account) = (administrator(&server).await, server.account().await);
    account.upload("A", &[op("A").sized(100), op("A").sized(200)]).await.ok();
    account.upload("B", &[op("B").sized(300)]).await.ok();
    let shown = admin.get(&format!("/api/admin/users/{}", account.id)).await.ok();
    let now_ms = server.clock.now_ms();
    assert_eq!(
        shown.body,
        json!({
            "id": account.id, "email": account.email, "state": "verified", "isAdmin": false, "hasPassword": false,
            "createdAt": now_ms, "lastSeenAt": now_ms,
            "storage": {
                "usedBytes": 600, "grownBytes": 600, "quotaBytes": account.status().await["storageQuotaBytes"],
            },
            "operations": 3, "devices": 2, "sessions": 1,
        })
    );
    account.delete("/api/sync/data").await.ok();
    let shown = admin.get(&format!("/api/admin/users/{}", account.id)).await.ok();
    assert_eq!((&shown["operations"], &shown["storage"]["usedBytes"]), (&json!(0), &json!(0)));
}

async fn a_quota_counts_at_once(on: Backend) {
    let server = Server::start(on).await;
    let (admin, account) = (administrator(&server).await, server.account().await);
    account.upload("A", &[op("A").sized(1_000)]).await.ok();
    patch(&admin, account.id, &json!({ "quotaBytes": 1_500 })).await.ok();
    account.upload("A", &[op("A").sized(1_000)]).await.expect(413);
    patch(&admin, account.id, &json!({ "quotaBytes": 5_000 })).await.ok();
    account.upload("A", &[op("A").sized(1_000)]).await.ok();
}

async fn a_locked_account_is_out_and_its_sockets_with_it(on: Backend) {
    let server = Server::start(on).await;
    let (admin, account) = (administrator(&server).await, server.account().await);
    let mut socket = account.socket("A").await;
    assert_eq!(patch(&admin, account.id, &json!({ "locked": true })).await.ok()["state"], "locked");
    assert_eq!(socket.ended().await, Ended::Code(4003));
    refused(&account.get("/api/sync/status").await, 401, "Account unavailable");
    assert_eq!(patch(&admin, account.id, &json!({ "locked": false })).await.ok()["state"], "verified");
    account.status().await;
}

async fn a_verified_account_gets_a_password_that_nobody_knew(on: Backend) {
    let server = Server::start(on).await;
    let (admin, account) = (administrator(&server).await, server.account().await);
    let mut new = supersync::store::NewUser {
        email: "attacked@example.org".to_owned(),
        password_hash: Some("$argon2id$v=19$of$the$attacker".to_owned()),
        is_verified: false,
        created_at: 0,
        terms_accepted_at: None,
        storage_quota_bytes: 1,
    };
    let id = server.store.create_user(&new).await.expect("the store works").expect("a free address");
    let reply = patch(&admin, id, &json!({ "verified": true })).await.ok();
    let password = reply["password"].as_str().expect("a text");
    assert_eq!((&reply["state"], reply.headers["cache-control"].to_str().ok()), (&json!("verified"), Some("no-store")));
    let victim = Account { id, email: new.email.clone(), ..account };
    login(&victim, password).await.ok();
    assert!(!patch(&admin, id, &json!({ "verified": true })).await.ok().has("password"), "nothing was to be done");
    login(&victim, password).await.ok();
    "without@example.org".clone_into(&mut new.email);
    new.password_hash = None;
    let id = server.store.create_user(&new).await.expect("the store works").expect("a free address");
    let reply = patch(&admin, id, &json!({ "verified": true })).await.ok();
    assert_eq!((&reply["state"], reply.has("password")), (&json!("verified"), false));
}

async fn revoking_voids_every_token(on: Backend) {
    let server = Server::start(on).await;
    let (admin, account) = (administrator(&server).await, server.account().await);
    let mut socket = account.socket("A").await;
    admin.post(&format!("/api/admin/users/{}/revoke", account.id), &json!({})).await.ok();
    assert_eq!(socket.ended().await, Ended::Code(4003));
    refused(&account.get("/api/sync/status").await, 401, "Token was revoked. Please log in again to get a new token.");
}

async fn a_deleted_account_is_gone(on: Backend) {
    let server = Server::start(on).await;
    let (admin, account) = (administrator(&server).await, server.account().await);
    account.upload("A", &[op("A")]).await.ok();
    let mut socket = account.socket("A").await;
    let path = format!("/api/admin/users/{}", account.id);
    assert_eq!(admin.delete(&path).await.ok().body, json!({ "success": true }));
    assert_eq!(socket.ended().await, Ended::Code(4003));
    refused(&account.get("/api/sync/status").await, 401, "Account unavailable");
    refused(&admin.delete(&path).await, 404, "No such account");
}

async fn the_server_tells_what_it_is(on: Backend) {
    let server = Server::start(on).await;
    let admin = administrator(&server).await;
    server.account().await;
    let _socket = admin.socket("A").await;
    let facts = admin.get("/api/admin/server").await.ok();
    assert_eq!(facts["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(facts["database"]["kind"], if on == Backend::Sqlite { "sqlite" } else { "postgres" });
    assert!(facts["database"]["bytes"].as_i64() > Some(10_000) && facts["uptimeSeconds"].as_i64() < Some(600));
    assert_eq!((&facts["accounts"], &facts["sockets"]), (&json!(2), &json!(1)));
    assert!(!cfg!(target_os = "linux") || facts["memoryBytes"].as_i64() > Some(1 << 20));
}

async fn diagnostics_say_what_is_wrong_and_what_to_do(on: Backend) {
    let server = Server::start_with(on, |config| "https://sync.example.org".clone_into(&mut config.public_url)).await;
    let admin = administrator(&server).await;
    let headers = [("x-forwarded-for", "192.0.2.77"), ("x-forwarded-proto", "https")];
    let path = "/api/admin/diagnostics";
    let proxied = admin.send(Method::GET, path, &headers, Vec::new()).await.ok();
    let checks = proxied["checks"].as_array().expect("a list");
    let ids: Vec<&str> = checks.iter().map(|check| check["id"].as_str().expect("a text")).collect();
    assert_eq!(ids, ["public-url", "https", "proxies", "clock", "database", "mail", "disk"]);
    for check in checks {
        let is_warning = check["status"] == "warning";
        assert!(is_warning || check["status"] == "ok", "{check}");
        assert_eq!(check["advice"].is_string(), is_warning, "{check}");
        assert!(check["found"].as_str().is_some_and(|found| !found.is_empty()), "{check}");
    }
    let warns = |id: &str| checks.iter().any(|check| check["id"] == id && check["status"] == "warning");
    assert!(warns("public-url") && warns("mail") && !warns("https") && !warns("proxies"));
    assert_eq!(proxied["seen"]["clientAddress"], "192.0.2.77");
    assert_eq!(proxied["seen"]["peer"], "127.0.0.1");
    let headers = [("x-forwarded-host", "sync.example.org"), ("x-forwarded-proto", "http")];
    let other = admin.send(Method::GET, path, &headers, Vec::new()).await.ok();
    assert_eq!((&other["checks"][0]["status"], &other["checks"][1]["status"]), (&json!("ok"), &json!("warning")));
}
