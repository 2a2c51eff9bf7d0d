//! From two scrapes to what is shown: rates, quantiles, shares. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::histogram::{Histogram, grown};
use super::scrape::{HotAccount, Scrape, SlowRequest};
use super::text::Samples;

/// By what the busiest accounts are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    #[default]
    Requests,
    Operations,
    Bytes,
}

impl Order {
    pub(super) const fn next(self) -> Self {
        match self {
            Self::Requests => Self::Operations,
            Self::Operations => Self::Bytes,
            Self::Bytes => Self::Requests,
        }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Operations => "operations",
            Self::Bytes => "bytes",
        }
    }
}

/// How long something took, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Latency {
    pub(super) p50: Option<f64>,
    pub(super) p95: Option<f64>,
    pub(super) p99: Option<f64>,
}

impl Latency {
    fn of(histogram: &Histogram) -> Self {
        Self { p50: histogram.quantile(0.5), p95: histogram.quantile(0.95), p99: histogram.quantile(0.99) }
    }
}

/// One kind of request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Route {
    pub(super) name: String,
    pub(super) per_second: f64,
    pub(super) latency: Latency,
}

/// One kind of connections.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pool {
    pub(super) name: String,
    pub(super) busy: f64,
    pub(super) most: f64,
}

/// Everything that is shown. Rates are per second.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct View {
    pub(super) version: String,
    /// Seconds between the scrapes.
    pub(super) seconds: f64,
    pub(super) requests: f64,
    pub(super) failed: f64,
    pub(super) refused: f64,
    pub(super) running: f64,
    pub(super) latency: Latency,
    pub(super) routes: Vec<Route>,
    pub(super) uploads: f64,
    pub(super) operations: f64,
    pub(super) rejected: f64,
    /// By code, most first.
    pub(super) rejections: Vec<(String, f64)>,
    pub(super) commits: f64,
    pub(super) commit: Latency,
    pub(super) plans_per_commit: Option<f64>,
    pub(super) operations_per_commit: Option<f64>,
    pub(super) sockets: f64,
    pub(super) notices: f64,
    pub(super) actors: f64,
    pub(super) writing: f64,
    pub(super) queued: f64,
    pub(super) mailbox: Latency,
    pub(super) pools: Vec<Pool>,
    pub(super) resident_bytes: Option<f64>,
    /// Processors in use.
    pub(super) cores: Option<f64>,
    pub(super) open_fds: Option<f64>,
    pub(super) threads: Option<f64>,
    pub(super) database_bytes: Option<f64>,
    pub(super) accounts: Vec<HotAccount>,
    pub(super) slowest: Vec<SlowRequest>,
}

impl View {
    /// What came between two scrapes, and what is at the second one.
    pub(super) fn between(before: &Scrape, now: &Scrape) -> Self {
        let seconds = now.at.saturating_duration_since(before.at).as_secs_f64().max(1e-3);
        let (old, new) = (&before.samples, &now.samples);
        let rate = |name: &str| grown(old, new, name).map(|(_, grown)| grown).sum::<f64>() / seconds;
        let histogram = |name: &str| Histogram::between(old, new, name, |_| true);
        let with_status = |first: char| {
            let all = grown(old, new, "supersync_http_requests_total");
            all.filter(|(sample, _)| sample.label("status").starts_with(first)).map(|(_, n)| n).sum::<f64>() / seconds
        };
        let uploads = grown(old, new, "supersync_http_requests_total")
            .filter(|(sample, _)| sample.label("route") == "/api/sync/ops" && sample.label("method") == "POST");
        let (operations, rejections) = outcomes(old, new, seconds);
        let commits = histogram("supersync_commit_seconds");
        Self {
            version: new.of("supersync_build_info").first().map_or("", |sample| sample.label("version")).to_owned(),
            seconds,
            requests: rate("supersync_http_requests_total"),
            failed: with_status('5'),
            refused: with_status('4'),
            running: new.sum("supersync_http_requests_running"),
            latency: Latency::of(&histogram("supersync_http_request_seconds")),
            routes: routes(old, new, seconds),
            uploads: uploads.map(|(_, n)| n).sum::<f64>() / seconds,
            operations,
            rejected: rejections.iter().map(|(_, rate)| rate).sum(),
            rejections,
            commits: commits.count() / seconds,
            commit: Latency::of(&commits),
            plans_per_commit: histogram("supersync_commit_plans").mean(),
            operations_per_commit: histogram("supersync_commit_operations").mean(),
            sockets: new.sum("supersync_sockets"),
            notices: rate("supersync_notices_total"),
            actors: new.sum("supersync_actors_live"),
            writing: new.sum("supersync_actors_writing"),
            queued: new.sum("supersync_engine_requests"),
            mailbox: Latency::of(&histogram("supersync_mailbox_wait_seconds")),
            pools: pools(new),
            resident_bytes: new.one("supersync_process_resident_memory_bytes"),
            cores: cores(old, new, seconds),
            open_fds: new.one("supersync_process_open_fds"),
            threads: new.one("supersync_process_threads"),
            database_bytes: new.one("supersync_database_bytes"),
            accounts: now.recent.accounts.clone(),
            slowest: now.recent.slowest.clone(),
        }
    }

    pub(super) fn order(&mut self, order: Order) {
        self.accounts.sort_by_key(|hot| {
            let first = match order {
                Order::Requests => hot.requests,
                Order::Operations => hot.operations,
                Order::Bytes => hot.bytes,
            };
            (Reverse((first, hot.requests)), hot.account)
        });
    }
}

/// Operations accepted per second, and rejections by code.
fn outcomes(old: &Samples, new: &Samples, seconds: f64) -> (f64, Vec<(String, f64)>) {
    let (mut accepted, mut rejections) = (0.0, Vec::new());
    for (sample, grown) in grown(old, new, "supersync_operations_total") {
        let outcome = sample.label("outcome");
        if outcome == "accepted" {
            accepted += grown / seconds;
        } else if grown > 0.0 {
            rejections.push((outcome.to_owned(), grown / seconds));
        }
    }
    rejections.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    (accepted, rejections)
}

fn routes(old: &Samples, new: &Samples, seconds: f64) -> Vec<Route> {
    let mut rates: BTreeMap<(&str, &str), f64> = BTreeMap::new();
    for (sample, grown) in grown(old, new, "supersync_http_requests_total").filter(|(_, grown)| *grown > 0.0) {
        *rates.entry((sample.label("method"), sample.label("route"))).or_default() += grown / seconds;
    }
    let mut routes: Vec<Route> = rates
        .into_iter()
        .map(|((method, route), per_second)| {
            let of_route =
                |sample: &super::text::Sample| sample.label("method") == method && sample.label("route") == route;
            let histogram = Histogram::between(old, new, "supersync_http_request_seconds", of_route);
            Route { name: format!("{method} {route}"), per_second, latency: Latency::of(&histogram) }
        })
        .collect();
    routes.sort_by(|a, b| b.per_second.total_cmp(&a.per_second).then_with(|| a.name.cmp(&b.name)));
    routes
}

fn pools(new: &Samples) -> Vec<Pool> {
    let most = new.of("supersync_store_connections_max");
    let busy = new.of("supersync_store_connections_busy");
    let mut pools: Vec<Pool> = busy
        .iter()
        .map(|sample| {
            let name = sample.label("pool");
            let most = most.iter().find(|most| most.label("pool") == name).map_or(0.0, |most| most.value);
            Pool { name: name.to_owned(), busy: sample.value, most }
        })
        .collect();
    pools.sort_by(|a, b| a.name.cmp(&b.name));
    pools
}

/// A process that has started anew begins at nothing.
fn cores(old: &Samples, new: &Samples, seconds: f64) -> Option<f64> {
    let now = new.one("supersync_process_cpu_seconds")?;
    let before = old.one("supersync_process_cpu_seconds").filter(|before| *before <= now).unwrap_or(0.0);
    Some((now - before) / seconds)
}
