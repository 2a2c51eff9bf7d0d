//! What stands around a server: Caddy, nginx and `HAProxy` with the shipped settings, each in the real program, with TLS;
//! `PgBouncer`, and a network that fails, between the server and PostgreSQL.

mod front;
mod outage;
mod path;
mod pooler;
mod poolers;
mod rolling;

use std::time::Duration;

use crate::harness::{Backend, PATIENCE, Server, free_port, op};
use front::{Front, Kind, Waits};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use sqlx::Connection as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error as Broken, Message as Frame};

/// Makes one test per proxy of each function.
macro_rules! behind {
    ($($proxy:ident = $kind:expr;)+) => {
        $(mod $proxy {
            use super::Kind;

            #[tokio::test]
            async fn devices_sync_through_it_and_its_log_holds_no_tokens() {
                super::devices_sync_through_it_and_its_log_holds_no_tokens($kind).await;
            }

            #[tokio::test]
            async fn what_is_too_large_for_the_server_is_refused_and_what_is_not_is_not() {
                super::what_is_too_large_for_the_server_is_refused_and_what_is_not_is_not($kind).await;
            }

            #[tokio::test]
            async fn nobody_can_pretend_to_come_from_elsewhere() {
                super::nobody_can_pretend_to_come_from_elsewhere($kind).await;
            }

            #[tokio::test]
            async fn postgres_the_server_gives_up_before_the_proxy_does_and_says_so() {
                super::the_server_gives_up_before_the_proxy_does_and_says_so($kind).await;
            }

            #[tokio::test]
            async fn a_server_that_says_nothing_or_is_not_there_is_told_as_json() {
                super::a_server_that_says_nothing_or_is_not_there_is_told_as_json($kind).await;
            }

            #[tokio::test]
            async fn half_a_request_is_not_waited_for() {
                super::half_a_request_is_not_waited_for($kind).await;
            }
        })+
    };
}

behind! {
    caddy = Kind::Caddy;
    nginx = Kind::Nginx;
    haproxy = Kind::HaProxy;
}

async fn server(backend: Backend, change: impl FnOnce(&mut supersync::config::Config)) -> Server {
    Server::start_with(backend, |config| {
        // The default, which the settings name.
        assert_eq!(config.trusted_proxies.to_string(), "127.0.0.1, ::1");
        change(config);
    })
    .await
}

fn upstream(server: &Server) -> &str {
    server.base.trim_start_matches("http://")
}

async fn devices_sync_through_it_and_its_log_holds_no_tokens(kind: Kind) {
    let server = server(Backend::Sqlite, |_| ()).await;
    let front = Front::before(kind, upstream(&server), Waits::default()).await;
    let direct = server.account().await;
    let account = front.account(&direct);

    let mut socket = front.socket(&account, "B").await;
    assert_eq!(message(&mut socket).await["type"], "connected");
    assert_eq!(account.upload("A", &[op("A")]).await.outcomes(), ["#1"]);
    assert_eq!(message(&mut socket).await["type"], "new_ops");
    assert_eq!(account.download(0).await.seqs(), [1]);

    let page = account.http.get(&account.base).header("accept-encoding", "gzip").send().await.expect("a page");
    assert_eq!((page.status().as_u16(), &page.headers()["content-encoding"]), (200, &"gzip".parse().expect("a value")));
    assert!(page.headers().contains_key("content-security-policy"));
    // nginx can't leave its name out.
    let name = page.headers().get("server").map(reqwest::header::HeaderValue::as_bytes);
    assert_eq!(name, (kind == Kind::Nginx).then_some(&b"nginx"[..]));
    let plain = account.http.get(format!("{}/x?token=y", front.http)).send().await.expect("an answer");
    let whither = plain.headers()["location"].to_str().expect("an address");
    assert_eq!((plain.status().as_u16(), whither.ends_with("/x?token=y")), (308, true), "http leads to https");

    drop(socket);
    let written = async {
        while !front.log().contains("/api/sync/ws") {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, written).await.expect("the socket's end is in the log");
    let log = front.stop().await;
    assert!(log.contains("/api/sync/ops"), "{log}");
    assert!(!log.contains(&account.token) && !log.contains("token="), "{log}");
}

async fn message(socket: &mut (impl futures_util::Stream<Item = Result<Frame, Broken>> + Unpin)) -> Value {
    loop {
        let frame = timeout(PATIENCE, socket.next()).await.expect("a frame in time").expect("the socket is open");
        if let Frame::Text(text) = frame.expect("the socket is open") {
            return serde_json::from_str(&text).expect("JSON");
        }
    }
}

async fn what_is_too_large_for_the_server_is_refused_and_what_is_not_is_not(kind: Kind) {
    let server = server(Backend::Sqlite, |_| ()).await;
    let front = Front::before(kind, upstream(&server), Waits::default()).await;
    let account = front.account(&server.account().await);
    let config = server.config();
    let limits =
        [("/api/sync/ops", config.limits.upload_body_bytes), ("/api/sync/snapshot", config.limits.snapshot_body_bytes)];
    for (path, bytes) in limits {
        let url = format!("{}{path}", account.base);
        let send = async |bytes: usize| {
            let request = account.http.post(&url).bearer_auth(&account.token).body(vec![b' '; bytes]);
            let answer = request.header("content-type", "application/json").send().await.expect("an answer");
            (answer.status().as_u16(), answer.json::<Value>().await.expect("JSON"))
        };
        // As many bytes as the server takes reach it: it is its parser that finds nothing in them.
        assert_eq!(send(bytes).await.0, 400, "{path}");
        if kind != Kind::HaProxy {
            let (status, told) = send(bytes + 1).await;
            assert_eq!((status, &told["error"]), (413, &json!("Payload Too Large")), "{path}");
        }
        // What the head says is enough.
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            account.token,
            bytes + 1
        );
        let answer = front.raw(head).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{path}: {answer}");
        assert!(answer.to_lowercase().contains("\r\naccess-control-allow-origin: *\r\n"), "{path}: {answer}");
        assert!(answer.contains(r#""error":"Payload Too Large""#), "{path}: {answer}");
    }
}

async fn nobody_can_pretend_to_come_from_elsewhere(kind: Kind) {
    let server = server(Backend::Sqlite, |config| "https://localhost".clone_into(&mut config.public_url)).await;
    let front = Front::before(kind, upstream(&server), Waits::default()).await;
    let direct = server.account().await;
    server.accounts.set_admin(direct.id, true).await.expect("the account exists");
    // An address that is not the proxy's own.
    let client = front.builder().local_address("127.0.0.2".parse::<std::net::IpAddr>().expect("an address"));
    let account = crate::harness::Account { http: client.build().expect("a client"), ..front.account(&direct) };
    for lies in [&["6.6.6.6"][..], &["6.6.6.6, 7.7.7.7"], &["6.6.6.6", "7.7.7.7"], &[]] {
        let mut headers: Vec<_> = lies.iter().map(|lie| ("x-forwarded-for", *lie)).collect();
        headers.push(("x-forwarded-proto", "http"));
        let path = "/api/admin/diagnostics";
        let seen = account.send(reqwest::Method::GET, path, &headers, Vec::new()).await.ok();
        assert_eq!(seen["seen"]["clientAddress"], "127.0.0.2", "{lies:?}: {}", seen.text);
        assert_eq!(seen["seen"]["peer"], "127.0.0.1");
        assert_eq!(seen["seen"]["forwardedProto"], "https");
        let check = |id: &str| {
            let mut all = seen["checks"].as_array().expect("a list").iter();
            all.find(|check| check["id"] == id).expect("it is checked")["status"].clone()
        };
        assert_eq!(check("https"), "ok");
        if lies.is_empty() {
            assert_eq!(check("proxies"), "ok", "{}", seen.text);
        }
    }
}

async fn the_server_gives_up_before_the_proxy_does_and_says_so(kind: Kind) {
    let server = server(Backend::Postgres, |config| {
        config.timeouts.statement = Duration::from_mins(1);
        config.timeouts.handler = Duration::from_secs(1);
    })
    .await;
    let front = Front::before(kind, upstream(&server), Waits::default()).await;
    let direct = server.account().await;
    direct.upload("A", &[op("A")]).await.ok();
    let account = front.account(&direct);
    let mut session = server.database.postgres().session().await;
    sqlx::query("BEGIN").execute(&mut session).await.expect("a transaction");
    let lock = sqlx::query("SELECT 1 FROM user_sync_state WHERE user_id = $1 FOR UPDATE").bind(account.id);
    lock.execute(&mut session).await.expect("the lock");
    let stuck = account.upload("A", &[op("A")]).await;
    assert_eq!(stuck.status, 503, "{}", stuck.text);
    assert_ne!(stuck["error"], UNREACHABLE, "it is the server that answers");
    session.close().await.expect("the lock goes");
}

const UNREACHABLE: &str = "The server can't be reached at the moment, please retry";

async fn a_server_that_says_nothing_or_is_not_there_is_told_as_json(kind: Kind) {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let nobody = format!("127.0.0.1:{}", free_port());
    let not_there = if kind == Kind::HaProxy { 503 } else { 502 };
    for (upstream, status) in [(silent.local_addr().expect("bound").to_string(), 504), (nobody, not_there)] {
        let front = Front::before(kind, &upstream, Waits { connection: 1, answer: 1, head: 5 }).await;
        let request = front.client().get(format!("{}/api/sync/ws?token=hush", front.https));
        let answer = request.send().await.expect("an answer");
        let headers = answer.headers();
        assert_eq!((answer.status().as_u16(), &headers["retry-after"]), (status, &"5".parse().expect("a value")));
        assert_eq!(headers["access-control-allow-origin"], "*");
        assert_eq!(answer.json::<Value>().await.expect("JSON"), json!({ "error": UNREACHABLE }));
        let log = front.stop().await;
        assert!(!log.contains("hush"), "{log}");
    }
}

async fn half_a_request_is_not_waited_for(kind: Kind) {
    let server = server(Backend::Sqlite, |_| ()).await;
    let front = Front::before(kind, upstream(&server), Waits { head: 1, ..Waits::default() }).await;
    let answer = front.raw("GET / HTTP/1.1\r\nHost: localhost\r\n".to_owned()).await;
    // Without an answer, or with one that says why.
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

/// nginx knows no such wait.
async fn requests_wait_while_the_server_restarts(kind: Kind) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (checked, mut has_checked) = tokio::sync::watch::channel(kind != Kind::HaProxy);
    let server = tokio::spawn(stand_in(listener, checked));
    let front = Front::before(kind, &address.to_string(), Waits { connection: 60, ..Waits::default() }).await;
    let ask = || tokio::spawn(front.client().get(format!("{}/livez", front.https)).send());
    assert_eq!(ask().await.expect("no panic").expect("an answer").status().as_u16(), 200);
    let checked = timeout(PATIENCE, has_checked.wait_for(|checked| *checked)).await.expect("in time");
    checked.expect("the server runs");

    server.abort();
    assert!(server.await.is_err_and(|ended| ended.is_cancelled()));
    let mut waiting = ask();
    let answered = timeout(Duration::from_millis(500), &mut waiting).await;
    assert!(answered.is_err(), "{answered:?}");
    let listener = TcpListener::bind(address).await.expect("the port is still free");
    let server = tokio::spawn(stand_in(listener, tokio::sync::watch::channel(true).0));
    let answer = timeout(PATIENCE, waiting).await.expect("in time").expect("no panic").expect("an answer");
    assert_eq!(answer.status().as_u16(), 200);
    server.abort();
}

/// Answers everything with 200, and says when somebody has asked for /readyz.
async fn stand_in(listener: TcpListener, checked: tokio::sync::watch::Sender<bool>) {
    loop {
        let (mut connection, _) = listener.accept().await.expect("a connection");
        let mut request = vec![0; 4096];
        // One that only tries whether it can connect says nothing.
        let Ok(length @ 1..) = connection.read(&mut request).await else { continue };
        let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
        if connection.write_all(answer).await.is_ok() && request[..length].starts_with(b"GET /readyz") {
            checked.send_replace(true);
        }
    }
}

#[tokio::test]
async fn caddy_lets_requests_wait_while_the_server_restarts() {
    requests_wait_while_the_server_restarts(Kind::Caddy).await;
}

#[tokio::test]
async fn haproxy_lets_requests_wait_while_the_server_restarts() {
    requests_wait_while_the_server_restarts(Kind::HaProxy).await;
}
