//! What is kept in memory of each account: the newest operation of each entity.

use serde_json::{Value, json};

use crate::arena::Arena;
use crate::foe::Foe;
use crate::harness::{Backend, Op, op, upload};

/// New entities of one device.
fn entities(count: usize) -> Value {
    let ops: Vec<Op> = (0..count).map(|_| op("B_many").payload(json!({}))).collect();
    upload("B_many", None, &ops)
}

async fn many(backend: Backend) {
    let mut arena = Arena::open(backend).await;
    arena
        .attack("heads: accounts without end, 100 new entities each", async |stage| {
            let one = async |_| {
                let foe: Foe = stage.foe().await;
                foe.post("/api/sync/ops", &entities(100)).await;
            };
            stage.again(4, one).await;
        })
        .await;
    arena.close().await;
}

on_both_databases!(many);
