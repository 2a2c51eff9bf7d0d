//! The plan as Markdown: one column per number of accounts.

use std::fmt::Write as _;

use super::capacity::Cell;
use super::{Plan, Scale};
use crate::bench::number::{fixed, grouped};

/// A row: its name, and its text for one scale.
type Row = (&'static str, fn(&Scale) -> String);

/// A quantity of all cells together.
fn all(scale: &Scale, of: impl Fn(&Cell) -> f64) -> f64 {
    of(&scale.capacity.cell) * f64::from(scale.capacity.cells)
}

/// GiB, or TiB where that reads better.
fn size(gib: f64) -> String {
    if gib >= 1024.0 { format!("{} TiB", fixed(gib / 1024.0)) } else { format!("{} GiB", fixed(gib)) }
}

const ROWS: &[Row] = &[
    ("running devices, busiest hour", |s| grouped(all(s, |c| c.peak.running_devices))),
    ("open sockets", |s| grouped(all(s, |c| c.sockets))),
    ("requests/s", |s| fixed(all(s, |c| c.requests_per_s))),
    ("… polls/s", |s| fixed(all(s, |c| c.peak.polls))),
    ("… uploads/s", |s| fixed(all(s, |c| c.peak.uploads))),
    ("operations stored/s", |s| fixed(all(s, |c| c.peak.ops))),
    ("server: cores busy", |s| fixed(all(s, |c| c.server_busy_cores))),
    ("server: cores with headroom", |s| grouped(all(s, |c| c.server_cores))),
    ("server: processes", |s| grouped(all(s, |c| c.instances))),
    ("server: memory", |s| size(all(s, |c| c.server_gib))),
    ("… kept for accounts (ACCOUNT_MEMORY_BYTES)", |s| size(all(s, |c| c.kept_gib))),
    ("database: cores busy", |s| fixed(all(s, |c| c.db_busy_cores))),
    ("database: cores with headroom", |s| grouped(all(s, |c| c.db_cores))),
    ("database: working set", |s| size(all(s, |c| c.db_working_set_gib))),
    ("disk", |s| size(all(s, |c| c.disk_gib))),
    ("… operations that are rows", |s| size(all(s, |c| c.rows_gib))),
    ("… sealed operations", |s| size(all(s, |c| c.sealed_gib))),
    ("… heads", |s| size(all(s, |c| c.heads_gib))),
    ("write-ahead log", |s| format!("{} MB/s", fixed(all(s, |c| c.wal_mb_per_s)))),
    ("… per day", |s| size(all(s, |c| c.wal_gib_per_day))),
    ("group commits/s", |s| fixed(all(s, |c| c.commits_per_s))),
    ("uploads per commit", |s| fixed(s.capacity.cell.uploads_per_commit)),
    ("disk operations/s", |s| fixed(all(s, |c| c.iops))),
    ("network in / out, Mbit/s", |s| {
        format!("{} / {}", fixed(all(s, |c| c.in_mbit_per_s)), fixed(all(s, |c| c.out_mbit_per_s)))
    }),
    ("connections to the databases", |s| grouped(all(s, |c| c.db_connections))),
    ("use of one primary, by", |s| format!("{} % ({})", fixed(s.capacity.of_one_primary * 100.0), s.capacity.bound_by)),
    ("**primaries (cells)**", |s| grouped(f64::from(s.capacity.cells))),
    ("accounts per core", |s| grouped(s.capacity.accounts_per_core)),
];

const SIMULATED: &[Row] = &[
    ("server busy: simulated / formula", |s| {
        let formula = s.capacity.cell.server_busy_cores / s.capacity.cell.server_cores;
        busiest(s, |hour| format!("{} % / {} %", fixed(hour.server_busy * 100.0), fixed(formula * 100.0)))
    }),
    ("wait for a core, p99", |s| busiest(s, |hour| format!("{} ms", fixed(hour.core_wait_p99_ms)))),
    ("commit lane busy: simulated / formula", |s| {
        let formula = s.capacity.cell.lane_busy;
        busiest(s, |hour| format!("{} % / {} %", fixed(hour.lane_busy * 100.0), fixed(formula * 100.0)))
    }),
    ("uploads per commit: simulated / formula", |s| {
        let formula = s.capacity.cell.uploads_per_commit;
        busiest(s, |hour| format!("{} / {}", fixed(hour.uploads_per_commit), fixed(formula)))
    }),
    ("upload's wait for its commit, p99", |s| busiest(s, |hour| format!("{} ms", fixed(hour.commit_wait_p99_ms)))),
];

fn busiest(scale: &Scale, of: impl Fn(&super::simulate::Hour) -> String) -> String {
    scale.day.as_ref().and_then(|day| day.busiest()).map_or_else(|| "–".to_owned(), of)
}

pub(super) fn render(plan: &Plan) -> String {
    let mut text = String::new();
    let mut line = |one: std::fmt::Arguments<'_>| {
        let written = writeln!(text, "{one}");
        debug_assert!(written.is_ok(), "writing to a string can't fail");
    };
    let free = fixed(plan.shape.headroom * 100.0);
    line(format_args!("Busiest hour; {free} % of each resource stays free. Prices: {}.", plan.prices.source));
    line(format_args!(""));
    let names: Vec<_> = plan.scales.iter().map(|scale| grouped(scale.capacity.accounts)).collect();
    line(format_args!("| accounts | {} |", names.join(" | ")));
    line(format_args!("| --- |{}", " ---: |".repeat(names.len())));
    for (name, of) in ROWS {
        line(format_args!("| {name} | {} |", plan.scales.iter().map(of).collect::<Vec<_>>().join(" | ")));
    }
    if plan.scales.iter().any(|scale| scale.day.is_some()) {
        line(format_args!(""));
        line(format_args!("The busiest hour of a simulated day on one of these primaries:"));
        line(format_args!(""));
        line(format_args!("| accounts | {} |", names.join(" | ")));
        line(format_args!("| --- |{}", " ---: |".repeat(names.len())));
        for (name, of) in SIMULATED {
            line(format_args!("| {name} | {} |", plan.scales.iter().map(of).collect::<Vec<_>>().join(" | ")));
        }
    }
    if let Some(scale) = plan.scales.first() {
        let most = grouped(scale.capacity.accounts_per_primary);
        line(format_args!(""));
        line(format_args!("One primary within the given limits carries {most} accounts of this shape."));
    }
    text
}
