//! Exports and other downloads of whole data sets, read as slowly as is allowed.

use std::time::Duration;

use futures_util::future::join_all;

use crate::arena::Arena;
use crate::foe::{Foe, full_state, noise};
use crate::harness::Backend;
use crate::readers::newest_archive;

/// 16 KB in a second.
const PIECE: usize = 1600;
const TICK: Duration = Duration::from_millis(100);

async fn read_slowly(foe: &Foe, count: usize, path: &str) {
    let until = foe.stage.until();
    let one = async || {
        let Some(mut line) = foe.begin("GET", path, "", b"").await else { return foe.stage.tally.note(0) };
        foe.stage.tally.note(line.status(until).await);
        line.sip(PIECE, TICK, until).await;
    };
    join_all((0..count).map(|_| one())).await;
}

async fn slow(backend: Backend) {
    let mut arena = Arena::open(backend).await;
    arena
        .attack("exports: 64 of one account at 16 KB/s", async |stage| {
            let foe = stage.foe().await;
            foe.post("/api/sync/snapshot", &full_state(&noise(4_000_000))).await;
            stage.ready();
            read_slowly(&foe, 64, "/api/account/export").await;
        })
        .await;
    arena
        .attack("exports: eight each of eight accounts at 16 KB/s", async |stage| {
            let mut foes = Vec::new();
            for _ in 0..8 {
                let foe = stage.foe().await;
                foe.post("/api/sync/snapshot", &full_state(&noise(1_000_000))).await;
                foes.push(foe);
            }
            stage.ready();
            join_all(foes.iter().map(|foe| read_slowly(foe, 8, "/api/account/export"))).await;
        })
        .await;
    arena
        .attack("exports: 64 downloads of archived data at 16 KB/s", async |stage| {
            let foe = stage.foe().await;
            foe.post("/api/sync/snapshot", &full_state(&noise(4_000_000))).await;
            foe.send(reqwest::Method::DELETE, "/api/sync/data", None).await;
            let Some(path) = newest_archive(&foe).await else { return };
            stage.ready();
            read_slowly(&foe, 64, &path).await;
        })
        .await;
    arena
        .attack("exports: one after the other, as fast as they are given", async |stage| {
            let foe = stage.foe().await;
            foe.post("/api/sync/snapshot", &full_state(&noise(2_000_000))).await;
            stage.ready();
            stage.again(4, async |_| _ = foe.get("/api/account/export").await).await;
        })
        .await;
    arena.close().await;
}

on_both_databases!(slow);
