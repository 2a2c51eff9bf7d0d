//! What runs of the benchmark wrote, read again.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// The version of the results that is understood.
pub const SCHEMA: u64 = 1;

/// One run's results.
#[derive(Clone, Debug, Deserialize)]
pub struct Run {
    /// Version of the file.
    pub schema: u64,
    /// When it began.
    pub date: String,
    /// The program's version.
    pub version: String,
    /// The program's commit, if known.
    pub commit: Option<String>,
    /// Where it ran.
    pub machine: BTreeMap<String, Value>,
    /// On what.
    pub databases: Vec<BTreeMap<String, Value>>,
    /// How.
    pub method: BTreeMap<String, Value>,
    /// What was measured.
    pub cases: Vec<Case>,
    /// What was reached.
    pub bars: Vec<Verdict>,
}

/// One case.
#[derive(Clone, Debug, Deserialize)]
pub struct Case {
    /// The scenario.
    pub scenario: String,
    /// Its name.
    pub case: String,
    /// `sqlite`, `postgres` or `foreign`.
    pub database: String,
    /// What distinguishes it.
    pub parameters: BTreeMap<String, Value>,
    /// What was measured.
    pub figures: BTreeMap<String, Figure>,
}

/// A number.
#[derive(Clone, Debug, Deserialize)]
pub struct Figure {
    /// The number.
    pub value: f64,
}

/// What a figure was held to.
#[derive(Clone, Debug, Deserialize)]
pub struct Verdict {
    /// The scenario.
    pub scenario: String,
    /// The case.
    pub case: String,
    /// The database.
    pub database: String,
    /// The figure.
    pub figure: String,
    /// What it is held to, in words.
    pub bar: String,
    /// What was measured.
    pub measured: f64,
    /// Whether that is enough.
    pub met: bool,
}

impl Case {
    /// A figure's value.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<f64> {
        self.figures.get(name).map(|figure| figure.value)
    }
}

/// The cases of several runs. Where two measured the same, the later file counts.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// The runs, in the order of the files.
    pub runs: Vec<Run>,
}

impl Results {
    /// Every case, in the order in which they were measured first.
    #[must_use]
    pub fn cases(&self) -> Vec<&Case> {
        let mut all: Vec<&Case> = Vec::new();
        for case in self.runs.iter().flat_map(|run| &run.cases) {
            let same =
                |one: &&Case| (&one.scenario, &one.case, &one.database) == (&case.scenario, &case.case, &case.database);
            match all.iter().position(same) {
                Some(at) => all[at] = case,
                None => all.push(case),
            }
        }
        all
    }

    /// Every verdict, likewise.
    #[must_use]
    pub fn verdicts(&self) -> Vec<&Verdict> {
        let mut all: Vec<&Verdict> = Vec::new();
        for verdict in self.runs.iter().flat_map(|run| &run.bars) {
            let key = |one: &Verdict| {
                (one.scenario.clone(), one.case.clone(), one.database.clone(), one.figure.clone(), one.bar.clone())
            };
            match all.iter().position(|one| key(one) == key(verdict)) {
                Some(at) => all[at] = verdict,
                None => all.push(verdict),
            }
        }
        all
    }

    /// A figure.
    #[must_use]
    pub fn value(&self, database: &str, scenario: &str, case: &str, figure: &str) -> Option<f64> {
        self.find(database, scenario, case)?.value(figure)
    }

    /// A case.
    #[must_use]
    pub fn find(&self, database: &str, scenario: &str, case: &str) -> Option<&Case> {
        self.cases().into_iter().find(|one| one.database == database && one.scenario == scenario && one.case == case)
    }
}
