//! The catalogue against the code and the documentation.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::*;
use crate::config::documents::{equals, read, sources, with_part};

/// The catalogue itself.
fn is_this(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "catalogue") || path.ends_with("catalogue.rs")
}

/// Every string literal of the sources that looks like a metric's name.
fn recorded() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in sources().filter(|path| !is_this(path)) {
        let text = fs::read_to_string(&file).expect("UTF-8");
        for macro_name in ["counter!(", "gauge!(", "histogram!("] {
            let found = text.split(macro_name).skip(1).filter_map(|after| after.trim_start().strip_prefix('"'));
            names.extend(found.filter_map(|rest| rest.split('"').next()).map(str::to_owned));
        }
    }
    names
}

#[test]
fn the_catalogue_lists_exactly_what_the_code_records() {
    let recorded = recorded();
    assert!(recorded.contains("supersync_process_open_fds"), "the search itself works");
    let listed: BTreeSet<String> = all().map(|metric| metric.name.to_owned()).collect();
    let missing: Vec<_> = recorded.difference(&listed).collect();
    assert!(missing.is_empty(), "add to the catalogue: {missing:?}");
    let gone: Vec<_> = listed.difference(&recorded).collect();
    assert!(gone.is_empty(), "nothing records these, so remove them from the catalogue: {gone:?}");
}

#[test]
fn names_are_unique_and_end_in_their_unit() {
    let names: BTreeSet<_> = all().map(|metric| metric.name).collect();
    assert_eq!(names.len(), all().count());
    for metric in all() {
        assert!(metric.name.starts_with("supersync_"), "{}", metric.name);
        assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{}", metric.name);
        let base = metric.name.trim_end_matches("_total");
        for unit in ["seconds", "bytes"] {
            assert_eq!(metric.unit == unit, base.ends_with(&format!("_{unit}")), "{}", metric.name);
        }
        for text in [metric.unit, metric.doc, metric.bad] {
            assert!(!text.is_empty() && !text.contains(['|', '\n']), "{}: {text}", metric.name);
        }
        assert!(!metric.labels.iter().any(|label| label.contains("user") || label.contains("mail")), "{}", metric.name);
    }
}

#[test]
fn the_documentation_lists_exactly_these_metrics() {
    const FILE: &str = "docs/observability.md";
    let mut part = "\n".to_owned();
    for group in GROUPS {
        let head = "| Metric | Kind | Unit | Labels | Meaning | What is bad |\n| --- | --- | --- | --- | --- | --- |";
        writeln!(part, "\n### {}\n\n{head}", group.title).expect("a string");
        for Metric { name, kind, unit, labels, doc, bad } in group.metrics {
            let (kind, labels) = (format!("{kind:?}").to_lowercase(), labels.join(", "));
            writeln!(part, "| `{name}` | {kind} | {unit} | {labels} | {doc} | {bad} |").expect("a string");
        }
    }
    equals(FILE, &with_part(&read(FILE), "<!-- metrics -->", "<!-- /metrics -->", &(part + "\n")));
}

#[test]
fn known_values_are_of_counters_with_that_label() {
    for (name, label, values) in KNOWN_VALUES {
        let metric = all().find(|metric| metric.name == *name).unwrap_or_else(|| panic!("{name} is not catalogued"));
        assert_eq!((metric.kind, metric.labels), (Kind::Counter, [*label].as_slice()), "{name}");
        assert_eq!(values.iter().collect::<BTreeSet<_>>().len(), values.len(), "{name}");
    }
}
