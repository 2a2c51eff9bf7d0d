//! Every panel and every rule, asked of a real Prometheus that scrapes a real server under load.

use std::collections::BTreeMap;
use std::fs;

use tokio::time::{Instant, timeout};

use crate::harness::{Backend, LONG_PATIENCE, Program, TestDatabase};
use crate::monitoring::dashboards::{self, Query};
use crate::monitoring::load::Load;
use crate::monitoring::names;
use crate::monitoring::prometheus::{LOOK_EVERY, Prometheus};
use crate::monitoring::rules;

/// Panels that must show more than nothing under load.
const BUSY: &[&str] = &[
    "Servers that answer",
    "Requests by outcome",
    "Requests without an error",
    "Sync answers within 1 s",
    "How long sync requests take",
    "Memory",
    "Processor",
    "Accounts in memory",
    "Time of a group commit",
    "Accounts per group commit",
    "Operations per group commit",
    "Operations that lose a race",
    "Share of conflicts",
    "Sent again",
    "Database",
    "Room left",
    "Accounts",
    "Age of the newest backup",
    "Slowest statements (99 %)",
    "Most frequent statements",
    "Time spent in statements",
    "Open WebSockets",
    "Notices",
    "Clean-ups",
    "Token checks",
];
/// Ages and such, which may be long.
const LONG: &[&str] = &["Since the last clean-up", "Age of the newest backup"];

/// Why the query's answer makes no sense yet.
fn nonsense(query: &Query, values: &[f64], most: f64) -> Option<String> {
    let title = query.panel.split(", ").nth(1).unwrap_or_default();
    let finite: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    if finite.is_empty() {
        return Some(format!("no value: {values:?}"));
    }
    // "-1" says that something is not watched.
    let min = query.min.unwrap_or(f64::NEG_INFINITY).min(if LONG.contains(&title) { -1.0 } else { 0.0 });
    let max = match query.unit.as_str() {
        "percentunit" => 1.0,
        "s" if !LONG.contains(&title) => most,
        _ => f64::INFINITY,
    };
    if query.min.is_some()
        && let Some(odd) = finite.iter().find(|value| **value < min || **value > max)
    {
        return Some(format!("{odd} is not between {min} and {max}"));
    }
    (BUSY.contains(&title) && finite.iter().all(|value| *value <= 0.0)).then(|| "nothing is happening".to_owned())
}

/// What is still wrong, by place.
async fn look(prometheus: &Prometheus, queries: &[Query], lifetime: Instant) -> BTreeMap<String, String> {
    let mut wrong = BTreeMap::new();
    let mut busy: BTreeMap<&str, bool> = BTreeMap::new();
    for query in queries {
        let expr = query.expr.replace("$__rate_interval", "10s");
        let values = prometheus.query(&expr).await;
        // A panel with several lines is busy when one of them is.
        match nonsense(query, &values, lifetime.elapsed().as_secs_f64() + 1.0) {
            Some(why) if why == "nothing is happening" => {
                busy.entry(&query.panel).or_insert(false);
            }
            Some(why) => {
                wrong.insert(format!("{}: {expr}", query.panel), why);
            }
            None => {
                busy.insert(&query.panel, true);
            }
        }
    }
    for (panel, _) in busy.into_iter().filter(|(_, busy)| !busy) {
        wrong.insert(panel.to_owned(), "nothing is happening".to_owned());
    }
    for rule in prometheus.rules().await {
        let name = rule["name"].as_str().expect("a name").to_owned();
        if rule["health"] != "ok" {
            wrong.insert(name, format!("health {}: {}", rule["health"], rule["lastError"]));
        } else if rule["type"] == "alerting" {
            if rule["state"] == "firing" {
                wrong.insert(name, "fires on a healthy server".to_owned());
            }
        } else if prometheus.query(&name).await.is_empty() {
            wrong.insert(name, "records nothing".to_owned());
        }
    }
    // An alert whose series do not exist is silent for the wrong reason.
    for rule in rules::all() {
        for series in names::used(&rule.expr) {
            if prometheus.query(&format!("count({series})")).await.is_empty() {
                wrong.insert(format!("{}: {series}", rule.name), "no such series".to_owned());
            }
        }
    }
    wrong
}

async fn every_panel_and_rule_answers(backend: Backend) {
    let started = Instant::now();
    let database = TestDatabase::create(backend).await;
    let backups = database.data_dir().join("backups");
    fs::create_dir(&backups).expect("made");
    fs::write(backups.join("first.ssb"), "a backup").expect("written");
    let backups = backups.to_str().expect("UTF-8").to_owned();
    let settings = [("BACKUP_DIR", backups.as_str()), ("SWEEP_INTERVAL_SECONDS", "2")];
    // What the database holds is counted at the start and then every few minutes.
    let before = Program::start(&database).await;
    Load::new(&before).await.round().await;
    before.kill().await;
    let program = Program::start_watched(&database, &settings).await;
    let prometheus = Prometheus::start(program.metrics.as_deref().expect("metrics are on")).await;

    let mut load = Load::new(&program).await;
    let mut other = Load::new(&program).await;
    other.rarely().await;
    let queries = dashboards::queries();
    let mut wrong = BTreeMap::new();
    let all_well = async {
        let mut pace = tokio::time::interval(LOOK_EVERY);
        loop {
            pace.tick().await;
            load.round().await;
            other.round().await;
            let mut newcomer = Load::new(&program).await;
            newcomer.round().await;
            newcomer.leave().await;
            wrong = look(&prometheus, &queries, started).await;
            // The embedded database's log is looked at after a while only.
            wrong.retain(|place, _| !(backend == Backend::Postgres && place.ends_with("supersync_sqlite_wal_pages")));
            if wrong.is_empty() {
                return;
            }
        }
    };
    let in_time = timeout(2 * LONG_PATIENCE, all_well).await;
    assert!(in_time.is_ok() && wrong.is_empty(), "{wrong:#?}");
    if let Some(folder) = std::env::var_os("SUPERSYNC_PANEL_DATA") {
        let mut data = Vec::new();
        for query in &queries {
            let expr = query.expr.replace("$__rate_interval", "10s");
            let series = prometheus.range(&expr).await;
            data.push(serde_json::json!({ "panel": query.panel, "unit": query.unit, "expr": expr, "data": series }));
        }
        let path = std::path::Path::new(&folder).join(format!("{backend:?}.json"));
        fs::write(path, serde_json::to_string(&data).expect("JSON")).expect("written");
    }
    program.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_panel_and_rule_answers_with_sqlite() {
    Box::pin(every_panel_and_rule_answers(Backend::Sqlite)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_panel_and_rule_answers_with_postgres() {
    Box::pin(every_panel_and_rule_answers(Backend::Postgres)).await;
}
