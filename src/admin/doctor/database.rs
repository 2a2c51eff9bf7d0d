//! The database: whether it answers, how it is, whether its schema is this program's.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::finding::Report;
use super::millis;
use crate::clock::{Clock, Doubt};
use crate::config::{Config, Database};
use crate::diagnosis::{self, Finding};
use crate::store::doctor::{SchemaDifference, SchemaState, VitalSigns};
use crate::store::{self, MigrationStatus, OpenMode, Store, StoreError};
use crate::timekeeper;

/// A database that takes longer to answer than this is worth a look.
const SLOW_LOOK: Duration = Duration::from_millis(250);
/// Every upload waits for a commit.
const SLOW_COMMIT: Duration = Duration::from_millis(50);
/// How much of the database server's connections may be in use (contract, operations section 13.2).
const BUSY_PERCENT: i64 = 75;
/// Connections of a server besides those for requests.
const OTHER_CONNECTIONS: i64 = 8;
/// A log of this size is not being folded in.
const LONG_WAL: u64 = 1 << 30;
/// Differences that are told one by one.
const TOLD: usize = 20;
/// What has been void for so long has not been swept away.
const OVERDUE: Duration = Duration::from_hours(3 * 24);
/// When invitations that have ended are deleted.
const LONG_AGO: Duration = Duration::from_hours(30 * 24);
/// Sessions deleted at a time.
const SESSIONS: usize = 1_000;

/// What a check found; an error: it could not be made.
type Findings = store::Result<Vec<Finding>>;

/// Opens the database, unless it is not there, does not answer, or is of another version.
pub(super) async fn open(config: &Config) -> (Vec<Finding>, Option<Arc<dyn Store>>) {
    if let Database::Sqlite { path } = &config.database
        && !path.exists()
    {
        let found = "there is no database yet; the first start makes it, if this is the server's folder";
        return (vec![Finding::note("database", found)], None);
    }
    let migrations = match store::migration_status(&config.database).await {
        Ok(migrations) => migrations,
        Err(error) => return (vec![unreachable(config, &error)], None),
    };
    if let Some(finding) = other_version(&migrations) {
        return (vec![finding], None);
    }
    let mut all = vec![Finding::ok("migrations", format!("all {} migrations are applied", migrations.len()))];
    match store::open_with(OpenMode::Unlocked, &config.database, config.timeouts.statement).await {
        Ok(store) => {
            all.push(take_over(&*store).await);
            (all, Some(store))
        }
        Err(error) => {
            all.push(unreachable(config, &error));
            (all, None)
        }
    }
}

async fn take_over(store: &dyn Store) -> Finding {
    const ID: &str = "take-over";
    match store.is_adopting().await {
        Ok(false) => Finding::ok(ID, "no import of the old server's database is under way"),
        Ok(true) => Finding::fault(
            ID,
            "an import of the old server's database is under way, or was broken off",
            "If none is running: run `supersync import` again; it goes on where it was. Until then no server starts.",
        ),
        Err(error) => Finding::fault(ID, format!("it can't be told whether an import was broken off: {error}"), ""),
    }
}

fn other_version(migrations: &[MigrationStatus]) -> Option<Finding> {
    let pending = migrations.iter().filter(|migration| !migration.applied).count();
    let newer = migrations.iter().filter(|migration| !migration.known).count();
    match (newer, pending) {
        (0, 0) => None,
        (0, pending) => Some(Finding::fault(
            "migrations",
            format!("{pending} of {} migrations are not applied", migrations.len()),
            "`supersync migrate run` or the next start applies them; make a backup before, with the version that it has now.",
        )),
        (newer, _) => Some(Finding::fault(
            "migrations",
            format!("the database has {newer} migration(s) that this program does not know"),
            "It belongs to a newer version: use that program, or restore a backup made before the upgrade.",
        )),
    }
}

fn unreachable(config: &Config, error: &StoreError) -> Finding {
    let advice = match &config.database {
        Database::Postgres { .. } => {
            "Check DATABASE_URL, that the database server runs and takes connections from here, and its log."
        }
        Database::Sqlite { .. } => {
            "Check that DATA_DIR is the right one and may be written; if the file is damaged, restore a backup \
             (docs/backup.md)."
        }
    };
    Finding::fault("database", format!("the database can't be used: {error}"), advice)
}

/// The error, as the finding of a check that could not be made.
pub(super) fn failed(check: &'static str, error: &StoreError) -> Finding {
    let advice = if let StoreError::Corrupt(_) = error {
        "Stop the server, copy the database's files away, and restore a backup (docs/backup.md)."
    } else {
        "See what the database's log says about it, and ask again."
    };
    Finding::fault(check, format!("the check could not be made: {error}"), advice)
}

/// Everything about the database but the accounts' data.
pub(super) async fn check(
    store: &dyn Store,
    config: &Config,
    clock: &Clock,
    fix: bool,
    report: &mut Report<'_>,
) -> io::Result<()> {
    let mut tell =
        |check, findings: Findings| report.tell_all(findings.unwrap_or_else(|error| vec![failed(check, &error)]));
    let before_ms = clock.now_ms();
    let signs = store.vital_signs().await.map(|signs| {
        let mut all = vital_signs(&signs, config);
        // Its time was read somewhere between.
        let difference = signs.now_ms.clamp(before_ms, clock.now_ms().max(before_ms)).abs_diff(signs.now_ms);
        all.push(diagnosis::clock("the database", Duration::from_millis(difference)));
        all
    });
    tell("database", signs)?;
    tell("schema", schema(store, fix).await)?;
    if store.kind() == "sqlite" {
        tell("integrity", integrity(store, fix).await)?;
    }
    tell("numbers", numbers(store, fix).await)?;
    let doubt = doubt(store, config, clock).await;
    let is_certain = matches!(doubt, Ok(None));
    tell("clock", doubt.map(|doubt| vec![known_time(doubt)]))?;
    tell("housekeeping", housekeeping(store, config, clock.now_ms(), fix && is_certain).await)
}

/// Whether the clock fits what the database knows of the time, so that something may be deleted because of its age.
async fn doubt(store: &dyn Store, config: &Config, clock: &Clock) -> store::Result<Option<Doubt>> {
    let watched = timekeeper::of_known(clock.clone(), &store.known_time().await?, config.retention.leap());
    timekeeper::doubt(store, &watched).await
}

fn known_time(doubt: Option<Doubt>) -> Finding {
    let Some(doubt) = doubt else {
        return Finding::ok("clock", "this machine's clock fits the last time known to be right");
    };
    Finding::warning("clock", format!("nothing is deleted because of its age: {doubt}"), Doubt::ADVICE)
}

fn vital_signs(signs: &VitalSigns, config: &Config) -> Vec<Finding> {
    let found = format!("{} answers within {:.1} ms", signs.version, millis(signs.look));
    let mut all = vec![if let Some(why) = &signs.read_only {
        let advice = "Use the database that can be written, or mend its rights: nothing is stored as it is.";
        Finding::fault("database", format!("the database can't be written: {why}"), advice)
    } else if !signs.is_supported {
        let advice = "Upgrade the database server: this program is made for PostgreSQL 15 and newer.";
        Finding::fault("database", found, advice)
    } else if signs.look > SLOW_LOOK {
        Finding::warning("database", found, "Look at the load of the database server and at the way to it.")
    } else {
        Finding::ok("database", found)
    }];
    all.push(commit(signs));
    if let (Some((used, most)), Database::Postgres { max_connections, .. }) = (signs.connections, &config.database) {
        all.push(connections(used, most, i64::from(*max_connections)));
        all.push(match signs.stuck {
            0 => Finding::ok("stuck", "nothing has been going on for minutes"),
            count => Finding::warning(
                "stuck",
                format!("{count} statement(s) or open transaction(s) are more than two minutes old"),
                "Look at pg_stat_activity: they keep connections and locks, and clean-up from working.",
            ),
        });
    }
    if let Some(bytes) = signs.wal_bytes {
        let found = format!("the write-ahead log has {} MiB", bytes >> 20);
        all.push(if bytes > LONG_WAL {
            let advice = "Another program reads the database for long (a shell, a backup): end it. A restart of the server \
                          folds the log in.";
            Finding::warning("wal", found, advice)
        } else {
            Finding::ok("wal", found)
        });
    }
    all
}

fn commit(signs: &VitalSigns) -> Finding {
    const ID: &str = "commit";
    if !signs.unsafe_settings.is_empty() {
        return Finding::fault(
            ID,
            format!("{}: what was acknowledged can be lost, or the database damaged", signs.unsafe_settings.join(", ")),
            "Remove that from the database server's settings.",
        );
    }
    match signs.commit {
        None => Finding::note(ID, "how long a commit takes is not known: nothing can be written"),
        Some(time) if time > SLOW_COMMIT => Finding::warning(
            ID,
            format!("a commit takes {:.1} ms until it is on the disk, and every upload waits for one", millis(time)),
            "Look at the disk's load. Network disks and SD cards are slow to flush; an SSD takes a millisecond.",
        ),
        Some(time) => Finding::ok(ID, format!("a commit is on the disk within {:.1} ms", millis(time))),
    }
}

fn connections(used: i64, most: i64, wanted: i64) -> Finding {
    const ID: &str = "connections";
    let found = format!("{used} of the database server's {most} connections are in use; this server may take {wanted}");
    if wanted.saturating_add(OTHER_CONNECTIONS) > most {
        let advice = "Lower connection_limit in DATABASE_URL, or raise max_connections of the database server.";
        Finding::warning(ID, found, advice)
    } else if used.saturating_mul(100) >= most.saturating_mul(BUSY_PERCENT) {
        let advice = "Find out who holds them (pg_stat_activity), or raise max_connections of the database server.";
        Finding::warning(ID, found, advice)
    } else {
        Finding::ok(ID, found)
    }
}

async fn schema(store: &dyn Store, fix: bool) -> Findings {
    const ID: &str = "schema";
    let differences = store.schema_differences().await?;
    if differences.is_empty() {
        return Ok(vec![Finding::ok(ID, "every table, column and index is as the migrations make it")]);
    }
    let mut all = Vec::new();
    for difference in differences.iter().take(TOLD) {
        let mut finding = judged(difference);
        if fix && difference.mendable {
            match store.mend_schema(difference).await {
                Ok(true) => finding = Finding::fixed(ID, format!("{}: rebuilt", finding.found)),
                Ok(false) => {}
                Err(error) => finding.found = format!("{}, and it can't be made: {error}", finding.found),
            }
        }
        all.push(finding);
    }
    if let Some(more) = differences.len().checked_sub(TOLD).filter(|more| *more > 0) {
        let advice = "Mend those above first, and ask again.";
        all.push(Finding::fault(ID, format!("{more} more objects of the schema differ"), advice));
    }
    Ok(all)
}

fn judged(difference: &SchemaDifference) -> Finding {
    const ID: &str = "schema";
    let object = &difference.object;
    let state = match difference.state {
        SchemaState::Additional => return Finding::note(ID, format!("the {object} is not of this program")),
        SchemaState::Missing => "missing",
        SchemaState::Changed => "not as the migrations make it",
        SchemaState::Invalid => "invalid: it is kept up to date, but not used",
    };
    let advice = if difference.mendable {
        "`supersync doctor --fix` makes it, while servers run."
    } else {
        "Somebody has changed the schema by hand. Restore a backup into a new database (docs/backup.md), or undo the change."
    };
    Finding::fault(ID, format!("the {object} is {state}"), advice)
}

async fn integrity(store: &dyn Store, fix: bool) -> Findings {
    const ID: &str = "integrity";
    let mut damage = store.damage().await?;
    let mendable = damage.iter().all(|said| said.contains("index "));
    if fix && mendable && !damage.is_empty() {
        let before = damage.len();
        store.rebuild_indexes().await?;
        damage = store.damage().await?;
        if damage.is_empty() {
            return Ok(vec![Finding::fixed(ID, format!("{before} fault(s) in indexes: all are rebuilt"))]);
        }
    }
    if damage.is_empty() {
        return Ok(vec![Finding::ok(ID, "the file is not damaged")]);
    }
    let advice = if mendable {
        "Only indexes are affected: `supersync doctor --fix` rebuilds them. Then look at the disk and the memory."
    } else {
        "Stop the server, keep a copy of the files, and restore the last good backup (docs/backup.md). Then look at the disk \
         and the memory."
    };
    let told = damage.iter().take(TOLD);
    Ok(told.map(|said| Finding::fault(ID, format!("the file is damaged: {said}"), advice)).collect())
}

async fn numbers(store: &dyn Store, fix: bool) -> Findings {
    const ID: &str = "numbers";
    let behind = store.numbers_behind().await?;
    if behind.is_empty() {
        return Ok(vec![Finding::ok(ID, "new accounts, passkeys and invitations get numbers of their own")]);
    }
    let mut all = Vec::new();
    for one in behind {
        let found = format!(
            "the next number of {} follows {}, but {} is in use: making a new one fails, or gets a number that tokens know",
            one.table, one.given_out, one.highest
        );
        all.push(if !fix {
            Finding::fault(ID, found, "`supersync doctor --fix` raises it.")
        } else if let Err(error) = store.raise_numbers(one).await {
            failed(ID, &error)
        } else {
            Finding::fixed(ID, format!("{found}: raised"))
        });
    }
    Ok(all)
}

async fn housekeeping(store: &dyn Store, config: &Config, now_ms: i64, fix: bool) -> Findings {
    const ID: &str = "housekeeping";
    const ADVICE: &str =
        "A running server sweeps once a day: see whether one runs, and what its log says about the sweep.";
    let before = |span: Duration| now_ms.saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX));
    let (overdue, mut archives) = tokio::try_join!(
        store.overdue(before(OVERDUE)),
        store.expired_archives(before(config.retention.archive + OVERDUE), 1)
    )?;
    // What was brought back or given up has no time of its own: the background deletes it as soon as it gets to it.
    archives.retain(|(_, range)| range.archived_at > 0);
    let mut all = Vec::new();
    if !archives.is_empty() {
        let found = "data that was replaced or deleted is kept longer than ARCHIVE_DAYS";
        all.push(Finding::warning(ID, found, ADVICE));
    }
    let found = format!("{overdue} tokens, tickets and sessions expired days ago and were not swept away");
    match overdue {
        0 if archives.is_empty() => all.push(Finding::ok(ID, "what has expired is swept away")),
        0 => {}
        _ if fix => all.push(match sweep(store, now_ms, before(LONG_AGO)).await {
            Ok(rows) => Finding::fixed(ID, format!("{found}: {rows} rows deleted")),
            Err(error) => failed(ID, &error),
        }),
        _ => {
            all.push(Finding::warning(ID, found, format!("{ADVICE} `supersync doctor --fix` deletes them.")));
        }
    }
    Ok(all)
}

async fn sweep(store: &dyn Store, now_ms: i64, long_ago_ms: i64) -> store::Result<u64> {
    let mut rows = store.delete_expired_tokens(now_ms).await?
        + store.delete_expired_tickets(now_ms).await?
        + store.delete_expired_sign_in(now_ms, long_ago_ms).await?;
    loop {
        match store.delete_expired_sessions(now_ms, SESSIONS).await? {
            0 => return Ok(rows),
            sessions => rows += sessions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::Verdict;

    fn healthy() -> VitalSigns {
        VitalSigns {
            version: "PostgreSQL 16".to_owned(),
            is_supported: true,
            read_only: None,
            unsafe_settings: Vec::new(),
            commit: Some(Duration::from_millis(1)),
            now_ms: 0,
            look: Duration::from_millis(1),
            connections: Some((10, 100)),
            stuck: 0,
            wal_bytes: None,
        }
    }

    fn config() -> Config {
        let variables = [
            ("DATABASE_URL", "postgres://localhost/x?connection_limit=20"),
            ("JWT_SECRET", "u8Wc0PZrX3nq5TgLyB7vKdF2hJmNsE9a"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Config::parse(&variables.into()).expect("valid")
    }

    #[test]
    fn each_sign_has_its_verdict() {
        let config = config();
        let worst = |signs: &VitalSigns| {
            let all = vital_signs(signs, &config);
            all.into_iter().max_by_key(|finding| finding.verdict).map(|finding| (finding.check, finding.verdict))
        };
        assert_eq!(worst(&healthy()).expect("findings").1, Verdict::Ok);
        let slow = Duration::from_secs(1);
        for (signs, check, verdict) in [
            (VitalSigns { is_supported: false, ..healthy() }, "database", Verdict::Fault),
            (VitalSigns { look: slow, ..healthy() }, "database", Verdict::Warning),
            (VitalSigns { read_only: Some("it is a standby".into()), ..healthy() }, "database", Verdict::Fault),
            (VitalSigns { commit: Some(slow), ..healthy() }, "commit", Verdict::Warning),
            (VitalSigns { commit: None, ..healthy() }, "commit", Verdict::Note),
            (VitalSigns { unsafe_settings: vec!["fsync=off".into()], ..healthy() }, "commit", Verdict::Fault),
            (VitalSigns { connections: Some((10, 25)), ..healthy() }, "connections", Verdict::Warning),
            (VitalSigns { connections: Some((75, 100)), ..healthy() }, "connections", Verdict::Warning),
            (VitalSigns { stuck: 1, ..healthy() }, "stuck", Verdict::Warning),
            (VitalSigns { wal_bytes: Some(LONG_WAL + 1), ..healthy() }, "wal", Verdict::Warning),
        ] {
            assert_eq!(worst(&signs), Some((check, verdict)));
        }
    }

    #[test]
    fn migrations_from_the_future_weigh_more() {
        let migration = |applied, known| MigrationStatus { version: 1, description: String::new(), applied, known };
        assert_eq!(other_version(&[migration(true, true)]), None);
        for (migrations, word) in [
            (vec![migration(true, true), migration(false, true)], "1 of 2"),
            (vec![migration(true, false), migration(false, true)], "does not know"),
        ] {
            assert!(other_version(&migrations).expect("a finding").found.contains(word));
        }
    }
}
