//! Bodies that are announced and do not come, trickle, or become large.

use std::time::Duration;

use futures_util::future::join_all;
use supersync_client::raw::{Body, Encoding};

use crate::arena::Arena;
use crate::foe::{CLIENT, Foe, Stage};
use crate::harness::Backend;

const TICK: Duration = Duration::from_millis(100);

/// Requests with this head that send `first`, and then `piece` again and again.
async fn trickle(foe: &Foe, count: usize, path: &str, more: &str, first: &[u8], piece: &[u8]) {
    let until = foe.stage.until();
    let one = async || {
        let Some(mut line) = foe.begin("POST", path, more, first).await else { return foe.stage.tally.note(0) };
        line.trickle(piece, TICK, until).await;
    };
    join_all((0..count).map(|_| one())).await;
}

/// Full states of all sizes, the largest first, that are announced and of which one byte comes: whatever announcements
/// reserve is taken to the last byte.
async fn announce(foe: &Foe) {
    let announced = |bytes: usize| format!("Content-Length: {bytes}\r\n");
    let sizes = [31_457_280, 4_000_000, 250_000, 16_000, 1000].map(announced);
    join_all(sizes.iter().map(|size| trickle(foe, 8, "/api/sync/snapshot", size, b"{", b""))).await;
}

async fn foes(stage: &Stage, count: usize) -> Vec<Foe> {
    let mut foes = Vec::new();
    for _ in 0..count {
        foes.push(stage.foe().await);
    }
    stage.ready();
    foes
}

async fn announced(backend: Backend) {
    let mut arena = Arena::open(backend).await;
    let announced = "Content-Length: 31457280\r\n";
    arena
        .attack("bodies: eight snapshots of 30 MB announced and 32 smaller ones, one byte each", async |stage| {
            announce(&stage.foe().await).await;
        })
        .await;
    arena
        .attack("bodies: the same from eight accounts", async |stage| {
            let foes = foes(stage, 8).await;
            join_all(foes.iter().map(announce)).await;
        })
        .await;
    arena
        .attack("bodies: 100 uploads in chunks of one byte", async |stage| {
            let foe = stage.foe().await;
            let chunked = "Transfer-Encoding: chunked\r\n";
            trickle(&foe, 100, "/api/sync/ops", chunked, b"1\r\n{\r\n", b"1\r\n \r\n").await;
        })
        .await;
    arena
        .attack("bodies: 100 log-ins that announce 1 MB and trickle", async |stage| {
            let foe = stage.foe().await;
            trickle(&foe, 100, "/api/login", "Content-Length: 1000000\r\n", b"{", b" ").await;
        })
        .await;
    arena
        .attack("bodies: 20 MB each of four snapshots, and then nothing", async |stage| {
            let foe = stage.foe().await;
            trickle(&foe, 4, "/api/sync/snapshot", announced, &vec![b' '; 20_000_000], b"").await;
        })
        .await;
    arena.close().await;
}

async fn inflated(backend: Backend) {
    let mut arena = Arena::open(backend).await;
    arena
        .attack("bodies: 60 MB of spaces in 60 KB of gzip", async |stage| {
            let foe = stage.foe().await;
            let body = Body::new(&vec![b' '; 62_000_000], Encoding::Gzip);
            stage.ready();
            stage
                .again(8, async |_| _ = foe.send(reqwest::Method::POST, "/api/sync/snapshot", Some(&body)).await)
                .await;
        })
        .await;
    arena
        .attack("bodies: 30 MB of operation, too large as one, in gzip and base64", async |stage| {
            let foe = stage.foe().await;
            let ops = [crate::harness::op(CLIENT).payload("x".repeat(29_000_000))];
            let json = crate::harness::upload(CLIENT, None, &ops).to_string();
            let body = Body::new(json.as_bytes(), Encoding::GzipBase64);
            stage.ready();
            stage.again(8, async |_| _ = foe.send(reqwest::Method::POST, "/api/sync/ops", Some(&body)).await).await;
        })
        .await;
    arena
        .attack("bodies: the same from eight accounts", async |stage| {
            let foes = foes(stage, 8).await;
            let body = Body::new(&vec![b'['; 30_000_000], Encoding::Gzip);
            stage.ready();
            let send = async |n: usize| _ = foes[n % 8].send(reqwest::Method::POST, "/api/sync/ops", Some(&body)).await;
            stage.again(8, send).await;
        })
        .await;
    arena.close().await;
}

on_both_databases!(announced, inflated);
