//! Connections that hold a descriptor and say nothing, too little, or something else.

use std::time::Duration;

use futures_util::future::join_all;

use crate::arena::Arena;
use crate::foe::{Stage, address};
use crate::harness::Backend;
use crate::line::Line;

const CONNECTIONS: usize = 450;
const NOFILE: &str = "--nofile=400";
/// The first bytes of a TLS handshake.
const TLS: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

/// So many connections that send `first`, and then `piece` now and then; from one address, or from as many as there are.
async fn hold(stage: &Stage, from_one: bool, first: &[u8], piece: &[u8]) {
    let one = async || {
        let line = if from_one { Line::open(&stage.base, address(78, 1)).await } else { stage.line().await };
        let Some(mut line) = line else { return stage.tally.note(0) };
        if line.send(first).await.is_some() {
            line.trickle(piece, Duration::from_millis(500), stage.until()).await;
        }
    };
    join_all((0..CONNECTIONS).map(|_| one())).await;
}

async fn held(backend: Backend) {
    let mut arena = Arena::open_with(backend, &[NOFILE], &[]).await;
    let half = b"GET /api/sync/ops?sinceSeq=0 HTTP/1.1\r\nHost: x\r\n";
    let whole = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    arena
        .attack("connections: 450 half heads from one address at nofile 400", async |stage| {
            hold(stage, true, half, b"").await;
        })
        .await;
    arena
        .attack("connections: 450 half heads from everywhere", async |stage| hold(stage, false, half, b"").await)
        .await;
    arena
        .attack("connections: 450 heads that trickle", async |stage| hold(stage, false, half, b"X-A: b\r\n").await)
        .await;
    arena.attack("connections: 450 that ask once and stay", async |stage| hold(stage, false, whole, b"").await).await;
    arena.attack("connections: 450 that speak TLS", async |stage| hold(stage, false, TLS, b"").await).await;
    arena.attack("connections: 450 that say nothing", async |stage| hold(stage, false, b"", b"").await).await;
    arena
        .attack("connections: opened and closed as fast as can be", async |stage| {
            stage.again(10, async |_| _ = stage.line().await).await;
        })
        .await;
    arena.close().await;
}

on_both_databases!(held);
