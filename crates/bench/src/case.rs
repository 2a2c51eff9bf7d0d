//! One measured case of a scenario: figures with names and units, and the checks that give them meaning.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::check::Check;
use super::load::{KindOutcome, Outcome};
use super::session::Session;
use super::usage::CpuUsed;

/// A number with a name and a unit.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Its name, unit last or in [`Self::unit`]; bars find it by this.
    pub name: String,
    /// Its unit: `1/s`, `ms`, `us`, `B`, `s`, `%`, or empty.
    pub unit: &'static str,
    /// The number.
    pub value: f64,
}

/// What was measured in one case.
#[derive(Clone, Debug, Serialize)]
pub struct Case {
    /// The scenario.
    pub scenario: &'static str,
    /// Which case of it, for example `20 x 500 B`.
    pub case: String,
    /// `sqlite`, `postgres` or `foreign`; the frame fills it in.
    pub database: &'static str,
    /// What distinguishes it from other cases, and how much load there was.
    pub parameters: BTreeMap<&'static str, Value>,
    /// What was measured, in the order of the report. What could not be measured is missing.
    pub figures: Vec<Figure>,
    /// What was checked.
    pub checks: Vec<Check>,
    /// Requests answered in each second, all kinds together.
    pub per_second: Vec<u64>,
}

/// Rounds and shows: the figures are below 2^52.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts and bytes are far below 2^52")]
pub const fn float(count: u64) -> f64 {
    count as f64
}

/// Microseconds of `time` for each of `count`; `None` without any.
fn micros_per(time: Option<Duration>, count: u64) -> Option<f64> {
    time.filter(|_| count > 0).map(|time| time.as_secs_f64() * 1e6 / float(count))
}

impl Case {
    /// A case without figures.
    #[must_use]
    pub fn new(scenario: &'static str, case: impl Into<String>) -> Self {
        Self {
            scenario,
            case: case.into(),
            database: "",
            parameters: BTreeMap::new(),
            figures: Vec::new(),
            checks: Vec::new(),
            per_second: Vec::new(),
        }
    }

    /// Notes a parameter.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.parameters.insert(name, value.into());
        self
    }

    /// Adds a figure; `None` (unknown) adds nothing.
    pub fn figure(&mut self, name: impl Into<String>, unit: &'static str, value: impl Into<Option<f64>>) {
        if let Some(value) = value.into() {
            self.figures.push(Figure { name: name.into(), unit, value });
        }
    }

    /// The value of a figure.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.name == name).map(|figure| figure.value)
    }

    /// Adds a check.
    pub fn check(&mut self, check: Check) {
        self.checks.push(check);
    }

    /// Adds what a load achieved and used: throughput, latency, processor time.
    pub fn load(&mut self, outcome: &Outcome) {
        let total = outcome.total();
        self.rates("", &total, outcome.lasted);
        self.latencies("", &total);
        self.cpu(&outcome.cpu, total.latency.count(), total.operations);
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let capacity = outcome.lasted.as_secs_f64() * float(cores as u64);
        let strangers = outcome.cpu.strangers().map(|time| time.as_secs_f64() / capacity * 100.0);
        self.figure("strangers_cpu_percent", "%", strangers);
        self.per_second = total.per_second;
    }

    /// Adds throughput and latency of one kind of request, under names that begin with `kind`.
    pub fn kind(&mut self, kind: &str, counted: &KindOutcome, lasted: Duration) {
        let prefix = format!("{kind}_");
        self.rates(&prefix, counted, lasted);
        self.latencies(&prefix, counted);
    }

    fn rates(&mut self, prefix: &str, counted: &KindOutcome, lasted: Duration) {
        let seconds = lasted.as_secs_f64();
        let rate = |count: u64| (seconds > 0.0).then(|| float(count) / seconds);
        self.figure(format!("{prefix}requests_per_second"), "1/s", rate(counted.latency.count()));
        if counted.operations > 0 {
            self.figure(format!("{prefix}operations_per_second"), "1/s", rate(counted.operations));
        }
    }

    /// Adds latencies under names that begin with `prefix`.
    pub fn latencies(&mut self, prefix: &str, counted: &KindOutcome) {
        let latency = &counted.latency;
        for (name, share) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)] {
            self.figure(format!("{prefix}{name}_ms"), "ms", latency.quantile_ms(share));
        }
    }

    /// Adds processor time per request, and per operation where there are any.
    pub fn cpu(&mut self, cpu: &CpuUsed, requests: u64, operations: u64) {
        for (who, time) in [("server", cpu.server), ("database", cpu.database), ("generator", cpu.generator)] {
            self.figure(format!("{who}_cpu_us_per_request"), "us", micros_per(time, requests));
            self.figure(format!("{who}_cpu_us_per_operation"), "us", micros_per(time, operations));
        }
    }

    /// Adds the memory of the server and of its database at this moment.
    pub fn memory(&mut self, session: &Session) {
        let meter = session.meter();
        self.figure("server_memory_bytes", "B", meter.server_memory().map(float));
        self.figure("database_memory_bytes", "B", meter.database_memory().map(float));
    }

    /// Adds how much the database has grown per stored operation.
    pub fn disk(&mut self, grown: Option<u64>, operations: usize) {
        if operations > 0 {
            let per_operation = grown.map(|grown| float(grown) / float(operations as u64));
            self.figure("disk_bytes_per_operation", "B", per_operation);
        }
    }
}
