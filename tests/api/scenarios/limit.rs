//! Scenarios 68 and 69: limits, tokens, and trouble that must not look like a bad token.

use serde_json::json;

use crate::harness::{Backend, Ended, Server, op, receive, snapshot};

on_both_databases! {
    s68_the_101st_upload_in_a_minute_is_refused,
    s68_a_clean_slate_and_a_wipe_clear_the_count,
    s68_per_address_limits_say_when_to_retry,
    s69_a_revoked_token_is_refused_at_once,
    s69_without_a_valid_token_nothing_is_told,
    s69_a_database_failure_is_no_authentication_failure,
}

async fn s68_the_101st_upload_in_a_minute_is_refused(on: Backend) {
    let server = Server::start(on).await;
    let (account, stranger) = (server.account().await, server.account().await);
    // What fails validation is not counted.
    account.upload("A", &[]).await.expect(400);
    for _ in 0..100 {
        account.upload("A", &[op("A").kind("NOPE")]).await.ok();
    }
    let reply = account.upload("A", &[op("A")]).await.expect(429);
    assert_eq!((&reply["error"], &reply["errorCode"]), (&json!("Rate limited"), &json!("RATE_LIMITED")));
    stranger.upload("A", &[op("A")]).await.ok();
    server.clock.advance_ms(60_000);
    assert_eq!(account.upload("A", &[op("A")]).await.outcomes(), ["#1"]);
}

async fn s68_a_clean_slate_and_a_wipe_clear_the_count(on: Backend) {
    let server = Server::start_with(on, |config| config.rate_limits.uploads_per_user.max = 2).await;
    let account = server.account().await;
    let exhaust = async || {
        account.upload("A", &[op("A")]).await.ok();
        account.upload("A", &[op("A")]).await.ok();
        account.upload("A", &[op("A")]).await.expect(429);
    };
    exhaust().await;
    account.snapshot(&snapshot("A")).await.ok();
    account.upload("A", &[op("A")]).await.expect(429);
    account.snapshot(&snapshot("A").clean_slate()).await.ok();
    exhaust().await;
    account.delete("/api/sync/data").await.ok();
    exhaust().await;
}

async fn s68_per_address_limits_say_when_to_retry(on: Backend) {
    let server = Server::start_with(on, |config| config.rate_limits.per_address = true).await;
    let account = server.account().await;
    for left in (0..3).rev() {
        let reply = account.delete("/api/sync/data").await.ok();
        assert_eq!(reply.headers["x-ratelimit-limit"], "3");
        assert_eq!(reply.headers["x-ratelimit-remaining"], left.to_string().as_str());
    }
    let reply = account.delete("/api/sync/data").await.expect(429);
    assert_eq!((&reply["statusCode"], &reply["error"]), (&json!(429), &json!("Too Many Requests")));
    assert_eq!(reply["message"], "Rate limit exceeded, retry in 15 minutes");
    assert_eq!(reply.headers["retry-after"], "900");
    server.clock.advance_ms(14 * 60_000 + 30_000);
    let reply = account.delete("/api/sync/data").await.expect(429);
    assert_eq!(reply["message"], "Rate limit exceeded, retry in 30 seconds");
    // Routes are counted apart.
    account.get("/api/sync/status").await.ok();
    server.clock.advance_ms(30_000);
    account.delete("/api/sync/data").await.ok();
}

async fn s69_a_revoked_token_is_refused_at_once(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let mut socket = account.socket("A").await;
    account.status().await;
    server.revoke(&account).await;
    let reply = account.get("/api/sync/status").await.expect(401);
    assert!(reply["error"].is_string());
    assert_eq!(socket.ended().await, Ended::Code(4003));
    let mut late = account.socket_with(&format!("token={}&clientId=A", account.token)).await;
    assert_eq!(late.ended().await, Ended::Code(4003));
}

async fn s69_without_a_valid_token_nothing_is_told(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let deleted = server.account().await;
    assert!(server.store.delete_user(deleted.id).await.expect("the account goes"));
    let headers = [
        None,
        Some("Bearer".to_owned()),
        Some("Bearer ".to_owned()),
        Some("Bearer x.y.z".to_owned()),
        Some("Basic abc".to_owned()),
        Some(format!("bearer {}", account.token)),
        Some(format!("Bearer {}x", account.token)),
        Some(format!("Bearer {}", deleted.token)),
    ];
    for header in headers {
        let mut request = account.http.post(format!("{}/api/sync/ops", account.base)).body("{not json");
        // The sender is authenticated before the body is read.
        request = request.header("content-encoding", "deflate");
        if let Some(header) = &header {
            request = request.header("authorization", header);
        }
        let reply = receive(request).await.expect(401);
        assert_eq!(
            reply.body.as_object().map(|members| members.keys().collect::<Vec<_>>()),
            Some(vec![&"error".to_owned()])
        );
    }
}

async fn s69_a_database_failure_is_no_authentication_failure(on: Backend) {
    let server = Server::start(on).await;
    let (known, unknown) = (server.account().await, server.account().await);
    known.status().await;
    server.store.close().await;
    for account in [&known, &unknown] {
        server.clock.advance_ms(31_000);
        let reply = account.get("/api/sync/status").await;
        // The contract's 500 or the more telling 503: a client takes both for passing trouble and keeps its token.
        assert!([500, 503].contains(&reply.status), "{} {}", reply.status, reply.text);
        let mut socket = account.socket_with(&format!("token={}&clientId=A", account.token)).await;
        assert_eq!(socket.ended().await, Ended::Code(1011));
    }
}
