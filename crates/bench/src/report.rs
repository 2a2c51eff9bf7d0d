//! What a run tells: a table for people, JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Value, json};

use super::bars::Verdict;
use super::case::{Case, Figure};
use super::machine::Machine;
use super::place::DatabaseDescription;

/// Version of the JSON; grows when a member changes its meaning or goes.
const SCHEMA: u32 = 1;

/// Everything that a run tells.
#[derive(Debug, Serialize)]
pub struct Report {
    schema: u32,
    /// When the run began, RFC 3339.
    date: String,
    /// Of this program.
    version: &'static str,
    commit: Option<String>,
    machine: Machine,
    databases: Vec<DatabaseDescription>,
    /// How long, how many connections and so on.
    method: BTreeMap<&'static str, Value>,
    /// What was measured.
    pub cases: Vec<Case>,
    /// What was reached.
    pub bars: Vec<Verdict>,
}

impl Report {
    /// A report without cases.
    #[must_use]
    pub fn new(
        date: String,
        commit: Option<String>,
        machine: Machine,
        databases: Vec<DatabaseDescription>,
        method: BTreeMap<&'static str, Value>,
    ) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        Self { schema: SCHEMA, date, version, commit, machine, databases, method, cases: Vec::new(), bars: Vec::new() }
    }

    /// Names of the checks that failed, with what is wrong.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        let failed = |case: &Case| {
            let name = format!("{} {} on {}", case.scenario, case.case, case.database);
            let failed = case.checks.iter().filter(|check| !check.passed);
            failed.map(|check| format!("{name}: {}: {}", check.name, check.detail)).collect::<Vec<_>>()
        };
        self.cases.iter().flat_map(failed).collect()
    }

    /// The JSON: as the members are, but figures by name.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut report = json!(self);
        for (shown, case) in report["cases"].as_array_mut().into_iter().flatten().zip(&self.cases) {
            let figures = case
                .figures
                .iter()
                .map(|Figure { name, unit, value }| (name.clone(), json!({ "value": value, "unit": unit })));
            shown["figures"] = Value::Object(figures.collect());
        }
        report
    }

    /// Where, when and how, in a few lines.
    #[must_use]
    pub fn head(&self) -> String {
        let machine = &self.machine;
        let unknown = || "unknown".to_owned();
        let text = |text: &Option<String>| text.clone().unwrap_or_else(unknown);
        let memory = machine.memory_bytes.map_or_else(unknown, |bytes| format!("{} MiB", bytes >> 20));
        let mut out = format!("supersync {} ({}), {}\n", self.version, text(&self.commit), self.date);
        put(
            &mut out,
            format_args!(
                "{} cores of {}, {memory}, {}, Linux {}, scratch directory on {}\n",
                machine.cores,
                text(&machine.processor),
                text(&machine.system),
                text(&machine.kernel),
                text(&machine.file_system),
            ),
        );
        for database in &self.databases {
            let settings: BTreeMap<_, _> = database.settings.iter().collect();
            let settings: Vec<String> = settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
            put(&mut out, format_args!("{} {} {}\n", database.kind, database.version, settings.join(" ")));
        }
        let method: Vec<String> = self.method.iter().map(|(name, value)| format!("{name} {value}")).collect();
        put(&mut out, format_args!("{}\n", method.join(", ")));
        out
    }

    /// Bars, measured, met.
    #[must_use]
    pub fn bars_table(&self) -> String {
        let mut rows = vec![["bar", "database", "figure", "limit", "measured", "met"].map(str::to_owned).to_vec()];
        for verdict in &self.bars {
            rows.push(vec![
                format!("{} {}", verdict.scenario, verdict.case),
                verdict.database.to_owned(),
                verdict.figure.to_owned(),
                verdict.bar.clone(),
                number(verdict.measured),
                if verdict.met { "yes" } else { "NO" }.to_owned(),
            ]);
        }
        table(&rows)
    }
}

/// Columns of the table, by the figures' names.
const COLUMNS: [(&str, &str, f64); 13] = [
    ("requests_per_second", "req/s", 1.0),
    ("operations_per_second", "ops/s", 1.0),
    ("p50_ms", "p50 ms", 1.0),
    ("p95_ms", "p95", 1.0),
    ("p99_ms", "p99", 1.0),
    ("max_ms", "max", 1.0),
    ("server_cpu_us_per_request", "server us/req", 1.0),
    ("database_cpu_us_per_request", "db us/req", 1.0),
    ("generator_cpu_us_per_request", "load us/req", 1.0),
    ("strangers_cpu_percent", "others %", 1.0),
    ("server_memory_bytes", "server MiB", 1_048_576.0),
    ("database_memory_bytes", "db MiB", 1_048_576.0),
    ("disk_bytes_per_operation", "disk B/op", 1.0),
];

/// The cases of one scenario: a row each, below it whatever has no column, and the checks.
#[must_use]
pub fn cases_table(cases: &[Case]) -> String {
    let present: Vec<_> =
        COLUMNS.iter().filter(|(name, _, _)| cases.iter().any(|case| case.value(name).is_some())).collect();
    let mut rows = vec![["scenario", "case", "database"].map(str::to_owned).to_vec()];
    rows[0].extend(present.iter().map(|(_, title, _)| (*title).to_owned()));
    for case in cases {
        let mut row = vec![case.scenario.to_owned(), case.case.clone(), case.database.to_owned()];
        let cell = |name: &str, unit: f64| case.value(name).map_or("-".to_owned(), |value| number(value / unit));
        row.extend(present.iter().map(|(name, _, unit)| cell(name, *unit)));
        rows.push(row);
    }
    let mut out = table(&rows);
    for case in cases {
        let has_column = |figure: &&Figure| COLUMNS.iter().any(|(name, _, _)| *name == figure.name);
        let others: Vec<String> = case
            .figures
            .iter()
            .filter(|figure| !has_column(figure))
            .map(|Figure { name, unit, value }| format!("{name} {} {unit}", number(*value)).trim_end().to_owned())
            .collect();
        put(&mut out, format_args!("{} on {}: {}\n", case.case, case.database, others.join(", ")));
        for check in &case.checks {
            let verdict = if check.passed { "ok" } else { "FAILED" };
            put(&mut out, format_args!("  {verdict}: {} ({})\n", check.name, check.detail));
        }
    }
    out
}

/// Few digits, but not too few.
fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A Markdown table whose columns are aligned.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for (n, row) in rows.iter().enumerate() {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let is_text = column < 3;
            if is_text {
                put(&mut out, format_args!("| {cell:<width$} "));
            } else {
                put(&mut out, format_args!("| {cell:>width$} "));
            }
        }
        out.push_str("|\n");
        if n == 0 {
            for (column, width) in widths.iter().enumerate() {
                let (dashes, end) = ("-".repeat(width - 1), if column < 3 { "-" } else { ":" });
                put(&mut out, format_args!("| {dashes}{end} "));
            }
            out.push_str("|\n");
        }
    }
    out
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to memory can't fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::check::Check;

    fn report(passed: bool) -> Report {
        let machine = Machine::this(std::path::Path::new("."));
        let mut report = Report::new("now".to_owned(), None, machine, Vec::new(), BTreeMap::new());
        let mut case = Case::new("upload", "20 x 500 B").with("batch", 20);
        case.database = "sqlite";
        case.figure("requests_per_second", "1/s", 1234.5);
        case.figure("something_else_ms", "ms", 0.25);
        case.figure("not_measured", "ms", None);
        case.check(Check::new("all is well", passed, "3 of 4"));
        report.cases.push(case);
        report
    }

    #[test]
    fn a_failed_check_is_a_failure() {
        assert_eq!(report(true).failures(), Vec::<String>::new());
        assert_eq!(report(false).failures(), ["upload 20 x 500 B on sqlite: all is well: 3 of 4"]);
    }

    #[test]
    fn the_table_has_the_known_columns_and_the_rest_below() {
        let text = cases_table(&report(false).cases);
        assert!(text.contains("| req/s |") && text.contains("|  1234 |") || text.contains("|  1235 |"), "{text}");
        assert!(text.contains("20 x 500 B on sqlite: something_else_ms 0.25 ms"), "{text}");
        assert!(text.contains("FAILED: all is well (3 of 4)"), "{text}");
        assert!(!text.contains("not_measured"), "{text}");
    }

    #[test]
    fn json_has_figures_by_name() {
        let json = report(true).to_json();
        assert_eq!(json["schema"], 1);
        assert_eq!(json["cases"][0]["figures"]["requests_per_second"], json!({ "value": 1234.5, "unit": "1/s" }));
        assert_eq!(json["cases"][0]["parameters"]["batch"], 20);
        assert_eq!(json["cases"][0]["checks"][0]["passed"], true);
        assert!(json["cases"][0]["figures"].get("not_measured").is_none());
    }
}
