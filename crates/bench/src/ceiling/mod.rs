//! Raw limits of the machine, measured in the same run as what is held to them: the database without the server, HTTP
//! without the database, the disk without either.
//!
//! Owns the ceilings' loads and their SQL. Promises that the same rows go into the same table with the same indexes as the
//! server's, and that everything that counts as stored is durable.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::Bench;
use super::case::Case;
use super::check::Check;
use super::error::{BenchError, Result};
use super::latency::Histogram;
use super::place::{Database, Place};
use super::scenario::Scenario;

pub mod handler;
pub mod postgres;
pub mod rows;
pub mod sqlite;

use postgres::Raw;
use rows::StoredRow;

/// The scenario.
pub struct Ceiling;

/// Rows per commit. The larger one is the most that the server commits at once.
const GROUPS: [usize; 2] = [500, 2_000];
const SQLITE_GROUPS: [usize; 2] = [200, 2_000];
/// Connections that write at once on PostgreSQL: as many as the server's ordinary lanes.
const WRITERS: usize = 2;
/// Connections that commit single rows on PostgreSQL: where its throughput is best on few cores.
const SINGLES: usize = 16;

#[async_trait(?Send)]
impl Scenario for Ceiling {
    fn name(&self) -> &'static str {
        "ceiling"
    }

    fn about(&self) -> &'static str {
        "raw limits: grouped and single inserts of the same rows, one commit, an empty handler with token check"
    }

    fn needs_own_server(&self) -> bool {
        true
    }

    async fn run(&self, bench: &Bench) -> Result<Vec<Case>> {
        let payload = bench.options.payload_bytes();
        bench.progress("ceiling: rows");
        let rows = rows::sample(bench, payload).await?;
        let place = bench.place(&[]).await?;
        place.create_accounts(bench.options.accounts()).await?;
        let mut cases = match place.database() {
            Database::Postgres(_) => on_postgres(bench, &place, &rows).await?,
            Database::Sqlite => on_sqlite(bench, &place, &rows).await?,
        };
        for case in &mut cases {
            case.parameters.insert("payload_bytes", payload.into());
            case.parameters.insert("accounts", bench.options.accounts().into());
        }
        bench.progress("ceiling: flushing the disk");
        cases.push(flush(place.directory(), lasts(bench) / 2)?);
        place.remove().await?;
        bench.progress("ceiling: empty handler");
        cases.extend(handler::measure(bench).await?);
        Ok(cases)
    }
}

/// Each raw load takes half of a scenario's time: there are several.
fn lasts(bench: &Bench) -> Duration {
    bench.options.pace().lasts / 2
}

async fn on_postgres(bench: &Bench, place: &Place, rows: &[StoredRow]) -> Result<Vec<Case>> {
    let mut grouped = Grouped::default();
    for group in GROUPS {
        bench.progress(&format!("ceiling: groups of {group}"));
        grouped.add(group, &postgres::insert(place, rows, WRITERS, group, lasts(bench)).await?);
    }
    bench.progress("ceiling: single rows");
    let singles = postgres::insert(place, rows, SINGLES, 1, lasts(bench)).await?;
    let one = postgres::insert(place, rows, 1, 1, lasts(bench)).await?;
    let stored = stored_operations(place).await?;
    let mut one_case = single("one commit", &one, 1);
    one_case.check(Check::new("every commit stored its row", stored == one.operations, format!("{stored} rows")));
    Ok(vec![grouped.into_case(WRITERS), single("one row per commit", &singles, SINGLES), one_case])
}

async fn stored_operations(place: &Place) -> Result<u64> {
    let mut connection = postgres::connect(place).await?;
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM operations").fetch_one(&mut connection).await?;
    Ok(u64::try_from(count).unwrap_or_default())
}

async fn on_sqlite(bench: &Bench, place: &Place, rows: &[StoredRow]) -> Result<Vec<Case>> {
    let mut grouped = Grouped::default();
    for group in SQLITE_GROUPS {
        bench.progress(&format!("ceiling: groups of {group}"));
        grouped.add(group, &sqlite::insert(place, rows, group, lasts(bench)).await?);
    }
    bench.progress("ceiling: single rows");
    let one = sqlite::insert(place, rows, 1, lasts(bench)).await?;
    // There is one writer, so the rate of single rows and the time of one are the same measurement.
    Ok(vec![grouped.into_case(1), single("one row per commit", &one, 1), single("one commit", &one, 1)])
}

/// The best of several sizes of groups.
#[derive(Default)]
struct Grouped {
    best: Option<(usize, Raw)>,
    all: Vec<(usize, f64)>,
}

impl Grouped {
    fn add(&mut self, group: usize, raw: &Raw) {
        self.all.push((group, raw.per_second()));
        if self.best.as_ref().is_none_or(|(_, best)| raw.per_second() > best.per_second()) {
            self.best = Some((group, raw.clone()));
        }
    }

    fn into_case(self, writers: usize) -> Case {
        let mut case = Case::new("ceiling", "grouped inserts").with("writers", writers);
        if let Some((group, raw)) = self.best {
            case = case.with("rows_per_commit", group);
            case.figure("operations_per_second", "1/s", raw.per_second());
            latencies(&mut case, &raw.commits);
        }
        for (group, per_second) in self.all {
            case.figure(format!("operations_per_second_in_groups_of_{group}"), "1/s", per_second);
        }
        case
    }
}

fn single(name: &str, raw: &Raw, writers: usize) -> Case {
    let mut case = Case::new("ceiling", name).with("writers", writers);
    case.figure("operations_per_second", "1/s", raw.per_second());
    latencies(&mut case, &raw.commits);
    case
}

fn latencies(case: &mut Case, histogram: &Histogram) {
    for (name, share) in [("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99), ("max_ms", 1.0)] {
        case.figure(name, "ms", histogram.quantile_ms(share));
    }
}

/// One page written over and flushed, again and again.
fn flush(directory: &Path, lasts: Duration) -> Result<Case> {
    let path = directory.join("flush");
    let failed = || BenchError::io(format!("flushing {}", path.display()));
    let mut file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(failed())?;
    let page = [0x5A; 8_192];
    file.write_all(&page).and_then(|()| file.sync_all()).map_err(failed())?;
    let mut histogram = Histogram::default();
    let started = Instant::now();
    while started.elapsed() < lasts {
        let sent = Instant::now();
        std::io::Seek::rewind(&mut file)
            .and_then(|()| file.write_all(&page))
            .and_then(|()| file.sync_data())
            .map_err(failed())?;
        histogram.record(sent.elapsed());
    }
    std::fs::remove_file(&path).map_err(failed())?;
    let mut case = Case::new("ceiling", "fdatasync of 8 KiB");
    latencies(&mut case, &histogram);
    Ok(case)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_group_counts() {
        let raw = |operations| {
            let mut raw = Raw { operations, lasted: Duration::from_secs(2), ..Raw::default() };
            raw.commits.record(Duration::from_millis(operations));
            raw
        };
        let mut grouped = Grouped::default();
        grouped.add(500, &raw(20));
        grouped.add(2_000, &raw(10));
        let case = grouped.into_case(2);
        assert_eq!(case.value("operations_per_second"), Some(10.0));
        assert_eq!(case.value("operations_per_second_in_groups_of_2000"), Some(5.0));
        assert_eq!(case.parameters["rows_per_commit"], 500);
        assert_eq!(case.value("p50_ms"), Some(20.0));
    }

    #[test]
    fn a_flush_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let case = flush(directory.path(), Duration::from_millis(1)).unwrap();
        assert!(case.value("p50_ms").is_some());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        assert!(flush(&directory.path().join("missing"), Duration::ZERO).is_err());
    }
}
