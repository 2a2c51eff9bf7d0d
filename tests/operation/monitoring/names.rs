//! Every metric that a dashboard or a rule asks for exists, with the labels that it asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use supersync::telemetry::catalogue::{self, Kind};

use crate::monitoring::{dashboards, folder, rules};

/// Names that end like this are not ours: other exporters', and Prometheus' own.
const FOREIGN: &[&str] = &["node_", "pg_", "probe_", "up", "ALERTS"];

/// The series of a catalogued metric.
fn series() -> BTreeMap<String, &'static [&'static str]> {
    let mut series = BTreeMap::new();
    for metric in catalogue::all() {
        if metric.kind == Kind::Histogram {
            for part in ["bucket", "sum", "count"] {
                series.insert(format!("{}_{part}", metric.name), metric.labels);
            }
        } else {
            series.insert(metric.name.to_owned(), metric.labels);
        }
    }
    series
}

/// The names in a query that look like this program's metrics, or like recorded ones.
pub fn used(expr: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = expr.split(|c: char| !is_part(c));
    words.filter(|word| word.starts_with("supersync_") || word.starts_with("supersync:")).map(str::to_owned).collect()
}

/// Label names in the selectors of a metric: `name{label="…",…}`.
fn labels_of(expr: &str, name: &str) -> BTreeSet<String> {
    let mut labels = BTreeSet::new();
    for (at, _) in expr.match_indices(&format!("{name}{{")) {
        let selector = &expr[at + name.len() + 1..];
        let mut rest = selector;
        while let Some((label, after)) = rest.split_once('"') {
            labels.insert(label.trim_start_matches(',').trim_end_matches(['=', '~', '!']).trim().to_owned());
            let Some((_, after)) = after.split_once('"') else { break };
            if !after.starts_with(',') {
                break;
            }
            rest = after;
        }
    }
    labels
}

fn all_exprs() -> Vec<(String, String)> {
    let panels = dashboards::queries().into_iter().map(|query| (query.panel, query.expr));
    let rules = rules::all().into_iter().map(|rule| (rule.name, rule.expr));
    let annotations = dashboards::all().into_iter().flat_map(|dashboard| {
        let list = dashboard["annotations"]["list"].as_array().cloned().unwrap_or_default();
        list.into_iter().map(|it| ("an annotation".to_owned(), it["expr"].as_str().expect("a query").to_owned()))
    });
    panels.chain(rules).chain(annotations).collect()
}

#[test]
fn dashboards_and_rules_ask_only_for_what_there_is() {
    let series = series();
    let recorded: BTreeSet<String> =
        rules::all().into_iter().filter(|rule| !rule.alert).map(|rule| rule.name).collect();
    let exprs = all_exprs();
    assert!(exprs.len() > 150, "the search itself works");
    for (place, expr) in exprs {
        let names = used(&expr);
        let foreign = FOREIGN.iter().any(|prefix| expr.contains(prefix));
        assert!(foreign || !names.is_empty(), "{place} asks for nothing of ours: {expr}");
        for name in names {
            if name.contains(':') {
                assert!(recorded.contains(&name), "{place} asks for {name}, which no rule records");
                continue;
            }
            let labels = series.get(&name).unwrap_or_else(|| panic!("{place} asks for {name}, which does not exist"));
            for label in labels_of(&expr, &name) {
                let known = labels.contains(&label.as_str()) || matches!(label.as_str(), "le" | "instance" | "job");
                assert!(known, "{place}: {name} has no label {label}");
            }
        }
    }
}

/// A metric that nobody looks at and that has no bad value is of no use.
#[test]
fn every_metric_is_shown_watched_or_explained() {
    let text: String = all_exprs().into_iter().map(|(_, expr)| expr + "\n").collect();
    let used = used(&text);
    let document = fs::read_to_string(folder("../docs/observability.md")).expect("the document");
    let mut shown = 0;
    for metric in catalogue::all() {
        shown += usize::from(used.iter().any(|name| name.starts_with(metric.name)));
        assert!(document.contains(&format!("| `{}` |", metric.name)), "{} is not documented", metric.name);
        assert!(metric.bad.ends_with('.') && metric.doc.ends_with('.'), "{}", metric.name);
    }
    assert!(2 * shown > catalogue::all().count(), "dashboards and rules show {shown} metrics only");
}

#[test]
fn labels_are_found() {
    let expr = r#"sum(rate(supersync_x_total{a="1",b!~"2|3, 4"}[5m])) / supersync_y"#;
    assert_eq!(used(expr), ["supersync_x_total", "supersync_y"].map(str::to_owned).into());
    assert_eq!(labels_of(expr, "supersync_x_total"), ["a", "b"].map(str::to_owned).into());
    assert!(labels_of(expr, "supersync_y").is_empty());
}
