//! What the figures have to reach. One table; the report prints bar, measured, met. On what machine and why each one is
//! where it is: `docs/performance.md`.

use serde::Serialize;

use super::case::Case;

/// What a figure is held to.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// The figure itself.
    AtLeast(f64),
    /// The figure itself.
    AtMost(f64),
    /// Its share of a figure of the same run, which a ceiling measured on the same database.
    AtLeastShareOf {
        /// The share.
        share: f64,
        /// The other figure.
        of: FigureName,
    },
    /// A multiple of the sum of some figures of the same run, on the same database.
    AtMostTimes {
        /// The multiple.
        times: f64,
        /// The other figures.
        of: &'static [FigureName],
    },
}

/// Where a figure is.
#[derive(Clone, Copy, Debug)]
pub struct FigureName {
    /// The scenario.
    pub scenario: &'static str,
    /// The case.
    pub case: &'static str,
    /// The figure.
    pub figure: &'static str,
}

/// A bar.
#[derive(Clone, Copy, Debug)]
pub struct Bar {
    /// `sqlite` or `postgres`; `None`: both.
    pub database: Option<&'static str>,
    /// What is held to it.
    pub figure: FigureName,
    /// What it is held to.
    pub limit: Limit,
}

const fn bar(
    database: Option<&'static str>,
    scenario: &'static str,
    case: &'static str,
    figure: &'static str,
    limit: Limit,
) -> Bar {
    Bar { database, figure: FigureName { scenario, case, figure }, limit }
}

const POSTGRES: Option<&str> = Some("postgres");
const SQLITE: Option<&str> = Some("sqlite");
const MIB: f64 = 1_048_576.0;
const KIB: f64 = 1024.0;

/// All bars, for two cores that the load, the server and the database share.
pub const BARS: &[Bar] = &[
    bar(POSTGRES, "upload", "20 x 500 B", "operations_per_second", Limit::AtLeast(80_000.0)),
    bar(POSTGRES, "upload", "20 x 500 B", "p99_ms", Limit::AtMost(40.0)),
    bar(POSTGRES, "upload", "1 x 500 B, 5000 accounts", "requests_per_second", Limit::AtLeast(18_000.0)),
    bar(POSTGRES, "upload", "1 x 500 B, 5000 accounts", "p99_ms", Limit::AtMost(20.0)),
    bar(SQLITE, "upload", "20 x 500 B", "operations_per_second", Limit::AtLeast(70_000.0)),
    bar(SQLITE, "upload", "20 x 500 B", "p99_ms", Limit::AtMost(40.0)),
    bar(SQLITE, "upload", "1 x 500 B, 5000 accounts", "requests_per_second", Limit::AtLeast(15_000.0)),
    bar(SQLITE, "upload", "1 x 500 B, 5000 accounts", "p99_ms", Limit::AtMost(40.0)),
    bar(None, "download", "500, warm, sealed", "requests_per_second", Limit::AtLeast(1_500.0)),
    bar(None, "fanout", "half of the peak", "notice_p95_ms", Limit::AtMost(15.0)),
    bar(None, "hold", "sockets", "memory_at_rest_bytes", Limit::AtMost(30.0 * MIB)),
    bar(None, "hold", "sockets", "memory_bytes_per_socket", Limit::AtMost(12.0 * KIB)),
    bar(None, "touched", "accounts", "memory_after_passivation_bytes", Limit::AtMost(30.0 * MIB)),
    bar(None, "logins", "50 a second", "polls_p99_ratio", Limit::AtMost(2.0)),
    bar(None, "import", "20 MB", "others_p99_ratio", Limit::AtMost(2.0)),
    bar(
        POSTGRES,
        "upload",
        "20 x 500 B",
        "operations_per_second",
        share_of(0.45, "grouped inserts", "operations_per_second"),
    ),
    bar(None, "poll", "nothing new", "requests_per_second", share_of(0.6, "empty handler", "requests_per_second")),
    bar(
        None,
        "latency",
        "1 operation, one user",
        "p50_ms",
        // The raw commit is a call within one process; an upload is a request as well.
        Limit::AtMostTimes {
            times: 2.0,
            of: &[
                FigureName { scenario: "ceiling", case: "one commit", figure: "p50_ms" },
                FigureName { scenario: "ceiling", case: "one empty request", figure: "p50_ms" },
            ],
        },
    ),
    bar(None, "start", "first request", "start_seconds", Limit::AtMost(0.5)),
    bar(None, "history", "growth", "server_cpu_us_per_request_ratio", Limit::AtMost(1.2)),
    bar(None, "history", "growth", "database_cpu_us_per_request_ratio", Limit::AtMost(1.2)),
    bar(None, "history", "growth", "p50_ms_ratio", Limit::AtMost(1.2)),
    bar(None, "crowd", "growth", "server_cpu_us_per_request_ratio", Limit::AtMost(1.2)),
    bar(None, "crowd", "growth", "database_cpu_us_per_request_ratio", Limit::AtMost(1.2)),
    // Not the median: where many connections take turns, few accounts wait for each other unevenly, and the median says
    // more of that than of what an upload takes.
    bar(None, "crowd", "growth", "time_per_request_ratio", Limit::AtMost(1.2)),
    bar(POSTGRES, "disk", "old operations", "disk_ratio_to_old_schema", Limit::AtMost(0.4)),
    bar(None, "cold-pages", "sealed", "ratio_to_plain_rows", Limit::AtLeast(10.0)),
];

/// At least this share of a ceiling of the same run.
const fn share_of(share: f64, case: &'static str, figure: &'static str) -> Limit {
    Limit::AtLeastShareOf { share, of: FigureName { scenario: "ceiling", case, figure } }
}

/// A bar and what was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// The scenario.
    pub scenario: &'static str,
    /// The case.
    pub case: &'static str,
    /// `sqlite` or `postgres`.
    pub database: &'static str,
    /// The figure.
    pub figure: &'static str,
    /// The bar, for people.
    pub bar: String,
    /// The figure, or its ratio to the other one.
    pub measured: f64,
    /// Whether the bar is met.
    pub met: bool,
}

/// Holds the cases of a run to the bars. Bars whose figures were not measured are left out.
#[must_use]
pub fn judge(bars: &[Bar], cases: &[Case]) -> Vec<Verdict> {
    let find = |name: &FigureName, database: &str| {
        cases
            .iter()
            .find(|case| case.scenario == name.scenario && case.case == name.case && case.database == database)
            .and_then(|case| case.value(name.figure))
    };
    let mut verdicts = Vec::new();
    for bar in bars {
        for database in ["sqlite", "postgres"] {
            if bar.database.is_some_and(|only| only != database) {
                continue;
            }
            let Some(value) = find(&bar.figure, database) else { continue };
            let (text, measured, met) = match &bar.limit {
                Limit::AtLeast(limit) => (format!(">= {limit}"), value, value >= *limit),
                Limit::AtMost(limit) => (format!("<= {limit}"), value, value <= *limit),
                Limit::AtLeastShareOf { share, of } => {
                    let Some(other) = find(of, database) else { continue };
                    let ratio = value / other;
                    (format!(">= {share} of {} {}", of.scenario, of.case), ratio, ratio >= *share)
                }
                Limit::AtMostTimes { times, of } => {
                    let others: Option<Vec<f64>> = of.iter().map(|name| find(name, database)).collect();
                    let Some(others) = others else { continue };
                    let names: Vec<String> = of.iter().map(|name| format!("{} {}", name.scenario, name.case)).collect();
                    let ratio = value / others.iter().sum::<f64>();
                    (format!("<= {times} x ({})", names.join(" + ")), ratio, ratio <= *times)
                }
            };
            let FigureName { scenario, case, figure } = bar.figure;
            verdicts.push(Verdict { scenario, case, database, figure, bar: text, measured, met });
        }
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(scenario: &'static str, database: &'static str, value: f64) -> Case {
        let mut case = Case::new(scenario, "c");
        case.database = database;
        case.figure("f", "", value);
        case
    }

    #[test]
    fn bars_are_met_missed_or_left_out() {
        const OF: FigureName = FigureName { scenario: "ceiling", case: "c", figure: "f" };
        let bars = [
            bar(None, "s", "c", "f", Limit::AtLeast(10.0)),
            bar(SQLITE, "s", "c", "f", Limit::AtMost(10.0)),
            bar(None, "s", "c", "f", Limit::AtLeastShareOf { share: 0.5, of: OF }),
            bar(None, "s", "c", "f", Limit::AtMostTimes { times: 0.3, of: &[OF, OF] }),
            bar(None, "s", "c", "not measured", Limit::AtLeast(0.0)),
        ];
        let cases = [case("s", "sqlite", 11.0), case("s", "postgres", 9.0), case("ceiling", "postgres", 20.0)];
        let met: Vec<_> = judge(&bars, &cases).into_iter().map(|verdict| (verdict.database, verdict.met)).collect();
        assert_eq!(
            met,
            [("sqlite", true), ("postgres", false), ("sqlite", false), ("postgres", false), ("postgres", true)]
        );
    }
}
