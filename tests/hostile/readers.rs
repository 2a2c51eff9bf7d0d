//! Readers that do not read, or only so much that nobody hangs up.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;

use crate::arena::Arena;
use crate::foe::{CLIENT, Foe, Stage, full_state};
use crate::harness::{Backend, Op, op, snapshot, upload};

const LARGE: usize = 19_900_000;

async fn with(stage: &Stage, ops: &[Op]) -> Foe {
    let foe = stage.foe().await;
    for op in ops {
        foe.upload(std::slice::from_ref(op)).await;
    }
    stage.ready();
    foe
}

/// So many requests at once whose answers are not read, or `piece` bytes at a time, ten times a second.
async fn readers(foe: &Foe, count: usize, piece: usize, method: &str, path: &str, body: &[u8]) {
    let until = foe.stage.until();
    let one = async || {
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let Some(mut line) = foe.begin(method, path, &length, body).await else { return foe.stage.tally.note(0) };
        foe.stage.tally.note(line.status(until).await);
        // Reading nothing is reading one byte now and then: what is sent must not depend on it.
        line.sip(piece, Duration::from_millis(100), until).await;
    };
    join_all((0..count).map(|_| one())).await;
}

async fn slow(backend: Backend) {
    let mut arena = Arena::open(backend).await;
    arena
        .attack("readers: one operation of 20 MB, 40 downloads that read nothing", async |stage| {
            let foe = with(stage, &[op(CLIENT).payload("x".repeat(LARGE))]).await;
            readers(&foe, 40, 1, "GET", "/api/sync/ops?sinceSeq=0&limit=1", b"").await;
        })
        .await;
    arena
        .attack("readers: the same of eight accounts", async |stage| {
            let mut foes = Vec::new();
            for _ in 0..8 {
                foes.push(with(stage, &[op(CLIENT).payload("x".repeat(LARGE / 2))]).await);
            }
            let path = "/api/sync/ops?sinceSeq=0&limit=1";
            join_all(foes.iter().map(|foe| readers(foe, 8, 1, "GET", path, b""))).await;
        })
        .await;
    arena
        .attack("readers: uploads that let 20 MB come along and read nothing", async |stage| {
            let foe = with(stage, &[op(CLIENT).payload("x".repeat(LARGE))]).await;
            let body = upload("B_other", Some(0), &[op("B_other")]).to_string();
            readers(&foe, 20, 1, "POST", "/api/sync/ops", body.as_bytes()).await;
        })
        .await;
    arena
        .attack("readers: ten GET snapshot of 16 MB at 16 KB/s", async |stage| {
            let foe = stage.foe().await;
            let text = "x".repeat(4_000_000);
            let state = json!({ "a": text, "b": text, "c": text, "d": text });
            foe.post("/api/sync/snapshot", &snapshot(CLIENT).with("state", state).json()).await;
            stage.ready();
            readers(&foe, 10, 1600, "GET", "/api/sync/snapshot", b"").await;
        })
        .await;
    arena
        .attack("readers: 30 downloads of archived data that read nothing", async |stage| {
            let foe = stage.foe().await;
            foe.post("/api/sync/snapshot", &full_state(&"x".repeat(9_800_000))).await;
            foe.send(reqwest::Method::DELETE, "/api/sync/data", None).await;
            let Some(path) = newest_archive(&foe).await else { return };
            stage.ready();
            readers(&foe, 30, 1, "GET", &path, b"").await;
        })
        .await;
    arena.close().await;
}

/// Where the newest archived data set can be downloaded.
pub async fn newest_archive(foe: &Foe) -> Option<String> {
    let list = foe.get("/api/sync/archives").await?;
    let list: serde_json::Value = serde_json::from_slice(&list.body).ok()?;
    Some(format!("/api/sync/archives/{}", list["archives"][0]["id"].as_str()?))
}

on_both_databases!(slow);
