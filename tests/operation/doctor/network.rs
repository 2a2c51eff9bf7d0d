//! What goes over the network: the public address and what stands in front of it, the mail server.

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse as _;
use axum::routing::{any, get};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use crate::doctor::doctor;
use crate::harness::{Backend, Program, Server, TestDatabase, free_port};

const HEALTHY: &str = r#"{"status":"ok","db":"connected","wsConnections":0}"#;

/// Something that answers; its address.
async fn serving(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let base = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    base
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_runs_is_reached() {
    let database = TestDatabase::create(Backend::Sqlite).await;
    let server = Program::start_watched(&database, &[("TEST_MODE", "false")]).await;
    // A name, because browsers make no passkeys for numbers.
    let base = server.base.replace("127.0.0.1", "localhost");
    let said = doctor(&database, &[("PUBLIC_URL", &base)], &[]).await;
    assert_eq!(said.exit(0).complaints(), [("mail", "warning")], "{}", said.text);
    for check in ["public-url", "websocket", "body-limit", "clock"] {
        assert_eq!(said.verdict(check), "ok", "{check}");
    }
    let said = doctor(&database, &[], &["--url", &server.base]).await;
    assert_eq!(said.exit(0).verdict("websocket"), "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_in_test_mode_and_one_without_database_are_told() {
    let database = TestDatabase::create(Backend::Sqlite).await;
    let server = Program::start(&database).await;
    doctor(&database, &[], &["--url", &server.base]).await.exit(0).found("public-url", "warning", "test mode");

    let server = Server::start(Backend::Sqlite).await;
    server.store.close().await;
    let said = doctor(&database, &[], &["--url", &server.base]).await;
    said.exit(1).found("public-url", "fault", "its database does not");
}

#[tokio::test]
async fn nobody_at_the_address_is_a_note_at_home_and_a_fault_when_asked_for() {
    let database = TestDatabase::create(Backend::Sqlite).await;
    let base = format!("http://127.0.0.1:{}", free_port());
    let said = doctor(&database, &[("PUBLIC_URL", &base)], &[]).await;
    said.exit(0).found("public-url", "note", "no server is running");
    doctor(&database, &[], &["--url", &base]).await.exit(1).found("public-url", "fault", "does not answer");
    doctor(&database, &[], &["--url", "nonsense"]).await.exit(1).found("public-url", "fault", "invalid server address");
}

#[tokio::test]
async fn a_proxy_that_passes_neither_sockets_nor_large_bodies_is_told() {
    let database = TestDatabase::create(Backend::Sqlite).await;
    let proxy = Router::new()
        .route("/health", get(async || HEALTHY))
        .route("/api/sync/ws", any(async || StatusCode::NOT_FOUND))
        .route("/api/sync/snapshot", any(async || StatusCode::PAYLOAD_TOO_LARGE));
    let said = doctor(&database, &[], &["--url", &serving(proxy).await]).await;
    said.exit(1).found("websocket", "fault", "refused with 404");
    said.found("body-limit", "fault", "a proxy refuses a body of 30 MiB");
    assert_eq!(said.verdict("public-url"), "ok");
}

#[tokio::test]
async fn limits_that_have_been_reached_are_no_fault() {
    let database = TestDatabase::create(Backend::Sqlite).await;
    let proxy = Router::new().route("/health", get(async || HEALTHY)).fallback(async || StatusCode::TOO_MANY_REQUESTS);
    let said = doctor(&database, &[], &["--url", &serving(proxy).await]).await;
    assert_eq!((said.exit(0).verdict("websocket"), said.verdict("body-limit")), ("note", "note"));
}

#[tokio::test]
async fn a_proxy_without_server_and_a_stranger_are_told_apart() {
    let database = TestDatabase::create(Backend::Sqlite).await;
    let proxy = Router::new().fallback(async || StatusCode::BAD_GATEWAY);
    let said = doctor(&database, &[], &["--url", &serving(proxy).await]).await;
    said.exit(1).found("public-url", "fault", "a proxy answers 502");
    assert_eq!(said.verdict("websocket"), "", "nothing more to ask");
    let stranger = Router::new().fallback(async || "<html>hello</html>");
    let said = doctor(&database, &[], &["--url", &serving(stranger).await]).await;
    said.exit(1).found("public-url", "fault", "something else than this server");
}

#[tokio::test]
async fn a_clock_that_goes_wrong_is_told() {
    let database = TestDatabase::create(Backend::Sqlite).await;
    let health = async || ([(header::DATE, "Mon, 05 Jan 2026 10:00:00 GMT")], HEALTHY).into_response();
    let proxy = Router::new().route("/health", get(health));
    let said = doctor(&database, &[], &["--url", &serving(proxy).await]).await;
    said.exit(1).found("clock", "fault", "the server at the public address");
}

/// A mail server that answers what begins with `refused` with words that nobody should read; its port.
async fn mail_server(refused: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port().to_string();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut socket = BufReader::new(socket);
                // Who only knocks is gone by now.
                if socket.write_all(b"220 hello\r\n").await.is_err() {
                    return;
                }
                let mut line = String::new();
                while socket.read_line(&mut line).await.unwrap_or(0) > 0 {
                    let reply = if line.starts_with(refused) {
                        "535 no, postmaster <me@mail.example.org>\r\n"
                    } else if line.starts_with("EHLO") {
                        "250-mail\r\n250 AUTH PLAIN\r\n"
                    } else {
                        "250 fine\r\n"
                    };
                    if socket.write_all(reply.as_bytes()).await.is_err() {
                        return;
                    }
                    line.clear();
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn a_mail_server_that_refuses_is_told_without_names() {
    let database = TestDatabase::create(Backend::Sqlite).await;
    let base = format!("http://127.0.0.1:{}", free_port());
    for (refused, verdict, words) in [
        ("AUTH", "fault", "refuses the user name or password"),
        ("MAIL", "fault", "refuses the sender"),
        ("NOTHING", "ok", ""),
    ] {
        let port = mail_server(refused).await;
        let variables = [
            ("PUBLIC_URL", &*base),
            ("SMTP_HOST", "127.0.0.1"),
            ("SMTP_PORT", &*port),
            ("SMTP_USER", "postmaster"),
            ("SMTP_PASS", "hunter2"),
        ];
        let said = doctor(&database, &variables, &[]).await;
        assert_eq!(said.verdict("mail-server"), verdict, "{}", said.text);
        if verdict == "fault" {
            said.exit(1).found("mail-server", verdict, words);
        }
        for secret in ["postmaster", "hunter2", "mail.example.org"] {
            assert!(!said.text.contains(secret), "{}", said.text);
        }
        assert_eq!(said.verdict("mail"), "ok");
    }
    let variables = [("PUBLIC_URL", &*base), ("SMTP_HOST", "127.0.0.1"), ("SMTP_PORT", "1")];
    doctor(&database, &variables, &[]).await.exit(1).found("mail-server", "fault", "can't be reached");
}
