//! What is replaced or wiped is kept for a while: no way around the quota.

use reqwest::Method;

use crate::arena::Arena;
use crate::foe::{CLIENT, Stage, full_state, noise};
use crate::harness::{Backend, op};

/// A tenth of production's, so that three times as much is uploaded in a moment.
const QUOTA: i64 = 10_000_000;
const STATE: usize = 980_000;
/// What one account may keep on the server: its quota of data, and as much archived.
const KEPT: u64 = 2 * 10_000_000;

/// Bytes that all attackers together are charged for or have archived.
async fn kept(stage: &Stage) -> u64 {
    let foes = stage.foes.lock().expect("nobody panicked").clone();
    crate::arena::charged(&stage.base, &foes).await
}

async fn growth(backend: Backend) {
    let mut arena = Arena::open(backend).await;
    arena
        .attack("archive: 30 full states of a tenth of the quota", async |stage| {
            let foe = stage.foe_with(QUOTA).await;
            for _ in 0..30 {
                foe.post("/api/sync/snapshot", &full_state(&noise(STATE))).await;
            }
        })
        .await;
    let after_states = kept(&arena.stage).await;
    arena.demand(after_states <= KEPT, || format!("one account keeps {after_states} bytes"));
    arena
        .attack("archive: wipe and upload, 30 times", async |stage| {
            let foe = stage.foe_with(QUOTA).await;
            for _ in 0..30 {
                foe.post("/api/sync/snapshot", &full_state(&noise(STATE))).await;
                foe.send(Method::DELETE, "/api/sync/data", None).await;
            }
        })
        .await;
    arena
        .attack("archive: clean slates of operations, 30 times", async |stage| {
            let foe = stage.foe_with(QUOTA).await;
            for _ in 0..30 {
                foe.upload(&[op(CLIENT).payload(noise(STATE))]).await;
                let mut state = full_state("");
                state["isCleanSlate"] = true.into();
                foe.post("/api/sync/snapshot", &state).await;
            }
        })
        .await;
    let all = kept(&arena.stage).await;
    arena.demand(all <= 3 * KEPT, || format!("three accounts keep {all} bytes"));
    arena.close().await;
}

on_both_databases!(growth);
