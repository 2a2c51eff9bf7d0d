//! What a run tells: a line per case for people, JSON for programs (`scripts/bench-report` makes tables and charts).

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hdrhistogram::Histogram;
use procfs::{CpuInfo, Current as _, Meminfo};
use serde::Serialize;
use serde_json::{Value, json};

use crate::load::{Counted, Outcome};
use crate::session::Session;
use crate::usage::{Cpu, others};

/// Version of the JSON; grows when a member changes its meaning or goes.
const SCHEMA: u32 = 2;

/// What a run tells besides its cases: on which machine, from which sources, on which databases, how. `commit` is of the
/// working copy, with `+` when it has changes. `file_system` is the scratch directory's: in memory (`tmpfs`) nothing is
/// durable.
pub fn head(directory: &Path, databases: &[Value], method: &Value) -> Value {
    let mounts = procfs::mounts().unwrap_or_default();
    // The last one mounted on a point hides those before it, and `max_by_key` prefers the last.
    let mount =
        mounts.iter().filter(|mount| directory.starts_with(&mount.fs_file)).max_by_key(|mount| mount.fs_file.len());
    json!({
        "schema": SCHEMA,
        "date": jiff::Timestamp::now().to_string(),
        "version": env!("CARGO_PKG_VERSION"),
        "commit": commit(),
        "machine": {
            "cores": cores(),
            "processor": CpuInfo::current().ok().and_then(|info| info.model_name(0).map(str::to_owned)),
            "memory_bytes": Meminfo::current().ok().map(|memory| memory.mem_total),
            "kernel": std::fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|text| text.trim().to_owned()),
            "file_system": mount.map(|mount| &mount.fs_vfstype),
        },
        "databases": databases,
        "method": method,
    })
}

pub fn failures(cases: &[Case]) -> Vec<String> {
    let failed = |case: &Case| {
        let name = format!("{} {} on {}", case.scenario, case.name, case.database);
        let failed = case.checks.iter().filter(|check| !check.passed);
        failed.map(|check| format!("{name}: {}: {}", check.name, check.detail)).collect::<Vec<_>>()
    };
    cases.iter().flat_map(failed).collect()
}

pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|changes| !changes.is_empty());
    Some(if changed { commit + "+" } else { commit })
}

#[derive(Clone, Serialize)]
pub struct Check {
    /// What must hold.
    pub name: String,
    /// Whether it does.
    pub passed: bool,
    /// How much was looked at, or what is wrong.
    pub detail: String,
}

impl Check {
    pub fn new(name: &str, passed: bool, detail: impl Into<String>) -> Self {
        Self { name: name.to_owned(), passed, detail: detail.into() }
    }
}

/// What was measured in one case.
#[derive(Clone, Serialize)]
pub struct Case {
    pub scenario: &'static str,
    /// Which case of it, for example `20 x 500 B`.
    #[serde(rename = "case")]
    pub name: String,
    /// `sqlite`, `postgres` or `foreign`; the frame fills it in.
    pub database: &'static str,
    /// What distinguishes it from other cases, and how much load there was.
    pub parameters: BTreeMap<&'static str, Value>,
    /// What was measured; names end with the unit. What could not be measured is missing.
    pub figures: BTreeMap<String, f64>,
    pub checks: Vec<Check>,
}

/// A count or a number of bytes as a figure.
#[expect(clippy::cast_precision_loss, reason = "counts and bytes are far below 2^52")]
pub const fn float(count: u64) -> f64 {
    count as f64
}

/// Milliseconds that the given share of durations did not exceed; `None` without any.
pub fn quantile_ms(latency: &Histogram<u64>, share: f64) -> Option<f64> {
    (!latency.is_empty()).then(|| float(latency.value_at_quantile(share)) / 1e3)
}

impl Case {
    pub fn new(scenario: &'static str, name: impl Into<String>) -> Self {
        let (parameters, figures) = (BTreeMap::new(), BTreeMap::new());
        Self { scenario, name: name.into(), database: "", parameters, figures, checks: Vec::new() }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.parameters.insert(name, value.into());
        self
    }

    /// Adds a figure; `None` (unknown) adds nothing.
    pub fn figure(&mut self, name: impl Into<String>, value: impl Into<Option<f64>>) {
        self.figures.extend(value.into().map(|value| (name.into(), value)));
    }

    /// Adds what a load achieved and used: throughput, latency, processor time, and memory at this moment.
    pub fn load(&mut self, outcome: &Outcome, session: &Session) {
        let total = outcome.total();
        self.counted("", &total, outcome.lasted);
        self.cpu(&outcome.cpu, total.latency.len(), total.operations);
        let capacity = outcome.lasted.as_secs_f64() * float(cores() as u64);
        let others = others(&outcome.cpu).map(|time| time.as_secs_f64() / capacity * 100.0);
        self.figure("others_cpu_percent", others);
        self.memory(session);
    }

    /// Adds throughput and latency under names that begin with `prefix`.
    pub fn counted(&mut self, prefix: &str, counted: &Counted, lasted: Duration) {
        let rate = |count: u64| (count > 0).then(|| float(count) / lasted.as_secs_f64().max(1e-9));
        self.figure(format!("{prefix}requests_per_second"), rate(counted.latency.len()));
        self.figure(format!("{prefix}operations_per_second"), rate(counted.operations));
        self.latencies(prefix, &counted.latency);
    }

    /// Adds latencies under names that begin with `prefix`.
    pub fn latencies(&mut self, prefix: &str, latency: &Histogram<u64>) {
        for (name, share) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)] {
            self.figure(format!("{prefix}{name}_ms"), quantile_ms(latency, share));
        }
    }

    /// Adds processor time per request, and per operation where there are any.
    pub fn cpu(&mut self, cpu: &Cpu, requests: u64, operations: u64) {
        for who in ["server", "database", "generator"] {
            for (what, count) in [("request", requests), ("operation", operations)] {
                let each = cpu.get(who).filter(|_| count > 0).map(|time| time.as_secs_f64() * 1e6 / float(count));
                self.figure(format!("{who}_cpu_us_per_{what}"), each);
            }
        }
    }

    /// Adds the memory of the server and of its database at this moment.
    pub fn memory(&mut self, session: &Session) {
        let meter = session.meter();
        self.figure("server_memory_bytes", meter.server_memory().map(float));
        self.figure("database_memory_bytes", meter.database_memory().map(float));
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} on {}:", self.scenario, self.name, self.database)?;
        for (name, value) in &self.figures {
            let digits = if value.abs() < 100.0 { 2 } else { 0 };
            write!(f, " {name} {value:.digits$}")?;
        }
        for check in &self.checks {
            let verdict = if check.passed { "ok" } else { "FAILED" };
            write!(f, "\n  {verdict}: {} ({})", check.name, check.detail)?;
        }
        Ok(())
    }
}
