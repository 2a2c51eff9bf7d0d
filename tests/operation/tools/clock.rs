//! A clock that is wrong: nothing is deleted and nothing ends because of it.

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use supersync::accounts::Accounts;
use supersync::clock::{Clock, Reason};
use supersync::engine::sweeper::{SweepReport, Sweeper};
use supersync::mail::Mailer;
use supersync::store::{self, OpenMode};
use supersync::timekeeper::{self, Timekeeper};
use tempfile::TempDir;
use tokio::process::Command;

use crate::harness::{
    Account, Backend, LONG_PATIENCE, Program, Server, TestDatabase, http_client, import, op, register, settings,
};

on_both_databases! {
    a_clock_set_ahead_for_seconds_ends_nothing,
    a_clock_that_stays_ahead_ends_nothing_either,
    a_database_with_another_clock_stops_the_clean_up,
    the_first_start_remembers_what_the_rows_say,
    the_program_believes_a_clock_once_it_is_confirmed,
    the_program_ignores_a_clock_that_is_ahead_for_seconds,
    the_program_says_that_it_is_not_1970,
}

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// A server with a watched clock, and an account that has replaced its data.
async fn watched(on: Backend) -> (Server, Account) {
    let now_ms = Clock::System.now_ms();
    let start = |setup: &mut crate::harness::Setup| {
        setup.clock = Clock::manual(now_ms).watched(Some(now_ms), millis(setup.config.retention.leap()));
    };
    let server = Server::start_setup(on, start).await;
    let account = server.account().await;
    account.upload("A", &[import("A"), op("A")]).await.ok();
    account.delete("/api/sync/data").await.ok();
    account.upload("A", &[op("A"), import("A"), op("A")]).await.ok();
    (server, account)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).expect("days")
}

async fn sweep(server: &Server) -> SweepReport {
    let (store, engine, clock) = (Arc::clone(&server.store), server.engine.clone(), server.clock.clone());
    Sweeper::new(store, engine, clock, server.config().retention, "test".to_owned()).sweep().await.expect("it runs")
}

/// Everything of the account is there and can be used.
async fn nothing_has_ended(server: &Server, account: &Account) {
    assert_eq!(account.download(0).await.ok().seqs(), [4, 5], "the newest full state and its followers");
    assert_eq!(server.rows(account).await, [1, 2, 3, 4, 5]);
    let archives = account.get("/api/sync/archives").await.ok();
    assert_eq!(archives["archives"].as_array().map(Vec::len), Some(1), "{}", archives.text);
    assert_ne!(archives["archives"][0]["obstacle"], "EXPIRED", "{}", archives.text);
    let sessions = account.get("/api/sessions").await.ok();
    assert_eq!(sessions["sessions"].as_array().map(Vec::len), Some(1), "{}", sessions.text);
}

async fn a_clock_set_ahead_for_seconds_ends_nothing(on: Backend) {
    let (server, account) = watched(on).await;
    for days in [31, 46, 366] {
        server.clock.set_by_ms(days * DAY_MS);
        for _ in 0..3 {
            let report = sweep(&server).await;
            assert!(report.held_back.is_some_and(|doubt| doubt.reason == Reason::Unsettled), "{report:?}");
            assert!(!report.led, "{report:?}");
            nothing_has_ended(&server, &account).await;
            server.clock.advance_ms(1_000);
        }
        server.clock.set_by_ms(-days * DAY_MS);
        let report = sweep(&server).await;
        assert!(report.led && report.held_back.is_none(), "{report:?}");
        nothing_has_ended(&server, &account).await;
    }
}

async fn a_clock_that_stays_ahead_ends_nothing_either(on: Backend) {
    let (server, account) = watched(on).await;
    server.clock.set_by_ms(366 * DAY_MS);
    assert_ne!(server.clock.now_ms(), server.clock.wall_ms(), "a slip so far");
    server.clock.advance_ms(61_000);
    let report = sweep(&server).await;
    assert!(report.held_back.is_some_and(|doubt| doubt.reason == Reason::Ahead), "{report:?}");
    let forecast = server.forecast().await;
    assert_eq!(forecast.held_back.map(|doubt| doubt.shown_ms - doubt.other_ms), Some(366 * 86_400_000));
    nothing_has_ended(&server, &account).await;
    let later = account.upload("A", &[op("A")]).await.outcomes();
    assert_eq!(later, ["#6"]);
    server.clock.set_by_ms(-366 * DAY_MS);
    assert!(sweep(&server).await.led);
    assert_eq!(account.download(0).await.ok().seqs(), [4, 5, 6]);
}

async fn a_database_with_another_clock_stops_the_clean_up(on: Backend) {
    let ahead = Clock::manual(Clock::System.now_ms() + 2 * DAY_MS).watched(None, 7 * DAY_MS);
    let server = Server::start_setup(on, |setup| setup.clock = ahead).await;
    let report = sweep(&server).await;
    match on {
        // It has no clock of its own.
        Backend::Sqlite => assert!(report.led, "{report:?}"),
        Backend::Postgres => {
            assert!(report.held_back.is_some_and(|doubt| doubt.reason == Reason::Database), "{report:?}");
        }
    }
}

async fn the_first_start_remembers_what_the_rows_say(on: Backend) {
    let database = TestDatabase::create(on).await;
    let config = settings(&database);
    let store = store::open(&config.database, config.timeouts.statement).await.expect("the store opens");
    let now_ms = Clock::System.now_ms();
    let leap = config.retention.leap();
    let start = async |clock| timekeeper::watched(&*store, clock, leap, "test").await.expect("the store works");
    assert_eq!(start(Clock::manual(now_ms)).await.doubt(), None, "nothing is known");
    let then = Clock::manual(now_ms - 31 * DAY_MS);
    let accounts = Accounts::new(Arc::clone(&store), &config, then, Mailer::unavailable());
    register(&*store, &accounts, now_ms - 31 * DAY_MS, 1_000).await;
    let clock = start(Clock::manual(now_ms)).await;
    assert!(clock.doubt().is_some_and(|doubt| doubt.reason == Reason::Ahead), "the newest row is a month old");
    // What is written in this time is no proof.
    register(&*store, &accounts, clock.now_ms(), 1_000).await;
    assert!(start(Clock::manual(now_ms)).await.doubt().is_some());
    // A doubtful time is not noted as right, a confirmed one is.
    let mut timekeeper = Timekeeper::new(Arc::clone(&store), clock.clone(), "test".to_owned());
    timekeeper.ask().await.expect("the store works");
    assert_eq!(store.known_time().await.expect("it works").right_ms, Some(now_ms - 31 * DAY_MS));
    store.note_right_time("an operator", now_ms).await.expect("it works");
    timekeeper.ask().await.expect("the store works");
    assert_eq!(clock.doubt(), None);
    store.close().await;
}

/// The clock of programs that are started with its settings. Others see the right time.
struct ShiftedClock {
    folder: TempDir,
}

impl ShiftedClock {
    async fn new(days: i64) -> Self {
        let clock = Self { folder: tempfile::tempdir().expect("a temporary directory") };
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o", &clock.library()])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/harness/shifted_clock.c"))
            .status();
        assert!(built.await.expect("a C compiler").success(), "it compiles");
        clock.set(days);
        clock
    }

    /// From now on, for programs that are running too.
    fn set(&self, days: i64) {
        let mut file = File::options().write(true).create(true).truncate(false).open(self.shift()).expect("it opens");
        file.write_all(&(days * DAY_MS / 1000).to_ne_bytes()).expect("written");
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    fn library(&self) -> String {
        self.path("shifted_clock.so")
    }

    fn shift(&self) -> String {
        self.path("shift")
    }
}

async fn run(database: &TestDatabase, settings: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Program::run_with(database, settings, arguments).await;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// An account of the program's.
async fn registered(database: &TestDatabase, program: &Program) -> Account {
    let config = settings(database);
    let store =
        store::open_with(OpenMode::Shared, &config.database, config.timeouts.statement).await.expect("the store opens");
    let accounts = Accounts::new(Arc::clone(&store), &config, Clock::System, Mailer::unavailable());
    let (id, email, token) = register(&*store, &accounts, Clock::System.now_ms(), 1_000_000).await;
    store.close().await;
    Account { id, email, token, base: program.base.clone(), http: http_client() }
}

/// Waits until a metric of the program is at least this; 0: until it is 0.
async fn shows(program: &Program, metric: &str, least: u32) {
    let url = format!("http://{}/metrics", program.metrics.as_deref().expect("it has metrics"));
    let http = http_client();
    let shown = async {
        loop {
            let text = http.get(&url).send().await.expect("it answers").text().await.expect("text");
            let value = text.lines().find_map(|line| line.strip_prefix(metric)?.trim().parse::<f64>().ok());
            if value.is_some_and(|value| value == 0.0 || least > 0) && value >= Some(f64::from(least)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(LONG_PATIENCE, shown).await.unwrap_or_else(|_| panic!("{metric} is {least} in time"));
}

async fn the_program_believes_a_clock_once_it_is_confirmed(on: Backend) {
    let database = TestDatabase::create(on).await;
    let program = Program::start_watched(&database, &[]).await;
    shows(&program, "supersync_clock_doubted", 0).await;
    shows(&program, "supersync_sweeps_total{outcome=\"ok\"}", 1).await;
    let registered = registered(&database, &program).await;
    let account = |base: String| Account { base, ..registered.clone() };
    account(program.base.clone()).upload("A", &[import("A"), op("A")]).await.ok();
    account(program.base.clone()).delete("/api/sync/data").await.ok();
    program.kill().await;

    let clock = ShiftedClock::new(366).await;
    let (library, shift) = (clock.library(), clock.shift());
    let ahead = [("LD_PRELOAD", &*library), ("SHIFTED_CLOCK", &*shift)];
    let soon = [&ahead[..], &[("SWEEP_INTERVAL_SECONDS", "1")]].concat();
    let program = Program::start_watched(&database, &soon).await;
    shows(&program, "supersync_clock_doubted", 1).await;
    shows(&program, "supersync_sweeps_total{outcome=\"held_back\"}", 1).await;
    account(program.base.clone()).download(0).await.ok();
    let (code, _, said) = run(&database, &ahead, &["sweep"]).await;
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("nothing was deleted") && said.contains("supersync sweep --clock-is-right"), "{said}");
    let (code, told, said) = run(&database, &ahead, &["sweep", "--dry-run"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(told.contains("But it would do nothing, because this machine's clock shows"), "{told}");
    let (_, told, said) = run(&database, &ahead, &["doctor", "--offline", "--fix"]).await;
    assert!(
        told.contains("nothing is deleted because of its age") && told.contains("--clock-is-right"),
        "{told}{said}"
    );
    // The right time comes back, and everything is there.
    account(program.base.clone()).download(0).await.ok();
    program.kill().await;
    let program = Program::start_watched(&database, &[]).await;
    shows(&program, "supersync_clock_doubted", 0).await;
    let archives = account(program.base.clone()).get("/api/sync/archives").await.ok();
    assert_eq!(archives["archives"].as_array().map(Vec::len), Some(1), "{}", archives.text);
    program.kill().await;

    let program = Program::start_watched(&database, &ahead).await;
    shows(&program, "supersync_clock_doubted", 1).await;
    let (code, done, said) = run(&database, &ahead, &["sweep", "--clock-is-right", "--json"]).await;
    assert_eq!(code, Some(0), "{said}");
    let done: Value = serde_json::from_str(&done).expect("JSON");
    assert_eq!((&done["archivesDeleted"], &done["sessionsDeleted"]), (&1.into(), &1.into()), "{done}");
    if on == Backend::Sqlite {
        shows(&program, "supersync_clock_doubted", 0).await;
    }
    program.kill().await;
}

async fn the_program_ignores_a_clock_that_is_ahead_for_seconds(on: Backend) {
    let database = TestDatabase::create(on).await;
    let clock = ShiftedClock::new(0).await;
    let (library, shift) = (clock.library(), clock.shift());
    let settings = [("LD_PRELOAD", &*library), ("SHIFTED_CLOCK", &*shift), ("SWEEP_INTERVAL_SECONDS", "1")];
    let program = Program::start_watched(&database, &settings).await;
    let account = registered(&database, &program).await;
    account.upload("A", &[import("A"), op("A")]).await.ok();
    account.delete("/api/sync/data").await.ok();
    shows(&program, "supersync_clock_doubted", 0).await;
    clock.set(366);
    let ahead = tokio::time::Instant::now() + Duration::from_secs(3);
    while tokio::time::Instant::now() < ahead {
        account.download(0).await.ok();
        account.get("/api/sync/archives").await.ok();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    shows(&program, "supersync_sweeps_total{outcome=\"held_back\"}", 1).await;
    clock.set(0);
    account.download(0).await.ok();
    let archives = account.get("/api/sync/archives").await.ok();
    assert_eq!(archives["archives"].as_array().map(Vec::len), Some(1), "{}", archives.text);
    shows(&program, "supersync_clock_doubted", 0).await;
    program.kill().await;
}

async fn the_program_says_that_it_is_not_1970(on: Backend) {
    let database = TestDatabase::create(on).await;
    let clock = ShiftedClock::new(-Clock::System.now_ms() / DAY_MS).await;
    let (library, shift) = (clock.library(), clock.shift());
    let settings = [("LD_PRELOAD", &*library), ("SHIFTED_CLOCK", &*shift), ("SWEEP_INTERVAL_SECONDS", "1")];
    let program = Program::start_watched(&database, &settings).await;
    shows(&program, "supersync_clock_doubted", 1).await;
    shows(&program, "supersync_sweeps_total{outcome=\"held_back\"}", 1).await;
    program.kill().await;
}
