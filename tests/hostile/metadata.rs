//! What an operation carries beside its payload: entity ids, clocks, names. All of it is stored, some of it once per
//! entity.

use serde_json::{Map, Value, json};

use crate::arena::Arena;
use crate::foe::{CLIENT, Foe, noise};
use crate::harness::{Backend, Op, fresh, op};

/// A clock of 19 keys of 255 characters.
fn long_clock() -> Value {
    let keys = (0..19).map(|key| (format!("{key:x<255}"), json!(1))).chain([(CLIENT.to_owned(), json!(fresh()))]);
    Value::Object(keys.collect::<Map<_, _>>())
}

fn ids(count: usize, length: usize) -> Vec<String> {
    (0..count).map(|_| format!("{:0length$x}", fresh())).collect()
}

/// Operations that each name so many entities by ids of this length.
fn many_heads(kind: &str, ops: usize, entities: usize, length: usize) -> Vec<Op> {
    let clock = long_clock();
    let one = || {
        let ids = ids(entities, length);
        let op = op(CLIENT).kind(kind).task(&ids[0]).clock(clock.clone()).with("entityIds", ids);
        if kind == "DEL" { op.payload(Value::Null) } else { op }
    };
    (0..ops).map(|_| one()).collect()
}

async fn bombs(backend: Backend) {
    let mut arena = Arena::open(backend).await;
    arena
        .attack("metadata: 100 DEL × 1,000 entityIds, 19 clock keys × 255 characters", async |stage| {
            let foe = stage.foe().await;
            stage.again(3, async |_| _ = foe.upload(&many_heads("DEL", 100, 1000, 10)).await).await;
        })
        .await;
    arena
        .attack("metadata: one UPD at a time × 1,000 entityIds of 255 characters", async |stage| {
            let foe = stage.foe().await;
            stage.again(3, async |_| _ = foe.upload(&many_heads("UPD", 1, 1000, 255)).await).await;
        })
        .await;
    arena
        .attack("metadata: 100 operations with ids, names and clocks as long as they may be", async |stage| {
            let foe = stage.foe().await;
            stage.again(3, async |_| _ = foe.upload(&long_names()).await).await;
        })
        .await;
    arena
        .attack("metadata: the same from five accounts", async |stage| {
            let mut foes = Vec::new();
            for _ in 0..5 {
                foes.push(stage.foe().await);
            }
            stage.again(5, async |n| _ = foes[n % 5].upload(&many_heads("DEL", 100, 100, 10)).await).await;
        })
        .await;
    arena.close().await;
}

fn long_names() -> Vec<Op> {
    let one = || {
        op(CLIENT)
            .id(&noise(255))
            .with("actionType", noise(255))
            .task(&noise(255))
            .clock(long_clock())
            .payload(json!({}))
    };
    (0..100).map(|_| one()).collect()
}

/// What could be stored can be packed and exported, and is the same afterwards.
async fn packed(backend: Backend) {
    let mut arena = Arena::open(backend).await;
    let stored = std::sync::Mutex::new(None);
    arena
        .attack("metadata: as much as is taken, to be packed", async |stage| {
            let foe = stage.foe().await;
            let mut accepted = 0;
            for ops in [many_heads("DEL", 3, 1000, 255), many_heads("UPD", 10, 200, 255), long_names()] {
                accepted += foe.upload(&ops).await;
            }
            *stored.lock().expect("nobody panicked") = Some((foe, accepted));
        })
        .await;
    let (foe, accepted) = stored.into_inner().expect("nobody panicked").expect("the attack ran to its end");
    arena.demand(accepted > 0, || "nothing was accepted".to_owned());
    let before = log(&foe).await;
    let report = arena.run(&["data", "seal", "--older-than", "0"]).await;
    arena.demand(report.status.success(), || format!("sealing failed: {}", String::from_utf8_lossy(&report.stderr)));
    arena.demand(log(&foe).await == before, || "the log is another one after sealing".to_owned());
    let export = foe.get("/api/account/export").await.expect("an answer");
    arena.demand(export.status == 200, || format!("export: {}", export.status));
    arena.close().await;
}

async fn log(foe: &Foe) -> Vec<Value> {
    let (mut ops, mut since) = (Vec::new(), 0);
    loop {
        let page = foe.get(&format!("/api/sync/ops?sinceSeq={since}&limit=1000")).await.expect("an answer");
        let page: Value = serde_json::from_slice(&page.body).expect("JSON");
        ops.extend(page["ops"].as_array().expect("a page").iter().cloned());
        since = ops.last().and_then(|op| op["serverSeq"].as_i64()).unwrap_or(0);
        if page["hasMore"] != true {
            return ops;
        }
    }
}

on_both_databases!(bombs, packed);
