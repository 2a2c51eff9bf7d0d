//! `supersync import`: the old server's database, into this server's.

use std::io::{self, BufRead, Seek as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use clap::Args;

use super::output::confirmed;
use super::{Failure, progress};
use crate::clock::Clock;
use crate::config::{Config, private_folder};
use crate::store::{self, OpenMode};
use crate::upstream::import::{self, Dump, ImportError, LiveSource, Options, Progress, Report, Source};

/// Import the old (Node) server's database.
///
/// Accounts, passkeys, mailed links, operations and devices, whatever release wrote them; the source is only read. With the
/// same `JWT_SECRET` devices keep syncing without signing in again. A run that was broken off can be started again; a
/// later one takes only what has changed in the source since. Stop both servers before.
#[derive(Clone, Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches of the command line")]
pub struct ImportArgs {
    /// Take over nothing more; let a server start on what an import has left that was broken off. The devices of accounts
    /// that are not there are sent away.
    #[arg(long, exclusive = true)]
    accept_partial: bool,
    /// The old server's database: postgres://user:password@host:port/name, as in its `DATABASE_URL`. Without a password
    /// PGPASSWORD or ~/.pgpass gives it. Or a file that `pg_dump` made of it: SQL (-Fp, without --inserts), as it is or
    /// compressed with gzip.
    #[arg(long, value_name = "URL|FILE", required_unless_present = "accept_partial")]
    from: Option<String>,
    /// Where to keep the operations of a dump meanwhile, about as large as they are in it; `DATA_DIR` if not given.
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// Take over nothing; compare what is here with the source.
    #[arg(long)]
    verify_only: bool,
    /// Also take over accounts whose log is damaged, as far as it can be mended. Without it they are left out, with what
    /// this would do.
    #[arg(long)]
    repair: bool,
    /// Go on even if the old server still runs: what it writes from now on is not taken over.
    #[arg(long)]
    rehearsal: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Don't ask.
    #[arg(long)]
    yes: bool,
}

/// Runs `supersync import`.
///
/// # Errors
/// Why it was not done, or what is not as it should be.
pub async fn import(
    args: ImportArgs,
    config: &Config,
    clock: &Clock,
    input: &mut (dyn BufRead + Send),
    output: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let Some(from) = &args.from else { return accept_partial(config, output).await };
    // Before anything of our database is touched.
    let from = From::open(from).await?;
    let warning = "This fills the configured database from the old server's. Both servers must be stopped.";
    // Asked on standard error: standard output is the report's.
    if !args.yes && !args.verify_only && !confirmed(warning, "import", input, &mut io::stderr())? {
        return Err(Failure::refused("nothing was changed"));
    }
    let source = from.read(config, args.work_dir).await?;
    let mode = if args.verify_only { OpenMode::Existing } else { OpenMode::Fill };
    let store = store::open_with(mode, &config.database, config.timeouts.statement).await?;
    let options = Options { repair: args.repair, rehearsal: args.rehearsal, verify_only: args.verify_only };
    let so_far = Progress::default();
    let work = import::run(source, Arc::clone(&store), options, &so_far, clock.now_ms());
    let done = progress::watch(progress::bar(0, "operations"), work, |bar| {
        let compared = so_far.compared.load(Ordering::Relaxed);
        bar.set_message(if compared > 0 { "compared" } else { "written" });
        bar.set_length(so_far.of.load(Ordering::Relaxed));
        bar.set_position(if compared > 0 { compared } else { so_far.written.load(Ordering::Relaxed) });
    })
    .await;
    store.close().await;
    tell(&done?, args.json, args.verify_only, output)
}

async fn accept_partial(config: &Config, output: &mut (dyn Write + Send)) -> Result<(), Failure> {
    let store = store::open(&config.database, config.timeouts.statement).await?;
    let accepted = import::accept_partial(&store).await;
    store.close().await;
    let said = if accepted? { "A server may start on what is there now." } else { "No import was broken off." };
    writeln!(output, "{said}")?;
    Ok(())
}

/// Where the data comes from.
enum From {
    Live(LiveSource),
    Dump(Dump),
}

impl From {
    async fn open(text: &str) -> Result<Self, ImportError> {
        // What looks like an address may hold a password: it is never taken for the name of a file.
        if text.contains("://") { LiveSource::connect(text).await.map(Self::Live) } else { Self::open_file(text) }
    }

    fn open_file(path: &str) -> Result<Self, ImportError> {
        Ok(Self::Dump(Dump::open(Path::new(path))?))
    }

    async fn read(self, config: &Config, folder: Option<PathBuf>) -> Result<Box<dyn Source>, ImportError> {
        let dump = match self {
            Self::Live(source) => return Ok(Box::new(source)),
            Self::Dump(dump) => dump,
        };
        let folder = if let Some(folder) = folder {
            folder
        } else {
            // As the server's first start does.
            private_folder(&config.data_dir).map_err(ImportError::Work)?;
            config.data_dir.clone()
        };
        let bar = progress::bar(usize::try_from(dump.length >> 20).unwrap_or(usize::MAX), "MiB of the dump");
        let place = Arc::clone(&dump.place);
        // A pipe has no places.
        let source = progress::watch(bar, dump.read(folder), |bar| {
            bar.set_position((&*place).stream_position().unwrap_or(0) >> 20);
        });
        Ok(Box::new(source.await?))
    }
}

fn tell(report: &Report, as_json: bool, is_comparison: bool, output: &mut (dyn Write + Send)) -> Result<(), Failure> {
    if as_json {
        writeln!(output, "{}", serde_json::to_string(report).map_err(io::Error::from)?)?;
    } else {
        report.tell(is_comparison, output)?;
    }
    match report.failures() {
        0 => Ok(()),
        failures => Err(Failure::failed(format!("{failures} thing(s) are not as they should be, as listed above"))),
    }
}
