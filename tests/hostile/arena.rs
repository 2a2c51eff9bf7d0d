//! Where an attack takes place: a server under a limit, honest accounts at work, and the judgement.

use std::io::Write as _;
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use supersync::accounts::Accounts;
use supersync::clock::Clock;
use supersync::config::Database;
use supersync::mail::Mailer;
use supersync::store::{self, OpenMode};
use tokio::sync::MutexGuard;
use tokio::time::{Instant, timeout_at};

use crate::crew::{self, Crew, Pace};
use crate::foe::{Stage, Tally};
use crate::harness::{Account, Backend, Program, TestDatabase, http_client, register, settings};
use crate::verdict;

/// The memory that systemd and compose give the server.
const LIMIT: &str = "--data=805306368";
/// An address is what the connection comes from.
const NO_PROXY: (&str, &str) = ("TRUSTED_PROXIES", "none");
/// How long the honest accounts are alone; before that they open connections, which is not counted.
const WARM_UP: Duration = Duration::from_millis(500);
const ALONE: Duration = Duration::from_millis(1500);
/// How much longer an attack may take to be prepared and to end.
const GRACE: Duration = Duration::from_secs(8);

/// How long one attack lasts.
fn seconds() -> Duration {
    let told = std::env::var("SUPERSYNC_HOSTILE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(told.unwrap_or(2))
}

/// A running server with honest accounts.
pub struct Arena {
    backend: Backend,
    database: TestDatabase,
    program: Program,
    crew: Crew,
    baseline: Pace,
    bytes_before: u64,
    pub stage: Stage,
    wrong: Vec<String>,
    _turn: MutexGuard<'static, ()>,
}

/// One arena at a time, also where tests run as threads of one process: they compare times.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

impl Arena {
    pub async fn open(backend: Backend) -> Self {
        Self::open_with(backend, &[], &[]).await
    }

    /// The same with further limits (arguments of `prlimit`) and settings.
    pub async fn open_with(backend: Backend, limits: &[&str], more: &[(&str, &str)]) -> Self {
        let turn = TURN.lock().await;
        let database = TestDatabase::create(backend).await;
        let more = [&[NO_PROXY], more].concat();
        let program = Program::start_limited(&database, &[&[LIMIT], limits].concat(), &more).await;
        let config = settings(&database);
        let store = store::open_with(OpenMode::Shared, &config.database, config.timeouts.statement)
            .await
            .expect("the store opens");
        let accounts = Accounts::new(store.clone(), &config, Clock::System, Mailer::unavailable());
        let mut honest = Vec::new();
        for _ in 0..crew::ACCOUNTS {
            let quota = config.limits.default_quota_bytes;
            let (id, email, token) = register(&*store, &accounts, Clock::System.now_ms(), quota).await;
            honest.push(Account { id, email, token, base: program.base.clone(), http: http_client() });
        }
        let stage = Stage {
            base: program.base.clone(),
            tally: Tally::default(),
            end: Arc::new(Mutex::new(Instant::now())),
            length: seconds(),
            store,
            accounts,
            foes: Arc::default(),
        };
        let metrics = program.metrics.clone().expect("it has metrics");
        let mut crew = Crew::start(&program.base, &metrics, &honest);
        let begin = Instant::now() + WARM_UP;
        let end = begin + ALONE;
        let baseline = crew.pace(begin, end).await;
        let bytes_before = size_of(&database).await;
        let wrong = baseline.refusals.iter().map(|refusal| format!("without any attack: {refusal}")).collect();
        Self { backend, database, program, crew, baseline, bytes_before, stage, wrong, _turn: turn }
    }

    /// Lets an attack run until [`Stage::until`], which counts from [`Stage::ready`] if there is something to prepare, and judges what the others noticed of it.
    pub async fn attack(&mut self, name: &str, attack: impl AsyncFnOnce(&Stage)) {
        let begin = Instant::now();
        if self.program.has_ended() {
            return;
        }
        self.stage.ready();
        self.forget_peak();
        // Whom the server lets wait for longer is an attacker, and may wait.
        let _ = timeout_at(self.stage.until() + GRACE, attack(&self.stage)).await;
        let end = Instant::now().max(self.stage.until());
        if self.program.has_ended() {
            self.report(name, "the server has ended", vec!["the server has ended".to_owned()]);
            return;
        }
        let pace = self.crew.pace(begin, end).await;
        let (told, wrong) = verdict::of_attack(&self.baseline, &pace, self.peak(), &self.stage.tally.take());
        self.report(name, &told, wrong);
    }

    /// Demands something of an attack's outcome.
    pub fn demand(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.report("", "", vec![what()]);
        }
    }

    /// The number that this statement tells.
    pub async fn number(&self, sql: &'static str) -> i64 {
        number(&self.database, sql).await
    }

    /// Runs a command of the program on this database, beside the server.
    pub async fn run(&self, arguments: &[&str]) -> Output {
        Program::run(&self.database, arguments).await
    }

    /// Kills the server, starts it again, looks at what is left, and judges all of it.
    #[track_caller]
    pub fn close(self) -> impl Future<Output = ()> {
        let at = std::panic::Location::caller();
        async move {
            let wrong = self.end().await;
            assert!(wrong.is_empty(), "{at}:\n{}", wrong.join("\n"));
        }
    }

    async fn end(self) -> Vec<String> {
        let Self { backend, database, mut program, crew, bytes_before, stage, mut wrong, _turn: turn, .. } = self;
        if program.has_ended() {
            return wrong;
        }
        let devices = crew.stop().await;
        program.kill().await;
        let grown = size_of(&database).await.saturating_sub(bytes_before);
        let program = Program::start_limited(&database, &[LIMIT], &[NO_PROXY]).await;
        let foes = std::mem::take(&mut *stage.foes.lock().expect("nobody panicked"));
        let charged_to_foes = charged(&program.base, &foes).await;
        let charged_to_honest = charged(&program.base, crew::accounts(&devices)).await;
        let (told, mut broken) = verdict::of_disk(grown, charged_to_foes, charged_to_honest);
        let losses = crew::losses(&program.base, &devices).await;
        let told = format!("{told}; {} operations acknowledged, {} lost", crew::acknowledged(&devices), losses.len());
        broken.extend(losses.into_iter().take(5));
        print(backend, "all of them", &told, &broken);
        wrong.extend(broken);
        stage.store.close().await;
        drop(turn);
        wrong
    }

    fn report(&mut self, name: &str, told: &str, wrong: Vec<String>) {
        print(self.backend, name, told, &wrong);
        self.wrong.extend(wrong.into_iter().map(|what| format!("{name}: {what}")));
    }

    /// The most that was resident since the last call of [`Arena::forget_peak`].
    fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.program.pid())).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel tells the peak");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib * 1024
    }

    fn forget_peak(&self) {
        // Where that is not allowed the peak is that of all attacks so far, which is stricter.
        let _ = std::fs::write(format!("/proc/{}/clear_refs", self.program.pid()), "5");
    }
}

fn print(backend: Backend, name: &str, told: &str, wrong: &[String]) {
    let verdict = if wrong.is_empty() { "ok".to_owned() } else { format!("BROKEN: {}", wrong.join("; ")) };
    let line = format!("| {backend:?} | {name} | {told} | {verdict} |\n");
    print!("{line}");
    if let Some(path) = std::env::var_os("SUPERSYNC_HOSTILE_REPORT") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the report can be written");
    }
}

/// What the accounts are charged for, archived data included.
pub async fn charged<'a>(base: &str, accounts: impl IntoIterator<Item = &'a Account>) -> u64 {
    let mut total = 0;
    for (number, account) in accounts.into_iter().enumerate() {
        let http = reqwest::Client::builder().no_proxy().local_address(crate::foe::address(99, number));
        let account = Account { base: base.to_owned(), http: http.build().expect("a client"), ..account.clone() };
        let status = account.get("/api/sync/status").await;
        // An account that was deleted on the way is charged for nothing.
        total += status["storageUsedBytes"].as_u64().unwrap_or(0);
        let archives = account.get("/api/sync/archives").await;
        let archives = archives["archives"].as_array().cloned().unwrap_or_default();
        total += archives.iter().filter_map(|archive| archive["bytes"].as_u64()).sum::<u64>();
    }
    total
}

/// What the database occupies; the write-ahead log does not count.
async fn size_of(database: &TestDatabase) -> u64 {
    let size = match database.settings() {
        Database::Sqlite { .. } => {
            number(database, "PRAGMA page_count").await * number(database, "PRAGMA page_size").await
        }
        Database::Postgres { .. } => number(database, "SELECT pg_database_size(current_database())").await,
    };
    u64::try_from(size).expect("not negative")
}

/// The number that this statement tells.
async fn number(database: &TestDatabase, sql: &'static str) -> i64 {
    match database.settings() {
        Database::Sqlite { path } => {
            let connection = rusqlite::Connection::open(path).expect("it opens");
            connection.query_row(sql, [], |row| row.get(0)).expect("a number")
        }
        Database::Postgres { .. } => {
            let mut session = database.postgres().session().await;
            sqlx::query_scalar(sql).fetch_one(&mut session).await.expect("a number")
        }
    }
}
