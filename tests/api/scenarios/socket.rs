//! Scenarios 65 to 67, and point 3 of section 17: who is told that something is new.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::join;

use crate::harness::{Account, Backend, Ended, RawSocket, Server, Setup, Socket, op};

on_both_databases! {
    s65_bad_tokens_and_client_ids_are_told_by_close_codes,
    s65_an_account_has_at_most_ten_sockets,
    s65_a_hasty_reconnect_is_refused_and_the_first_socket_stays,
    s65_a_later_reconnect_replaces_the_first_socket,
    s66_a_burst_is_told_once_to_the_others,
    s66_nothing_accepted_is_nothing_new,
    s66_snapshots_are_told_and_repeats_are_not,
    s67_a_socket_that_never_answers_is_closed,
    s67_the_apps_own_pong_keeps_a_socket_open,
    s67_a_message_above_1024_bytes_ends_the_socket,
    a_server_that_stops_says_so,
    every_message_has_its_members_and_no_others,
    m03_two_devices_that_upload_at_once_hear_of_each_other,
    m03_steady_uploads_do_not_starve_the_others,
}

async fn started(on: Backend, change: impl FnOnce(&mut Setup)) -> (Server, Account) {
    let server = Server::start_setup(on, change).await;
    let account = server.account().await;
    (server, account)
}

async fn ended_with(account: &Account, query: &str) -> Ended {
    account.socket_with(query).await.ended().await
}

async fn s65_bad_tokens_and_client_ids_are_told_by_close_codes(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let token = &account.token;
    let cases = [
        ("clientId=A".to_owned(), 4001),
        ("token=&clientId=A".to_owned(), 4001),
        ("token=bad".to_owned(), 4001),
        ("token=bad&clientId=".to_owned(), 4001),
        ("token=bad&clientId=bad%20id".to_owned(), 4001),
        (format!("token={token}&clientId=A&clientId=B"), 4001),
        (format!("token={token}&clientId={}", "x".repeat(256)), 4001),
        ("token=bad&clientId=A".to_owned(), 4003),
        (format!("token={token}x&clientId=A"), 4003),
        (format!("token={token}&token={token}&clientId=A"), 4003),
    ];
    for (query, code) in cases {
        assert_eq!(ended_with(&account, &query).await, Ended::Code(code), "{query}");
    }
}

async fn s65_an_account_has_at_most_ten_sockets(on: Backend) {
    let server = Server::start(on).await;
    let (account, stranger) = (server.account().await, server.account().await);
    let mut sockets = Vec::new();
    for n in 0..10 {
        sockets.push(account.socket(&format!("c{n}")).await);
    }
    let query = format!("token={}&clientId=c10", account.token);
    assert_eq!(ended_with(&account, &query).await, Ended::Code(4008));
    stranger.socket("c10").await;
    account.upload("X", &[op("X")]).await.ok();
    for socket in &mut sockets {
        assert_eq!(socket.notice().await["latestSeq"], 1);
    }
}

async fn s65_a_hasty_reconnect_is_refused_and_the_first_socket_stays(on: Backend) {
    let (_server, account) = started(on, |setup| setup.options.notifier.cooldown = Duration::from_mins(10)).await;
    let mut first = account.socket("A").await;
    let query = format!("token={}&clientId=A", account.token);
    for _ in 0..2 {
        assert_eq!(ended_with(&account, &query).await, Ended::Code(4008));
    }
    account.upload("B", &[op("B")]).await.ok();
    assert_eq!(first.notice().await["latestSeq"], 1);
}

async fn s65_a_later_reconnect_replaces_the_first_socket(on: Backend) {
    let (_server, account) = started(on, |setup| setup.options.notifier.cooldown = Duration::ZERO).await;
    let mut first = account.socket("A").await;
    let mut second = account.socket("A").await;
    assert_eq!(first.ended().await, Ended::Code(4009));
    account.upload("B", &[op("B")]).await.ok();
    assert_eq!(second.notice().await["latestSeq"], 1);
}

async fn s66_a_burst_is_told_once_to_the_others(on: Backend) {
    // Long enough that the whole burst falls into it, however slow the machine.
    let patient = |setup: &mut Setup| {
        setup.options.notifier.debounce = Duration::from_secs(2);
        setup.options.notifier.max_delay = Duration::from_secs(2);
    };
    let (server, account) = started(on, patient).await;
    let stranger = server.account().await;
    let (mut a, mut b) = (account.socket("A").await, account.socket("B").await);
    let mut other = stranger.socket("B").await;
    for _ in 0..3 {
        account.upload("A", &[op("A")]).await.ok();
    }
    let notice = b.notice().await;
    assert_eq!((&notice["type"], &notice["latestSeq"]), (&json!("new_ops"), &json!(3)));
    assert!(notice["timestamp"].is_i64());
    // The next thing that A and the stranger hear is something else: they were not told of the burst.
    account.upload("C", &[op("C")]).await.ok();
    assert_eq!(a.notice().await["latestSeq"], 4);
    stranger.upload("A", &[op("A")]).await.ok();
    assert_eq!(other.notice().await["latestSeq"], 1);
}

async fn s66_nothing_accepted_is_nothing_new(on: Backend) {
    let (_server, account) = started(on, quick).await;
    let mut b = account.socket("B").await;
    account.upload("A", &[op("A")]).await.ok();
    assert_eq!(b.notice().await["latestSeq"], 1);
    account.upload("A", &[op("A").kind("NOPE")]).await.ok();
    account.upload("A", &[op("A")]).await.ok();
    assert_eq!(b.notice().await["latestSeq"], 2, "the refused upload was not told");
}

async fn s66_snapshots_are_told_and_repeats_are_not(on: Backend) {
    let (_server, account) = started(on, quick).await;
    let mut b = account.socket("B").await;
    let initial = crate::harness::snapshot("A").reason("initial");
    assert_eq!(account.snapshot(&initial).await.ok()["serverSeq"], 1);
    assert_eq!(b.notice().await["latestSeq"], 1);
    account.snapshot(&initial).await.ok();
    let body = crate::harness::upload("A", None, &[op("A")]);
    account.post("/api/sync/ops", &body).await.ok();
    assert_eq!(b.notice().await["latestSeq"], 2);
    assert_eq!(account.post("/api/sync/ops", &body).await.ok()["deduplicated"], true);
    account.delete("/api/sync/data").await.ok();
    account.upload("A", &[op("A")]).await.ok();
    assert_eq!(b.notice().await["latestSeq"], 3);
}

fn quick(setup: &mut Setup) {
    setup.options.notifier.debounce = Duration::from_millis(1);
    setup.options.notifier.max_delay = Duration::from_millis(5);
}

/// Fast heartbeats: as in the contract one missed pong is forgiven and the second is not, with room for a slow machine.
fn fast_heartbeat(setup: &mut Setup) {
    setup.options.notifier.ping_every = Duration::from_millis(600);
    setup.options.notifier.pong_grace = Duration::from_millis(1_100);
}

async fn s67_a_socket_that_never_answers_is_closed(on: Backend) {
    let (_server, account) = started(on, fast_heartbeat).await;
    let mut socket = RawSocket::open(&account.base, &format!("token={}&clientId=A", account.token)).await;
    let mut pings = 0;
    while let Some(message) = socket.message().await {
        pings += u32::from(message["type"] == "ping");
    }
    // Its last pong is too old at the second tick; the first one pinged it.
    assert!((1..=2).contains(&pings), "{pings}");
}

async fn s67_the_apps_own_pong_keeps_a_socket_open(on: Backend) {
    let (_server, account) = started(on, fast_heartbeat).await;
    let mut socket = RawSocket::open(&account.base, &format!("token={}&clientId=A", account.token)).await;
    for noise in ["not json", "{}", "[1]", "{\"type\":\"subscribe\"}"] {
        socket.send(noise).await;
    }
    let mut pings = 0;
    while pings < 4 {
        let message = socket.message().await.expect("the socket stays open");
        if message["type"] == "ping" {
            assert!(message["timestamp"].is_i64());
            pings += 1;
            socket.send(r#"{"type":"pong"}"#).await;
        }
    }
}

async fn s67_a_message_above_1024_bytes_ends_the_socket(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    // One that is read whole, one that is not, and one that is more than a client may send at all.
    for (n, bytes) in (1..).zip([1025, 20_000, 200_000]) {
        let mut socket = account.socket(&format!("A{n}")).await;
        socket.send(&"x".repeat(1024)).await;
        account.upload("B", &[op("B")]).await.ok();
        assert_eq!(socket.notice().await["latestSeq"], n);
        socket.send(&"x".repeat(bytes)).await;
        assert_eq!(socket.ended().await, Ended::Code(1009), "{bytes}");
    }
}

async fn a_server_that_stops_says_so(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let mut socket = account.socket("A").await;
    let (_stopped, ended) = join!(server.stop(), socket.ended());
    assert_eq!(ended, Ended::Code(1001));
}

async fn every_message_has_its_members_and_no_others(on: Backend) {
    let (server, account) = started(on, |setup| setup.options.notifier.ping_every = Duration::from_millis(20)).await;
    let now = server.clock.now_ms();
    let mut socket = account.socket_with(&format!("token={}&clientId=B", account.token)).await;
    assert_eq!(socket.message().await, json!({ "type": "connected", "timestamp": now, "userId": account.id }));
    assert_eq!(socket.message().await, json!({ "type": "ping", "timestamp": now }));
    account.upload("A", &[op("A")]).await.ok();
    assert_eq!(socket.notice().await, json!({ "type": "new_ops", "latestSeq": 1, "timestamp": now }));
    assert_eq!(account.get("/health").await.ok()["wsConnections"], 1);
}

async fn m03_two_devices_that_upload_at_once_hear_of_each_other(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let (mut a, mut b) = (account.socket("A").await, account.socket("B").await);
    for round in 1..=5 {
        let (ops_a, ops_b) = ([op("A")], [op("B")]);
        let (of_a, of_b) = join!(account.upload("A", &ops_a), account.upload("B", &ops_b));
        let seq = |outcomes: Vec<String>| outcomes[0].trim_start_matches('#').parse::<i64>().expect("accepted");
        let (of_a, of_b) = (seq(of_a.outcomes()), seq(of_b.outcomes()));
        assert_eq!(of_a.max(of_b), 2 * round);
        hears(&mut a, of_b).await;
        hears(&mut b, of_a).await;
    }
}

/// Reads notices until one covers this sequence.
async fn hears(socket: &mut Socket, seq: i64) {
    loop {
        let notice = socket.notice().await;
        if notice["latestSeq"].as_i64().expect("an integer") >= seq {
            return;
        }
    }
}

async fn m03_steady_uploads_do_not_starve_the_others(on: Backend) {
    // Uploads come without a pause until the listener has heard of one: a timer that each upload restarts would never
    // fire.
    let (_server, account) = started(on, |setup| {
        setup.options.notifier.debounce = Duration::from_mins(1);
        setup.options.notifier.max_delay = Duration::from_millis(200);
        setup.config.rate_limits.uploads_per_user.max = 0;
    })
    .await;
    let mut listener = account.socket("L").await;
    let uploads = join_all((0..3).map(|_| async {
        loop {
            account.upload("A", &[op("A")]).await.ok();
        }
    }));
    let heard: Value = tokio::select! {
        notice = listener.notice() => notice,
        never = uploads => match never.first() { Some(never) => match *never {}, None => Value::Null },
    };
    assert_eq!(heard["type"], "new_ops");
}
