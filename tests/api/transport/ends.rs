//! How requests and connections end that would not end by themselves.

use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use super::{head, rest, send};
use crate::harness::{Backend, PATIENCE, Server};

on_both_databases! {
    a_body_that_does_not_end_is_answered_when_its_time_is_up,
    a_connection_on_which_nothing_follows_is_closed,
    requests_that_outlast_the_drain_are_cut_off,
}

const SHORT: Duration = Duration::from_millis(50);

async fn a_body_that_does_not_end_is_answered_when_its_time_is_up(on: Backend) {
    let server = Server::start_with(on, |config| config.timeouts.handler = SHORT).await;
    let account = server.account().await;
    let answer = rest(send(&server, head(&account, "content-length: 10").as_bytes()).await).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    for part in ["\r\nconnection: close\r\n", "\r\nretry-after: 5\r\n"] {
        assert!(answer.contains(part), "{answer}");
    }
    assert!(answer.ends_with("\r\n\r\n{\"error\":\"Request timeout, please retry\"}"), "{answer}");
}

async fn a_connection_on_which_nothing_follows_is_closed(on: Backend) {
    let server = Server::start_with(on, |config| config.timeouts.socket = SHORT).await;
    let answer = rest(send(&server, b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && !answer.contains("\r\nconnection: close\r\n"), "{answer}");
}

async fn requests_that_outlast_the_drain_are_cut_off(on: Backend) {
    let server = Server::start_with(on, |config| config.timeouts.drain = SHORT).await;
    let account = server.account().await;
    let request = head(&account, "expect: 100-continue\r\ncontent-length: 10");
    let mut stream = send(&server, request.as_bytes()).await;
    let leave = b"HTTP/1.1 100 Continue\r\n\r\n";
    let mut heard = [0; 25];
    timeout(PATIENCE, stream.read_exact(&mut heard)).await.expect("it waits for the body").expect("leave to send");
    assert_eq!(&heard, leave);
    timeout(PATIENCE, server.stop()).await.expect("the server does not wait for it");
    assert_eq!(rest(stream).await, "");
}
