//! What is told of the findings: a line and what to do for people, one JSON object for scripts.
//!
//! Promises that no e-mail address is told, whoever said it.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use crate::diagnosis::{Finding, Verdict};
use crate::protocol::UserId;

/// The names of all checks. `docs/doctor.md` says what each one looks at and means.
pub const CHECKS: [&str; 32] = [
    "settings",
    "secret",
    "environment",
    "https",
    "passkeys",
    "rate-limits",
    "proxies",
    "mail",
    "disk",
    "files",
    "open-files",
    "database",
    "migrations",
    "take-over",
    "commit",
    "connections",
    "stuck",
    "wal",
    "clock",
    "schema",
    "integrity",
    "numbers",
    "housekeeping",
    "sequences",
    "segments",
    "counters",
    "orphans",
    "backups",
    "mail-server",
    "public-url",
    "websocket",
    "body-limit",
];

/// A finding, and which account it is about.
#[derive(Clone, Debug)]
pub(super) struct Told {
    finding: Finding,
    account: Option<UserId>,
}

impl Told {
    /// A finding about an account.
    pub(super) fn of(account: UserId, mut finding: Finding) -> Self {
        finding.found = format!("account {account}: {}", finding.found);
        Self { finding, account: Some(account) }
    }
}

impl From<Finding> for Told {
    fn from(finding: Finding) -> Self {
        Self { finding, account: None }
    }
}

/// How findings are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Text, as it comes.
    Text {
        /// With colours.
        colour: bool,
    },
    /// One object at the end.
    Json,
}

/// Where findings go.
pub(super) struct Report<'a> {
    output: &'a mut (dyn Write + Send),
    style: Style,
    /// Only for JSON.
    objects: Vec<Value>,
    counts: [u64; Verdict::ALL.len()],
}

impl<'a> Report<'a> {
    pub(super) fn new(output: &'a mut (dyn Write + Send), style: Style) -> Self {
        Self { output, style, objects: Vec::new(), counts: [0; Verdict::ALL.len()] }
    }

    /// Tells a finding.
    pub(super) fn tell(&mut self, told: impl Into<Told>) -> io::Result<()> {
        let Told { finding, account } = told.into();
        self.counts[finding.verdict as usize] += 1;
        let found = without_addresses(&finding.found);
        let advice = finding.advice.as_deref().map(without_addresses);
        match self.style {
            Style::Json => {
                let mut object = Map::new();
                object.insert("check".to_owned(), finding.check.into());
                object.insert("verdict".to_owned(), finding.verdict.as_str().into());
                object.insert("found".to_owned(), found.into());
                object.insert("advice".to_owned(), advice.into());
                if let Some(account) = account {
                    object.insert("account".to_owned(), account.into());
                }
                self.objects.push(object.into());
                Ok(())
            }
            Style::Text { colour } => {
                let word = finding.verdict.as_str();
                let (on, off) = if colour { (colour_of(finding.verdict), "\x1b[0m") } else { ("", "") };
                writeln!(self.output, "{on}{word:<8}{off} {:<13} {found}", finding.check)?;
                if let Some(advice) = advice {
                    writeln!(self.output, "{:>22} {advice}", "→")?;
                }
                self.output.flush()
            }
        }
    }

    /// Tells all of them.
    pub(super) fn tell_all(&mut self, all: impl IntoIterator<Item = Finding>) -> io::Result<()> {
        all.into_iter().try_for_each(|finding| self.tell(finding))
    }

    /// Sums up. Returns how many faults there are.
    pub(super) fn end(self) -> io::Result<u64> {
        let counts = || Verdict::ALL.into_iter().zip(self.counts);
        match self.style {
            Style::Json => {
                let summary: Map<String, Value> =
                    counts().map(|(verdict, count)| (verdict.as_str().to_owned(), count.into())).collect();
                let all = json!({
                    "program": env!("CARGO_PKG_VERSION"),
                    "findings": self.objects,
                    "summary": summary,
                });
                writeln!(self.output, "{all:#}")?;
            }
            Style::Text { .. } => {
                let all: Vec<String> = counts()
                    .rev()
                    .filter(|(_, count)| *count > 0)
                    .map(|(verdict, count)| match (verdict, count) {
                        (Verdict::Ok | Verdict::Fixed, _) | (_, 1) => format!("{count} {}", verdict.as_str()),
                        _ => format!("{count} {}s", verdict.as_str()),
                    })
                    .collect();
                writeln!(self.output, "\n{}", all.join(", "))?;
            }
        }
        self.output.flush()?;
        Ok(self.counts[Verdict::Fault as usize])
    }
}

const fn colour_of(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "\x1b[32m",
        Verdict::Fixed => "\x1b[36m",
        Verdict::Note => "\x1b[34m",
        Verdict::Warning => "\x1b[33m",
        Verdict::Fault => "\x1b[31m",
    }
}

/// The text on one line, with what looks like an e-mail address taken out: mail servers and mistyped settings hold some.
fn without_addresses(text: &str) -> String {
    let is_part = |c: char| !c.is_whitespace() && !c.is_control() && !"\"'`,;<>()[]{}|".contains(c);
    let mut told = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let is_address =
            word.split_once('@').is_some_and(|(user, host)| !["", "*"].contains(&user) && !host.is_empty());
        told.push_str(if is_address { "<address>" } else { word });
        let mut between = after.chars();
        if let Some(c) = between.next() {
            told.push(if c.is_control() { ' ' } else { c });
        }
        rest = between.as_str();
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(style: Style, all: Vec<Told>) -> (u64, String) {
        let mut output = Vec::new();
        let mut report = Report::new(&mut output, style);
        for one in all {
            report.tell(one).expect("memory takes everything");
        }
        let faults = report.end().expect("memory takes everything");
        (faults, String::from_utf8(output).expect("text"))
    }

    fn some() -> Vec<Told> {
        vec![
            Finding::ok("disk", "room").into(),
            Told::of(7, Finding::fault("sequences", "gap", "Restore.")),
            Finding::fault("mail-server", "550 <me@example.org>\r\nno", "Look.").into(),
        ]
    }

    #[test]
    fn people_get_lines_and_scripts_an_object() {
        let (faults, text) = told(Style::Text { colour: false }, some());
        assert_eq!(faults, 2);
        assert!(text.contains("fault    sequences     account 7: gap\n"), "{text}");
        assert!(text.contains("→ Restore.") && text.ends_with("\n2 faults, 1 ok\n"), "{text}");
        let (_, text) = told(Style::Json, some());
        let all: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((&all["findings"][1]["account"], &all["summary"]["fault"]), (&json!(7), &json!(2)));
        assert_eq!(all["findings"][0]["advice"], Value::Null);
    }

    #[test]
    fn colours_are_for_terminals() {
        assert!(!told(Style::Text { colour: false }, some()).1.contains('\x1b'));
        assert!(told(Style::Text { colour: true }, some()).1.contains("\x1b[31mfault"));
    }

    #[test]
    fn addresses_are_not_told() {
        for (text, clean) in [
            ("550 <me@example.org>\r\nno", "550 <<address>>  no"),
            ("is \"a@b.co,*@c.co\"; x", "is \"<address>,*@c.co\"; x"),
            ("postgres://user@host/db", "<address>"),
            ("at 5 @ home", "at 5 @ home"),
            ("", ""),
        ] {
            assert_eq!(without_addresses(text), clean, "{text}");
        }
    }

    #[test]
    fn names_are_given_once_and_fit_their_column() {
        let mut names = CHECKS.to_vec();
        assert!(names.iter().all(|name| name.len() <= 13), "{names:?}");
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CHECKS.len());
    }
}
