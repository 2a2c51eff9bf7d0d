//! Allocations per poll, in this process and on one thread, without sockets.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, header};
use secrecy::ExposeSecret as _;
use supersync::clock::Clock;
use supersync::config::Config;
use supersync::mail::Mailer;
use supersync::server::{Parts, Server};
use supersync::store::{self, NewUser};
use tower::ServiceExt as _;

const BUDGET: &str = include_str!("budget.toml");

fn budget(name: &str) -> u64 {
    let line = BUDGET.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_prefix('='));
    line.expect("the budget names it").trim().replace('_', "").parse().expect("a number")
}

#[test]
fn a_poll_allocates_no_more_than_its_budget() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (engine, router, request) = runtime.block_on(async {
        let variables = [("DATA_DIR".to_owned(), directory.path().to_string_lossy().into_owned())];
        let config = Arc::new(Config::parse(&variables.into()).expect("the settings are right"));
        let store = store::open(&config.database, config.timeouts.statement).await.expect("the store opens");
        let parts = Parts::of(&config, Clock::manual(1_800_000_000_000), Mailer::unavailable());
        let server = Server::assemble(config, store, parts).await.expect("the server starts");
        let user = NewUser {
            email: "poller@example.org".to_owned(),
            password_hash: None,
            is_verified: true,
            created_at: server.clock.now_ms(),
            terms_accepted_at: None,
            storage_quota_bytes: 1 << 20,
        };
        let user = server.store.create_user(&user).await.expect("the store works").expect("a new address");
        let session = server.accounts.session_for(user).await.expect("a session");
        let bearer = format!("Bearer {}", session.token.expose_secret());
        let router = server.router();
        let request = move || {
            Request::get("/api/sync/ops?sinceSeq=0&excludeClient=B_a7Kx9Z")
                .header(header::AUTHORIZATION, &bearer)
                .body(Body::empty())
                .expect("a sound request")
        };
        (server.engine, router, request)
    });
    let poll = |request: Request<Body>| {
        runtime.block_on(async {
            let response = router.clone().oneshot(request).await.expect("infallible");
            assert_eq!(response.status(), 200);
            axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("the answer arrives whole")
        })
    };
    // Caches and buffers have their size after a few.
    (0..10).for_each(|_| drop(poll(request())));
    let polls = 100;
    let requests: Vec<_> = (0..polls).map(|_| request()).collect();
    let counted = allocation_counter::measure(|| requests.into_iter().for_each(|request| drop(poll(request))));
    let (each, allowed) = (counted.count_total.div_ceil(polls), budget("allocations_per_poll"));
    assert!(
        each <= allowed && each + 2 >= allowed,
        "a poll allocates {each} times, the budget is {allowed}: make it cheaper, or change tests/guard/budget.toml"
    );
    runtime.block_on(engine.shutdown());
}
