//! The clean-up on demand: what it says it would do is what it does.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use supersync::admin::sweep::{self, SweepArgs};
use supersync::admin::{Exit, Failure};
use supersync::clock::Clock;
use supersync::store::{self, OpenMode, SnapshotMeta, Touch};

use crate::harness::{Account, Backend, Program, Server, import, op, snapshot};

on_both_databases! {
    while_another_instance_sweeps_it_is_refused,
    what_it_says_is_what_it_does,
    the_table_says_why,
    a_cached_state_moves_the_boundary_back,
    the_program_does_it_beside_a_server,
}

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

async fn run(server: &Server, dry_run: bool, json: bool) -> Result<String, Failure> {
    let mut output = Vec::new();
    let args = SweepArgs { dry_run, clock_is_right: false, limit: 2, json };
    let store = Arc::clone(&server.store);
    sweep::run(args, store, server.config(), server.clock.clone(), &mut output).await?;
    Ok(String::from_utf8(output).expect("text"))
}

async fn under_way(server: &Server) {
    let failure = run(server, false, false).await.expect_err("another one is under way");
    assert!(failure.exit == Exit::Refused && failure.to_string().starts_with("another instance"), "{failure}");
}

async fn told(server: &Server, dry_run: bool) -> Value {
    serde_json::from_str(&run(server, dry_run, true).await.expect("it runs")).expect("JSON")
}

async fn while_another_instance_sweeps_it_is_refused(on: Backend) {
    let server = Server::start(on).await;
    let now_ms = server.clock.now_ms();
    let minute = Duration::from_mins(1);
    assert!(server.store.begin_sweep("other", now_ms, minute).await.expect("the store works"));
    for _ in 0..2 {
        under_way(&server).await;
    }
    run(&server, true, false).await.expect("looking needs no turn");
    server.store.end_sweep("somebody else").await.expect("the store works");
    under_way(&server).await;
    server.store.end_sweep("other").await.expect("the store works");
    run(&server, false, false).await.expect("the other one has finished");
    // A turn that a server has just had is no hindrance, nor an instance that died while it swept.
    server.sweep().await;
    assert!(server.store.begin_sweep("other", now_ms, minute).await.expect("the store works"));
    server.clock.advance_ms(61_000);
    run(&server, false, false).await.expect("the other one is gone");
}

/// An account for each thing that a clean-up can make of one. The first three lose something.
async fn world(server: &Server) -> Vec<Account> {
    let mut accounts = Vec::new();
    for _ in 0..9 {
        accounts.push(server.account().await);
    }
    let [one, two, wiped, bare, first, legacy, cached, young, _empty] = &accounts[..] else { unreachable!("nine") };
    for account in [one, two, bare, legacy, cached] {
        account.upload("A", &[op("A"), op("A")]).await.ok();
    }
    for account in [one, two, cached] {
        account.upload("A", &[import("A"), op("A")]).await.ok();
    }
    wiped.upload("A", &[import("A"), op("A")]).await.ok();
    wiped.delete("/api/sync/data").await.ok();
    first.upload("A", &[import("A"), op("A")]).await.ok();
    legacy.snapshot(&snapshot("A").legacy_repair()).await.ok();
    let meta = SnapshotMeta { seq: 2, at: server.clock.now_ms(), bytes: 0 };
    server.change_state(cached, |state| state.snapshot = Some(meta)).await;
    let seen = server.clock.now_ms();
    server.store.touch_devices(&[Touch::new(one.id, "gone", seen)]).await.expect("the store works");
    server.clock.advance_ms(40 * DAY_MS);
    young.upload("A", &[op("A")]).await.ok();
    young.upload("A", &[import("A")]).await.ok();
    server.clock.advance_ms(10 * DAY_MS);
    one.upload("A", &[op("A")]).await.ok();
    accounts
}

async fn what_it_says_is_what_it_does(on: Backend) {
    // Two operations of the first account, then there is room for one more range.
    let server = Server::start_with(on, |config| config.retention.max_deleted_per_run = 3).await;
    let accounts = world(&server).await;
    let foretold = told(&server, true).await;
    assert_eq!(told(&server, true).await, foretold, "looking changes nothing");
    assert_eq!(server.stored_seqs(&accounts[0]).await, [1, 2, 3, 4, 5]);
    let pruned: Vec<_> = foretold["pruned"].as_array().expect("a list").iter().map(|p| p["account"].clone()).collect();
    assert_eq!(pruned, [accounts[0].id, accounts[1].id]);
    assert_eq!(foretold["pruned"][0]["toSeq"], 2);
    for (reason, count) in [
        ("no-full-state", 1),
        ("first-sequence", 1),
        ("legacy-repair", 1),
        ("cached-state", 1),
        ("too-young", 1),
        ("empty", 2),
    ] {
        assert_eq!(foretold["kept"][reason]["accounts"], count, "{reason}: {foretold}");
    }
    assert_eq!(foretold["kept"]["too-young"]["dormant"], 0, "{foretold}");
    assert_eq!(foretold["kept"]["no-full-state"]["dormant"], 1, "{foretold}");
    assert_eq!((&foretold["operationsDeleted"], &foretold["archivesDeleted"]), (&4.into(), &2.into()), "{foretold}");
    assert_eq!(foretold["budgetExhausted"], true);
    assert_eq!(foretold["ranges"][2]["overBudget"], true);
    assert!(foretold["devicesDeleted"].as_u64().is_some_and(|devices| devices > 0), "{foretold}");

    let done = told(&server, false).await;
    assert_eq!(done["accountsPruned"], pruned.len());
    assert_eq!((&done["accountsFailed"], &done["stepsFailed"]), (&0.into(), &0.into()));
    for figure in [
        "operationsDeleted",
        "archivesDeleted",
        "budgetExhausted",
        "devicesDeleted",
        "tokensDeleted",
        "sessionsDeleted",
        "ticketsDeleted",
        "securityDeleted",
        "eventsDeleted",
    ] {
        assert_eq!(done[figure], foretold[figure], "{figure}: {done}");
    }
    assert_eq!(server.stored_seqs(&accounts[0]).await, [3, 4, 5]);
    for kept in &accounts[3..8] {
        assert_eq!(server.state(kept).await.pruned_seq, 0);
    }
    // The server, which has all of them in memory, goes on.
    assert!(accounts[0].upload("A", &[op("A")]).await.outcomes()[0].starts_with('#'));
    assert_eq!(accounts[1].download(0).await.seqs(), [3, 4]);

    // The rest goes with the next run, and then there is nothing left to do.
    assert_eq!(
        (&told(&server, true).await["archivesDeleted"], &told(&server, false).await["archivesDeleted"]),
        (&1.into(), &1.into())
    );
    let nothing = told(&server, true).await;
    assert_eq!((&nothing["operationsDeleted"], &nothing["pruned"]), (&0.into(), &serde_json::json!([])), "{nothing}");
}

async fn the_table_says_why(on: Backend) {
    let server = Server::start_with(on, |config| config.retention.max_deleted_per_run = 3).await;
    world(&server).await;
    let table = run(&server, true, false).await.expect("it runs");
    for part in [
        "Nothing was changed",
        "only an old app's repair",
        "the newest full state is the first operation",
        "no full state",
        "rests on operations before",
        "younger than the retention",
        "2 range(s) with 4 operations now, 1 with 2 operations in later runs",
        "1 more ranges; --limit shows them",
        "devices not seen for 45 days",
    ] {
        assert!(table.contains(part), "{part} is missing in\n{table}");
    }
    let done = run(&server, false, false).await.expect("it runs");
    assert!(done.contains("4  operations deleted") && done.contains("The budget was used up"), "{done}");
}

async fn a_cached_state_moves_the_boundary_back(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[op("A"), op("A")]).await.ok();
    for _ in 0..2 {
        account.upload("A", &[import("A"), op("A")]).await.ok();
    }
    let meta = SnapshotMeta { seq: 4, at: server.clock.now_ms(), bytes: 0 };
    server.change_state(&account, |state| state.snapshot = Some(meta)).await;
    server.clock.advance_ms(50 * DAY_MS);
    server.sweep().await;
    assert_eq!(server.stored_seqs(&account).await, [3, 4, 5, 6]);
    assert_eq!(server.state(&account).await.snapshot, Some(meta));
    server.change_state(&account, |state| state.snapshot = None).await;
    server.sweep().await;
    assert_eq!(server.stored_seqs(&account).await, [5, 6]);
}

async fn the_program_does_it_beside_a_server(on: Backend) {
    // It cleans up only when a test says so.
    let server = Server::start(on).await;
    let database = &server.database;
    let run = async |arguments: &[&str]| {
        let output = Program::run(database, arguments).await;
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let store = store::open_with(OpenMode::Shared, &database.settings(), Duration::from_mins(1))
        .await
        .expect("the store opens");
    assert!(store.begin_sweep("a test", Clock::System.now_ms(), Duration::from_hours(1)).await.expect("it works"));
    let (code, _, said) = run(&["sweep"]).await;
    assert_eq!(
        (code, said.as_str()),
        (Some(4), "supersync: another instance is cleaning up; try again when it has finished\n")
    );
    let (code, table, said) = run(&["sweep", "--dry-run"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(table.starts_with("Nothing was changed"), "{table}");
    store.end_sweep("a test").await.expect("it works");
    let (code, done, said) = run(&["sweep", "--json"]).await;
    assert_eq!(code, Some(0), "{said}");
    let done: Value = serde_json::from_str(&done).expect("JSON");
    assert_eq!((&done["accountsFailed"], &done["stepsFailed"]), (&0.into(), &0.into()));
    for (arguments, begins) in [
        (&["data", "usage"][..], "0 accounts"),
        (&["data", "usage", "--thorough", "--limit", "3"], "0 accounts"),
        (&["data", "recount", "--dry-run"], "0 account(s) counted"),
    ] {
        let (code, shown, said) = run(arguments).await;
        assert_eq!(code, Some(0), "{arguments:?}: {said}");
        assert!(shown.starts_with(begins), "{arguments:?}: {shown}");
    }
    assert_eq!(run(&["data", "recount", "--account", "77"]).await.0, Some(3));
    store.close().await;
    server.stop().await;
}
