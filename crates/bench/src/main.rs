//! `supersync-bench`: measures a server as its users see it, and says what each request costs.
//!
//! Nothing is measured unchecked: every answer is looked at, and what the server acknowledged is compared with what it
//! stored ([`check`]). The operator's settings and data are not touched: a server of its own gets an environment and a
//! database of its own; the accounts of a foreign server are named on the command line.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use url::Url;

mod ceiling;
mod check;
mod connection;
mod device;
mod listeners;
mod load;
mod place;
mod report;
mod scenario;
mod session;
mod text;
mod usage;

use device::{Device, MIN_PAYLOAD_BYTES};
use load::{Pace, fill};
use place::{Database, Place};
use report::{Case, cores};
use scenario::Scenario;
use session::Session;

/// Measures a server: puts load on it, checks every answer, compares what is stored with what was acknowledged.
#[derive(Clone, Parser)]
#[command(version, after_long_help = AFTER_HELP)]
struct Options {
    /// What to measure; nothing means everything.
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<Scenario>,
    /// Which database a server is started on: `sqlite`, or `postgres://…` of a server on which databases may be created.
    /// Repeat it to measure several.
    #[arg(long, value_name = "sqlite|URL", value_parser = Database::parse, default_value = "sqlite")]
    database: Vec<Database>,
    /// The server's program; the one beside this program.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// A server that runs already, `http://HOST[:PORT]`, instead of starting one. Memory, processor time and disk are
    /// then unknown, and scenarios that need them are left out.
    #[arg(long, requires = "tokens", conflicts_with = "database")]
    url: Option<Url>,
    /// Access tokens for `--url`, one per line; their accounts are filled with operations.
    #[arg(long, value_name = "FILE", requires = "url")]
    tokens: Option<PathBuf>,
    /// How long each case is measured; 10, with `--quick` 1.
    #[arg(long)]
    seconds: Option<f64>,
    /// Keep-alive connections, each with one request under way; 64, with `--quick` 8.
    #[arg(long)]
    connections: Option<usize>,
    /// Accounts that take part; 256 (`upload` also measures 5000), with `--quick` 16.
    #[arg(long)]
    accounts: Option<usize>,
    /// Operations per upload, comma-separated; 1 to 100.
    #[arg(long, value_name = "OPS", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=100))]
    batch: Vec<u8>,
    /// Bytes of an operation's payload, comma-separated; at least 300.
    #[arg(long, value_name = "BYTES", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(MIN_PAYLOAD_BYTES as i64..=1_000_000))]
    payload: Vec<u32>,
    /// Small and short: says whether everything works, not how fast it is.
    #[arg(long)]
    quick: bool,
    /// Where the figures go as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Directory for scratch databases; on the disk that is to be measured, not in memory.
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
    /// A setting of the server under load.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// Threads of the load generator; a quarter of the cores.
    #[arg(long)]
    threads: Option<usize>,
}

const AFTER_HELP: &str = "\
Examples:
  supersync-bench                              everything, on the embedded database
  supersync-bench upload poll --database postgres://postgres@localhost/postgres --json figures.json
  supersync-bench upload --batch 1 --accounts 5000
  supersync-bench poll --url http://localhost:1900 --tokens tokens.txt

The load generator, the server and the database share this machine unless --url names another one.
A foreign server needs RATE_LIMITS=off and UPLOADS_PER_USER_PER_MINUTE=0, or it will refuse the load.
Exit codes: 0 everything was measured and every check passed, 1 otherwise.";

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Options {
    /// One size for a real run, another for a quick one.
    const fn size(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }

    fn connections(&self) -> usize {
        self.connections.unwrap_or(self.size(64, 8)).max(1)
    }

    fn accounts(&self) -> usize {
        self.accounts.unwrap_or(self.size(256, 16)).max(1)
    }

    /// Bytes of a payload, where a scenario does not vary it.
    fn payload_bytes(&self) -> usize {
        self.payload.first().map_or(500, |bytes| *bytes as usize)
    }

    /// As fast as answers come, after a fifth of the time to warm up.
    fn pace(&self) -> Pace {
        let lasts = Duration::from_secs_f64(self.seconds.unwrap_or(if self.quick { 1.0 } else { 10.0 }).max(0.1));
        Pace { warmup: lasts / 5, lasts, every: None }
    }
}

/// What a scenario needs to measure on one database or one foreign server.
struct Bench {
    options: Options,
    directory: PathBuf,
    target: Target,
}

enum Target {
    /// Servers that are started for the purpose.
    Spawned { database: Database, program: PathBuf, postmaster: Option<u32> },
    /// One that runs already: its address, its name with the port, its accounts' tokens.
    Foreign { address: SocketAddr, host: String, tokens: Vec<String> },
}

impl Bench {
    /// A server with so many accounts: a new one on an empty scratch database, or the foreign one. One that is started
    /// gets these settings beyond those of the command line.
    async fn session(&self, accounts: usize, settings: &[(&str, &str)]) -> Result<Session> {
        match &self.target {
            Target::Spawned { database, program, postmaster } => {
                let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
                let settings = settings.chain(self.options.settings.iter().cloned()).collect();
                let place = Place::create(database, &self.directory, program, settings).await?;
                Session::start(place, accounts, *postmaster).await
            }
            Target::Foreign { address, host, tokens } => {
                Ok(Session::foreign(*address, host.clone(), tokens.iter().take(accounts).cloned().collect()))
            }
        }
    }

    /// The same with one device for each account, which has uploaded so many operations.
    async fn filled(&self, accounts: usize, operations: usize) -> Result<(Session, Vec<Device>)> {
        let session = self.session(accounts, &[]).await?;
        let devices = self.devices(&session, 0).await?;
        let devices = fill(&session, devices, operations, self.options.connections()).await?;
        Ok((session, devices))
    }

    /// A further device for each account of a session.
    async fn devices(&self, session: &Session, seed: u64) -> Result<Vec<Device>> {
        session.devices(seed, self.options.payload_bytes()).await
    }

    /// `sqlite`, `postgres` or `foreign`.
    const fn label(&self) -> &'static str {
        match &self.target {
            Target::Spawned { database, .. } => database.name(),
            Target::Foreign { .. } => "foreign",
        }
    }

    fn progress(&self, what: &str) {
        eprintln!("{}: {what}", self.label());
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    // Few: they take the cores from the server, and a thread that sleeps has to be woken for every answer.
    let threads = options.threads.unwrap_or(cores() / 4).max(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    let done = runtime.context("starting the load generator");
    match done.and_then(|runtime| runtime.block_on(measure(&options, threads))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("supersync-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(options: &Options, threads: usize) -> Result<()> {
    let directory = options.directory.clone().unwrap_or_else(std::env::temp_dir);
    let directory = directory.canonicalize().with_context(|| format!("looking for {}", directory.display()))?;
    if let Some(path) = &options.json {
        // A run takes minutes; that its figures can't be written is to be known before.
        std::fs::File::create(path).with_context(|| format!("writing {}", path.display()))?;
    }
    let (mut benches, mut databases) = (Vec::new(), Vec::new());
    if let (Some(url), Some(tokens)) = (&options.url, &options.tokens) {
        let target = foreign(url, tokens).await?;
        benches.push(Bench { options: options.clone(), directory: directory.clone(), target });
    } else {
        let program = match &options.program {
            Some(program) => program.clone(),
            None => std::env::current_exe()?.with_file_name("supersync"),
        };
        ensure!(program.is_file(), "{} is missing: cargo build, or name it by --program", program.display());
        for database in &options.database {
            let (description, postmaster) = place::describe(database).await?;
            databases.push(description);
            let target = Target::Spawned { database: database.clone(), program: program.clone(), postmaster };
            benches.push(Bench { options: options.clone(), directory: directory.clone(), target });
        }
    }
    let method = json!({
        "seconds": options.pace().lasts.as_secs_f64(),
        "connections": options.connections(),
        "accounts": options.accounts(),
        "generator_threads": threads,
        "quick": options.quick,
        "settings": options.settings,
    });
    let (mut report, mut cases) = (report::head(&directory, &databases, &method), Vec::new());
    let mut terminate = signal(SignalKind::terminate())?;
    let outcome = tokio::select! {
        done = measure_all(&benches, &mut cases) => done,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("interrupted")),
    };
    for database in options.database.iter().filter(|_| options.url.is_none()) {
        // What was measured is worth telling all the same.
        if let Err(error) = database.clean().await {
            eprintln!("scratch databases may still be there: {error:#}");
        }
    }
    if let Some(path) = &options.json {
        report["cases"] = json!(cases);
        std::fs::write(path, format!("{report:#}\n")).with_context(|| format!("writing {}", path.display()))?;
    }
    outcome?;
    let failures = report::failures(&cases);
    ensure!(failures.is_empty(), "failed: {}", failures.join("; "));
    Ok(())
}

/// The server at `http://HOST[:PORT]`: the load generator speaks plain HTTP, so that its own cost stays small.
async fn foreign(url: &Url, tokens: &Path) -> Result<Target> {
    let host = url.host_str().filter(|_| url.scheme() == "http" && url.path() == "/" && url.query().is_none());
    let (Some(host), Some(port)) = (host, url.port_or_known_default()) else {
        bail!("--url {url}: expected http://HOST[:PORT]; TLS is the proxy's, and not what is measured");
    };
    let text = std::fs::read_to_string(tokens).with_context(|| format!("reading {}", tokens.display()))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let all: Vec<String> = lines.map(str::to_owned).collect();
    ensure!(!all.is_empty(), "{} holds no token", tokens.display());
    let mut addresses = tokio::net::lookup_host((host.trim_matches(['[', ']']), port)).await?;
    let address = addresses.next().context("the name has no address")?;
    Ok(Target::Foreign { address, host: format!("{host}:{port}"), tokens: all })
}

/// Scenario by scenario, each on every database, so that what is compared is measured close together.
async fn measure_all(benches: &[Bench], cases: &mut Vec<Case>) -> Result<()> {
    for scenario in <Scenario as clap::ValueEnum>::value_variants() {
        for bench in benches {
            let asked_for = &bench.options.scenarios;
            if !asked_for.is_empty() && !asked_for.contains(scenario) {
                continue;
            }
            if matches!(bench.target, Target::Foreign { .. }) && !scenario.suits_foreign() {
                bench.progress(&format!("{scenario:?}: left out, it needs a server of its own"));
                continue;
            }
            for mut case in scenario.run(bench).await? {
                case.database = bench.label();
                println!("{case}");
                cases.push(case);
            }
        }
    }
    Ok(())
}
