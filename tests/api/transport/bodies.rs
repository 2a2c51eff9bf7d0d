//! Bodies: what kind they are of, and how large they may be. How they may be encoded is in `scenarios::encoding`.

use reqwest::Method;
use serde_json::json;

use super::{head, rest, send};
use crate::harness::{Backend, Server};

on_both_databases! {
    other_media_types_are_unsupported,
    what_is_no_json_object_fails_validation,
    sizes_are_enforced_as_announced_and_on_the_way,
}

const MIB: usize = 1024 * 1024;

async fn other_media_types_are_unsupported(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let xml = [("content-type", "application/xml")];
    let reply = account.send(Method::POST, "/api/sync/ops", &xml, b"<a/>".to_vec()).await.expect(415);
    assert_eq!(reply["code"], "FST_ERR_CTP_INVALID_MEDIA_TYPE");
}

async fn what_is_no_json_object_fails_validation(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    for (media_type, body) in [("application/json", ""), ("text/plain", "{}"), ("application/json", "[]")] {
        let headers = [("content-type", media_type)];
        let reply = account.send(Method::POST, "/api/sync/ops", &headers, body.into()).await.expect(400);
        assert_eq!(reply["error"], "Validation failed", "{media_type} {body}");
        assert!(reply["details"].is_array(), "{}", reply.text);
    }
}

async fn sizes_are_enforced_as_announced_and_on_the_way(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    // A client that waits for permission to send is refused at once.
    let announced = format!("connection: close\r\nexpect: 100-continue\r\ncontent-length: {}", 10 * MIB + 1);
    let chunk = [format!("{MIB:x}\r\n").into_bytes(), vec![b' '; MIB], b"\r\n".to_vec()].concat();
    let chunked = head(&account, "connection: close\r\ntransfer-encoding: chunked").into_bytes();
    let chunked = [chunked, chunk.repeat(11), b"0\r\n\r\n".to_vec()].concat();
    for request in [head(&account, &announced).into_bytes(), chunked] {
        let answer = rest(send(&server, &request).await).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
        let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(body["code"], json!("FST_ERR_CTP_BODY_TOO_LARGE"));
    }
}
