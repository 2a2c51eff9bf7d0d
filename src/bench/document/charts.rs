//! The page's charts: which figures, in which order.

use super::results::Results;
use super::sections::database;
use crate::bench::bars::{BARS, Bar as Demand, Limit};
use crate::bench::chart::{Bar, Bars, Latencies, Latency, Line, Lines};

const DATABASES: [&str; 2] = ["postgres", "sqlite"];

/// A chart and its file's name.
pub type Chart = (&'static str, String);

/// What a figure has to reach or must not exceed, where the bar is a number.
fn demanded(scenario: &str, case: &str, on: &str, figure: &str) -> Option<f64> {
    let fits = |bar: &&Demand| {
        bar.database.is_none_or(|only| only == on)
            && (bar.figure.scenario, bar.figure.case, bar.figure.figure) == (scenario, case, figure)
    };
    BARS.iter().filter(fits).find_map(|bar| match bar.limit {
        Limit::AtLeast(limit) | Limit::AtMost(limit) => Some(limit),
        Limit::AtLeastShareOf { .. } | Limit::AtMostTimes { .. } => None,
    })
}

/// Scenario, case, figure, its unit, the ceiling's case.
const RATES: [(&str, &str, &str, &str, Option<&str>); 6] = [
    ("upload", "20 x 500 B", "operations_per_second", "op/s", Some("grouped inserts")),
    ("upload", "100 x 500 B", "operations_per_second", "op/s", Some("grouped inserts")),
    ("upload", "1 x 500 B", "requests_per_second", "req/s", None),
    ("upload", "1 x 500 B, 5000 accounts", "requests_per_second", "req/s", None),
    ("poll", "nothing new", "requests_per_second", "req/s", Some("empty handler")),
    ("download", "500, warm, sealed", "requests_per_second", "pages/s", None),
];

/// Every chart for which there are figures.
#[must_use]
pub fn all(results: &Results) -> Vec<Chart> {
    let charts = [
        ("throughput.svg", throughput(results).map(|chart| chart.to_svg())),
        ("latency.svg", latency(results).map(|chart| chart.to_svg())),
        ("history.svg", growth(results, "history", "operations in the account").map(|chart| chart.to_svg())),
        ("crowd.svg", growth(results, "crowd", "accounts").map(|chart| chart.to_svg())),
        ("cold-pages.svg", cold_pages(results).map(|chart| chart.to_svg())),
        ("disk.svg", disk(results).map(|chart| chart.to_svg())),
    ];
    charts.into_iter().filter_map(|(name, svg)| Some((name, svg?))).collect()
}

/// The charts as images of a page, each with words for those who don't see it.
#[must_use]
pub fn images(results: &Results, folder: &str) -> String {
    let words = |name: &str| match name {
        "throughput.svg" => "Throughput next to the raw limits of the same run",
        "latency.svg" => "Latency of each kind of request, from the median to the maximum",
        "history.svg" => "Cost of an upload in an account with a short and with a long history",
        "crowd.svg" => "Cost of an upload with few and with many accounts",
        "cold-pages.svg" => "Pages per second from a cold log, sealed and as plain rows",
        _ => "Bytes on disk per operation",
    };
    let all = all(results);
    let images =
        all.iter().map(|(name, _)| format!("![{}; the figures are in the tables below]({folder}/{name})", words(name)));
    images.collect::<Vec<_>>().join("\n\n")
}

fn throughput(results: &Results) -> Option<Bars> {
    let mut bars = Vec::new();
    for (scenario, case, figure, unit, ceiling) in RATES {
        for on in DATABASES {
            let Some(value) = results.value(on, scenario, case, figure) else { continue };
            let short = case
                .replace(" accounts", "")
                .replace(", warm", "")
                .replace("500 B", "")
                .replace("nothing new", "")
                .replace("x ,", "of");
            let short = short.trim_end_matches(" x ").trim().to_owned();
            let name = format!("{scenario} {short}").trim_end().to_owned();
            bars.push(Bar {
                label: format!("{}: {name}, {unit}", database(on)),
                value,
                ceiling: ceiling.and_then(|ceiling| results.value(on, "ceiling", ceiling, figure)),
                bar: demanded(scenario, case, on, figure),
            });
        }
    }
    (!bars.is_empty()).then(|| Bars {
        title: "Throughput".to_owned(),
        subtitle: "each row on a scale of its own; grey: the raw limit that the same run measured".to_owned(),
        bars,
        shared_scale: false,
    })
}

fn latency(results: &Results) -> Option<Latencies> {
    const ROWS: [(&str, &str, &str); 8] = [
        ("upload", "20 x 500 B", "upload of 20"),
        ("upload", "1 x 500 B, 5000 accounts", "upload, 5000 users"),
        ("latency", "1 operation, one user", "upload, one user"),
        ("ceiling", "one commit", "one raw commit"),
        ("poll", "nothing new", "poll"),
        ("tail", "5 just written", "5 new operations"),
        ("download", "500, warm, sealed", "page of 500"),
        ("mixed", "2 % uploads, 98 % polls", "a real day's mixture"),
    ];
    let mut rows = Vec::new();
    for (scenario, case, label) in ROWS {
        for on in DATABASES {
            let value = |figure: &str| results.value(on, scenario, case, figure);
            let Some((p50_ms, p95_ms, p99_ms, max_ms)) =
                (|| Some((value("p50_ms")?, value("p95_ms")?, value("p99_ms")?, value("max_ms")?)))()
            else {
                continue;
            };
            let label = format!("{}: {label}", database(on));
            rows.push(Latency {
                label,
                p50_ms,
                p95_ms,
                p99_ms,
                max_ms,
                bar_ms: demanded(scenario, case, on, "p99_ms"),
            });
        }
    }
    (!rows.is_empty()).then(|| Latencies { title: "Latency under load".to_owned(), rows })
}

/// The two cases of a study, and how the costs of one request compare.
fn growth(results: &Results, scenario: &str, sizes_label: &str) -> Option<Lines> {
    let growth = results.cases().into_iter().find(|case| case.scenario == scenario && case.case == "growth")?;
    let size = |name: &str| growth.parameters.get(name).and_then(serde_json::Value::as_u64);
    let (from, to) = (size("from")?, size("to")?);
    let mut lines = Vec::new();
    for on in DATABASES {
        for (figure, label, unit) in [
            ("server_cpu_us_per_request", "server CPU", "µs"),
            ("database_cpu_us_per_request", "database CPU", "µs"),
            ("p50_ms", "p50", "ms"),
        ] {
            let at = |size: u64| {
                let of_size = |case: &&super::results::Case| {
                    case.scenario == scenario && case.database == on && case.case.starts_with(&format!("{size} "))
                };
                results.cases().into_iter().find(of_size)?.value(figure)
            };
            if let Some((small, large)) = at(from).zip(at(to)) {
                let label = format!("{}: {label}", database(on));
                lines.push(Line { label, unit: unit.to_owned(), values: vec![small, large] });
            }
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "numbers of operations and accounts")]
    let sizes = [from, to].map(|size| crate::bench::number::grouped(size as f64)).to_vec();
    (!lines.is_empty()).then(|| Lines {
        title: format!("Cost of an upload of 20 by {sizes_label}"),
        sizes_label: sizes_label.to_owned(),
        sizes,
        lines,
        bar: Some(1.2),
    })
}

fn cold_pages(results: &Results) -> Option<Bars> {
    let mut bars = Vec::new();
    for on in DATABASES {
        for case in ["plain rows", "sealed"] {
            if let Some(value) = results.value(on, "cold-pages", case, "requests_per_second") {
                bars.push(Bar { label: format!("{}: {case}", database(on)), value, ceiling: None, bar: None });
            }
        }
    }
    (!bars.is_empty()).then(|| Bars {
        title: "Cold pages of 500 operations".to_owned(),
        subtitle: "pages per second, one user after the other, nothing in memory".to_owned(),
        bars,
        shared_scale: true,
    })
}

fn disk(results: &Results) -> Option<Bars> {
    let mut bars = Vec::new();
    for (on, figure, label) in [
        ("postgres", "old_schema_bytes_per_operation", "PostgreSQL: the old server"),
        ("postgres", "disk_bytes_per_operation", "PostgreSQL: sealed"),
        ("sqlite", "disk_bytes_per_operation", "SQLite: sealed"),
    ] {
        if let Some(value) = results.value(on, "disk", "old operations", figure) {
            bars.push(Bar { label: label.to_owned(), value, ceiling: None, bar: None });
        }
    }
    (!bars.is_empty()).then(|| Bars {
        title: "Disk per old operation".to_owned(),
        subtitle: "bytes, all tables and indexes; shorter is better".to_owned(),
        bars,
        shared_scale: true,
    })
}
