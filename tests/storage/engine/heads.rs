//! Heads: stored in slices, never lost between two of them, and bounded in memory.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use supersync::engine::Handle;
use supersync::protocol::{ErrorCode, Seq};
use supersync::store::LogStore as _;

use super::faulty_store::Fault;
use super::setup::{Setup, deadline, done, eventually, op, options, outcomes, setup, upload};

/// A hundred operations on a hundred entities each.
fn many() -> Vec<Value> {
    (0..100)
        .map(|n| {
            let ids: Vec<String> = (0..100).map(|m| format!("entity-{n}-{m}")).collect();
            let mut op = op(&format!("many-{n:02}"));
            op["entityIds"] = json!(ids);
            op["entityId"] = json!(ids[0]);
            op
        })
        .collect()
}

/// An operation of somebody who has seen nothing.
fn stranger(id: &str, op_type: &str, entity: &str) -> Value {
    let mut op = op(id);
    op["entityId"] = json!(entity);
    op["opType"] = json!(op_type);
    op["vectorClock"] = json!({"B": 1});
    op
}

async fn heads_seq(t: &Setup) -> Seq {
    t.store.load_account(t.user).await.expect("it answers").expect("the account").sync.heads_seq
}

#[tokio::test]
async fn a_request_on_very_many_entities_is_stored_in_slices_and_nothing_is_lost_between_them() {
    let t = setup(options()).await;
    t.store.gated.store(true, Ordering::SeqCst);
    t.store.gate.add_permits(1);
    let stored = t.upload(many()).await;
    assert_eq!(outcomes(&stored), (1..=100).map(Ok).collect::<Vec<_>>());
    eventually("a first slice by itself", || t.store.arrived.load(Ordering::SeqCst) == 2).await;
    t.store.gate.add_permits(1);
    eventually("the next slice", || t.store.arrived.load(Ordering::SeqCst) == 3).await;
    let between = heads_seq(&t).await;
    assert!((1..100).contains(&between), "some of them are stored: {between}");

    // The process ends here: what it keeps in memory is lost, and the slice that is under way is not stored.
    t.store.faults.lock().expect("no panic under the lock").push(Fault::Unavailable);
    t.store.gated.store(false, Ordering::SeqCst);
    t.store.gate.add_permits(1);
    let second = Handle::start(t.store.clone(), t.clock.clone(), options()).await.expect("a second engine");
    let strangers: Vec<Value> = ["UPD", "CRT", "DEL"]
        .into_iter()
        .flat_map(|op_type| {
            [0, 50, 99].map(|n| stranger(&format!("{op_type}-{n}"), op_type, &format!("entity-{n}-{}", n % 7)))
        })
        .collect();
    let refused = second.upload(t.user, upload(strangers), deadline()).await.expect("an answer");
    assert_eq!(outcomes(&done(refused)), [Err(ErrorCode::ConflictConcurrent); 9]);

    let accepted = second.upload(t.user, upload(vec![op("later")]), deadline()).await.expect("an answer");
    assert_eq!(outcomes(&done(accepted)), [Ok(101)]);
    let all_stored = tokio::time::timeout(std::time::Duration::from_secs(20), async {
        while heads_seq(&t).await < 100 {
            tokio::task::yield_now().await;
        }
    });
    all_stored.await.expect("the rest follows");
    assert!(t.store.most_heads.load(Ordering::SeqCst) <= 2100, "in slices");
}

#[tokio::test]
async fn many_new_entities_are_looked_up_before_the_commit() {
    let t = setup(options()).await;
    // More entities than an actor remembers, so that it does not know of all of them.
    for round in 0..4 {
        let mut ops = many();
        for op in &mut ops {
            op["id"] = json!(format!("{}-{round}", op["id"].as_str().expect("a text")));
            let ids = op["entityIds"].as_array().expect("a list").iter();
            op["entityIds"] = ids.map(|id| json!(format!("{}-{round}", id.as_str().expect("a text")))).collect();
            op["entityId"] = op["entityIds"][0].clone();
        }
        t.upload(ops).await;
    }
    eventually("slices", || t.engine.memory().excess() == 0).await;
    t.engine.forget(t.user);
    let mut created = many();
    for (n, op) in created.iter_mut().enumerate() {
        op["opType"] = json!("CRT");
        op["id"] = json!(format!("create-{n:02}"));
        op["vectorClock"] = json!({"B": 1});
        if n.is_multiple_of(2) {
            // One of them is there.
            op["entityIds"][50] = json!(format!("entity-{n}-50-3"));
        }
    }
    let expected = |n: usize| if n.is_multiple_of(2) { Err(ErrorCode::ConflictConcurrent) } else { Ok(0) };
    let found: Vec<_> = outcomes(&t.upload(created).await).into_iter().map(|outcome| outcome.map(|_| 0)).collect();
    assert_eq!(found, (0..100).map(expected).collect::<Vec<_>>());
    assert!(t.store.most_absent.load(Ordering::SeqCst) <= 1000);
}
