//! Every metric, in one table: its description at `/metrics` comes from here, and tests hold the code,
//! `docs/observability.md`, the dashboards and the rules to it.

mod table;
#[cfg(test)]
mod tests;

pub use table::GROUPS;

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name. Counters end in `_total`; times and sizes in their unit.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// What is counted or measured.
    pub unit: &'static str,
    /// Its labels; each has few values.
    pub labels: &'static [&'static str],
    /// What it tells. One line.
    pub doc: &'static str,
    /// Which values are bad, and what they mean. One line.
    pub bad: &'static str,
}

/// Metrics that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// The heading.
    pub title: &'static str,
    /// Its metrics.
    pub metrics: &'static [Metric],
}

const fn counter(name: &'static str, unit: &'static str, labels: &'static [&'static str]) -> Metric {
    Metric { name, kind: Kind::Counter, unit, labels, doc: "", bad: "" }
}

const fn gauge(name: &'static str, unit: &'static str, labels: &'static [&'static str]) -> Metric {
    Metric { kind: Kind::Gauge, ..counter(name, unit, labels) }
}

const fn histogram(name: &'static str, unit: &'static str, labels: &'static [&'static str]) -> Metric {
    Metric { kind: Kind::Histogram, ..counter(name, unit, labels) }
}

impl Metric {
    const fn tells(self, doc: &'static str) -> Self {
        Self { doc, ..self }
    }

    const fn bad(self, bad: &'static str) -> Self {
        Self { bad, ..self }
    }
}

/// Every metric, in the table's order.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    GROUPS.iter().flat_map(|group| group.metrics)
}

/// Label values of counters that alerts and dashboards look at: metric, label, values. These series are there from the
/// start; others appear with their first event.
pub const KNOWN_VALUES: &[(&str, &str, &[&str])] = &[
    (
        "supersync_operations_total",
        "outcome",
        &[
            "accepted",
            "DUPLICATE_OPERATION",
            "CONFLICT_CONCURRENT",
            "CONFLICT_STALE",
            "CONFLICT_SUPERSEDED",
            "INTERNAL_ERROR",
            "INVALID_PAYLOAD",
            "INVALID_VECTOR_CLOCK",
        ],
    ),
    ("supersync_snapshots_total", "outcome", &["accepted", "SYNC_IMPORT_EXISTS", "REPAIR_STALE", "INTERNAL_ERROR"]),
    ("supersync_engine_refused_total", "bound", &["user", "requests", "bytes"]),
    ("supersync_slow_connections_total", "because", &["slow_body", "slow_reader"]),
    ("supersync_commits_total", "outcome", &["committed", "stale", "duplicate_id", "contended", "error"]),
    (
        "supersync_sockets_closed_total",
        "reason",
        &["client", "shutdown", "replaced", "not_accepted", "reset", "flooded"],
    ),
    (
        "supersync_sockets_refused_total",
        "reason",
        &["malformed", "not_accepted", "too_many", "shutdown", "error", "full", "address"],
    ),
    ("supersync_rate_limited_total", "tier", &["own", "address", "network", "failed"]),
    ("supersync_sweeps_total", "outcome", &["ok", "error", "held_back"]),
    (
        "supersync_sweep_deleted_total",
        "kind",
        &["archives", "devices", "tokens", "sessions", "tickets", "security", "events"],
    ),
    ("supersync_registrations_total", "outcome", &["ok"]),
    ("supersync_session_checks_total", "source", &["cache", "database"]),
    ("supersync_mails_total", "outcome", &["sent", "retried", "failed", "dropped", "logged"]),
    ("supersync_bring_backs_total", "outcome", &["done", "refused", "error"]),
];
