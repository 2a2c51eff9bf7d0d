//! Connections: who does nothing makes room for who asks.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use supersync_client::raw::{Body, Encoding};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

use crate::harness::{Backend, LONG_PATIENCE as PATIENCE, Program, Server, TestDatabase, http_client, op, upload};

on_both_databases! {
    half_a_head_from_everybody_stops_nobody,
    who_waits_between_requests_makes_room,
    a_head_that_comes_in_drops_is_not_waited_for,
}

/// So many files the program may have open, and more connections than that.
const FILES: usize = 400;
const CONNECTIONS: usize = 600;

fn host(base: &str) -> &str {
    base.trim_start_matches("http://")
}

async fn connect(host: &str) -> TcpStream {
    timeout(PATIENCE, TcpStream::connect(host)).await.expect("a connection in time").expect("a connection")
}

/// Opens many connections, of which each begins a request and leaves it at that.
async fn half_heads(host: &str) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = connect(host).await;
        // Who was sent away already can't be written to.
        let _ = stream.write_all(b"POST /api/sync/ops HTTP/1.1\r\nhost: x\r\nx: ").await;
        streams.push(stream);
    }
    streams
}

/// Asks over a connection of its own.
async fn get(url: &str) -> (u16, String) {
    let answer = timeout(PATIENCE, http_client().get(url).send()).await.expect("an answer in time").expect("an answer");
    (answer.status().as_u16(), answer.text().await.expect("a body"))
}

async fn half_a_head_from_everybody_stops_nobody(on: Backend) {
    let database = TestDatabase::create(on).await;
    let program = Program::start_with_files(&database, FILES, &[]).await;
    let metrics = program.metrics.clone().expect("there are metrics");
    let client = program.client();
    let user = json!({ "email": "a@example.org", "password": "long enough" }).to_string();
    let user = Body::new(user.as_bytes(), Encoding::Plain);
    let made = client.send(Method::POST, "/api/test/create-user", Some(&user)).await;
    let made: serde_json::Value = serde_json::from_slice(&made.expect("an answer").body).expect("JSON");
    let token = made["token"].as_str().expect("a token");

    let _heads = half_heads(host(&program.base)).await;
    let _more_heads = half_heads(&metrics).await;
    for _ in 0..3 {
        assert_eq!(get(&format!("{}/readyz", program.base)).await.0, 200);
        let (status, text) = get(&format!("http://{metrics}/metrics")).await;
        assert_eq!(status, 200);
        let value = |name: &str| {
            let line =
                text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {text}"));
            line.trim().parse::<f64>().expect("a number")
        };
        let most = value("supersync_connections_max{listener=\"http\"}");
        assert!(most > 200.0 && most < 400.0, "{most}");
        assert!(value("supersync_connections{listener=\"http\"}") <= most + 32.0, "{text}");
        assert!(value("supersync_connections_cut_total{listener=\"http\",reason=\"room\"}") > 100.0, "{text}");
        assert!(value("supersync_connections_cut_total{listener=\"metrics\",reason=\"room\"}") > 100.0, "{text}");
        assert!(value("supersync_connections_refused_total{listener=\"http\",reason=\"files\"}") < 1.0, "{text}");
    }
    // Somebody new can sync.
    let body = serde_json::to_vec(&upload("A", None, &[op("A")])).expect("JSON");
    let request = http_client().post(format!("{}/api/sync/ops", program.base)).bearer_auth(token);
    let answer = request.header("content-type", "application/json").body(body).send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 200, "{:?}", answer.text().await);
    assert!(program.terminate().await.success());
}

async fn who_waits_between_requests_makes_room(on: Backend) {
    let database = TestDatabase::create(on).await;
    let program = Program::start_with_files(&database, FILES, &[]).await;
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = connect(host(&program.base)).await;
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("it leaves");
        let mut answer = [0; 512];
        let bytes = timeout(PATIENCE, stream.read(&mut answer)).await.expect("in time").expect("an answer");
        assert!(answer[..bytes].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..bytes]));
        idle.push(stream);
    }
    assert_eq!(get(&format!("{}/readyz", program.base)).await.0, 200);
    // The oldest have been let go, the newest are still welcome.
    let mut rest = Vec::new();
    timeout(PATIENCE, idle[0].read_to_end(&mut rest)).await.expect("in time").expect("an orderly end");
    let newest = idle.last_mut().expect("it is there");
    newest.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("it leaves");
    assert!(timeout(PATIENCE, newest.read(&mut [0; 512])).await.expect("in time").is_ok_and(|bytes| bytes > 0));
}

async fn a_head_that_comes_in_drops_is_not_waited_for(on: Backend) {
    // A head has as much time as a connection may be silent, if that is less than 10 seconds.
    let allowed = Duration::from_secs(1);
    let server = Server::start_with(on, |config| config.timeouts.socket = allowed).await;
    let mut dropping = JoinSet::new();
    for begins in ["", "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let mut stream = connect(host(&server.base)).await;
        dropping.spawn(async move {
            stream.write_all(begins.as_bytes()).await.expect("it leaves");
            let (mut reading, mut writing) = stream.into_split();
            let drops = tokio::spawn(async move {
                let mut ticks = interval(allowed / 20);
                for byte in b"GET /livez HTTP/1.1\r\nx: ".iter().chain(std::iter::repeat(&b'x')) {
                    ticks.tick().await;
                    if writing.write_all(&[*byte]).await.is_err() {
                        return;
                    }
                }
            });
            let mut answer = Vec::new();
            // Bytes that nobody has read may make it end with an error.
            let _ = reading.read_to_end(&mut answer).await;
            drops.abort();
        });
    }
    timeout(PATIENCE, dropping.join_all()).await.expect("both are closed, however steadily they drip");
}
