//! Overload and a database that misbehaves: nothing acknowledged is lost, nothing is stored twice, and everything that
//! waits is bounded.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use secrecy::ExposeSecret as _;
use supersync::accounts::Accounts;
use supersync::config::Config;
use supersync::engine::{EngineError, RestoreError, UploadReply};
use supersync::events::Follower;
use supersync::http::routes::ROUTES;
use supersync::http::{self, AppState};
use supersync::mail::Mailer;
use supersync::protocol::ErrorCode;
use supersync::store::AccountStore as _;
use tokio::time::Instant;
use tower::ServiceExt as _;

use super::faulty_store::Fault;
use super::setup::{Setup, deadline, done, eventually, new_user, op, options, outcomes, setup, since, upload};
use crate::harness::Log;

fn close_gate(t: &Setup) {
    t.store.gated.store(true, Ordering::SeqCst);
}

fn open_gate(t: &Setup) {
    t.store.gated.store(false, Ordering::SeqCst);
    t.store.gate.add_permits(1000);
}

#[tokio::test]
async fn too_many_requests_of_one_account_are_refused_at_once_and_others_are_served() {
    let t = setup(supersync::engine::Options { max_queued_requests_per_user: 4, ..options() }).await;
    let other = new_user(t.store.as_ref(), "other@example.com", 1 << 20).await;
    close_gate(&t);
    let mut waiting = tokio::task::JoinSet::new();
    for n in 0..4 {
        let (engine, user) = (t.engine.clone(), t.user);
        waiting.spawn(async move { engine.upload(user, upload(vec![op(&n.to_string())]), deadline()).await });
    }
    eventually("a commit under way", || t.store.arrived.load(Ordering::SeqCst) == 1).await;
    let refused = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            let reply =
                t.engine.upload(t.user, upload(vec![op("5")]), Instant::now() + Duration::from_millis(50)).await;
            if matches!(reply, Err(EngineError::Busy)) {
                return;
            }
            tokio::task::yield_now().await;
        }
    });
    refused.await.expect("the fifth is refused");
    let others = tokio::spawn({
        let engine = t.engine.clone();
        async move { engine.upload(other, upload(vec![op("1")]), deadline()).await }
    });
    open_gate(&t);
    done(others.await.expect("no panic").expect("another account is admitted"));
    let mut accepted = 0;
    while let Some(reply) = waiting.join_next().await {
        accepted += outcomes(&done(reply.expect("no panic").expect("admitted requests are answered")))
            .iter()
            .filter(|r| r.is_ok())
            .count();
    }
    assert_eq!(accepted, 4);
}

#[tokio::test]
async fn too_many_bytes_are_refused() {
    let t = setup(supersync::engine::Options { max_queued_bytes: 4096, ..options() }).await;
    close_gate(&t);
    let large = |id: &str| {
        let mut op = op(id);
        op["payload"] = serde_json::json!({"x": "y".repeat(3000)});
        op
    };
    let first = tokio::spawn({
        let (engine, user, large) = (t.engine.clone(), t.user, large("1"));
        async move { engine.upload(user, upload(vec![large]), deadline()).await }
    });
    eventually("a commit under way", || t.store.arrived.load(Ordering::SeqCst) == 1).await;
    let refused = t.engine.upload(t.user, upload(vec![large("2")]), deadline()).await;
    assert!(matches!(refused, Err(EngineError::Busy)), "{refused:?}");
    open_gate(&t);
    assert_eq!(outcomes(&done(first.await.expect("no panic").expect("an answer"))), [Ok(1)]);
}

#[tokio::test]
async fn requests_that_wait_behind_a_commit_share_the_next_one() {
    let t = setup(options()).await;
    close_gate(&t);
    let mut waiting = tokio::task::JoinSet::new();
    for n in 0..20 {
        let (engine, user) = (t.engine.clone(), t.user);
        waiting.spawn(async move { engine.upload(user, upload(vec![op(&n.to_string())]), deadline()).await });
    }
    eventually("a commit under way", || t.store.arrived.load(Ordering::SeqCst) == 1).await;
    open_gate(&t);
    while let Some(reply) = waiting.join_next().await {
        assert!(outcomes(&done(reply.expect("no panic").expect("an answer")))[0].is_ok());
    }
    assert_eq!(t.latest().await, 20);
}

#[tokio::test]
async fn work_whose_caller_has_gone_is_not_started() {
    let t = setup(options()).await;
    close_gate(&t);
    let first = tokio::spawn({
        let (engine, user) = (t.engine.clone(), t.user);
        async move { engine.upload(user, upload(vec![op("1")]), deadline()).await }
    });
    eventually("a commit under way", || t.store.arrived.load(Ordering::SeqCst) == 1).await;
    // Its time is up while it waits in the mailbox.
    let gone = t.engine.upload(t.user, upload(vec![op("2")]), Instant::now() + Duration::from_millis(20)).await;
    assert!(matches!(gone, Err(EngineError::Deadline)), "{gone:?}");
    open_gate(&t);
    assert_eq!(outcomes(&done(first.await.expect("no panic").expect("an answer"))), [Ok(1)]);
    assert_eq!(outcomes(&t.upload(vec![op("3")]).await), [Ok(2)], "the abandoned one left no trace");
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_acknowledged_once_it_is_found() {
    let t = setup(options()).await;
    t.upload(vec![op("1")]).await;
    t.store.faults.lock().expect("the lock").push(Fault::LostAfterCommit);
    assert_eq!(outcomes(&t.upload(vec![op("2"), op("3")]).await), [Ok(2), Ok(3)]);
    assert_eq!(outcomes(&t.upload(vec![op("4")]).await), [Ok(4)]);
    let page = t.engine.download(t.user, since(0), deadline()).await.expect("an answer");
    assert_eq!(page.ops.len(), 4, "G2: nothing is stored twice");
}

#[tokio::test]
async fn a_commit_that_did_not_arrive_is_made_again() {
    let t = setup(options()).await;
    t.store.faults.lock().expect("the lock").push(Fault::LostBeforeCommit);
    assert_eq!(outcomes(&t.upload(vec![op("1")]).await), [Ok(1)]);
    assert_eq!(t.latest().await, 1);
}

#[tokio::test]
async fn a_database_that_is_away_leaves_operations_pending_and_recovers() {
    let t = setup(options()).await;
    t.store.faults.lock().expect("the lock").push(Fault::Unavailable);
    let refused = t.upload(vec![op("1")]).await;
    assert_eq!(outcomes(&refused), [Err(ErrorCode::InternalError)]);
    let text = &refused.results[0].outcome.as_ref().expect_err("refused").message;
    assert!(text.contains("please retry"), "clients look for these words: {text}");
    assert_eq!(outcomes(&t.upload(vec![op("1")]).await), [Ok(1)], "the retry is not a duplicate");
}

#[tokio::test]
async fn a_database_that_is_away_does_not_fill_the_log() {
    let t = setup(options()).await;
    let (log, _guard) = Log::of_thread();
    for n in 0..20 {
        t.store.faults.lock().expect("the lock").push(Fault::Unavailable);
        assert_eq!(outcomes(&t.upload(vec![op(&n.to_string())]).await), [Err(ErrorCode::InternalError)]);
    }
    let lines = log.lines_with("group commit failed");
    assert!((1..20).contains(&lines.len()), "at most one in a second: {lines:?}");
}

#[tokio::test]
async fn a_poll_with_nothing_new_asks_the_database_nothing() {
    let t = setup(options()).await;
    t.upload(vec![op("1"), op("2")]).await;
    let mut query = since(2);
    query.exclude_client = Some("B".to_owned());
    t.engine.download(t.user, query.clone(), deadline()).await.expect("the first poll records the device");
    let before = t.store.calls.load(Ordering::SeqCst);
    for _ in 0..100 {
        t.engine.download(t.user, query.clone(), deadline()).await.expect("an answer");
    }
    assert_eq!(t.store.calls.load(Ordering::SeqCst), before);
}

#[tokio::test]
async fn an_upload_with_known_heads_costs_one_commit_and_no_read() {
    let t = setup(options()).await;
    t.upload(vec![op("1")]).await;
    let before = t.store.calls.load(Ordering::SeqCst);
    assert_eq!(outcomes(&t.upload(vec![op("2"), op("3")]).await), [Ok(2), Ok(3)]);
    assert_eq!(t.store.calls.load(Ordering::SeqCst), before + 1);
}

#[tokio::test]
async fn a_replay_of_which_nothing_comes_gives_its_place_up_when_its_time_is_over() {
    let replay_time = Duration::from_secs(1);
    let t = setup(supersync::engine::Options { replay_time, ..options() }).await;
    let mut users = vec![t.user];
    for n in 0..3 {
        users.push(new_user(t.store.as_ref(), &format!("{n}@example.com"), 1 << 20).await);
    }
    for user in &users {
        done(t.engine.upload(*user, upload(vec![op("1")]), deadline()).await.expect("the engine answers"));
    }
    t.store.reads_hang.store(true, Ordering::SeqCst);
    let started = Instant::now();
    // More than there are places: the last ones get theirs when the first ones give up.
    let restores = users.iter().map(|user| t.engine.restore(*user, None, deadline()));
    for result in futures_util::future::join_all(restores).await {
        assert!(matches!(result, Err(RestoreError::Engine(EngineError::Busy))), "{result:?}");
    }
    assert!(started.elapsed() < 10 * replay_time, "long before their callers' time is up");
    t.store.reads_hang.store(false, Ordering::SeqCst);
    for user in users {
        t.engine.restore(user, None, deadline()).await.expect("places are free");
    }
}

#[tokio::test]
async fn a_download_of_which_nothing_comes_breaks_off_and_makes_room() {
    let t = setup(options()).await;
    let variables = [
        ("DATA_DIR", "data"),
        ("JWT_SECRET", "a secret of the tests, long enough to be one"),
        ("REQUEST_TIMEOUT_SECONDS", "3"),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Arc::new(Config::parse(&variables.into()).expect("the settings are right"));
    let accounts = Accounts::new(t.store.clone(), &config, t.clock.clone(), Mailer::unavailable());
    let token = accounts.session_for(t.user).await.expect("a session").token;
    let state =
        AppState::new(config, t.engine.clone(), accounts, t.store.clone(), t.clock.clone(), Arc::default(), ROUTES);
    let export = async || {
        let bearer = format!("Bearer {}", token.expose_secret());
        let request = Request::get("/api/account/export").header("authorization", bearer);
        let request = request.body(Body::empty()).expect("a request");
        let response = http::router(state.clone()).oneshot(request).await.expect("an answer");
        (response.status().as_u16(), axum::body::to_bytes(response.into_body(), usize::MAX).await)
    };
    t.upload(vec![op("1")]).await;
    t.store.reads_hang.store(true, Ordering::SeqCst);
    let (status, body) = export().await;
    assert_eq!(status, 200);
    body.expect_err("it ends without its end");
    t.store.reads_hang.store(false, Ordering::SeqCst);
    let (status, body) = export().await;
    assert_eq!(status, 200, "the account's only place is free again");
    assert!(body.expect("whole").len() > 500);
}

#[tokio::test]
async fn events_that_could_not_be_read_are_acted_on_later() {
    let t = setup(options()).await;
    let variables = [("DATA_DIR", "data"), ("JWT_SECRET", "a secret of the tests, long enough to be one")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::parse(&variables.into()).expect("the settings are right");
    let accounts = Accounts::new(t.store.clone(), &config, t.clock.clone(), Mailer::unavailable());
    let mut follower =
        Follower::start(t.store.clone(), accounts, t.engine.clone(), t.clock.clone()).await.expect("the store works");
    t.upload(vec![op("one")]).await;
    t.store.set_quota(t.user, 1).await.expect("the store works");
    t.store.events_fail.store(true, Ordering::SeqCst);
    follower.poll().await.expect_err("events can't be read");
    t.store.events_fail.store(false, Ordering::SeqCst);
    assert!(follower.poll().await.expect("the store works again") > 0);
    let reply = t.engine.upload(t.user, upload(vec![op("two")]), deadline()).await.expect("the engine answers");
    assert!(matches!(reply, UploadReply::QuotaExceeded(_)));
    assert_eq!(follower.poll().await.expect("the store works"), 0);
}
