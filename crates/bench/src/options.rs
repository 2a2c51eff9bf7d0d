//! What `supersync bench` can be asked for.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::device::MIN_PAYLOAD_BYTES;
use super::load::Pace;
use super::place::Database;
use super::scenario;
use super::tool::Tool;

/// Measures the server: puts load on it, checks every answer, compares what is stored with what was acknowledged.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = AFTER_HELP, args_conflicts_with_subcommands = true)]
pub struct BenchCommand {
    /// What to do instead of measuring.
    #[command(subcommand)]
    pub tool: Option<Tool>,
    /// What to measure; nothing means everything. `--list` says what there is.
    #[arg(value_name = "SCENARIO", value_parser = scenario::names())]
    pub scenarios: Vec<String>,
    /// Lists the scenarios.
    #[arg(long)]
    pub list: bool,
    /// Which database a server is started on: `sqlite`, or `postgres://…` of a server on which databases may be created.
    /// Repeat it to measure several.
    #[arg(long, value_name = "sqlite|URL", value_parser = Database::parse, default_value = "sqlite")]
    pub database: Vec<Database>,
    /// A server that runs already, `http://HOST[:PORT]`, instead of starting one. Memory, processor time and disk are
    /// then unknown, and scenarios that need them are left out.
    #[arg(long, conflicts_with = "database")]
    pub url: Option<String>,
    /// Access tokens for `--url`, one per line; their accounts are filled with operations. Without it the server must be
    /// in test mode.
    #[arg(long, value_name = "FILE", requires = "url")]
    pub tokens: Option<PathBuf>,
    /// How long each case is measured; 10, with `--quick` 1.
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Load before each measurement; a fifth of `--seconds`.
    #[arg(long, value_name = "SECONDS")]
    pub warmup: Option<f64>,
    /// Keep-alive connections, each with one request under way; 64, with `--quick` 8.
    #[arg(long)]
    pub connections: Option<usize>,
    /// Accounts that take part; 256 (`upload` also measures 5000), with `--quick` 16.
    #[arg(long)]
    pub accounts: Option<usize>,
    /// Operations per upload, comma-separated; 1 to 100.
    #[arg(long, value_name = "OPS", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=100))]
    pub batch: Vec<u8>,
    /// Bytes of an operation's payload, comma-separated; at least 300.
    #[arg(long, value_name = "BYTES", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(MIN_PAYLOAD_BYTES as i64..=1_000_000))]
    pub payload: Vec<u32>,
    /// Small and short: says whether everything works, not how fast it is.
    #[arg(long)]
    pub quick: bool,
    /// Where the figures go as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Directory for scratch databases; on the disk that is to be measured, not in memory.
    #[arg(long, value_name = "DIRECTORY")]
    pub directory: Option<PathBuf>,
    /// A setting of the server under load.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    pub settings: Vec<(String, String)>,
    /// Threads of the load generator; a quarter of the cores.
    #[arg(long)]
    pub threads: Option<usize>,
    /// The commit for the report, where it can't be found out.
    #[arg(long)]
    pub commit: Option<String>,
}

const AFTER_HELP: &str = "\
Examples:
  supersync bench                              everything, on the embedded database
  supersync bench upload poll --database postgres://postgres@localhost/postgres --json figures.json
  supersync bench upload --batch 1 --accounts 5000
  supersync bench poll --url http://localhost:1900 --tokens tokens.txt

The load generator, the server and the database share this machine unless --url names another one.
A foreign server needs RATE_LIMITS=off and UPLOADS_PER_USER_PER_MINUTE=0, or it will refuse the load.
Exit codes: 0 everything was measured and every check passed (bars may be missed), 1 otherwise.";

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl BenchCommand {
    /// One size for a real run, another for a quick one.
    #[must_use]
    pub const fn size(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }

    /// Keep-alive connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.unwrap_or(self.size(64, 8)).max(1)
    }

    /// Accounts.
    #[must_use]
    pub fn accounts(&self) -> usize {
        self.accounts.unwrap_or(self.size(256, 16)).max(1)
    }

    /// Bytes of a payload, where a scenario does not vary it.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        self.payload.first().map_or(500, |bytes| *bytes as usize)
    }

    /// How long is measured, as fast as the server answers.
    #[must_use]
    pub fn pace(&self) -> Pace {
        let seconds = self.seconds.unwrap_or(if self.quick { 1.0 } else { 10.0 }).clamp(0.05, 86_400.0);
        let warmup = self.warmup.unwrap_or(seconds / 5.0).clamp(0.0, 86_400.0);
        Pace { warmup: Duration::from_secs_f64(warmup), lasts: Duration::from_secs_f64(seconds), every: None }
    }
}
