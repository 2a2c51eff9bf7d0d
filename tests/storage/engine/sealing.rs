//! Sealing beside everything else: what is sealed is fenced like every other change of a log.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use supersync::config::Retention;
use supersync::engine::sealer::{self, Scope, SealReport};
use supersync::engine::sweeper::Sweeper;
use supersync::engine::{Handle, invariants};
use supersync::protocol::ErrorCode;
use supersync::store::{LogRange, LogStore as _, MaintenanceStore as _, Store, TestStore as _};

use super::setup::{Setup, deadline, eventually, op, options, outcomes, setup, since};

const ALL: Scope = Scope { before_ms: i64::MAX, only: None, min_run: 1, max_ops: u64::MAX, concurrency: 2 };

async fn seal(t: &Setup) -> SealReport {
    let store: Arc<dyn Store> = t.store.clone();
    sealer::seal(&store, &t.engine, ALL).await.expect("the accounts can be listed")
}

/// G1 and G2 on all that is stored.
async fn check_log(t: &Setup, last: i64) {
    let range =
        LogRange { user: t.user, after: 0, up_to: last, exclude_client: None, limit: 10_000, max_bytes: 1 << 30 };
    let page = t.store.read_log(range).await.expect("reading");
    assert_eq!(page.ops.len(), usize::try_from(last).expect("small"));
    invariants::check_log(0, &page.ops).expect("the guarantees hold");
}

fn numbered(range: std::ops::Range<usize>) -> Vec<serde_json::Value> {
    range.map(|n| op(&format!("op-{n:05}"))).collect()
}

#[tokio::test]
async fn an_upload_while_sealing_goes_on_after_it() {
    let t = setup(options()).await;
    t.upload(numbered(0..20)).await;
    t.store.gated.store(true, Ordering::SeqCst);
    let sealing = tokio::spawn({
        let (store, engine) = (t.store.clone() as Arc<dyn Store>, t.engine.clone());
        async move { sealer::seal(&store, &engine, ALL).await.expect("sealing") }
    });
    eventually("the seal at the gate", || t.store.arrived.load(Ordering::SeqCst) == 1).await;
    let upload = t.upload(numbered(10..22));
    tokio::pin!(upload);
    tokio::select! {
        biased;
        _ = &mut upload => panic!("an answer before the commit under way"),
        () = tokio::task::yield_now() => {}
    }
    t.store.gated.store(false, Ordering::SeqCst);
    t.store.gate.add_permits(1);
    let done = upload.await;
    let sealed = sealing.await.expect("no panic");
    assert_eq!((sealed.operations, sealed.segments, sealed.accounts_failed), (20, 1, 0));
    let mut expected = vec![Err(ErrorCode::DuplicateOperation); 10];
    expected.extend([Ok(21), Ok(22)]);
    assert_eq!(outcomes(&done), expected);
    check_log(&t, 22).await;
}

#[tokio::test]
async fn a_seal_that_another_instance_overtook_changes_nothing() {
    let t = setup(options()).await;
    t.upload(numbered(0..20)).await;
    let other = Handle::start(t.store.clone(), t.clock.clone(), options()).await.expect("a second instance");
    t.store.gated.store(true, Ordering::SeqCst);
    let sealing = tokio::spawn({
        let (store, engine) = (t.store.clone() as Arc<dyn Store>, t.engine.clone());
        async move { sealer::seal(&store, &engine, ALL).await.expect("sealing") }
    });
    eventually("the seal at the gate", || t.store.arrived.load(Ordering::SeqCst) == 1).await;
    t.store.gated.store(false, Ordering::SeqCst);
    // The same work by somebody else, committed first.
    let store: Arc<dyn Store> = t.store.clone();
    assert_eq!(sealer::seal(&store, &other, ALL).await.expect("sealing").operations, 20);
    t.store.gate.add_permits(1);
    let sealed = sealing.await.expect("no panic");
    assert_eq!((sealed.operations, sealed.accounts_failed), (0, 0), "it was planned again and found done");
    check_log(&t, 20).await;
    assert_eq!(outcomes(&t.upload(numbered(19..21)).await), [Err(ErrorCode::DuplicateOperation), Ok(21)]);
    other.shutdown().await;
}

#[tokio::test]
async fn a_wipe_before_the_seal_is_planned_leaves_the_old_data_as_it_is() {
    let t = setup(options()).await;
    t.upload(numbered(0..20)).await;
    let other = Handle::start(t.store.clone(), t.clock.clone(), options()).await.expect("a second instance");
    t.store.gated.store(true, Ordering::SeqCst);
    let sealing = tokio::spawn({
        let (store, engine) = (t.store.clone() as Arc<dyn Store>, t.engine.clone());
        async move { sealer::seal(&store, &engine, ALL).await.expect("sealing") }
    });
    eventually("the seal at the gate", || t.store.arrived.load(Ordering::SeqCst) == 1).await;
    t.store.gated.store(false, Ordering::SeqCst);
    other.wipe(t.user, deadline()).await.expect("wiping");
    t.store.gate.add_permits(1);
    assert_eq!(sealing.await.expect("no panic").operations, 0);
    assert_eq!(t.store.measure(t.user, 0, 100).await.expect("counting").1, 20);
    assert_eq!(outcomes(&t.upload(numbered(0..1)).await), [Ok(21)]);
    other.shutdown().await;
}

#[tokio::test]
async fn content_that_differs_under_a_sealed_id_is_refused() {
    let t = setup(options()).await;
    t.upload(numbered(0..5)).await;
    assert_eq!(seal(&t).await.operations, 5);
    let mut other = op("op-00002");
    other["payload"] = serde_json::json!({ "title": "another" });
    let mut dominating = op("op-00003");
    dominating["vectorClock"] = serde_json::json!({ "A": 2 });
    let done = t.upload(vec![other, dominating, op("op-00001"), op("op-00009")]).await;
    let refused = Err(ErrorCode::InvalidOpId);
    assert_eq!(outcomes(&done), [refused, refused, Err(ErrorCode::DuplicateOperation), Ok(6)]);
}

#[tokio::test]
async fn sealing_goes_on_in_steps_and_leaves_nothing_behind() {
    let t = setup(options()).await;
    for start in (0..5_000).step_by(100) {
        t.upload(numbered(start..start + 100)).await;
    }
    let report = seal(&t).await;
    assert_eq!((report.operations, report.segments, report.accounts), (5_000, 10, 1));
    assert!(report.segment_bytes > 0 && report.operation_bytes > 0);
    check_log(&t, 5_000).await;
    assert_eq!(seal(&t).await, SealReport::default(), "nothing is left");
    let page = t.engine.download(t.user, since(250), deadline()).await.expect("an answer");
    assert_eq!((page.ops.len(), page.has_more, page.gap_detected), (500, true, false));
    // A log cut short in the middle of a segment goes on from there.
    t.store.truncate_log(t.user, 1_000).await.expect("cutting");
    t.engine.forget(t.user);
    assert_eq!(outcomes(&t.upload(numbered(999..1_001)).await), [Err(ErrorCode::DuplicateOperation), Ok(1_001)]);
    check_log(&t, 1_001).await;
}

#[tokio::test]
async fn a_history_that_grows_slowly_ends_up_in_few_segments() {
    let t = setup(options()).await;
    let mut segments = 0;
    for start in (0..1_000).step_by(50) {
        t.upload(numbered(start..start + 50)).await;
        let report = seal(&t).await;
        assert_eq!((report.operations, report.accounts_failed), (50, 0));
        segments += report.segments;
        check_log(&t, i64::try_from(start + 50).expect("small")).await;
    }
    assert_eq!(segments, 20, "each run made one segment, mostly of one that was there");
    let last = t.store.sealable_accounts(0, None, 0, i64::MAX, 10).await.expect("looking");
    assert_eq!(last, [], "everything is sealed");
    t.upload(numbered(1_000..1_001)).await;
    let last = t.store.sealable_accounts(0, None, 1, i64::MAX, 10).await.expect("looking")[0].last_segment;
    assert_eq!(last.map(|last| (last.first_seq, last.op_count)), Some((501, 500)));
    // What was packed again is still known.
    let refused = Err(ErrorCode::DuplicateOperation);
    assert_eq!(outcomes(&t.upload(numbered(499..501)).await), [refused, refused]);
    t.engine.forget(t.user);
    assert_eq!(outcomes(&t.upload(numbered(0..1)).await), [refused]);
}

/// Logs in random sizes, sealed in random steps, with everything that bars packing, and cut short or given up in
/// between: what is stored is what was uploaded.
#[tokio::test]
async fn whatever_is_sealed_when_nothing_is_lost_or_changed() {
    for seed in 0..12 {
        let mut random = StdRng::seed_from_u64(seed);
        let t = setup(options()).await;
        let mut begins = 0;
        let mut expected: Vec<String> = Vec::new();
        let mut next = 0;
        for _ in 0..25 {
            match random.random_range(0..12) {
                0 => {
                    t.engine.wipe(t.user, deadline()).await.expect("wiping");
                    begins += i64::try_from(expected.len()).expect("small");
                    expected.clear();
                }
                1 if !expected.is_empty() => {
                    let keep = random.random_range(0..=expected.len());
                    let after = begins + i64::try_from(keep).expect("small");
                    t.store.truncate_log(t.user, after).await.expect("cutting");
                    t.engine.forget(t.user);
                    expected.truncate(keep);
                }
                2..6 => {
                    let store: Arc<dyn Store> = t.store.clone();
                    let scope = Scope { min_run: random.random_range(1..80), ..ALL };
                    let report = sealer::seal(&store, &t.engine, scope).await.expect("sealing");
                    assert_eq!(report.accounts_failed, 0, "seed {seed}");
                }
                _ => {
                    let count = random.random_range(1..100);
                    let mut ops = numbered(next..next + count);
                    next += count;
                    if random.random_bool(0.3) {
                        let large = "x".repeat(random.random_range(1_000..90_000));
                        let at = random.random_range(0..count);
                        ops[at]["payload"] = serde_json::json!({ "title": large });
                    }
                    expected.extend(ops.iter().map(|op| op["id"].as_str().expect("a text").to_owned()));
                    assert!(outcomes(&t.upload(ops).await).iter().all(Result::is_ok), "seed {seed}");
                }
            }
            let range = LogRange {
                user: t.user,
                after: begins,
                up_to: i64::MAX,
                exclude_client: None,
                limit: 10_000,
                max_bytes: 1 << 30,
            };
            let page = t.store.read_log(range).await.expect("reading");
            invariants::check_log(begins, &page.ops).expect("the guarantees hold");
            let ids: Vec<&str> = page.ops.iter().map(|op| &*op.id).collect();
            assert_eq!(ids, expected, "seed {seed}");
            let charged: i64 = page.ops.iter().map(|op| op.storage_bytes).sum();
            let measured = t.store.measure(t.user, begins, i64::MAX).await.expect("counting");
            assert_eq!(measured, (charged, i64::try_from(ids.len()).expect("small")), "seed {seed}");
        }
        if let Some(known) = expected.first() {
            let again = t.upload(vec![op(known)]).await;
            assert!(matches!(outcomes(&again)[..], [Err(_)]), "seed {seed}: an id stands twice");
        }
    }
}

#[tokio::test]
async fn the_budget_ends_a_run_and_zero_hours_switch_it_off() {
    let t = setup(options()).await;
    t.upload(numbered(0..100)).await;
    let second = super::setup::new_user(t.store.as_ref(), "second@example.com", 100 << 20).await;
    let uploaded = t.engine.upload(second, super::setup::upload(numbered(0..100)), deadline()).await;
    uploaded.expect("the engine answers");
    let store: Arc<dyn Store> = t.store.clone();
    let scope = Scope { max_ops: 50, concurrency: 1, ..ALL };
    let report = sealer::seal(&store, &t.engine, scope).await.expect("sealing");
    assert_eq!((report.operations, report.budget_exhausted), (100, true));
    t.clock.advance_ms(10 * 86_400_000);
    let sweep = async |hours: u64| {
        let days = |n: u64| Duration::from_secs(n * 86_400);
        let retention = Retention {
            superseded: days(45),
            archive: days(30),
            archive_percent: 100,
            seal_after: Duration::from_secs(hours * 3_600),
            first_sweep: days(1),
            sweep_every: days(1),
            delete_batch: 100,
            max_deleted_per_run: 1000,
        };
        let sweeper = Sweeper::new(store.clone(), t.engine.clone(), t.clock.clone(), retention, "test".to_owned());
        sweeper.sweep().await.expect("the sweep runs").sealed
    };
    assert_eq!(sweep(0).await, SealReport::default());
    assert_eq!(sweep(24).await.operations, 100, "what the budget left");
}

/// As it was stored before there was a bound: 1000 ids of 255 characters, and next to no payload.
#[tokio::test]
async fn an_account_whose_operations_carry_megabytes_beside_their_payloads_is_sealed_and_served() {
    let t = setup(options()).await;
    let heavy = |n: usize| {
        let mut op = op(&format!("heavy-{n}"));
        let ids: Vec<String> = (0..1000).map(|e| format!("{n}-{e}-{}", "x".repeat(240))).collect();
        op["entityId"] = ids[0].as_str().into();
        op["entityIds"] = ids.into();
        op
    };
    t.upload(numbered(0..100)).await;
    for n in 0..6 {
        assert!(outcomes(&t.upload(vec![heavy(n)]).await)[0].is_ok());
    }
    t.upload(numbered(100..200)).await;
    let sealed = seal(&t).await;
    assert_eq!((sealed.operations, sealed.segments, sealed.accounts_failed), (200, 2, 0));
    check_log(&t, 206).await;
    let again = seal(&t).await;
    assert_eq!((again.operations, again.accounts_failed), (0, 0), "it is done with");
    let page = t.engine.download(t.user, since(99), deadline()).await.expect("a page");
    assert!(page.ops.len() > 1 && page.ops.iter().any(|op| op.len() > 240_000));
}
