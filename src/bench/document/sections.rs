//! The page's tables.

use std::fmt::Write as _;

use serde_json::Value;

use super::results::{Case, Results, Run};
use crate::bench::number::{fixed, grouped};

/// A line of text.
fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("writing to memory can't fail");
}

/// A cell: what would end it is escaped.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

/// A database's name for people.
pub fn database(name: &str) -> &str {
    match name {
        "sqlite" => "SQLite",
        "postgres" => "PostgreSQL",
        other => other,
    }
}

fn text(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "unknown".to_owned(),
        Some(other) => other.to_string(),
    }
}

/// Machine, versions, method: what the figures are worth nothing without.
pub fn run(results: &Results) -> String {
    let mut out = String::new();
    for run in &results.runs {
        one_run(&mut out, run);
    }
    out
}

fn one_run(out: &mut String, run: &Run) {
    let machine = |name: &str| cell(&text(run.machine.get(name)));
    let memory = run.machine.get("memory_bytes").and_then(Value::as_f64).map(|bytes| bytes / f64::from(1 << 30));
    let measured: std::collections::BTreeSet<&str> = run.cases.iter().map(|case| case.scenario.as_str()).collect();
    line(
        out,
        format_args!(
            "- {}, version {}, commit `{}`",
            run.date,
            run.version,
            run.commit.as_deref().unwrap_or("unknown")
        ),
    );
    line(
        out,
        format_args!(
            "  - machine: {} cores of {}, {} GiB, {}, Linux {}, scratch files on {}",
            machine("cores"),
            machine("processor"),
            memory.map_or_else(|| "unknown".to_owned(), fixed),
            machine("system"),
            machine("kernel"),
            machine("file_system"),
        ),
    );
    for one in &run.databases {
        let settings = match one.get("settings") {
            Some(Value::Object(settings)) if !settings.is_empty() => {
                let pairs: Vec<_> =
                    settings.iter().map(|(name, value)| format!("{name}={}", text(Some(value)))).collect();
                format!(" ({})", pairs.join(", "))
            }
            _ => String::new(),
        };
        let name = text(one.get("kind"));
        line(out, format_args!("  - {} {}{}", database(&name), text(one.get("version")), cell(&settings)));
    }
    let method: Vec<_> =
        run.method.iter().map(|(name, value)| format!("{} {}", name.replace('_', " "), text(Some(value)))).collect();
    line(out, format_args!("  - method: {}", cell(&method.join(", "))));
    line(out, format_args!("  - scenarios: {}", measured.into_iter().collect::<Vec<_>>().join(", ")));
}

/// What was demanded, what was reached.
pub fn bars(results: &Results) -> String {
    let mut out = String::from("| what | database | bar | measured | met |\n| --- | --- | --- | ---: | :-: |\n");
    for verdict in results.verdicts() {
        let what = format!("{}: {}, {}", verdict.scenario, verdict.case, verdict.figure.replace('_', " "));
        line(
            &mut out,
            format_args!(
                "| {} | {} | {} | {} | {} |",
                cell(&what),
                database(&verdict.database),
                cell(&verdict.bar.replace(">=", "≥").replace("<=", "≤")),
                measured(&verdict.figure, verdict.measured, &verdict.bar),
                if verdict.met { "yes" } else { "**no**" }
            ),
        );
    }
    out
}

/// Bytes in thousands, ratios as they are.
fn measured(figure: &str, value: f64, bar: &str) -> String {
    if bar.contains(" of ") {
        format!("{:.0} %", value * 100.0)
    } else if figure.ends_with("_bytes") {
        grouped(value)
    } else {
        fixed(value)
    }
}

/// Names and headings of figures that many cases have.
const COLUMNS: [(&str, &str); 11] = [
    ("requests_per_second", "requests/s"),
    ("operations_per_second", "operations/s"),
    ("p50_ms", "p50 ms"),
    ("p95_ms", "p95 ms"),
    ("p99_ms", "p99 ms"),
    ("max_ms", "max ms"),
    ("server_cpu_us_per_request", "server µs/request"),
    ("database_cpu_us_per_request", "database µs/request"),
    ("server_memory_bytes", "server MiB"),
    ("database_memory_bytes", "database MiB"),
    ("disk_bytes_per_operation", "disk B/operation"),
];

/// One table with every case of these scenarios, and below it what has no column.
pub fn cases(results: &Results, belongs: impl Fn(&Case) -> bool) -> String {
    let cases: Vec<_> = results.cases().into_iter().filter(|case| belongs(case)).collect();
    let columns: Vec<_> =
        COLUMNS.iter().filter(|(name, _)| cases.iter().any(|case| case.value(name).is_some())).collect();
    let mut out = String::new();
    if cases.is_empty() {
        return out;
    }
    let titles: Vec<_> = columns.iter().map(|(_, title)| *title).collect();
    line(&mut out, format_args!("| scenario | case | database | {} |", titles.join(" | ")));
    line(&mut out, format_args!("| --- | --- | --- |{}", " ---: |".repeat(columns.len())));
    for case in &cases {
        let figures: Vec<_> = columns
            .iter()
            .map(|(name, _)| {
                let unit = if name.ends_with("memory_bytes") { f64::from(1 << 20) } else { 1.0 };
                case.value(name).map_or_else(|| "–".to_owned(), |value| fixed(value / unit))
            })
            .collect();
        let name = (cell(&case.scenario), cell(&case.case), database(&case.database));
        line(&mut out, format_args!("| {} | {} | {} | {} |", name.0, name.1, name.2, figures.join(" | ")));
    }
    let known = |name: &str| {
        COLUMNS.iter().any(|(column, _)| *column == name) || name.contains("_per_operation") && name.contains("cpu")
    };
    let mut rest = String::new();
    for case in &cases {
        for (name, figure) in case.figures.iter().filter(|(name, _)| !known(name)) {
            line(
                &mut rest,
                format_args!(
                    "| {} | {} | {} | {} | {} |",
                    cell(&case.scenario),
                    cell(&case.case),
                    database(&case.database),
                    cell(&name.replace('_', " ")),
                    fixed(figure.value)
                ),
            );
        }
    }
    if !rest.is_empty() {
        out.push_str("\n| scenario | case | database | figure | value |\n| --- | --- | --- | --- | ---: |\n");
        out.push_str(&rest);
    }
    out
}
