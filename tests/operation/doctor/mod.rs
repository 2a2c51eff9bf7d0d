//! `supersync doctor`, as an operator calls it: beside running servers and without, on both databases. Every fault is
//! made for real; what is found says what and whose, what can be mended is, and nothing else is changed.

mod backups;
mod contents;
mod database;
mod documents;
mod network;
mod settings;

use std::process::{Output, Stdio};

use crate::harness::TestDatabase;
use serde_json::Value;
use supersync::config::Database;

const SECRET: &str = "u8Wc0PZrX3nq5TgLyB7vKdF2hJmNsE9a";

/// What the doctor says.
struct Said {
    output: Output,
    /// Check, verdict, what was found, account.
    findings: Vec<(String, String, String, Option<i64>)>,
    text: String,
}

impl Said {
    /// The findings of a check that are not `ok`.
    fn of(&self, check: &str) -> Vec<(&str, &str)> {
        let of_check = self.findings.iter().filter(|finding| finding.0 == check && finding.1 != "ok");
        of_check.map(|finding| (finding.1.as_str(), finding.2.as_str())).collect()
    }

    /// The worst verdict of a check; `""` if it was not made.
    fn verdict(&self, check: &str) -> &str {
        let order = ["ok", "fixed", "note", "warning", "fault"];
        let of_check = self.findings.iter().filter(|finding| finding.0 == check);
        let worst = of_check.max_by_key(|finding| order.iter().position(|known| *known == finding.1));
        worst.map_or("", |finding| &finding.1)
    }

    /// What is wrong: the checks with warnings and faults, but for those that are about the machine that tests run on.
    fn complaints(&self) -> Vec<(&str, &str)> {
        let bad = self.findings.iter().filter(|finding| finding.1 == "warning" || finding.1 == "fault");
        let of_machine = ["disk", "commit", "connections", "stuck"];
        bad.filter(|finding| !of_machine.contains(&&*finding.0)).map(|finding| (&*finding.0, &*finding.1)).collect()
    }

    #[track_caller]
    fn exit(&self, code: i32) -> &Self {
        assert_eq!(self.output.status.code(), Some(code), "{}", self.text);
        self
    }

    /// That the check has found exactly one thing, with this verdict and these words.
    #[track_caller]
    fn found(&self, check: &str, verdict: &str, words: &str) -> &Self {
        let all = self.of(check);
        assert!(all.len() == 1 && all[0].0 == verdict && all[0].1.contains(words), "{check}: {all:?}");
        self
    }
}

/// Calls the doctor for this database; nothing of the caller's environment gets through.
async fn doctor(database: &TestDatabase, variables: &[(&str, &str)], arguments: &[&str]) -> Said {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_supersync"));
    command
        .env_clear()
        .current_dir(database.data_dir())
        .env("DATA_DIR", database.data_dir())
        .env("JWT_SECRET", SECRET)
        .args(["doctor", "--json"])
        .args(arguments)
        .stdin(Stdio::null());
    if let Database::Postgres { url, .. } = database.settings() {
        use secrecy::ExposeSecret as _;
        command.env("DATABASE_URL", url.expose_secret());
    }
    command.envs(variables.iter().copied());
    let output = command.output().await.expect("the program runs");
    let text = String::from_utf8(output.stdout.clone()).expect("text");
    let all: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text} {output:?}"));
    let findings = all["findings"].as_array().expect("a list").iter().map(|finding| {
        let text = |member: &str| finding[member].as_str().expect("a text").to_owned();
        let is_bad = ["warning", "fault"].contains(&&*text("verdict"));
        assert_eq!(finding["advice"].is_string(), is_bad, "what is wrong has advice: {finding}");
        (text("check"), text("verdict"), text("found"), finding["account"].as_i64())
    });
    Said { findings: findings.collect(), output, text }
}

/// The same without the network.
async fn offline(database: &TestDatabase, arguments: &[&str]) -> Said {
    let arguments: Vec<&str> = ["--offline"].iter().chain(arguments).copied().collect();
    doctor(database, &[], &arguments).await
}
