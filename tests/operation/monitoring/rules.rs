//! The rules: sound, tested, and each alert with a section in the runbook.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::monitoring::{folder, program};

/// A rule as its file has it.
#[derive(Clone, Debug)]
pub struct Rule {
    pub name: String,
    pub expr: String,
    /// An alert; else a recorded series.
    pub alert: bool,
    /// Its lines.
    text: String,
}

fn files(path: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder(path)).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

/// Every rule of every file: list items that begin with `- alert:` or `- record:`. promtool checks that this is how the
/// files are made; nothing else of YAML is needed here.
pub fn all() -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for file in files("prometheus/rules") {
        for line in fs::read_to_string(file).expect("UTF-8").lines() {
            let item = line.trim_start();
            let start = |key: &str| item.strip_prefix(key).map(|name| (name.trim().to_owned(), key.contains("alert")));
            if let Some((name, alert)) = start("- alert:").or_else(|| start("- record:")) {
                rules.push(Rule { name, expr: String::new(), alert, text: String::new() });
            } else if !item.starts_with("- name:")
                && !item.starts_with('#')
                && let Some(rule) = rules.last_mut()
            {
                rule.text.push_str(line);
                rule.text.push('\n');
            }
        }
    }
    for rule in &mut rules {
        let (_, after) = rule.text.split_once("expr:").expect("a rule has an expression");
        // Up to the next key of the same depth.
        let end = ["\n        for:", "\n        labels:"].iter().filter_map(|key| after.find(key)).min();
        rule.expr = after[..end.unwrap_or(after.len())].trim().trim_start_matches('|').to_owned();
    }
    rules
}

fn promtool(arguments: &[&str], files: Vec<PathBuf>) {
    let mut command = program("promtool");
    let output = command.args(arguments).args(files).output().expect("promtool runs");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "promtool {arguments:?}:\n{}", String::from_utf8_lossy(&said));
}

#[test]
fn the_configuration_is_sound() {
    promtool(&["check", "config", "--syntax-only"], vec![folder("prometheus/prometheus.yml")]);
    promtool(&["check", "rules"], files("prometheus/rules"));
}

#[test]
fn the_rules_pass_their_unit_tests() {
    promtool(&["test", "rules"], files("prometheus/tests"));
}

/// Who is woken at night finds out what to do.
#[test]
fn every_alert_has_a_section_in_the_runbook_and_a_unit_test() {
    let runbook = fs::read_to_string(folder("../docs/runbook.md")).expect("the runbook");
    let sections: BTreeSet<&str> = runbook.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let tests: String = files("prometheus/tests").iter().map(|file| fs::read_to_string(file).expect("UTF-8")).collect();
    let alerts: Vec<Rule> = all().into_iter().filter(|rule| rule.alert).collect();
    assert!(alerts.len() > 30, "the search itself works");
    for alert in &alerts {
        let name = &alert.name;
        assert!(sections.contains(name.as_str()), "docs/runbook.md has no section ### {name}");
        let link = format!("runbook_url: docs/runbook.md#{}\n", name.to_lowercase());
        assert!(alert.text.contains(&link), "{name} does not link to its section");
        assert!(alert.text.contains("summary:"), "{name} says nothing");
        assert!(["page", "ticket"].iter().any(|it| alert.text.contains(&format!("severity: {it}\n"))), "{name}");
        assert!(tests.contains(&format!("alertname: {name}\n")), "monitoring/prometheus/tests has no test of {name}");
    }
    let names: BTreeSet<&str> = alerts.iter().map(|alert| alert.name.as_str()).collect();
    for section in sections {
        assert!(names.contains(section), "docs/runbook.md explains {section}, which is no alert");
        let (_, text) = runbook.split_once(&format!("### {section}\n")).expect("found above");
        let text = text.split("\n##").next().unwrap_or_default();
        for part in ["**Means.**", "**Look.**", "**Do.**"] {
            assert!(text.contains(part), "docs/runbook.md, {section}: {part} is missing");
        }
    }
}

/// The sources of all tests.
fn sources(at: &Path) -> String {
    let entries = fs::read_dir(at).expect("a folder").map(|entry| entry.expect("an entry").path());
    let texts = entries.map(|path| match path.extension() {
        _ if path.is_dir() => sources(&path),
        Some(end) if end == "rs" => fs::read_to_string(path).expect("UTF-8"),
        _ => String::new(),
    });
    texts.collect()
}

#[test]
fn what_the_runbook_says_of_recovery_is_tested() {
    let runbook = fs::read_to_string(folder("../docs/runbook.md")).expect("the runbook");
    let (_, part) = runbook.split_once("## What heals by itself\n").expect("the section");
    let table = part.split("\n## ").next().expect("its text").lines().filter(|line| line.starts_with("| "));
    let sources = sources(&folder("../tests"));
    let faults: Vec<&str> = table.skip(2).collect();
    assert!(faults.len() > 10, "the search itself works");
    for fault in faults {
        let tests: Vec<&str> = fault.rsplit('|').nth(1).expect("four columns").split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test holds this: {fault}");
        for test in tests {
            assert!(sources.contains(&format!("async fn {test}(")), "there is no test {test}: {fault}");
        }
    }
}
