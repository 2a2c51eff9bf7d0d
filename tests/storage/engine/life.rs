//! Actors come, go, die, and are kept away.

use std::sync::atomic::Ordering;
use std::time::Duration;

use supersync::engine::{EngineError, Handle};
use supersync::store::AccountStore as _;

use super::setup::{deadline, done, eventually, new_user, op, options, outcomes, setup, since, upload};

#[tokio::test]
async fn an_unknown_account_is_refused_and_leaves_no_actor() {
    let t = setup(options()).await;
    let refused = t.engine.upload(999, upload(vec![op("1")]), deadline()).await;
    assert!(matches!(refused, Err(EngineError::NoAccount)), "{refused:?}");
    assert_eq!(t.engine.live_actors(), 0);
}

#[tokio::test]
async fn an_idle_actor_goes_and_the_account_continues_where_it_was() {
    let t = setup(supersync::engine::Options { actor_idle: Duration::from_millis(20), ..options() }).await;
    assert_eq!(outcomes(&t.upload(vec![op("1"), op("2")]).await), [Ok(1), Ok(2)]);
    eventually("passivation", || t.engine.live_actors() == 0).await;
    assert_eq!(outcomes(&t.upload(vec![op("3")]).await), [Ok(3)]);
    assert_eq!(t.latest().await, 3);
}

#[tokio::test]
async fn an_account_that_is_only_polled_after_a_write_gives_its_actor_up() {
    let t = setup(supersync::engine::Options { actor_idle: Duration::from_millis(20), ..options() }).await;
    t.upload(vec![op("1")]).await;
    let before = t.store.calls.load(Ordering::SeqCst);
    // Never idle for as long as it takes to leave memory, so a look at the database shows that the slot went with its
    // actor.
    let looked = tokio::time::timeout(Duration::from_secs(20), async {
        while t.store.calls.load(Ordering::SeqCst) == before {
            assert_eq!(t.engine.download(t.user, since(1), deadline()).await.expect("an answer").latest_seq, 1);
            tokio::task::yield_now().await;
        }
    });
    looked.await.expect("the slot is taken away and loaded again");
    assert_eq!(outcomes(&t.upload(vec![op("2")]).await), [Ok(2)]);
}

#[tokio::test]
async fn the_least_recently_used_actors_go_when_all_keep_too_much_and_nothing_is_lost() {
    let t = setup(supersync::engine::Options { memory_bytes: 64 << 10, ..options() }).await;
    let mut users = Vec::new();
    for n in 0..20 {
        users.push(new_user(t.store.as_ref(), &format!("user{n}@example.com"), 1 << 20).await);
    }
    for round in 1..=3 {
        for user in &users {
            let reply = t.engine.upload(*user, upload(vec![op(&round.to_string())]), deadline()).await;
            assert_eq!(outcomes(&done(reply.expect("accepted"))), [Ok(round)]);
        }
        eventually("eviction", || t.engine.memory().excess() == 0).await;
        assert!(t.engine.live_actors() < users.len(), "all of them do not fit");
    }
    // Who is gone is found again, with what conflicts with it.
    for user in &users {
        let reply = t.engine.upload(*user, upload(vec![op("1")]), deadline()).await.expect("an answer");
        assert_eq!(outcomes(&done(reply)), [Err(supersync::protocol::ErrorCode::DuplicateOperation)]);
    }
}

#[tokio::test]
async fn a_request_survives_the_death_of_its_actor() {
    let t = setup(options()).await;
    // Something to look up, by an actor that knows nothing yet.
    t.upload(vec![op("1")]).await;
    t.engine.forget(t.user);
    t.store.panics.store(1, Ordering::SeqCst);
    assert_eq!(outcomes(&t.upload(vec![op("2")]).await), [Ok(2)]);
    assert_eq!(t.store.panics.load(Ordering::SeqCst), 0, "the actor died");
    assert_eq!(t.latest().await, 2);
}

#[tokio::test]
async fn an_account_whose_actor_keeps_dying_is_quarantined_and_others_are_not() {
    let t = setup(supersync::engine::Options { quarantine_for: Duration::from_millis(300), ..options() }).await;
    let other = new_user(t.store.as_ref(), "other@example.com", 1 << 20).await;
    t.upload(vec![op("1")]).await;
    t.engine.forget(t.user);
    t.store.panics.store(4, Ordering::SeqCst);
    let mut seen = Vec::new();
    for n in 0..4 {
        match t.engine.upload(t.user, upload(vec![op(&format!("lost-{n}"))]), deadline()).await {
            Ok(_) => panic!("the store panics on every upload"),
            Err(error) => seen.push(matches!(error, EngineError::Quarantined)),
        }
        if seen.last() == Some(&true) {
            break;
        }
    }
    assert_eq!(seen.last(), Some(&true), "quarantined after three deaths: {seen:?}");
    t.store.panics.store(0, Ordering::SeqCst);
    done(t.engine.upload(other, upload(vec![op("1")]), deadline()).await.expect("others are served"));
    // G7: service resumes by itself.
    let resumed = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            if let Ok(reply) = t.engine.upload(t.user, upload(vec![op("again")]), deadline()).await {
                return outcomes(&done(reply));
            }
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(resumed.await.expect("the quarantine ends"), [Ok(2)]);
}

#[tokio::test]
async fn two_instances_on_one_database_never_give_out_a_sequence_twice() {
    let t = setup(options()).await;
    let second = Handle::start(t.store.clone(), t.clock.clone(), options()).await.expect("a second engine");
    let mut seqs = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..60 {
        let engine = if n % 2 == 0 { t.engine.clone() } else { second.clone() };
        let user = t.user;
        tasks.spawn(async move {
            let id = n.to_string();
            loop {
                let reply = engine.upload(user, upload(vec![op(&id)]), deadline()).await.expect("an answer");
                let result = outcomes(&done(reply)).remove(0);
                match result {
                    Ok(seq) => return seq,
                    // Lost the race too often; clients send it again.
                    Err(supersync::protocol::ErrorCode::InternalError) => {}
                    Err(code) => panic!("{code:?}"),
                }
            }
        });
    }
    while let Some(seq) = tasks.join_next().await {
        seqs.push(seq.expect("no panic"));
    }
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=60).collect::<Vec<_>>(), "G1 and G2 over two instances");
    // G4: a device that saw the end on one instance sees it on the other.
    for engine in [&t.engine, &second] {
        let page = engine.download(t.user, since(60), deadline()).await.expect("an answer");
        assert!(!page.gap_detected || page.latest_seq == 60);
        assert_eq!(engine.download(t.user, since(61), deadline()).await.expect("an answer").latest_seq, 60);
    }
}

#[tokio::test]
async fn a_deleted_account_is_gone_for_its_actor_too() {
    let t = setup(options()).await;
    t.upload(vec![op("1")]).await;
    assert!(t.store.delete_user(t.user).await.expect("deleting"));
    t.engine.forget(t.user);
    let refused = t.engine.upload(t.user, upload(vec![op("2")]), deadline()).await;
    assert!(matches!(refused, Err(EngineError::NoAccount)), "{refused:?}");
}
