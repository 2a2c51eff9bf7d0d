//! `supersync migrate …`: the schema's versions. The server brings the schema up to date at every start; these commands
//! are for operators who want to look first, or to do it at a time of their own.

use std::io::Write;

use clap::Subcommand;

use super::Failure;
use crate::config::Config;
use crate::store::{self, MigrationStatus};

/// Look at the database's schema or bring it up to date.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum MigrateCommand {
    /// List the migrations and whether the database has them. Changes nothing; exit code 1 unless all are applied.
    Status,
    /// Apply what is missing. `serve` does the same at every start.
    ///
    /// Safe while servers run on PostgreSQL: a lock makes everybody take turns. With the embedded database (SQLite),
    /// stop the server first.
    Run,
}

/// Runs a command.
///
/// # Errors
/// Why it was not done, or what `status` found; always with [`Exit::Failed`](super::Exit::Failed).
pub async fn run(command: MigrateCommand, config: &Config, output: &mut (dyn Write + Send)) -> Result<(), Failure> {
    match command {
        MigrateCommand::Status => {
            let migrations = store::migration_status(&config.database).await.map_err(Failure::failed)?;
            for migration in &migrations {
                let state = match (migration.applied, migration.known) {
                    (true, true) => "applied",
                    (true, false) => "unknown",
                    (false, _) => "pending",
                };
                writeln!(output, "{:>16}  {state:<8}  {}", migration.version, migration.description)?;
            }
            judge(&migrations)
        }
        MigrateCommand::Run => {
            let store = store::open(&config.database, config.timeouts.statement).await.map_err(Failure::failed)?;
            store.close().await;
            writeln!(output, "The schema is up to date.")?;
            Ok(())
        }
    }
}

fn judge(migrations: &[MigrationStatus]) -> Result<(), Failure> {
    let newer = migrations.iter().filter(|migration| !migration.known).count();
    let pending = migrations.iter().filter(|migration| !migration.applied).count();
    match (newer, pending) {
        (0, 0) => Ok(()),
        (0, pending) => Err(Failure::failed(format!(
            "{pending} migration(s) are pending; `supersync migrate run` or the next start applies them"
        ))),
        (newer, _) => Err(Failure::failed(format!(
            "the database has {newer} migration(s) that this program does not know: it belongs to a newer version"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn unknown_migrations_weigh_more_than_pending_ones() {
        let migration = |applied, known| MigrationStatus { version: 1, description: String::new(), applied, known };
        let said = |migrations: &[_]| judge(migrations).expect_err("something to do").to_string();
        assert!(said(&[migration(true, false), migration(false, true)]).starts_with("the database has 1 migration(s)"));
        assert!(said(&[migration(false, true), migration(false, true)]).starts_with("2 migration(s) are pending"));
        assert!(judge(&[migration(true, true)]).is_ok());
    }

    #[tokio::test]
    async fn status_reports_pending_migrations_and_changes_nothing_until_run() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let variables = HashMap::from([
            ("DATA_DIR".to_owned(), dir.path().display().to_string()),
            ("JWT_SECRET".to_owned(), "0123456789abcdef0123456789abcdef".to_owned()),
        ]);
        let config = Config::parse(&variables).expect("valid");
        let mut output = Vec::new();
        let pending = run(MigrateCommand::Status, &config, &mut output).await.expect_err("nothing is there yet");
        assert!(pending.to_string().contains("migration(s) are pending"), "{pending}");
        assert!(std::fs::read_dir(dir.path()).expect("directory").next().is_none(), "nothing was made");

        run(MigrateCommand::Run, &config, &mut output).await.expect("migrated");
        output.clear();
        run(MigrateCommand::Status, &config, &mut output).await.expect("up to date");
        let text = String::from_utf8(output).expect("UTF-8");
        assert!(text.contains("applied") && !text.contains("pending"), "{text}");
    }
}
