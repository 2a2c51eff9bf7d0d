//! What is kept in memory of each account: the newest operation of each entity, with its clock.

use serde_json::{Map, Value, json};

use crate::arena::Arena;
use crate::foe::Foe;
use crate::harness::{Backend, Op, op, upload};

/// New entities of one device; `keys` is the length of the clock's names.
fn entities(count: usize, keys: usize) -> Value {
    let client = "B_many";
    let clock: Map<String, Value> = (0..20).map(|n| (format!("{n:x<keys$}"), json!(1))).collect();
    let clock = if keys == 0 { json!({ client: 1 }) } else { Value::Object(clock) };
    let ops: Vec<Op> = (0..count).map(|_| op(client).payload(json!({})).clock(clock.clone())).collect();
    upload(client, None, &ops)
}

async fn many(backend: Backend) {
    let mut arena = Arena::open(backend).await;
    arena
        .attack("heads: accounts without end, 800 new entities each", async |stage| {
            let one = async |_| {
                let foe: Foe = stage.foe().await;
                for _ in 0..8 {
                    foe.post("/api/sync/ops", &entities(100, 0)).await;
                }
            };
            stage.again(4, one).await;
        })
        .await;
    arena
        .attack("heads: the same with clocks of 5 KB", async |stage| {
            let one = async |_| {
                let foe: Foe = stage.foe().await;
                foe.post("/api/sync/ops", &entities(100, 255)).await;
            };
            stage.again(4, one).await;
        })
        .await;
    arena.close().await;
}

on_both_databases!(many);
