//! Sockets: how much their clients may send, and how many an address may open.

use std::time::Duration;

use supersync::config::{Config, TrustedProxies};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::harness::{Account, Backend, Ended, RawSocket, Server, Socket, op};

on_both_databases! {
    whoever_floods_a_socket_loses_it,
    a_socket_that_answers_its_pings_stays,
    an_address_has_a_limit_whatever_its_devices_are_called,
    upgrades_that_lead_to_nothing_are_limited,
    an_address_holds_so_many_sockets,
    the_process_holds_so_many_sockets,
}

async fn raw(account: &Account, client_id: &str) -> RawSocket {
    let mut socket = RawSocket::open(&account.base, &format!("token={}&clientId={client_id}", account.token)).await;
    assert_eq!(socket.message().await.expect("a welcome")["type"], "connected");
    socket
}

async fn whoever_floods_a_socket_loses_it(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let mut honest = account.socket("H").await;
    let pong = r#"{"type":"pong"}"#;
    let begun = |first| [RawSocket::frame_of(first, "x"), RawSocket::frame_of(0x00, "").repeat(100)].concat();
    for (kind, bytes) in [
        ("empty texts", RawSocket::frame_of(0x81, "")),
        ("empty binaries", RawSocket::frame_of(0x82, "")),
        ("pongs of the app", RawSocket::frame_of(0x81, pong)),
        ("pings", RawSocket::frame_of(0x89, "")),
        ("pongs", RawSocket::frame_of(0x8A, "")),
        ("long pings", RawSocket::frame_of(0x89, &"x".repeat(125))),
        ("many at once", RawSocket::frame_of(0x81, "").repeat(1_000)),
    ] {
        let ended = raw(&account, "F").await.flood(&bytes).await;
        assert_eq!(ended, Ended::Code(1008), "{kind}");
    }
    // A message that never ends: its pieces are no messages yet.
    let (first, rest) = (begun(0x01), RawSocket::frame_of(0x00, "").repeat(1_000));
    let mut endless = raw(&account, "F").await;
    endless.push(&first).await;
    assert_eq!(endless.flood(&rest).await, Ended::Code(1008));
    account.upload("A", &[op("A")]).await.ok();
    assert_eq!(honest.notice().await["latestSeq"], 1, "nobody else's socket suffers");
}

async fn a_socket_that_answers_its_pings_stays(on: Backend) {
    let server = Server::start_setup(on, |setup| {
        // So often that a fixed number of messages a second would be too few.
        setup.options.notifier.ping_every = Duration::from_millis(10);
    })
    .await;
    let account = server.account().await;
    let mut socket = account.socket("A").await;
    for _ in 0..150 {
        assert_eq!(socket.message().await["type"], "ping");
        socket.send(r#"{"type":"pong"}"#).await;
    }
    assert_eq!(server.engine.notifier().sockets(), 1);
}

/// The status of an upgrade from this address; 101 when there is a socket.
async fn upgrade(server: &Server, query: &str, address: &str) -> u16 {
    let url = format!("{}/api/sync/ws?{query}", server.base.replacen("http", "ws", 1));
    let mut request = url.into_client_request().expect("a request");
    request.headers_mut().insert("x-forwarded-for", address.parse().expect("a value"));
    match connect_async(request).await {
        Ok(_) => 101,
        Err(Error::Http(answer)) => answer.status().as_u16(),
        Err(error) => panic!("{error}"),
    }
}

fn limited(max: u32) -> impl FnOnce(&mut Config) {
    move |config| {
        config.rate_limits.per_address = true;
        config.rate_limits.ws.max = max;
    }
}

async fn an_address_has_a_limit_whatever_its_devices_are_called(on: Backend) {
    let server = Server::start_with(on, limited(2)).await;
    let account = server.account().await;
    let query = |n: usize| format!("token={}&clientId=c{n}", account.token);
    // What one device may do stays as it is.
    for expected in [101, 101, 429] {
        assert_eq!(upgrade(&server, &query(0), "192.0.2.1").await, expected);
    }
    for n in 1..=18 {
        assert_eq!(upgrade(&server, &query(n), "192.0.2.1").await, 101, "{n}");
    }
    for n in 19..25 {
        assert_eq!(upgrade(&server, &query(n), "192.0.2.1").await, 429, "{n}");
    }
    assert_eq!(upgrade(&server, &query(30), "192.0.2.2").await, 101, "another address");
    server.clock.advance_ms(60_000);
    assert_eq!(upgrade(&server, &query(31), "192.0.2.1").await, 101, "a minute later");
}

async fn upgrades_that_lead_to_nothing_are_limited(on: Backend) {
    let server = Server::start_with(on, limited(6)).await;
    let account = server.account().await;
    for (n, query) in ["token=bad&clientId=A", "clientId=A", "ticket=bad&clientId=C"].into_iter().enumerate() {
        let mut socket = Socket::open(&server.base, query).await;
        let code = if n == 1 { 4001 } else { 4003 };
        assert_eq!(socket.ended().await, Ended::Code(code), "{query}");
    }
    let good = format!("token={}&clientId=G", account.token);
    assert_eq!(upgrade(&server, &good, "127.0.0.1").await, 429);
    assert_eq!(upgrade(&server, &good, "192.0.2.1").await, 101, "another address");
    server.clock.advance_ms(60_000);
    assert_eq!(upgrade(&server, &good, "127.0.0.1").await, 101);
}

fn one_more(account: &Account) -> String {
    format!("{}/api/sync/ws?token={}&clientId=more", account.base.replacen("http", "ws", 1), account.token)
}

/// The status of an upgrade that is refused, and the seconds after which to retry.
async fn refusal(url: &str) -> (u16, String) {
    let Err(Error::Http(answer)) = connect_async(url).await else { panic!("it is refused") };
    (answer.status().as_u16(), answer.headers()["retry-after"].to_str().expect("text").to_owned())
}

async fn an_address_holds_so_many_sockets(on: Backend) {
    let server = Server::start_with(on, |config| {
        config.trusted_proxies = TrustedProxies::parse("none").expect("valid");
        config.limits.max_sockets = 40;
        config.limits.max_sockets_per_user = 100;
    })
    .await;
    let account = server.account().await;
    let mut sockets = Vec::new();
    // An eighth, but at least 32.
    for n in 0..32 {
        sockets.push(account.socket(&format!("c{n}")).await);
    }
    let url = one_more(&account);
    assert_eq!(refusal(&url).await, (429, "60".to_owned()));
    drop(sockets);
    let open = async {
        while connect_async(&url).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::harness::PATIENCE, open).await.expect("places are given back");
}

async fn the_process_holds_so_many_sockets(on: Backend) {
    let server = Server::start_with(on, |config| config.limits.max_sockets = 2).await;
    let account = server.account().await;
    let _sockets = (account.socket("A").await, account.socket("B").await);
    assert_eq!(refusal(&one_more(&account)).await, (503, "5".to_owned()));
}
