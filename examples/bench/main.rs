//! The figures of the README: a real server process on each database, load from this one, on the same machine.
//!
//! Needs `supersync` built in the same profile, and for PostgreSQL `SUPERSYNC_TEST_POSTGRES_URL`; `make bench` sees to
//! both. Every request is checked: an answer that is not what the load expects ends the run.

mod connection;
mod load;
#[path = "../../tests/support/postgres.rs"]
#[expect(dead_code, reason = "shared with the tests, which use all of it")]
mod postgres;
mod server;

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use serde::Serialize;

use load::{Figures, Work};
use server::{BenchServer, Place};

/// What goes wrong ends the run.
pub type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// Measures the server on each database.
#[derive(Debug, Parser)]
struct Options {
    /// How long each kind of load lasts.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Keep-alive connections, each with one request under way.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Accounts that take part in the load.
    #[arg(long, default_value_t = 256)]
    accounts: usize,
    /// Accounts that are touched once to see what an idle one holds.
    #[arg(long, default_value_t = 2_000)]
    idle_accounts: usize,
    /// The server's program; otherwise the one next to this one.
    #[arg(long)]
    server: Option<PathBuf>,
    /// Where the figures go as JSON; otherwise to standard output, after the table.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// One database's figures.
#[derive(Debug, Serialize)]
struct Report {
    database: &'static str,
    uploads_of_20_ops: Figures,
    uploads_of_1_op: Figures,
    polls: Figures,
    resident_at_rest_bytes: Option<u64>,
    resident_per_idle_account_bytes: Option<u64>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let reports = runtime.block_on(measure(&options))?;
    print_table(&options, &reports);
    let json = serde_json::to_string_pretty(&reports)?;
    match &options.json {
        Some(path) => std::fs::write(path, json + "\n")?,
        None => println!("\n{json}"),
    }
    Ok(())
}

async fn measure(options: &Options) -> Result<Vec<Report>> {
    let mut reports = vec![measure_on(options, Place::sqlite()?).await?];
    if std::env::var_os(postgres::VARIABLE).is_some() {
        reports.push(measure_on(options, Place::postgres().await?).await?);
    } else {
        eprintln!("{} is not set: PostgreSQL is left out", postgres::VARIABLE);
    }
    Ok(reports)
}

async fn measure_on(options: &Options, place: Place) -> Result<Report> {
    let accounts = place.create_accounts(options.accounts.max(options.idle_accounts)).await?;
    let lasts = Duration::from_secs(options.seconds);

    eprintln!("{}: memory", place.name());
    let server = BenchServer::start(&place, options.server.as_deref()).await?;
    let at_rest = server.resident_bytes();
    let idle = &accounts[..options.idle_accounts];
    load::touch(server.address, idle, options.connections).await?;
    let grown = at_rest.zip(server.resident_bytes()).map(|(before, after)| after.saturating_sub(before));
    server.stop().await?;

    // A server that has not just held thousands of accounts.
    let server = BenchServer::start(&place, options.server.as_deref()).await?;
    let busy = &accounts[..options.accounts];
    let mut figures = Vec::new();
    for work in [Work::Uploads { ops: 20 }, Work::Uploads { ops: 1 }, Work::Polls] {
        eprintln!("{}: {work}", place.name());
        figures.push(load::run(server.address, busy, options.connections, work, lasts).await?);
    }
    server.stop().await?;
    let database = place.name();
    place.remove().await;
    let [uploads_of_20_ops, uploads_of_1_op, polls]: [Figures; 3] =
        figures.try_into().map_err(|_| "three kinds of load give three figures")?;
    let per_account = u64::try_from(options.idle_accounts)?.max(1);
    Ok(Report {
        database,
        uploads_of_20_ops,
        uploads_of_1_op,
        polls,
        resident_at_rest_bytes: at_rest,
        resident_per_idle_account_bytes: grown.map(|bytes| bytes / per_account),
    })
}

fn print_table(options: &Options, reports: &[Report]) {
    println!(
        "{} connections, {} accounts, {} s each; server, database and load on {} cores\n",
        options.connections,
        options.accounts,
        options.seconds,
        std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
    );
    println!("| | {} |", reports.iter().map(|report| report.database).collect::<Vec<_>>().join(" | "));
    println!("| --- |{}", " ---: |".repeat(reports.len()));
    let row = |name: &str, cell: &dyn Fn(&Report) -> String| {
        println!("| {name} | {} |", reports.iter().map(cell).collect::<Vec<_>>().join(" | "));
    };
    let latency = |f: &Figures| format!("{:.1} / {:.1}", f.p50_ms, f.p99_ms);
    row("uploads of 20 operations, operations/s", &|r| format!("{:.0}", r.uploads_of_20_ops.per_second * 20.0));
    row("… p50 / p99, ms", &|r| latency(&r.uploads_of_20_ops));
    row("uploads of 1 operation, requests/s", &|r| format!("{:.0}", r.uploads_of_1_op.per_second));
    row("… p50 / p99, ms", &|r| latency(&r.uploads_of_1_op));
    row("polls (nothing new), requests/s", &|r| format!("{:.0}", r.polls.per_second));
    row("… p50 / p99, ms", &|r| latency(&r.polls));
    let memory = |bytes: Option<u64>, unit: u64| bytes.map_or("unknown".to_owned(), |bytes| (bytes / unit).to_string());
    row("server's memory at rest, MiB", &|r| memory(r.resident_at_rest_bytes, 1 << 20));
    row("… per idle account, KiB", &|r| memory(r.resident_per_idle_account_bytes, 1 << 10));
}
