use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::bench::plan::shape::Prices;

fn case(scenario: &str, case: &str, database: &str, figures: &[(&str, f64)], parameters: &Value) -> Value {
    let figures: BTreeMap<_, _> =
        figures.iter().map(|(name, value)| (*name, json!({ "value": value, "unit": "" }))).collect();
    json!({ "scenario": scenario, "case": case, "database": database, "parameters": parameters, "figures": figures,
            "checks": [], "per_second": [] })
}

fn file(cases: &[Value]) -> Value {
    json!({
        "schema": 1, "date": "2026-11-22T10:00:00Z", "version": "0.1.0", "commit": "abc", "cases": cases,
        "machine": { "cores": 2, "processor": "A | B", "memory_bytes": 1_073_741_824, "system": null },
        "databases": [{ "kind": "postgres", "version": "15", "settings": { "fsync": "on" } }],
        "method": { "seconds": 10, "quick": false },
        "bars": [{ "scenario": "upload", "case": "20 x 500 B", "database": "postgres", "figure": "operations_per_second",
                   "bar": ">= 0.45 of ceiling grouped inserts", "measured": 0.5, "met": true }],
    })
}

fn results(files: &[Value]) -> Results {
    Results { runs: files.iter().map(|file| serde_json::from_value(file.clone()).unwrap()).collect() }
}

fn upload(ops: u32, server: f64, database: f64) -> Value {
    let figures = [("server_cpu_us_per_request", server), ("database_cpu_us_per_request", database)];
    case("upload", &format!("{ops} x 500 B"), "postgres", &figures, &json!({}))
}

#[test]
fn only_what_stands_between_markers_changes() {
    let page = "# Title\n<!-- bench:a -->\nold\n<!-- /bench -->\nwords\n<!-- bench:b -->\n<!-- /bench -->\nend\n";
    let texts = [("a", "new\n".to_owned()), ("b", String::new())];
    let filled = fill(page, &texts).unwrap();
    let expected =
        "# Title\n<!-- bench:a -->\n\nnew\n\n<!-- /bench -->\nwords\n<!-- bench:b -->\n\n<!-- /bench -->\nend\n";
    assert_eq!(filled, expected);
    assert_eq!(fill(&filled, &texts).unwrap(), filled, "filling again changes nothing");
}

#[test]
fn a_page_with_wrong_markers_is_refused() {
    let texts = [("a", "new".to_owned())];
    for (page, reason) in [
        ("nothing\n", "missing"),
        ("<!-- bench:a -->\n", "not closed"),
        ("<!-- bench:a -->\n<!-- bench:b -->\n<!-- /bench -->\n", "not closed"),
        ("<!-- bench:b -->\n<!-- /bench -->\n", "nothing is called"),
        ("<!-- /bench -->\n", "without a beginning"),
        ("<!-- bench:a -->\n<!-- /bench -->\n<!-- bench:a -->\n<!-- /bench -->\n", "twice"),
    ] {
        let error = fill(page, &texts).unwrap_err();
        assert!(error.contains(reason), "{page}: {error}");
    }
}

#[test]
fn what_is_no_result_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.json");
    let message = || read(std::slice::from_ref(&path)).unwrap_err().to_string();
    assert!(message().starts_with("reading "));
    std::fs::write(&path, "{}").unwrap();
    assert!(message().contains("not the results of a run"));
    let mut newer = file(&[]);
    newer["schema"] = json!(2);
    std::fs::write(&path, newer.to_string()).unwrap();
    assert!(message().contains("version 2"));
    std::fs::write(&path, file(&[]).to_string()).unwrap();
    assert_eq!(read(std::slice::from_ref(&path)).unwrap().runs.len(), 1);
}

#[test]
fn the_later_file_counts() {
    let old = case("poll", "nothing new", "sqlite", &[("p50_ms", 1.0)], &json!({}));
    let new = case("poll", "nothing new", "sqlite", &[("p50_ms", 2.0)], &json!({}));
    let other = case("poll", "nothing new", "postgres", &[("p50_ms", 3.0)], &json!({}));
    let results = results(&[file(&[old, other]), file(&[new])]);
    assert_eq!(results.cases().len(), 2);
    assert_eq!(results.value("sqlite", "poll", "nothing new", "p50_ms"), Some(2.0));
    assert_eq!(results.verdicts().len(), 1);
}

#[test]
fn tables_show_figures_machine_and_bars() {
    let poll = case("poll", "nothing new", "sqlite", &[("requests_per_second", 50_000.0), ("odd", 7.0)], &json!({}));
    let ceiling = case("ceiling", "one commit", "sqlite", &[("p50_ms", 0.5)], &json!({}));
    let tables: BTreeMap<_, _> = tables(&results(&[file(&[poll, ceiling])]), "folder").into_iter().collect();
    assert!(tables["charts"].ends_with("](folder/throughput.svg)"), "{}", tables["charts"]);
    assert!(tables["run"].contains("2 cores of A \\| B, 1.00 GiB, unknown"), "{}", tables["run"]);
    assert!(tables["run"].contains("PostgreSQL 15 (fsync=on)"), "{}", tables["run"]);
    assert!(tables["bars"].contains("| ≥ 0.45 of ceiling grouped inserts | 50 % | yes |"), "{}", tables["bars"]);
    assert!(tables["scenarios"].contains("| poll | nothing new | SQLite | 50,000 |"), "{}", tables["scenarios"]);
    assert!(tables["scenarios"].contains("| poll | nothing new | SQLite | odd 7.00 |"), "{}", tables["scenarios"]);
    assert!(!tables["scenarios"].contains("one commit") && tables["studies"].contains("one commit"));
}

#[test]
fn prices_are_what_was_measured() {
    // 100 + 1·10 and 100 + 20·10; the database likewise.
    let cases = [upload(1, 110.0, 60.0), upload(20, 300.0, 155.0)];
    let prices = prices::of(&results(&[file(&cases)]));
    assert!((prices.upload_server_us - 100.0).abs() < 1e-9 && (prices.upload_op_server_us - 10.0).abs() < 1e-9);
    assert!((prices.upload_db_us - 55.0).abs() < 1e-9 && (prices.upload_op_db_us - 5.0).abs() < 1e-9);
    assert!((prices.poll_server_us - Prices::default().poll_server_us).abs() < 1e-9, "not measured: built in");
    assert!(prices.source.contains("2026-11-22 (commit abc)"), "{}", prices.source);
    assert!(prices.check().is_ok());
    let nothing = prices::of(&results(&[file(&[])]));
    assert_eq!(nothing, Prices::default());
    // A noisy run in which 20 operations cost less than one.
    let odd = prices::of(&results(&[file(&[upload(1, 110.0, 60.0), upload(20, 90.0, 50.0)])]));
    assert!(odd.check().is_ok() && odd.upload_op_server_us == 0.0);
}

#[test]
fn charts_are_drawn_for_what_was_measured() {
    assert!(charts::all(&results(&[file(&[])])).is_empty());
    let rates =
        [("operations_per_second", 80_000.0), ("p50_ms", 1.0), ("p95_ms", 2.0), ("p99_ms", 3.0), ("max_ms", 4.0)];
    let small = case("history", "1000 operations in the account", "postgres", &[("p50_ms", 1.0)], &json!({}));
    let large = case("history", "1000000 operations in the account", "postgres", &[("p50_ms", 1.1)], &json!({}));
    let growth = case("history", "growth", "postgres", &[], &json!({ "from": 1_000, "to": 1_000_000 }));
    let cases = [
        case("upload", "20 x 500 B", "postgres", &rates, &json!({})),
        case("ceiling", "grouped inserts", "postgres", &[("operations_per_second", 160_000.0)], &json!({})),
        small,
        large,
        growth,
    ];
    let charts: BTreeMap<_, _> = charts::all(&results(&[file(&cases)])).into_iter().collect();
    assert_eq!(charts.keys().copied().collect::<Vec<_>>(), ["history.svg", "latency.svg", "throughput.svg"]);
    let images = charts::images(&results(&[file(&cases)]), "folder");
    assert_eq!(images.matches("](folder/").count(), 3, "{images}");
    assert!(charts["throughput.svg"].contains("80,000 (50 %)"), "{}", charts["throughput.svg"]);
    assert!(charts["history.svg"].contains("(1.10×)") && charts["history.svg"].contains("1,000,000"));
}
