//! The client against a scripted server: what it does when answers are late, wrong, or missing.

#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::io::Read as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use base64::Engine as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::raw::{Body, Encoding};
use super::wire::OpType;
use super::{Change, Client, ClientError, Device, Ladder};

enum Reply {
    Json(u16, Value),
    Text(u16, &'static str),
    /// Never.
    Hang,
    /// The connection breaks.
    Break,
}

/// What the server saw.
struct Seen {
    line: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Seen {
    fn json(&self) -> Value {
        let mut body = self.body.to_vec();
        if self.headers.get("content-transfer-encoding").is_some_and(|encoding| encoding == "base64") {
            body = base64::prelude::BASE64_STANDARD.decode(&body).unwrap();
        }
        if self.headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip") {
            let packed = std::mem::take(&mut body);
            flate2::read::GzDecoder::new(&*packed).read_to_end(&mut body).unwrap();
        }
        serde_json::from_slice(&body).unwrap()
    }
}

struct Stub {
    client: Client,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Stub {
    async fn new(replies: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let replies: Arc<Mutex<VecDeque<Reply>>> = Arc::new(Mutex::new(replies.into_iter().collect()));
        let log = seen.clone();
        let answer = move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            log.lock().unwrap().push(Seen { line: format!("{method} {uri}"), headers, body });
            let reply = replies.lock().unwrap().pop_front().expect("no further request was expected");
            async move {
                let (status, text) = match reply {
                    Reply::Json(status, value) => (status, value.to_string()),
                    Reply::Text(status, text) => (status, text.to_owned()),
                    Reply::Hang => std::future::pending().await,
                    Reply::Break => std::panic::resume_unwind(Box::new("a panic ends the connection")),
                };
                (StatusCode::from_u16(status).unwrap(), text)
            }
        };
        tokio::spawn(axum::serve(listener, axum::Router::new().fallback(answer)).into_future());
        let ladder = Ladder {
            request: Duration::from_millis(300),
            restore_retries: vec![Duration::from_millis(2), Duration::from_millis(4)],
            ..Ladder::default()
        };
        Self { client: Client::new(&base, &ladder).unwrap().with_token("token").unwrap(), seen }
    }

    fn lines(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|seen| seen.line.clone()).collect()
    }
}

fn page(ops: &[Value], has_more: bool, latest_seq: i64) -> Value {
    json!({"ops": ops, "hasMore": has_more, "latestSeq": latest_seq, "serverTime": 1})
}

fn server_op(seq: i64) -> Value {
    json!({"serverSeq": seq, "receivedAt": 5, "op": {
        "id": format!("op-{seq}"), "clientId": "B", "actionType": "act", "opType": "UPD", "entityType": "TASK",
        "entityId": "t", "payload": {"n": 1.50}, "vectorClock": {"B": seq}, "timestamp": 4, "schemaVersion": 4,
        "isPayloadEncrypted": false,
    }})
}

fn change(entity_id: &str) -> Change {
    Change {
        action_type: "act".into(),
        op_type: OpType::Update,
        entity_type: "TASK".into(),
        entity_id: Some(entity_id.into()),
        entity_ids: Vec::new(),
        payload: serde_json::value::to_raw_value(&json!({"a": 1})).unwrap(),
        is_payload_encrypted: false,
    }
}

fn accepted(id: &str, seq: i64) -> Value {
    json!({"opId": id, "accepted": true, "serverSeq": seq})
}

fn refused(id: &str, code: &str) -> Value {
    json!({"opId": id, "accepted": false, "error": "no", "errorCode": code})
}

#[tokio::test]
async fn an_error_names_the_layer_that_gave_up_or_what_the_status_means() {
    let error = |error: &str| json!({ "error": error });
    let limited =
        json!({"statusCode": 429, "error": "Too Many Requests", "message": "Rate limit exceeded, retry in 2 minutes"});
    let exists = json!({"error": "SYNC_IMPORT_EXISTS", "existingImportId": "x"});
    for (reply, text) in [
        (Reply::Hang, "request timeout: no answer from the server within 300ms"),
        (Reply::Json(503, error("request timeout, please retry")), "server timeout: HTTP 503 — request timeout"),
        (Reply::Json(503, error("server busy, please retry")), "server busy: HTTP 503 — server busy"),
        (Reply::Text(504, "<html>Gateway Timeout</html>"), "proxy timeout: HTTP 504 from a proxy"),
        (Reply::Text(503, "no healthy upstream"), "proxy timeout: HTTP 503 from a proxy"),
        (Reply::Json(429, limited), "HTTP 429 — Rate limit exceeded, retry in 2 minutes"),
        (Reply::Json(413, error("Storage quota exceeded")), "HTTP 413 — Storage quota exceeded"),
        (Reply::Json(401, error("Invalid token")), "HTTP 401 — Invalid token"),
        (Reply::Json(409, exists), "SYNC_IMPORT_EXISTS: x"),
    ] {
        let error = Stub::new([reply]).await.client.status().await.unwrap_err().to_string();
        assert!(error.starts_with(text), "{error}");
    }
}

#[tokio::test]
async fn unreachable_server_is_a_connect_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = Client::new(&base, &Ladder::default()).unwrap();
    let error = client.status().await.unwrap_err();
    assert!(matches!(error, ClientError::Connect(_)) && error.is_network(), "{error}");
    assert!(matches!(Client::new("ftp://x", &Ladder::default()), Err(ClientError::Address(_))));
    assert!(matches!(client.with_token("a\nb"), Err(ClientError::Address(_))));
}

#[tokio::test]
async fn restores_are_retried_twice_on_network_errors_only() {
    let answer = json!({"state": {"task": {}}, "serverSeq": 3, "generatedAt": 9});
    let stub = Stub::new([Reply::Break, Reply::Hang, Reply::Json(200, answer)]).await;
    assert_eq!(stub.client.restore(3).await.unwrap().state.get(), r#"{"task":{}}"#);
    assert_eq!(stub.lines(), ["GET /api/sync/restore/3"; 3]);

    let stub = Stub::new([Reply::Break, Reply::Break, Reply::Break]).await;
    assert!(matches!(stub.client.restore(3).await, Err(ClientError::Network(_))));
    let stub = Stub::new([Reply::Json(500, json!({"error": "Internal server error"}))]).await;
    assert!(matches!(stub.client.restore(3).await, Err(ClientError::Status { status: 500, .. })));
}

#[tokio::test]
async fn answers_that_break_the_contract_are_refused() {
    let with = |member: &str, value: Value| {
        let mut op = server_op(1);
        op["op"][member] = value;
        page(&[op], false, 1)
    };
    let mut gap = page(&[], false, 1);
    gap["gapDetected"] = Value::Null;
    let mut no_payload = server_op(1);
    no_payload["op"].as_object_mut().unwrap().remove("payload");
    let bad = [
        with("entityId", Value::Null),
        with("syncImportReason", Value::Null),
        with("repairBaseServerSeq", Value::Null),
        with("entityIds", json!([])),
        with("opType", json!("NEW")),
        with("entityType", json!("THING")),
        with("clientId", json!("a b")),
        with("vectorClock", json!({"A": 1.5})),
        with("isPayloadEncrypted", json!(true)),
        gap,
        page(&[no_payload], false, 1),
        page(&[], true, 5),
        page(&[server_op(1), server_op(1)], false, 5),
        page(&[server_op(6)], false, 5),
        json!({"ops": [], "hasMore": false, "serverTime": 1}),
    ];
    let count = bad.len();
    let stub = Stub::new(bad.into_iter().map(|body| Reply::Json(200, body))).await;
    for i in 0..count {
        let result = stub.client.download(0, None, 500).await;
        assert!(matches!(result, Err(ClientError::InvalidAnswer { .. })), "case {i}: {result:?}");
    }
    let stub = Stub::new([Reply::Json(200, page(&[server_op(1)], false, 1))]).await;
    assert_eq!(stub.client.download(0, None, 500).await.unwrap().ops[0].op.payload.get(), r#"{"n":1.5}"#);
}

#[tokio::test]
async fn gap_restarts_once_from_the_beginning() {
    let mut gap = page(&[server_op(9)], true, 9);
    gap["gapDetected"] = json!(true);
    let stub = Stub::new([
        Reply::Json(200, page(&[server_op(7)], false, 7)),
        Reply::Json(200, gap),
        Reply::Json(200, page(&[server_op(1)], true, 2)),
        Reply::Json(200, page(&[server_op(2)], false, 2)),
    ])
    .await;
    let mut device = Device::new(stub.client.clone(), "A");
    assert!(!device.sync().await.unwrap().restarted);
    assert_eq!((device.cursor(), device.take_inbox().len()), (7, 1));
    let report = device.sync().await.unwrap();
    assert!(report.restarted);
    assert_eq!(device.cursor(), 2);
    let seqs: Vec<_> = device.take_inbox().iter().map(|op| op.server_seq).collect();
    assert_eq!(seqs, [1, 2]);
    let query = "&limit=500&excludeClient=A";
    assert_eq!(stub.lines()[1..], [7, 0, 1].map(|since| format!("GET /api/sync/ops?sinceSeq={since}{query}")));
}

#[tokio::test]
async fn cursor_follows_the_piggyback_when_there_is_more() {
    let stub = Stub::new([Reply::Hang]).await;
    let mut device = Device::new(stub.client, "A");
    let first = device.change(change("t"));
    let stub = Stub::new([
        Reply::Json(200, json!({"results": [accepted(&first, 9)], "newOps": [server_op(3)], "hasMorePiggyback": true, "latestSeq": 9})),
        Reply::Json(200, page(&[server_op(5)], false, 9)),
    ])
    .await;
    device.client = stub.client.clone();
    let report = device.sync().await.unwrap();
    assert_eq!(report.accepted, [(first, 9)]);
    assert_eq!((device.cursor(), report.received, device.pending()), (9, 2, 0));
    assert_eq!(stub.lines()[1], "GET /api/sync/ops?sinceSeq=3&limit=500&excludeClient=A");
    assert_eq!(device.clock().get("B"), Some(&5));
}

#[tokio::test]
async fn results_decide_what_stays_pending() {
    let stub = Stub::new([]).await;
    let mut device = Device::new(stub.client, "A");
    let ids: Vec<String> = (0..5).map(|i| device.change(change(&format!("t{i}")))).collect();
    let mut conflict = refused(&ids[3], "CONFLICT_CONCURRENT");
    conflict["existingClock"] = json!({"B": 4});
    let results = json!([
        accepted(&ids[0], 1),
        refused(&ids[1], "DUPLICATE_OPERATION"),
        refused(&ids[2], "INTERNAL_ERROR"),
        conflict,
        refused(&ids[4], "INVALID_PAYLOAD"),
    ]);
    let stub = Stub::new([
        Reply::Json(200, json!({"results": results, "latestSeq": 1})),
        Reply::Json(200, page(&[], false, 1)),
        Reply::Break,
    ])
    .await;
    device.client = stub.client.clone();
    let report = device.sync().await.unwrap();
    assert_eq!(report.accepted, [(ids[0].clone(), 1)]);
    assert_eq!(report.duplicates, [ids[1].clone()]);
    assert_eq!(report.deferred, [ids[2].clone()]);
    assert_eq!(report.rejected, [(ids[4].clone(), "INVALID_PAYLOAD".to_owned())]);
    let (lost, again) = report.conflicts[0].clone();
    assert_eq!(lost, ids[3]);
    assert_eq!(device.pending(), 2);

    assert!(device.sync().await.unwrap_err().is_network());
    assert_eq!(device.pending(), 2, "a lost answer loses nothing");
    let seen = stub.seen.lock().unwrap();
    let body = seen[2].json();
    assert_eq!(body["ops"][0]["id"], json!(ids[2]));
    assert_eq!(body["ops"][1]["id"], json!(again));
    assert_eq!(body["ops"][1]["vectorClock"], json!({"A": 6, "B": 4}));
    assert_eq!(body["lastKnownServerSeq"], json!(1));
}

#[tokio::test]
async fn retried_batch_has_the_same_request_id_in_chunks_of_25() {
    let stub = Stub::new([Reply::Break, Reply::Break]).await;
    let mut device = Device::new(stub.client.clone(), "A");
    for i in 0..26 {
        device.change(change(&format!("t{i}")));
    }
    assert!(device.sync().await.is_err());
    assert!(device.sync().await.is_err());
    let seen = stub.seen.lock().unwrap();
    let (first, second) = (seen[0].json(), seen[1].json());
    assert_eq!(first, second);
    assert_eq!(first["ops"].as_array().unwrap().len(), 25);
    let id = first["requestId"].as_str().unwrap();
    assert!(id.starts_with("ops-v1-25-") && id.len() <= 64, "{id}");
}

#[tokio::test]
async fn bodies_travel_in_every_encoding() {
    let json = json!({"text": "ä".repeat(500)});
    for encoding in [Encoding::Plain, Encoding::Gzip, Encoding::GzipBase64] {
        let stub = Stub::new([Reply::Json(200, json!({}))]).await;
        let body = Body::new(json.to_string().as_bytes(), encoding);
        stub.client.send(Method::POST, "/x", Some(&body)).await.unwrap();
        let seen = stub.seen.lock().unwrap();
        assert_eq!(seen[0].json(), json, "{encoding:?}");
        assert_eq!(seen[0].headers["authorization"], "Bearer token");
        assert_eq!(seen[0].headers["content-type"], "application/json");
    }
}
