//! `supersync sweep`: the daily clean-up, now, or what it would do.
//!
//! Decides and acts with the server's own code. Beside running servers it takes turns with theirs: while a clean-up is
//! under way anywhere on the database, another one is refused.

use std::io::{self, Write};
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Failure;
use super::output::{print_json, print_row};
use super::report::time;
use crate::clock::{Clock, Doubt};
use crate::config::Config;
use crate::engine::forecast::{DueRange, Forecast};
use crate::engine::sweeper::{SweepReport, Sweeper};
use crate::engine::{Handle, Options};
use crate::store::Store;

/// Do the daily clean-up now, or show what it would take away.
///
/// Gives up operations that a full state has superseded and that are older than 45 days, deletes archived data whose time is
/// over, devices, sessions and tokens, and packs old operations. A server does the same once a day. Other servers may be
/// running meanwhile; while one of them cleans up, this is refused.
#[derive(Clone, Debug, Args)]
pub struct SweepArgs {
    /// Change nothing; show what would go and why, and why the rest stays.
    #[arg(long)]
    pub dry_run: bool,
    /// This machine's clock is right, although it is far from what the database knows of the time: clean up, and let
    /// servers do so again.
    #[arg(long, conflicts_with = "dry_run")]
    pub clock_is_right: bool,
    /// Accounts and ranges shown, largest first. The totals are of all.
    #[arg(long, value_name = "N", default_value_t = 25, conflicts_with = "json")]
    pub limit: usize,
    /// Print one JSON object, with every account.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// Why it was not done, or not all of it.
pub async fn run(
    args: SweepArgs,
    store: Arc<dyn Store>,
    config: &Config,
    clock: Clock,
    output: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let engine = Handle::start(Arc::clone(&store), clock.clone(), Options::from(config)).await?;
    let owner = format!("command {}", Uuid::now_v7());
    let sweeper = Sweeper::new(Arc::clone(&store), engine.clone(), clock.clone(), config.retention, owner.clone());
    let done = if args.dry_run {
        foretell(&sweeper, &args, config, output).await
    } else if args.clock_is_right {
        match confirm(&*store, &clock, &owner).await {
            Ok(()) => sweep(&sweeper.confirmed(), args.json, output).await,
            Err(error) => Err(error),
        }
    } else {
        sweep(&sweeper, args.json, output).await
    };
    engine.shutdown().await;
    done
}

/// Lets servers believe their clocks again.
async fn confirm(store: &dyn Store, clock: &Clock, owner: &str) -> Result<(), Failure> {
    clock.believe().map_err(in_doubt)?;
    Ok(store.note_right_time(owner, clock.wall_ms()).await?)
}

async fn foretell(
    sweeper: &Sweeper,
    args: &SweepArgs,
    config: &Config,
    output: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let forecast = sweeper.forecast().await?;
    if args.json {
        print_json(&as_object(&forecast), output)?;
    } else {
        table(&forecast, args.limit, config, output)?;
        if let Some(doubt) = &forecast.held_back {
            writeln!(output, "\nBut it would do nothing, because {doubt}. {}", Doubt::ADVICE)?;
        }
    }
    all_done(forecast.accounts_failed, 0)
}

async fn sweep(sweeper: &Sweeper, as_json: bool, output: &mut (dyn Write + Send)) -> Result<(), Failure> {
    let report = sweeper.sweep_now().await?;
    if let Some(doubt) = report.held_back {
        return Err(in_doubt(doubt));
    }
    if !report.led {
        return Err(Failure::refused("another instance is cleaning up; try again when it has finished"));
    }
    if as_json {
        print_json(&done_object(&report), output)?;
    } else {
        done_table(&report, output)?;
    }
    all_done(report.accounts_failed, report.steps_failed)
}

fn in_doubt(doubt: Doubt) -> Failure {
    Failure::refused(format!("nothing was deleted: {doubt}. {}", Doubt::ADVICE))
}

/// Neither accounts nor steps failed.
fn all_done(accounts: u64, steps: u64) -> Result<(), Failure> {
    match (accounts, steps) {
        (0, 0) => Ok(()),
        _ => Err(Failure::failed(format!(
            "{accounts} account(s) and {steps} step(s) failed; the log says why, the next run tries again"
        ))),
    }
}

fn table(forecast: &Forecast, limit: usize, config: &Config, output: &mut (dyn Write + Send)) -> io::Result<()> {
    let days = config.retention.superseded.as_secs() / 86_400;
    writeln!(output, "Nothing was changed. A clean-up now would do this:\n")?;
    writeln!(
        output,
        "Operations that a full state has superseded, all received more than {days} days ago, leave their data set:"
    )?;
    let widths = [10, 12, 12, 10, 14];
    print_row(output, widths, [&"ACCOUNT", &"FROM", &"UP TO", &"OPERATIONS", &"BYTES"])?;
    let mut pruned = forecast.pruned.clone();
    pruned.sort_by_key(|pruned| std::cmp::Reverse((pruned.prefix.operations, pruned.user)));
    for pruned in pruned.iter().take(limit) {
        let prefix = &pruned.prefix;
        let (from, to) = (prefix.after + 1, prefix.full_state_seq - 1);
        print_row(output, widths, [&pruned.user, &from, &to, &prefix.operations, &prefix.bytes])?;
    }
    more(pruned.len(), limit, "accounts", output)?;
    let (operations, bytes) =
        pruned.iter().fold((0, 0), |sum, pruned| (sum.0 + pruned.prefix.operations, sum.1 + pruned.prefix.bytes));
    writeln!(output, "{:>10} account(s)  {operations:>26}  {bytes:>16}\n", pruned.len())?;

    writeln!(output, "Why the other accounts keep everything:")?;
    let widths = [10, 10, 12, 0];
    print_row(output, widths, [&"ACCOUNTS", &"DORMANT", &"OPERATIONS", &"WHY"])?;
    for (reason, kept) in &forecast.kept {
        print_row(output, widths, [&kept.accounts, &kept.dormant, &kept.operations, &reason.explained()])?;
    }
    if forecast.accounts_failed > 0 {
        print_row(output, widths, [&forecast.accounts_failed, &"", &"", &"can't be judged"])?;
    }
    writeln!(output, "Dormant: nothing received for {days} days.\n")?;
    ranges(forecast, limit, config, output)?;
    let rows = &forecast.rows;
    writeln!(output, "\nDeleted besides:")?;
    for (count, what) in [
        (rows.devices, format!("devices not seen for {days} days")),
        (rows.tokens, "links that were never used".to_owned()),
        (rows.sign_in, "ceremonies, pending passkeys, invitations and failed log-ins that are over".to_owned()),
        (rows.unverified, "accounts that nobody has verified for 30 days".to_owned()),
        (rows.sessions, "sessions that have ended".to_owned()),
        (rows.tickets, "tickets for sockets that have ended".to_owned()),
        (rows.security, "entries of security logs older than 90 days".to_owned()),
        (rows.events, "notes to other servers".to_owned()),
    ] {
        writeln!(output, "{count:>10}  {what}")?;
    }
    writeln!(output, "\nOld operations are packed as well, which takes nothing away.")
}

fn ranges(forecast: &Forecast, limit: usize, config: &Config, output: &mut (dyn Write + Send)) -> io::Result<()> {
    let days = config.retention.archive.as_secs() / 86_400;
    writeln!(
        output,
        "Deleted for good, in this order: the above, what an earlier run left, and what was replaced more than {days} days ago:"
    )?;
    let widths = [10, 12, 12, 10, -12, -16, 0];
    print_row(output, widths, [&"ACCOUNT", &"FROM", &"UP TO", &"OPERATIONS", &"BECAUSE", &"LEFT", &"WHEN"])?;
    for due in forecast.ranges.iter().take(limit) {
        let left = if due.archived_at == 0 { "-".to_owned() } else { time(due.archived_at) };
        let when = if due.over_budget { "later: over the budget" } else { "now" };
        let DueRange { user, from_seq, to_seq, operations, reason, .. } = due;
        print_row(output, widths, [user, from_seq, to_seq, operations, &reason.as_str(), &left, &when])?;
    }
    more(forecast.ranges.len(), limit, "ranges", output)?;
    let later = forecast.ranges.iter().filter(|due| due.over_budget);
    let (later, operations) = later.fold((0_u64, 0), |sum, due| (sum.0 + 1, sum.1 + due.operations));
    writeln!(
        output,
        "{:>10} range(s) with {} operations now, {later} with {operations} operations in later runs (budget: {} operations, OLD_OPS_CLEANUP_MAX_DELETED_PER_RUN)",
        forecast.ranges_deleted(),
        forecast.operations_deleted(),
        config.retention.max_deleted_per_run
    )
}

fn more(count: usize, limit: usize, what: &str, output: &mut (dyn Write + Send)) -> io::Result<()> {
    match count.checked_sub(limit) {
        None | Some(0) => Ok(()),
        Some(more) => writeln!(output, "{more:>10} more {what}; --limit shows them"),
    }
}

fn as_object(forecast: &Forecast) -> Value {
    let pruned: Vec<Value> = forecast
        .pruned
        .iter()
        .map(|pruned| {
            json!({
                "account": pruned.user,
                "fromSeq": pruned.prefix.after + 1,
                "toSeq": pruned.prefix.full_state_seq - 1,
                "operations": pruned.prefix.operations,
                "bytes": pruned.prefix.bytes,
            })
        })
        .collect();
    let kept = forecast.kept.iter().map(|(reason, kept)| {
        let figures = json!({ "accounts": kept.accounts, "dormant": kept.dormant, "operations": kept.operations });
        (reason.as_str().to_owned(), figures)
    });
    let rows = &forecast.rows;
    json!({
        "pruned": pruned,
        "kept": kept.collect::<serde_json::Map<_, _>>(),
        "accountsFailed": forecast.accounts_failed,
        "ranges": forecast.ranges.iter().map(range_object).collect::<Vec<_>>(),
        "operationsDeleted": forecast.operations_deleted(),
        "archivesDeleted": forecast.ranges_deleted(),
        "budgetExhausted": forecast.budget_exhausted(),
        "devicesDeleted": rows.devices,
        "tokensDeleted": rows.tokens + rows.sign_in + rows.unverified,
        "sessionsDeleted": rows.sessions,
        "ticketsDeleted": rows.tickets,
        "securityDeleted": rows.security,
        "eventsDeleted": rows.events,
        "heldBack": forecast.held_back.map(|doubt| doubt.to_string()),
    })
}

fn range_object(due: &DueRange) -> Value {
    json!({
        "account": due.user,
        "fromSeq": due.from_seq,
        "toSeq": due.to_seq,
        "operations": due.operations,
        "bytes": due.bytes,
        "reason": due.reason.as_str(),
        "archivedAt": due.archived_at,
        "overBudget": due.over_budget,
    })
}

/// What was done: names for programs, counts, words for people.
fn counts(report: &SweepReport) -> [(&'static str, u64, &'static str); 11] {
    [
        ("accountsPruned", report.accounts_pruned, "accounts gave up superseded operations"),
        (
            "accountsRecounted",
            report.accounts_recounted,
            "of those were charged something else than they store, and were put right",
        ),
        ("operationsDeleted", report.operations_deleted, "operations deleted"),
        ("archivesDeleted", report.archives_deleted, "ranges of operations deleted for good"),
        ("devicesDeleted", report.devices_deleted, "devices forgotten"),
        ("tokensDeleted", report.tokens_deleted, "links, ceremonies, invitations and unverified accounts deleted"),
        ("sessionsDeleted", report.sessions_deleted, "sessions deleted"),
        ("ticketsDeleted", report.tickets_deleted, "tickets deleted"),
        ("securityDeleted", report.security_deleted, "entries of security logs deleted"),
        ("eventsDeleted", report.events_deleted, "notes to other servers deleted"),
        ("operationsPacked", report.sealed.operations, "operations packed"),
    ]
}

fn done_object(report: &SweepReport) -> Value {
    let mut object = json!({
        "accountsFailed": report.accounts_failed,
        "stepsFailed": report.steps_failed,
        "budgetExhausted": report.budget_exhausted,
    });
    for (name, count, _) in counts(report) {
        object[name] = count.into();
    }
    object
}

fn done_table(report: &SweepReport, output: &mut (dyn Write + Send)) -> io::Result<()> {
    for (_, count, words) in counts(report) {
        writeln!(output, "{count:>10}  {words}")?;
    }
    if report.budget_exhausted {
        writeln!(output, "The budget was used up (OLD_OPS_CLEANUP_MAX_DELETED_PER_RUN); the next run goes on.")?;
    }
    Ok(())
}
