//! The command line.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory as _, Parser, Subcommand};
use supersync::admin::backup::{BackupArgs, RestoreArgs, VerifyArgs};
use supersync::admin::data::DataCommand;
use supersync::admin::doctor::DoctorArgs;
use supersync::admin::export::ExportArgs;
use supersync::admin::import::ImportArgs;
use supersync::admin::mail::MailCommand;
use supersync::admin::migrate::MigrateCommand;
use supersync::admin::sweep::SweepArgs;
use supersync::admin::user::UserCommand;
use supersync::admin::{self, Failure};
use supersync::clock::Clock;
use supersync::config::{Config, Loaded};
use supersync::store::{self, OpenMode, Store};
use supersync::top::{self, TopArgs};
use supersync::{telemetry, timekeeper};
use tokio::runtime::Runtime;

mod serve;
mod welcome;

/// The system's allocator keeps the memory of a burst of large requests; this one gives it back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const EXAMPLES: &str = "\
Examples:
  supersync                                    start on the embedded database, on port 1900
  supersync user add me@example.org            create an account and print its access token
  supersync doctor                             say what is wrong and what to do about it
  supersync import --from postgres://old/sync  take over the Node server's database
  supersync --print-config                     show every setting in force
  PORT=8080 DATA_DIR=/srv/sync supersync       change settings
  DATABASE_URL=postgres://user:password@localhost/supersync supersync
                                               use PostgreSQL

Settings are environment variables, or lines of a .env file in the working directory. Outside production none is needed.
In production: SUPERSYNC_ENV=production, JWT_SECRET, PUBLIC_URL=https://…, and a reverse proxy with TLS in front.

Stop with Ctrl-C or SIGTERM: running requests may finish.
Exit codes: 0 done, 1 failed (the reason is the last line), 2 wrong arguments; of the commands on accounts and data also
3 no such account or session, 4 refused as things stand, 5 the database does not answer.";

/// Sync server for the Super Productivity app.
///
/// Keeps many devices of one account in step: numbers every change, refuses those that lost a race, tells the other
/// devices. Without a command it serves.
#[derive(Debug, Parser)]
#[command(name = "supersync", version, after_help = EXAMPLES)]
struct CommandLine {
    /// Print every setting with its value in force, as a .env file with masked secrets, and exit.
    #[arg(long)]
    print_config: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    WithSettings(WithSettings),
    // Needs no settings: it reads a file.
    Verify(VerifyArgs),
    /// Print the completions of a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page (roff).
    Manual,
    // Says itself what is wrong with the settings.
    Doctor(DoctorArgs),
    // Nor this: it asks a server.
    Top(TopArgs),
}

/// What works with the settings of the environment.
#[derive(Debug, Subcommand)]
enum WithSettings {
    /// Start the server (also what no command does).
    Serve,
    #[command(subcommand)]
    Migrate(MigrateCommand),
    #[command(subcommand)]
    User(UserCommand),
    #[command(subcommand)]
    Data(DataCommand),
    Sweep(SweepArgs),
    Backup(BackupArgs),
    Restore(RestoreArgs),
    Export(ExportArgs),
    Import(ImportArgs),
    #[command(subcommand)]
    Mail(MailCommand),
    /// Ask the server on this machine whether it is ready; exit code 0 if so.
    Healthcheck,
}

fn main() -> ExitCode {
    match run(CommandLine::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("supersync: {failure}");
            failure.into()
        }
    }
}

/// What needs none of this server's settings, or says itself what is wrong with them.
fn run_without_settings(command: Command) -> Result<Option<WithSettings>, Failure> {
    let output = &mut io::stdout();
    match command {
        Command::WithSettings(command) => return Ok(Some(command)),
        Command::Verify(args) => runtime()?.block_on(admin::backup::verify(args, output))?,
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut CommandLine::command(), "supersync", &mut text);
            output.write_all(&text)?;
        }
        Command::Manual => clap_mangen::Man::new(CommandLine::command()).render(output)?,
        Command::Doctor(args) => {
            let loaded = Loaded::from_env_without_secret();
            if let Ok(loaded) = &loaded {
                quiet_logs(&loaded.config)?;
            }
            let colour = output.is_terminal() && supersync::config::wants_colours();
            runtime()?.block_on(admin::doctor::run(args, loaded, &Clock::System, colour, output))?;
        }
        Command::Top(args) => runtime()?.block_on(top::run(args, output))?,
    }
    Ok(None)
}

fn runtime() -> Result<Runtime, Failure> {
    Runtime::new().map_err(Failure::failed)
}

fn run(command_line: CommandLine) -> Result<(), Failure> {
    let command = match command_line.command {
        Some(command) => match run_without_settings(command)? {
            Some(command) => command,
            None => return Ok(()),
        },
        None => WithSettings::Serve,
    };
    // Only the server, and what makes tokens, needs the secret; where there is none, others don't make one.
    let is_server = matches!(command, WithSettings::Serve) && !command_line.print_config;
    let loaded = if is_server { Loaded::from_env()? } else { Loaded::from_env_without_secret()? };
    if command_line.print_config {
        for warning in loaded.warnings {
            eprintln!("warning: {warning}");
        }
        print!("{}", supersync::config::as_env_file(&loaded.settings));
        return Ok(());
    }
    runtime()?.block_on(run_with_settings(command, loaded))
}

async fn serve(Loaded { config, warnings, .. }: Loaded) -> Result<(), Failure> {
    let traces = telemetry::init_logs_and_traces(&config)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let served = serve::run(config).await;
    if let Some(traces) = traces {
        // It blocks, and what it waits for runs here.
        tokio::task::spawn_blocking(move || traces.flush()).await.map_err(Failure::failed)?;
    }
    served
}

async fn run_with_settings(command: WithSettings, loaded: Loaded) -> Result<(), Failure> {
    let config = &loaded.config;
    if !matches!(command, WithSettings::Serve) {
        quiet_logs(config)?;
    }
    let (input, output) = (&mut io::BufReader::new(io::stdin()), &mut io::stdout());
    match command {
        WithSettings::Serve => serve(loaded).await,
        WithSettings::Migrate(command) => admin::migrate::run(command, config, output).await,
        WithSettings::User(command) => {
            let mode = if command.may_be_first() { OpenMode::Shared } else { OpenMode::Existing };
            on_store(mode, config, async |store| {
                // Not before there is a database: outside production it may make a secret.
                let config = if command.signs() { &Loaded::from_env()?.config } else { config };
                admin::user::run(command, store, config, Clock::System).await
            })
            .await
        }
        WithSettings::Data(command) => {
            on_store(OpenMode::Existing, config, async |store| {
                admin::data::run(command, store, config, Clock::System, input, output).await
            })
            .await
        }
        WithSettings::Sweep(args) => {
            on_store(OpenMode::Existing, config, async |store| {
                let known = store.known_time().await?;
                let clock = timekeeper::of_known(Clock::System, &known, config.retention.leap());
                admin::sweep::run(args, store, config, clock, output).await
            })
            .await
        }
        WithSettings::Backup(args) => admin::backup::backup(args, config, &Clock::System, output).await,
        WithSettings::Restore(args) => admin::backup::restore(args, config, input, output).await,
        WithSettings::Export(args) => admin::export::export(args, config, output).await,
        WithSettings::Import(args) => admin::import::import(args, config, &Clock::System, input, output).await,
        WithSettings::Mail(command) => admin::mail::run(command, config, output).await,
        WithSettings::Healthcheck => admin::healthcheck::run(config).await,
    }
}

/// Opens the store, runs a command on it, and closes it, however the command ends.
async fn on_store(
    mode: OpenMode,
    config: &Config,
    command: impl AsyncFnOnce(Arc<dyn Store>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let store = store::open_with(mode, &config.database, config.timeouts.statement).await?;
    let done = command(Arc::clone(&store)).await;
    store.close().await;
    done
}

/// Commands answer on standard output; their logs are of interest only when something is wrong.
fn quiet_logs(config: &Config) -> Result<(), telemetry::LogError> {
    telemetry::init_logs(&Config { log_filter: "warn".to_owned(), ..config.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn no_command_is_fine_and_an_unknown_one_is_not() {
        assert!(CommandLine::try_parse_from(["supersync"]).expect("valid").command.is_none());
        assert!(CommandLine::try_parse_from(["supersync", "sevre"]).is_err());
        assert!(CommandLine::try_parse_from(["supersync", "user"]).is_err());
    }
}
