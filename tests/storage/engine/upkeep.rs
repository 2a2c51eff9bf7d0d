//! Retention and archive (contract, sections 11.3, 11.4, 17.1, 17.5).

use std::sync::atomic::Ordering;
use std::time::Duration;

use supersync::config::Retention;
use supersync::engine::SnapshotReply;
use supersync::engine::sweeper::{SweepReport, Sweeper};
use supersync::protocol::OpType;
use supersync::store::{LogStore as _, RetentionStore as _};

use super::setup::{Setup, deadline, import, new_user, op, options, outcomes, setup, since};

const DAY_MS: i64 = 86_400_000;

fn sweeper(t: &Setup, owner: &str) -> Sweeper {
    let days = |n: u64| Duration::from_secs(n * 86_400);
    let retention = Retention {
        superseded: days(45),
        archive: days(30),
        archive_percent: 100,
        seal_after: days(1),
        first_sweep: Duration::from_secs(10),
        sweep_every: days(1),
        delete_batch: 2,
        max_deleted_per_run: 1000,
    };
    Sweeper::new(t.store.clone(), t.engine.clone(), t.clock.clone(), retention, owner.to_owned())
}

async fn sweep(t: &Setup) -> SweepReport {
    sweeper(t, "test").sweep().await.expect("the sweep runs")
}

async fn accepted(t: &Setup, op_type: OpType) -> i64 {
    match t.engine.upload_snapshot(t.user, import(op_type), deadline()).await.expect("an answer") {
        SnapshotReply::Accepted { seq, .. } => seq,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_superseded_prefix_goes_when_all_of_it_is_old() {
    let t = setup(options()).await;
    t.upload((0..5).map(|n| op(&n.to_string())).collect()).await;
    assert_eq!(accepted(&t, OpType::SyncImport).await, 6);
    t.clock.advance_ms(44 * DAY_MS);
    assert_eq!(sweep(&t).await.operations_deleted, 0, "too young");
    t.clock.advance_ms(2 * DAY_MS);
    let before = t.engine.status(t.user, deadline()).await.expect("an answer").storage_used_bytes;
    let report = sweep(&t).await;
    assert_eq!((report.accounts_pruned, report.operations_deleted), (1, 5));
    let after = t.engine.status(t.user, deadline()).await.expect("an answer").storage_used_bytes;
    assert!(after < before, "{after} < {before}");
    let (_, left) = t.store.measure(t.user, 0, 100).await.expect("counting");
    assert_eq!(left, 1);
    let page = t.engine.download(t.user, since(0), deadline()).await.expect("an answer");
    assert_eq!((page.ops.len(), page.latest_seq, page.gap_detected), (1, 6, false));
    assert_eq!(sweep(&t).await.operations_deleted, 0, "nothing is left to do");
}

#[tokio::test]
async fn one_fresh_operation_keeps_the_prefix_whole() {
    let t = setup(options()).await;
    t.upload(vec![op("1")]).await;
    t.clock.advance_ms(46 * DAY_MS);
    t.upload(vec![op("2")]).await;
    accepted(&t, OpType::SyncImport).await;
    assert_eq!(sweep(&t).await.operations_deleted, 0);
}

#[tokio::test]
async fn an_import_at_the_first_place_prunes_nothing_and_a_log_without_import_neither() {
    let t = setup(options()).await;
    t.upload(vec![op("1")]).await;
    t.clock.advance_ms(400 * DAY_MS);
    assert_eq!(sweep(&t).await.operations_deleted, 0);
    let t = setup(options()).await;
    accepted(&t, OpType::SyncImport).await;
    t.clock.advance_ms(400 * DAY_MS);
    assert_eq!(sweep(&t).await.operations_deleted, 0);
}

#[tokio::test]
async fn a_wiped_data_set_stays_in_the_archive_for_thirty_days() {
    let t = setup(options()).await;
    t.upload((0..5).map(|n| op(&n.to_string())).collect()).await;
    t.engine.wipe(t.user, deadline()).await.expect("wiping");
    assert_eq!(t.latest().await, 0);
    assert_eq!(t.store.archived(t.user).await.expect("the archive").len(), 1);
    t.clock.advance_ms(29 * DAY_MS);
    assert_eq!(sweep(&t).await.archives_deleted, 0);
    assert_eq!(t.store.measure(t.user, 0, 100).await.expect("counting").1, 5, "G8: it could be brought back");
    t.clock.advance_ms(2 * DAY_MS);
    let report = sweep(&t).await;
    assert_eq!((report.archives_deleted, report.operations_deleted), (1, 5));
    assert!(t.store.archived(t.user).await.expect("the archive").is_empty());
    assert_eq!(outcomes(&t.upload(vec![op("0")]).await), [Ok(6)], "the sequence goes on and the old id is free");
}

#[tokio::test]
async fn an_archive_that_can_not_be_deleted_keeps_no_other_and_nothing_else_from_being_cleaned_up() {
    let t = setup(options()).await;
    let other = new_user(t.store.as_ref(), "second@example.com", 100 << 20).await;
    t.upload(vec![op("1")]).await;
    t.engine.wipe(t.user, deadline()).await.expect("wiping");
    t.clock.advance_ms(1000);
    t.engine.wipe(other, deadline()).await.expect("wiping");
    t.engine.upload_snapshot(other, import(OpType::SyncImport), deadline()).await.expect("an answer");
    t.engine.wipe(other, deadline()).await.expect("wiping");
    t.clock.advance_ms(31 * DAY_MS);
    *t.store.corrupt.lock().expect("no panic") = Some(t.user);
    let report = sweep(&t).await;
    assert_eq!((report.accounts_failed, report.archives_deleted, report.operations_deleted), (1, 1, 1), "{report:?}");
    *t.store.corrupt.lock().expect("no panic") = None;
    let report = sweep(&t).await;
    assert_eq!((report.accounts_failed, report.archives_deleted, report.operations_deleted), (0, 1, 1), "{report:?}");
}

#[tokio::test]
async fn one_instance_sweeps_at_a_time() {
    let t = setup(options()).await;
    assert!(sweeper(&t, "one").sweep().await.expect("the sweep runs").led);
    assert!(!sweeper(&t, "two").sweep().await.expect("the sweep runs").led);
    assert!(sweeper(&t, "one").sweep().await.expect("the sweep runs").led);
}

#[tokio::test]
async fn who_died_in_the_middle_of_it_or_failed_keeps_the_others_from_it_for_seconds() {
    let t = setup(options()).await;
    let begun = t.store.begin_sweep("died", t.clock.now_ms(), Duration::from_secs(20)).await;
    assert!(begun.expect("the store works"));
    let report = sweeper(&t, "two").sweep().await.expect("an answer");
    assert_eq!((report.led, report.under_way), (false, true));
    t.clock.advance_ms(20_000);
    t.store.prunable_fails.store(true, Ordering::SeqCst);
    let report = sweeper(&t, "two").sweep().await.expect("the sweep runs");
    assert_eq!((report.led, report.steps_failed), (true, 1));
    t.store.prunable_fails.store(false, Ordering::SeqCst);
    let report = sweeper(&t, "three").sweep().await.expect("the sweep runs");
    assert_eq!((report.led, report.steps_failed), (true, 0));
    let report = sweeper(&t, "two").sweep().await.expect("an answer");
    assert_eq!((report.led, report.under_way), (false, false), "it has just been done");
}

#[tokio::test]
async fn a_step_that_fails_keeps_no_other_from_being_taken() {
    let t = setup(options()).await;
    t.upload((0..5).map(|n| op(&n.to_string())).collect()).await;
    accepted(&t, OpType::SyncImport).await;
    t.clock.advance_ms(46 * DAY_MS);
    t.store.prunable_fails.store(true, Ordering::SeqCst);
    let report = sweep(&t).await;
    assert_eq!((report.steps_failed, report.accounts_pruned), (1, 0), "{report:?}");
    assert!(report.led && report.devices_deleted > 0, "{report:?}");
    t.store.prunable_fails.store(false, Ordering::SeqCst);
    let report = sweep(&t).await;
    assert_eq!((report.steps_failed, report.operations_deleted), (0, 5), "{report:?}");
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_one_accounts_trouble_until_it_is_every_accounts() {
    let t = setup(options()).await;
    let mut users = vec![t.user];
    for n in 1..12 {
        users.push(new_user(t.store.as_ref(), &format!("user{n}@example.com"), 100 << 20).await);
    }
    for (n, user) in users.iter().enumerate() {
        t.engine.upload_snapshot(*user, import(OpType::SyncImport), deadline()).await.expect("an answer");
        t.engine.wipe(*user, deadline()).await.expect("wiping");
        if n == 2 {
            t.clock.advance_ms(40 * DAY_MS);
            t.store.deletions_time_out.store(true, Ordering::SeqCst);
            let report = sweep(&t).await;
            assert_eq!((report.accounts_failed, report.steps_failed), (3, 0), "{report:?}");
        }
    }
    t.clock.advance_ms(40 * DAY_MS);
    let report = sweep(&t).await;
    assert_eq!((report.accounts_failed, report.steps_failed, report.archives_deleted), (10, 1, 0), "{report:?}");
    t.store.deletions_time_out.store(false, Ordering::SeqCst);
    let report = sweep(&t).await;
    assert_eq!((report.accounts_failed, report.steps_failed, report.archives_deleted), (0, 0, 12), "{report:?}");
}
