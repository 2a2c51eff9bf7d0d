//! Replays: small operations that make large states, and many of them at once.

use serde_json::{Map, Value, json};

use crate::arena::Arena;
use crate::foe::{CLIENT, Foe, Stage};
use crate::harness::{Backend, Op, op};

const CHARACTERS: usize = 499_000;

/// Each string is spread over its entity: a member for each character.
fn strings(entities: usize, characters: usize) -> Op {
    let text = "x".repeat(characters);
    let entities: Map<String, Value> = (0..entities).map(|n| (format!("e{n}"), json!(text))).collect();
    op(CLIENT).kind("BATCH").entity("ALL", "all").payload(json!({ "entities": entities }))
}

async fn with(stage: &Stage, ops: &[Op]) -> Foe {
    let foe = stage.foe().await;
    for op in ops {
        foe.upload(std::slice::from_ref(op)).await;
    }
    stage.ready();
    foe
}

async fn bombs(backend: Backend) {
    let mut arena = Arena::open(backend).await;
    arena
        .attack("replay: a BATCH of 40 strings of 499,000 characters, GET snapshot", async |stage| {
            let foe = with(stage, &[strings(40, CHARACTERS)]).await;
            stage.again(2, async |_| _ = foe.get("/api/sync/snapshot").await).await;
        })
        .await;
    arena
        .attack("replay: an UPD whose payload is a string of 19 MB", async |stage| {
            let foe = with(stage, &[op(CLIENT).payload("x".repeat(19_000_000))]).await;
            stage.again(2, async |_| _ = foe.get("/api/sync/snapshot").await).await;
        })
        .await;
    arena
        .attack("replay: 40 restores at once of one account", async |stage| {
            let ops: Vec<Op> = (0..4).map(|_| strings(2, 60_000)).collect();
            let foe = with(stage, &ops).await;
            stage.again(40, async |n| _ = foe.get(&format!("/api/sync/restore/{}", n % 4 + 1)).await).await;
        })
        .await;
    arena
        .attack("replay: of eight accounts at once", async |stage| {
            let mut foes = Vec::new();
            for _ in 0..8 {
                foes.push(with(stage, &[strings(40, CHARACTERS)]).await);
            }
            stage.again(8, async |n| _ = foes[n % 8].get("/api/sync/snapshot").await).await;
        })
        .await;
    arena.close().await;
}

on_both_databases!(bombs);
