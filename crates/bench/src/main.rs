//! `supersync bench`: measures a server as its users see it, and says what each request costs.
//!
//! Owns the load generator: devices that write what the app writes ([`device`]), connections that cost little
//! ([`connection`]), the loop that counts ([`load`]), scratch databases and servers ([`place`], [`server`]), processor
//! time and memory ([`usage`]), the scenarios ([`scenario`]), the bars ([`bars`]) and the report ([`report`]).
//!
//! Promises that nothing is measured unchecked: every answer is looked at, and what the server acknowledged is compared
//! with what it stored ([`check`]). Must not touch the product's settings or data: a server of its own gets an
//! environment and a database of its own; a foreign server's accounts are named by whoever runs the benchmark.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

pub mod bars;
pub mod case;
pub mod ceiling;
pub mod chart;
pub mod check;
pub mod connection;
pub mod device;
pub mod document;
pub mod drive;
pub mod error;
pub mod fleet;
mod foreign;
pub mod latency;
pub mod ledger;
pub mod listeners;
pub mod load;
pub mod machine;
pub mod number;
pub mod options;
pub mod page;
pub mod place;
pub mod plan;
pub mod random;
pub mod report;
pub mod scenario;
pub mod server;
pub mod session;
pub mod socket;
pub mod state;
pub mod study;
pub mod target;
pub mod text;
pub mod tool;
pub mod usage;

use case::Case;
use error::{BenchError, Result};
use foreign::Foreign;
use machine::Machine;
pub use options::BenchCommand;
use place::{Database, DatabaseDescription, Leftover, Place};
use report::Report;
use scenario::Scenario;
use session::Session;

/// What a scenario needs to measure on one database or one foreign server.
#[derive(Debug)]
pub struct Bench {
    /// What was asked for.
    pub options: BenchCommand,
    directory: PathBuf,
    on: On,
    /// Scratch databases that were created; dropped again at the latest at the end.
    leftovers: RefCell<Vec<Leftover>>,
}

#[derive(Debug)]
enum On {
    Own { database: Database, postmaster: Option<u32> },
    Foreign(Foreign),
}

impl Bench {
    /// A server with so many accounts: a new one on an empty scratch database, or the foreign one.
    ///
    /// # Errors
    /// When it can't be had.
    pub async fn session(&self, accounts: usize) -> Result<Session> {
        self.session_with(accounts, &[]).await
    }

    /// The same; a server that is started gets these settings beyond those of the command line.
    ///
    /// # Errors
    /// When it can't be had.
    pub async fn session_with(&self, accounts: usize, settings: &[(&str, &str)]) -> Result<Session> {
        match &self.on {
            On::Own { postmaster, .. } => Session::start(self.place(settings).await?, accounts, *postmaster).await,
            On::Foreign(foreign) => Ok(Session::foreign(foreign.target().clone(), foreign.accounts(accounts).await?)),
        }
    }

    /// An empty scratch database without a server.
    ///
    /// # Errors
    /// When it can't be created, or a foreign server is measured.
    pub async fn place(&self, settings: &[(&str, &str)]) -> Result<Place> {
        let On::Own { database, .. } = &self.on else {
            return Err(BenchError::Options("a foreign server has no scratch database".to_owned()));
        };
        let mut all: Vec<(String, String)> =
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        all.extend(self.options.settings.iter().cloned());
        let place = Place::create(database, &self.directory, &all).await?;
        self.leftovers.borrow_mut().push(place.leftover());
        Ok(place)
    }

    /// `sqlite`, `postgres` or `foreign`.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match &self.on {
            On::Own { database, .. } => database.name(),
            On::Foreign(_) => "foreign",
        }
    }

    /// Whether servers are started for the purpose.
    #[must_use]
    pub const fn owns_servers(&self) -> bool {
        matches!(self.on, On::Own { .. })
    }

    /// Tells whoever waits what is being measured.
    pub fn progress(&self, what: &str) {
        eprintln!("{}: {what}", self.label());
    }
}

/// Runs what the command line asks for and prints the report to standard output.
///
/// # Errors
/// [`BenchError`]; [`BenchError::Checks`] when everything was measured and something was wrong.
pub fn run(command: BenchCommand) -> Result<()> {
    if let Some(tool) = command.tool {
        return tool::run(tool);
    }
    if command.list {
        for scenario in all() {
            println!("{:<12} {}", scenario.name(), scenario.about());
        }
        return Ok(());
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = command.threads.unwrap_or(cores / 4).max(1);
    // Few threads: they take the cores from the server, and a thread that sleeps has to be woken for every answer.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(BenchError::io("starting the load generator"))?;
    runtime.block_on(measure(command, threads))
}

fn all() -> impl Iterator<Item = &'static &'static dyn Scenario> {
    scenario::ALL.iter().chain(study::ALL)
}

async fn measure(command: BenchCommand, threads: usize) -> Result<()> {
    let directory = command.directory.clone().unwrap_or_else(std::env::temp_dir);
    let directory = directory.canonicalize().map_err(BenchError::io(format!("looking for {}", directory.display())))?;
    if let Some(path) = &command.json {
        // A run takes minutes; that its figures can't be written is to be known before.
        fs::File::create(path).map_err(BenchError::io(format!("writing {}", path.display())))?;
    }
    let (benches, databases) = prepare(&command, &directory).await?;
    let machine = Machine::this(&directory);
    if machine.file_system.as_deref() == Some("tmpfs") {
        eprintln!("{} is in memory: nothing there is durable; name a directory on a disk", directory.display());
    }
    let commit = command.commit.clone().or_else(machine::commit);
    let date = jiff::Timestamp::now().to_string();
    let mut report = Report::new(date, commit, machine, databases, method(&command, threads));
    println!("{}", report.head());
    let mut terminate = signal(SignalKind::terminate()).map_err(BenchError::io("listening for signals"))?;
    let outcome = tokio::select! {
        done = measure_all(&benches, &mut report.cases) => done,
        _ = tokio::signal::ctrl_c() => Err(BenchError::Interrupted),
        _ = terminate.recv() => Err(BenchError::Interrupted),
    };
    for leftover in benches.iter().flat_map(|bench| bench.leftovers.take()) {
        // What was measured is worth telling all the same.
        if let Err(error) = leftover.remove().await {
            eprintln!("{leftover:?} may still be there: {error}");
        }
    }
    // A quick run says nothing about speed.
    if !command.quick {
        report.bars = bars::judge(bars::BARS, &report.cases);
    }
    if !report.bars.is_empty() {
        println!("{}", report.bars_table());
    }
    if let Some(path) = &command.json {
        let text = format!("{:#}\n", report.to_json());
        fs::write(path, text).map_err(BenchError::io(format!("writing {}", path.display())))?;
    }
    outcome?;
    let failures = report.failures();
    if failures.is_empty() { Ok(()) } else { Err(BenchError::Checks(failures)) }
}

async fn prepare(
    command: &BenchCommand,
    directory: &std::path::Path,
) -> Result<(Vec<Bench>, Vec<DatabaseDescription>)> {
    let bench =
        |on| Bench { options: command.clone(), directory: directory.to_owned(), on, leftovers: RefCell::default() };
    if let Some(url) = &command.url {
        let foreign = Foreign::open(url, command.tokens.as_deref()).await?;
        return Ok((vec![bench(On::Foreign(foreign))], Vec::new()));
    }
    let (mut benches, mut descriptions) = (Vec::new(), Vec::new());
    for database in &command.database {
        let description = place::describe(database).await?;
        let postmaster = description.postmaster;
        benches.push(bench(On::Own { database: database.clone(), postmaster }));
        descriptions.push(description);
    }
    Ok((benches, descriptions))
}

/// Scenario by scenario, each on every database, so that what is compared is measured close together.
async fn measure_all(benches: &[Bench], cases: &mut Vec<Case>) -> Result<()> {
    for scenario in all() {
        let first = cases.len();
        for bench in benches {
            let asked_for = &bench.options.scenarios;
            if !asked_for.is_empty() && !asked_for.iter().any(|name| name == scenario.name()) {
                continue;
            }
            if scenario.needs_own_server() && !bench.owns_servers() {
                bench.progress(&format!("{}: left out, it needs a server of its own", scenario.name()));
                continue;
            }
            let mut measured = scenario.run(bench).await?;
            for case in &mut measured {
                case.database = bench.label();
            }
            cases.append(&mut measured);
        }
        if cases.len() > first {
            println!("{}", report::cases_table(&cases[first..]));
        }
    }
    Ok(())
}

fn method(command: &BenchCommand, threads: usize) -> BTreeMap<&'static str, Value> {
    let pace = command.pace();
    BTreeMap::from([
        ("seconds", json!(pace.lasts.as_secs_f64())),
        ("warmup_seconds", json!(pace.warmup.as_secs_f64())),
        ("connections", json!(command.connections())),
        ("accounts", json!(command.accounts())),
        ("generator_threads", json!(threads)),
        ("quick", json!(command.quick)),
        ("settings", json!(command.settings.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>())),
    ])
}
