//! Which requests there are: unknown routes, probes, preflights.

use serde_json::json;
use supersync::config::Config;
use tokio::time::timeout;

use super::ask;
use crate::harness::{Backend, PATIENCE, Server};

on_both_databases! {
    unknown_routes_and_methods_are_a_json_404,
    a_socket_s_route_without_an_upgrade_is_a_404_that_does_not_repeat_the_token,
    probes_are_not_counted_and_readiness_ends_before_the_server_does,
    health_tells_when_the_database_is_gone,
    preflights_are_answered_for_any_path_and_never_counted,
}

fn counting(config: &mut Config) {
    config.rate_limits.per_address = true;
}

async fn unknown_routes_and_methods_are_a_json_404(on: Backend) {
    let server = Server::start(on).await;
    for (method, path) in
        [("GET", "/nope?x=1"), ("PUT", "/api/sync/ops"), ("POST", "/health"), ("GET", "/api/test/cleanup")]
    {
        let reply = ask(&server, method, path, &[]).await.expect(404);
        let message = format!("Route {method}:{path} not found");
        assert_eq!(reply.body, json!({ "message": message, "error": "Not Found", "statusCode": 404 }));
        assert_eq!(reply.headers["x-content-type-options"], "nosniff");
        assert_eq!(reply.headers["content-type"], "application/json; charset=utf-8");
    }
}

async fn a_socket_s_route_without_an_upgrade_is_a_404_that_does_not_repeat_the_token(on: Backend) {
    let server = Server::start(on).await;
    let reply = ask(&server, "GET", "/api/sync/ws?token=secret&clientId=A", &[]).await.expect(404);
    assert!(!reply.text.contains("secret"), "{}", reply.text);
}

async fn probes_are_not_counted_and_readiness_ends_before_the_server_does(on: Backend) {
    let server = Server::start_with(on, |config| {
        counting(config);
        config.timeouts.linger = PATIENCE;
    })
    .await;
    let health = ask(&server, "GET", "/health", &[]).await.ok();
    assert_eq!(health.body, json!({ "status": "ok", "db": "connected", "wsConnections": 0 }));
    assert_eq!(health.header("x-ratelimit-limit"), None);
    for probe in ["/readyz", "/readyz/reads"] {
        ask(&server, "GET", probe, &[]).await.ok();
    }
    server.drain().await;
    for probe in ["/readyz", "/readyz/reads"] {
        let unready = async { while ask(&server, "GET", probe, &[]).await.status != 503 {} };
        timeout(PATIENCE, unready).await.expect("balancers hear of it");
    }
    ask(&server, "GET", "/livez", &[]).await.ok();
}

async fn health_tells_when_the_database_is_gone(on: Backend) {
    let server = Server::start(on).await;
    server.store.close().await;
    let health = ask(&server, "GET", "/health", &[]).await.expect(503);
    let expected = json!({ "status": "error", "db": "disconnected", "message": "Database not responsive" });
    assert_eq!(health.body, expected);
}

async fn preflights_are_answered_for_any_path_and_never_counted(on: Backend) {
    let server = Server::start_with(on, |config| {
        counting(config);
        config.cors.origins = vec!["https://*.example.com".to_owned()];
    })
    .await;
    let app = ("origin", "https://app.example.com");
    let method = ("access-control-request-method", "POST");
    let allowed = ask(&server, "OPTIONS", "/nowhere", &[app, method]).await.expect(204);
    assert_eq!(allowed.headers["access-control-allow-origin"], app.1);
    assert_eq!(allowed.headers["access-control-allow-credentials"], "true");
    assert_eq!(allowed.headers["access-control-max-age"], "86400");
    assert_eq!(allowed.headers["vary"], "Origin");
    assert_eq!(allowed.header("x-ratelimit-limit"), None);
    let foreign = ask(&server, "OPTIONS", "/nowhere", &[("origin", "https://example.com"), method]).await.expect(204);
    assert_eq!(foreign.header("access-control-allow-origin"), None);
    for lacks in [&[][..], &[app], &[method]] {
        ask(&server, "OPTIONS", "/", lacks).await.expect(400);
    }
    let reply = ask(&server, "GET", "/nope", &[app]).await.expect(404);
    assert_eq!(reply.headers["access-control-allow-origin"], app.1);
    assert!(reply.headers.contains_key("x-ratelimit-limit"), "what is no preflight is counted");
}
