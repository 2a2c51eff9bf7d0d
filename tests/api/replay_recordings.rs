//! Replays recorded sessions of the old server and compares every answer (see `recordings/README.md`).

use std::collections::{BTreeSet, HashMap};

use crate::harness::{Account, Backend, Reply, Server, gzip, op, receive};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};

/// Members whose values differ from run to run.
const VOLATILE: [&str; 11] = [
    "timestamp",
    "receivedAt",
    "serverTime",
    "generatedAt",
    "lastSeenAt",
    "createdAt",
    "snapshotAge",
    "token",
    "userId",
    "email",
    "details",
];
/// Error texts that released clients read; all others are free.
const LOAD_BEARING: [&str; 1] = ["Storage quota exceeded"];
/// Members that an answer may have beyond the recorded ones.
const EXTRA: [&str; 6] = ["latestSnapshotSeq", "schemaVersion", "retryAfter", "code", "statusCode", "message"];

/// A value as recordings hold it: without what differs from run to run.
fn normalised(key: Option<&str>, value: &Value) -> Value {
    match value {
        Value::Object(members) => members.iter().map(|(name, v)| (name.clone(), normalised(Some(name), v))).collect(),
        Value::Array(items) => items.iter().map(|v| normalised(None, v)).collect(),
        Value::Number(_) | Value::Bool(_) if key.is_some_and(|key| VOLATILE.contains(&key)) => json!("<num>"),
        _ if key.is_some_and(|key| VOLATILE.contains(&key)) => json!("<text>"),
        Value::String(text) if key == Some("errorCode") && text == "CONFLICT_STALE" => json!("CONFLICT_SUPERSEDED"),
        Value::String(text) if matches!(key, Some("error" | "message")) && !LOAD_BEARING.contains(&text.as_str()) => {
            json!("<text>")
        }
        _ => value.clone(),
    }
}

/// Where two normalised values differ.
fn differences(want: &Value, got: &Value, path: &str, found: &mut Vec<String>) {
    match (want, got) {
        (Value::String(any), _) if any == "<any>" => {}
        (Value::Object(want), Value::Object(got)) => {
            for key in want.keys().chain(got.keys()).collect::<BTreeSet<_>>() {
                match (want.get(key), got.get(key)) {
                    (Some(want), Some(got)) => differences(want, got, &format!("{path}/{key}"), found),
                    (Some(want), None) => found.push(format!("{path}/{key}: missing, want {want}")),
                    (None, Some(got)) if EXTRA.contains(&key.as_str()) && !got.is_null() => {}
                    (None, got) => found.push(format!("{path}/{key}: unexpected {got:?}")),
                }
            }
        }
        (Value::Array(want), Value::Array(got)) if want.len() == got.len() => {
            for (n, (want, got)) in want.iter().zip(got).enumerate() {
                differences(want, got, &format!("{path}/{n}"), found);
            }
        }
        (Value::Number(a), Value::Number(b)) if a.as_f64() == b.as_f64() => {}
        _ if want == got => {}
        _ => found.push(format!("{path}: want {want}, got {got}")),
    }
}

/// `{"$now": n}` as a time.
fn resolved(value: &Value, start_ms: i64) -> Value {
    match value {
        Value::Object(members) => match members.get("$now").and_then(Value::as_i64) {
            Some(offset) if members.len() == 1 => json!(start_ms + offset),
            _ => members.iter().map(|(name, v)| (name.clone(), resolved(v, start_ms))).collect(),
        },
        Value::Array(items) => items.iter().map(|v| resolved(v, start_ms)).collect(),
        _ => value.clone(),
    }
}

async fn send(account: &Account, step: &Value, start_ms: i64) -> Reply {
    let text = |name: &str| step[name].as_str();
    let method: Method = text("method").expect("a method").parse().expect("a known method");
    let url = format!("{}{}", account.base, text("path").expect("a path"));
    let mut request = account.http.request(method, url).header("content-type", "application/json");
    request = match text("auth") {
        None | Some("user") => request.bearer_auth(&account.token),
        Some("none") => request,
        Some(header) => request.header("authorization", header),
    };
    let mut body = match (step.get("body"), text("text")) {
        (_, Some(raw)) => raw.as_bytes().to_vec(),
        (Some(body), None) => resolved(body, start_ms).to_string().into_bytes(),
        (None, None) => return receive(request).await,
    };
    if let Some(encoding) = text("encoding") {
        if encoding.starts_with("gzip") {
            body = gzip(&body);
        }
        if encoding == "gzip+base64" {
            body = STANDARD.encode(body).into_bytes();
            request = request.header("content-transfer-encoding", "base64");
        }
        request = request.header("content-encoding", encoding.trim_end_matches("+base64"));
    }
    receive(request.body(body)).await
}

async fn replay(backend: Backend, recording: &str) {
    // In test mode, in which the app's own tests drive a server; it serves from memory there as well.
    let server = Server::start_with(backend, |config| config.test_mode = true).await;
    let start_ms = server.clock.now_ms();
    let mut accounts: HashMap<String, Account> = HashMap::new();
    let mut failed = Vec::new();
    let mut steps = 0;
    for (n, line) in recording.lines().enumerate() {
        let step: Value = serde_json::from_str(line).expect("a recording is JSON lines");
        let user = step["user"].as_str().expect("a user").to_owned();
        if !accounts.contains_key(&user) {
            accounts.insert(user.clone(), server.account().await);
        }
        let reply = send(&accounts[&user], &step, start_ms).await;
        let expected = &step["expect"];
        let mut found = Vec::new();
        differences(&expected["status"], &json!(reply.status), "status", &mut found);
        differences(&expected["body"], &normalised(None, &reply.body), "", &mut found);
        if !found.is_empty() {
            failed.push(format!("line {} ({user}) {} {}: {}", n + 1, step["method"], step["path"], found.join("; ")));
        }
        steps += 1;
    }
    assert!(steps > 20, "a recording of {steps} steps shows nothing");
    assert!(failed.is_empty(), "{} of {steps} steps differ:\n{}", failed.len(), failed.join("\n"));
}

/// What production serves from memory, test mode serves from memory; its own routes change that too.
async fn test_mode_serves_from_memory(backend: Backend) {
    let server = Server::start_with(backend, |config| config.test_mode = true).await;
    let account = server.account().await;
    account.upload("A", &[op("A"), op("A"), op("A")]).await.ok();
    assert_eq!(account.download(3).await.ok()["latestSeq"], 3);
    server.database.tamper("UPDATE user_sync_state SET last_seq = 9").await;
    assert_eq!(account.download(3).await.ok()["latestSeq"], 3, "nobody has told of it");
    server.database.tamper("UPDATE user_sync_state SET last_seq = 3").await;
    let path = format!("/api/test/user/{}/ops-after/1", account.id);
    assert_eq!(account.delete(&path).await.ok()["deleted"], 2);
    let page = account.download(0).await.ok();
    assert_eq!((page.seqs(), &page["latestSeq"]), (vec![1], &1.into()), "what it does itself it knows");
    account.upload("A", &[op("A")]).await.ok();
    account.post("/api/test/cleanup", &json!({})).await.ok();
    assert_eq!(account.get("/api/sync/ops?sinceSeq=0").await.status, 401);
}

on_both_databases! {
    test_mode_serves_from_memory,
    the_released_app,
    random_encrypted_sessions,
    random_plaintext_sessions,
}

async fn the_released_app(on: Backend) {
    replay(on, include_str!("recordings/app.jsonl")).await;
}

async fn random_encrypted_sessions(on: Backend) {
    replay(on, include_str!("recordings/encrypted.jsonl")).await;
}

async fn random_plaintext_sessions(on: Backend) {
    replay(on, include_str!("recordings/plaintext.jsonl")).await;
}

#[test]
fn differences_are_found() {
    let want = json!({ "a": [1, { "b": "<any>" }], "errorCode": "X", "gone": 1 });
    let got = json!({ "a": [1.0, { "b": 7 }], "errorCode": "Y", "message": "free", "more": true });
    let mut found = Vec::new();
    differences(&want, &got, "", &mut found);
    let paths: Vec<&str> = found.iter().map(|text| text.split(':').next().unwrap_or_default()).collect();
    assert_eq!(paths, ["/errorCode", "/gone", "/more"]);
}
