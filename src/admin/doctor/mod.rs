//! `supersync doctor`: what is wrong with this installation, and what to do about it.
//!
//! Owns the order of the checks and how they are told. Works beside running servers and without any; changes nothing
//! unless told to mend, and then never an operation. Needs the same memory however much is stored.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::Failure;
use crate::clock::Clock;
use crate::config::{Config, ConfigErrors, Loaded};
use crate::diagnosis::Finding;

mod backups;
mod contents;
mod database;
mod finding;
mod machine;
mod network;
mod settings;

use finding::Report;
pub use finding::{CHECKS, Style};

/// Say what is wrong with this installation, and what to do about it.
///
/// Looks at the settings, the machine, the database, every account's data, mail, and the way from the public address to
/// the server. Each finding is ok, a note, a warning or a fault; docs/doctor.md explains every check. Nothing is changed
/// without --fix. Servers may be running meanwhile. Exit code 0: no fault; 1: faults; 2: wrong arguments.
#[derive(Clone, Debug, Default, Args)]
pub struct DoctorArgs {
    /// Mend what can be mended without risk: recount bytes, make missing and invalid indexes, raise numbers, delete
    /// what has expired or belongs to no account. Never touches an operation.
    #[arg(long)]
    fix: bool,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// Leave out what goes over the network: mail server, public address.
    #[arg(long)]
    offline: bool,
    /// Look at this address instead of `PUBLIC_URL`.
    #[arg(long, value_name = "URL", conflicts_with = "offline")]
    url: Option<String>,
    /// Look at the newest backup of this folder; `BACKUP_DIR` if not given.
    #[arg(long, value_name = "DIR")]
    backups: Option<PathBuf>,
}

/// Runs the command. Settings that can't be used are findings like others. `colour`: the output is a terminal that shows
/// colours.
///
/// # Errors
/// How many faults there are.
pub async fn run(
    args: DoctorArgs,
    loaded: Result<Loaded, ConfigErrors>,
    clock: &Clock,
    colour: bool,
    output: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let style = if args.json { Style::Json } else { Style::Text { colour } };
    let mut report = Report::new(output, style);
    match loaded {
        Err(errors) => {
            report.tell_all(settings::problems(&errors))?;
            report.tell(Finding::note("settings", "nothing else can be looked at until the settings are right"))?;
        }
        Ok(loaded) => {
            report.tell_all(settings::check(&loaded))?;
            check(&args, &loaded.config, clock, &mut report).await?;
        }
    }
    match report.end()? {
        0 => Ok(()),
        faults => Err(Failure::failed(format!("{faults} fault(s) found"))),
    }
}

async fn check(args: &DoctorArgs, config: &Config, clock: &Clock, report: &mut Report<'_>) -> io::Result<()> {
    report.tell_all(machine::check(config))?;
    let (findings, store) = database::open(config).await;
    report.tell_all(findings)?;
    if let Some(store) = store {
        // Whatever they say, the connections are closed.
        let checked = async {
            database::check(&*store, config, clock, args.fix, report).await?;
            contents::check(&store, args.fix, report).await
        }
        .await;
        store.close().await;
        checked?;
    }
    match args.backups.as_ref().or(config.backup_dir.as_ref()) {
        Some(folder) => {
            if *folder != config.data_dir {
                report.tell_all(machine::abandoned(folder))?;
            }
            report.tell_all(backups::check(folder, clock.now_ms()).await)?;
        }
        None => report.tell(Finding::note(
            "backups",
            "not looked at: neither --backups nor BACKUP_DIR says where they are (docs/backup.md)",
        ))?,
    }
    if !args.offline {
        report.tell_all(network::mail_server(config).await)?;
        report.tell_all(network::check(args.url.as_deref(), config, clock).await)?;
    }
    Ok(())
}

/// For figures that are read by people.
fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
