//! What an account is signed in with: seen, named, ended.

use reqwest::Method;
use serde_json::{Value, json};
use supersync::accounts::{MAX_SESSIONS, SEEN_EVERY_MS, SESSION_SECONDS};

use crate::harness::{Account, Backend, Ended, Reply, Server};

on_both_databases! {
    without_a_good_token_nothing_is_told_or_changed,
    what_is_no_session_of_the_account_is_not_found,
    a_name_must_be_one,
    too_many_requests_are_refused,
    sessions_are_listed_with_where_they_come_from,
    a_session_is_seen_now_and_then,
    a_session_is_renamed,
    a_revoked_session_ends_alone_and_its_sockets_with_it,
    a_session_may_end_itself,
    all_other_sessions_end,
    older_tokens_are_listed_as_one_and_end_together,
    older_tokens_survive_one_of_them_that_ends_the_others,
    a_replaced_token_keeps_its_session_s_name,
    a_locked_account_is_unavailable_until_it_is_unlocked,
    the_session_unused_for_longest_makes_room,
    sessions_that_have_ended_are_swept,
}

const REVOKED: &str = "Token was revoked. Please log in again to get a new token.";

async fn sessions(account: &Account) -> Vec<Value> {
    let reply = account.get("/api/sessions").await.ok();
    assert_eq!(reply.headers["cache-control"], "no-store");
    reply["sessions"].as_array().expect("a list").clone()
}

/// The session with which the account comes.
async fn current(account: &Account) -> Value {
    let all = sessions(account).await;
    let mut current = all.into_iter().filter(|session| session["current"] == true);
    let session = current.next().expect("one is its own");
    assert!(current.next().is_none(), "only one is its own");
    session
}

async fn id(account: &Account) -> String {
    current(account).await["id"].as_str().expect("a text").to_owned()
}

async fn patch(account: &Account, id: &str, body: &Value) -> Reply {
    account.send(Method::PATCH, &format!("/api/sessions/{id}"), &[], body.to_string().into_bytes()).await
}

#[track_caller]
fn refused(reply: &Reply, status: u16, error: &str) {
    assert_eq!((reply.status, reply["error"].as_str()), (status, Some(error)), "{}", reply.text);
}

async fn without_a_good_token_nothing_is_told_or_changed(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let path = format!("/api/sessions/{}", id(&account).await);
    let revoked = server.signed_in_again(&account).await;
    let revoked_id = id(&revoked).await;
    account.delete(&format!("/api/sessions/{revoked_id}")).await.ok();
    let bad = Account { token: "bad".to_owned(), ..account.clone() };
    for (sender, error) in [(bad, "Invalid token"), (revoked, REVOKED)] {
        let name = json!({ "name": "mine" }).to_string().into_bytes();
        for reply in [
            sender.get("/api/sessions").await,
            sender.send(Method::PATCH, &path, &[], name).await,
            sender.delete(&path).await,
            sender.post("/api/sessions/revoke-others", &json!({})).await,
            sender.post("/api/sync/ws-ticket", &json!({})).await,
        ] {
            refused(&reply, 401, error);
        }
    }
    assert_eq!(sessions(&account).await.len(), 1);
    server.store.close().await;
    server.clock.advance_ms(31_000);
    refused(&account.get("/api/sessions").await, 503, "database unavailable, please retry");
}

async fn what_is_no_session_of_the_account_is_not_found(on: Backend) {
    let server = Server::start(on).await;
    let (account, stranger) = (server.account().await, server.account().await);
    let theirs = id(&stranger).await;
    let name = json!({ "name": "mine" });
    for id in [theirs.as_str(), "x", "AAAAAAAAAAAAAAAAAAAAAA", "..%2F..", "%00"] {
        refused(&patch(&account, id, &name).await, 404, "No such session");
        refused(&account.delete(&format!("/api/sessions/{id}")).await, 404, "No such session");
    }
    // Older tokens can be ended, even if nobody has seen one yet, but have no name.
    refused(&patch(&account, "older-tokens", &name).await, 404, "No such session");
    assert_eq!(current(&stranger).await["name"], "Command line");
    stranger.status().await;
}

async fn a_name_must_be_one(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let own = id(&account).await;
    for (body, message) in [
        (json!({}), "Invalid input: expected string, received undefined"),
        (json!({ "name": 7 }), "Invalid input: expected string, received number"),
        (json!({ "name": " \n\t" }), "Name is required"),
        (json!({ "name": "x".repeat(65) }), "Name must be at most 64 characters long"),
    ] {
        let reply = patch(&account, &own, &body).await;
        refused(&reply, 400, "Validation failed");
        assert_eq!(reply["details"][0]["message"], message);
    }
    refused(&patch(&account, &own, &json!([])).await, 400, "Validation failed");
    assert_eq!(current(&account).await["name"], "Command line");
}

async fn too_many_requests_are_refused(on: Backend) {
    let server = Server::start_with(on, |config| {
        config.rate_limits.per_address = true;
        config.rate_limits.sessions.max = 2;
        config.rate_limits.ws_ticket.max = 1;
    })
    .await;
    let account = server.account().await;
    account.get("/api/sessions").await.ok();
    account.delete("/api/sessions/x").await.expect(404);
    for reply in [account.get("/api/sessions").await, account.post("/api/sessions/revoke-others", &json!({})).await] {
        assert_eq!(reply.expect(429)["message"], "Rate limit exceeded, retry in 15 minutes");
    }
    account.post("/api/sync/ws-ticket", &json!({})).await.ok();
    account.post("/api/sync/ws-ticket", &json!({})).await.expect(429);
    account.status().await;
}

async fn sessions_are_listed_with_where_they_come_from(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let password = "a long passphrase".to_owned().into();
    server.accounts.set_password(account.id, &password).await.expect("the account exists");
    let login = account.http.post(format!("{}/api/login", account.base));
    let firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
    let login = login.header("user-agent", firefox).header("x-forwarded-for", "192.0.2.77");
    let login = login.json(&json!({ "email": account.email, "password": "a long passphrase" }));
    let session = crate::harness::receive(login).await.ok();
    let account = Account { token: session["token"].as_str().expect("a text").to_owned(), ..account };
    let now_ms = server.clock.now_ms();
    let mut own = current(&account).await;
    let id = own["id"].take();
    assert_eq!(id.as_str().map(str::len), Some(22));
    assert_eq!(own["expiresAt"].take(), now_ms + SESSION_SECONDS * 1000);
    assert_eq!(
        own,
        json!({
            "id": null, "name": "Firefox on Linux", "userAgent": firefox, "method": "password", "createdAt": now_ms,
            "lastSeenAt": now_ms, "lastAddress": "192.0.2.0/24", "expiresAt": null, "current": true, "olderToken": false,
        })
    );
    server.clock.advance_ms(1);
    let other = server.signed_in_again(&account).await;
    let listed = sessions(&account).await;
    let names: Vec<_> = listed.iter().map(|session| (&session["name"], &session["current"])).collect();
    assert_eq!(names, [(&json!("Command line"), &json!(false)), (&json!("Firefox on Linux"), &json!(true))]);
    assert_eq!(current(&other).await["method"], "operator");
}

async fn a_session_is_seen_now_and_then(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let opened_at = server.clock.now_ms();
    let poll = async |address: &str| {
        let path = "/api/sync/ops?sinceSeq=0";
        account.send(Method::GET, path, &[("x-forwarded-for", address)], Vec::new()).await.ok();
        server.accounts.record_sessions().await;
        // Read past the routes: they would count as a sign of life too.
        let row = server.store.sessions(account.id, opened_at).await.expect("the store works").remove(0);
        (row.last_seen_at - opened_at, row.last_address)
    };
    assert_eq!(poll("192.0.2.77").await, (0, None));
    server.clock.advance_ms(SEEN_EVERY_MS - 1);
    assert_eq!(poll("192.0.2.77").await, (0, None));
    server.clock.advance_ms(1);
    assert_eq!(poll("192.0.2.77").await, (SEEN_EVERY_MS, Some("192.0.2.0/24".to_owned())));
    server.clock.advance_ms(1);
    assert_eq!(poll("198.51.100.1").await, (SEEN_EVERY_MS, Some("192.0.2.0/24".to_owned())));
    server.clock.advance_ms(SEEN_EVERY_MS);
    assert_eq!(poll("2001:db8:1:2::3").await, (2 * SEEN_EVERY_MS + 1, Some("2001:db8:1::/48".to_owned())));
}

async fn a_session_is_renamed(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let own = id(&account).await;
    assert_eq!(
        patch(&account, &own, &json!({ "name": " My \u{7}phone " })).await.ok().body,
        json!({ "success": true })
    );
    assert_eq!(current(&account).await["name"], "My phone");
}

async fn a_revoked_session_ends_alone_and_its_sockets_with_it(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let other = server.signed_in_again(&account).await;
    let (mut stays, mut goes) = (account.socket("A").await, other.socket("B").await);
    other.status().await;
    let path = format!("/api/sessions/{}", id(&other).await);
    assert_eq!(account.delete(&path).await.ok().body, json!({ "success": true }));
    assert_eq!(goes.ended().await, Ended::Code(4003));
    refused(&other.get("/api/sync/status").await, 401, REVOKED);
    let query = format!("token={}&clientId=B", other.token);
    assert_eq!(account.socket_with(&query).await.ended().await, Ended::Code(4003));
    refused(&account.delete(&path).await, 404, "No such session");
    // Its own event changes nothing.
    assert_eq!(server.follow().await, 1);
    account.upload("X", &[crate::harness::op("X")]).await.ok();
    assert_eq!(stays.notice().await["latestSeq"], 1);
}

async fn a_session_may_end_itself(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.delete(&format!("/api/sessions/{}", id(&account).await)).await.ok();
    refused(&account.get("/api/sessions").await, 401, REVOKED);
    assert!(sessions(&server.signed_in_again(&account).await).await.len() == 1);
}

async fn all_other_sessions_end(on: Backend) {
    let server = Server::start(on).await;
    let (account, stranger) = (server.account().await, server.account().await);
    let others = [server.signed_in_again(&account).await, server.signed_in_again(&account).await];
    let older = Account { token: account.older_token(server.clock.now_ms()), ..account.clone() };
    older.status().await;
    server.clock.advance_ms(1000);
    let (mut stays, mut goes, mut goes_too) =
        (account.socket("A").await, others[0].socket("B").await, older.socket("C").await);
    let reply = account.post("/api/sessions/revoke-others", &json!({})).await.ok();
    assert_eq!(reply.body, json!({ "success": true, "revoked": 2 }));
    for socket in [&mut goes, &mut goes_too] {
        assert_eq!(socket.ended().await, Ended::Code(4003));
    }
    for gone in [&others[0], &others[1], &older] {
        refused(&gone.get("/api/sync/status").await, 401, REVOKED);
    }
    assert_eq!(sessions(&account).await.len(), 1);
    stranger.status().await;
    account.upload("X", &[crate::harness::op("X")]).await.ok();
    assert_eq!(stays.notice().await["latestSeq"], 1);
    let reply = account.post("/api/sessions/revoke-others", &json!({})).await.ok();
    assert_eq!(reply["revoked"], 0);
}

async fn older_tokens_are_listed_as_one_and_end_together(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let now_ms = server.clock.now_ms();
    let [one, two] = [0, 5_000].map(|ago| Account { token: account.older_token(now_ms - ago), ..account.clone() });
    assert_eq!(sessions(&account).await.len(), 1, "none has been seen");
    one.send(Method::GET, "/api/sync/status", &[("x-forwarded-for", "192.0.2.77")], Vec::new()).await.ok();
    server.accounts.record_sessions().await;
    let listed = sessions(&account).await;
    assert_eq!(
        listed[1],
        json!({
            "id": "older-tokens", "name": "Older tokens", "userAgent": "", "method": null, "createdAt": null,
            "lastSeenAt": now_ms, "lastAddress": "192.0.2.0/24", "expiresAt": null, "current": false, "olderToken": true,
        })
    );
    assert_eq!(current(&two).await["id"], "older-tokens");
    let mut socket = two.socket("B").await;
    server.clock.advance_ms(1000);
    account.delete("/api/sessions/older-tokens").await.ok();
    assert_eq!(socket.ended().await, Ended::Code(4003));
    for gone in [&one, &two] {
        refused(&gone.get("/api/sync/status").await, 401, REVOKED);
    }
    assert_eq!(sessions(&account).await.len(), 1);
    // One that the old server gives out later counts.
    let later = Account { token: account.older_token(server.clock.now_ms() + 1000), ..account.clone() };
    later.status().await;
}

async fn older_tokens_survive_one_of_them_that_ends_the_others(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let older = Account { token: account.older_token(server.clock.now_ms()), ..account.clone() };
    assert_eq!(older.post("/api/sessions/revoke-others", &json!({})).await.ok()["revoked"], 1);
    refused(&account.get("/api/sync/status").await, 401, REVOKED);
    older.status().await;
}

async fn a_replaced_token_keeps_its_session_s_name(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let other = server.signed_in_again(&account).await;
    patch(&account, &id(&account).await, &json!({ "name": "Phone" })).await.ok();
    let token = account.post("/api/replace-token", &json!({})).await.ok()["token"].as_str().expect("a text").to_owned();
    for gone in [&account, &other] {
        refused(&gone.get("/api/sessions").await, 401, REVOKED);
    }
    let account = Account { token, ..account };
    let listed = sessions(&account).await;
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0]["name"], &listed[0]["method"]), (&json!("Phone"), &json!("replaced")));
    // What this process hears of itself must not end what has begun since.
    let mut socket = account.socket("A").await;
    assert!(server.follow().await > 0);
    account.upload("X", &[crate::harness::op("X")]).await.ok();
    assert_eq!(socket.notice().await["latestSeq"], 1);
}

async fn a_locked_account_is_unavailable_until_it_is_unlocked(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let password = "a long passphrase".to_owned().into();
    server.accounts.set_password(account.id, &password).await.expect("the account exists");
    let account = server.signed_in_again(&account).await;
    account.status().await;
    server.accounts.set_locked(account.id, true).await.expect("the account exists");
    refused(&account.get("/api/sync/status").await, 401, "Account unavailable");
    let login = || {
        let login = account.http.post(format!("{}/api/login", account.base));
        let login = login.json(&json!({ "email": account.email, "password": "a long passphrase" }));
        crate::harness::receive(login)
    };
    refused(&login().await, 401, "Invalid credentials");
    assert!(server.accounts.session_for(account.id).await.is_err());
    server.accounts.set_locked(account.id, false).await.expect("the account exists");
    account.status().await;
    login().await.ok();
}

async fn the_session_unused_for_longest_makes_room(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    server.clock.advance_ms(1);
    let second = server.signed_in_again(&account).await;
    for _ in 0..MAX_SESSIONS - 2 {
        server.clock.advance_ms(1);
        server.signed_in_again(&account).await;
    }
    account.status().await;
    assert_eq!(sessions(&account).await.len(), MAX_SESSIONS);
    server.clock.advance_ms(1);
    server.signed_in_again(&account).await;
    refused(&account.get("/api/sync/status").await, 401, REVOKED);
    assert_eq!(sessions(&second).await.len(), MAX_SESSIONS);
}

async fn sessions_that_have_ended_are_swept(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    server.clock.advance_ms(365 * 24 * 60 * 60 * 1000);
    let fresh = server.signed_in_again(&account).await;
    assert_eq!(sessions(&fresh).await.len(), 1, "one that has ended is not listed");
    refused(&account.get("/api/sync/status").await, 401, "Token expired. Please log in again to get a new token.");
    server.clock.advance_ms(1);
    server.sweep().await;
    assert_eq!(server.store.sessions(account.id, 0).await.expect("the store works").len(), 1);
    fresh.status().await;
}
