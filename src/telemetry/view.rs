//! What `/top.json` tells and `supersync top` shows: rates, latencies and shares of a short time, from two renderings of
//! the metrics. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::recent::{HotAccount, Seen, SlowRequest};

/// How long something took, in seconds; nothing if it did not happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Latency {
    pub p50: Option<f64>,
    pub p95: Option<f64>,
    pub p99: Option<f64>,
}

/// One kind of request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Route {
    /// Method and route.
    pub name: String,
    pub per_second: f64,
    pub latency: Latency,
}

/// One kind of connections to the database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Pool {
    pub name: String,
    pub busy: f64,
    pub most: f64,
}

/// Everything about a running server. Counts of things that happen are rates per second.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct View {
    pub version: String,
    /// The time that rates and latencies are of.
    pub seconds: f64,
    pub requests: f64,
    /// Answered with 5xx.
    pub failed: f64,
    /// Answered with 4xx.
    pub refused: f64,
    pub running: f64,
    pub latency: Latency,
    /// Busiest first.
    pub routes: Vec<Route>,
    pub uploads: f64,
    pub operations: f64,
    pub rejected: f64,
    /// By code, most first.
    pub rejections: Vec<(String, f64)>,
    pub commits: f64,
    pub commit: Latency,
    pub plans_per_commit: Option<f64>,
    pub operations_per_commit: Option<f64>,
    pub sockets: f64,
    pub notices: f64,
    pub actors: f64,
    pub writing: f64,
    pub queued: f64,
    pub mailbox: Latency,
    pub pools: Vec<Pool>,
    pub resident_bytes: Option<f64>,
    /// Processors in use.
    pub cores: Option<f64>,
    pub open_fds: Option<f64>,
    pub threads: Option<f64>,
    pub database_bytes: Option<f64>,
    /// How far back accounts are counted, in seconds.
    pub window_seconds: u64,
    /// Accounts, those with most requests first.
    pub accounts: Vec<HotAccount>,
    /// Requests of the last five minutes, the slowest first.
    pub slowest: Vec<SlowRequest>,
}

impl View {
    /// What came between two renderings that are so many seconds apart, and what is at the second one.
    pub(super) fn between(before: &str, now: &str, seconds: f64, seen: Seen) -> Self {
        let (before, now) = (Samples::parse(before), Samples::parse(now));
        let grown = Grown { before: &before, now: &now };
        let rate = |name, wanted: &dyn Fn(Labels<'_>) -> bool| grown.sum(name, wanted) / seconds;
        let requests = |wanted: &dyn Fn(Labels<'_>) -> bool| rate("supersync_http_requests_total", wanted);
        let mut routes: Vec<Route> = grown
            .by("supersync_http_requests_total", |labels| {
                format!("{} {}", label(labels, "method"), label(labels, "route"))
            })
            .map(|(name, count)| {
                let of_route = |labels: Labels<'_>| {
                    name.split_once(' ') == Some((label(labels, "method"), label(labels, "route")))
                };
                let latency = grown.latency("supersync_http_request_seconds", &of_route);
                Route { latency, per_second: count / seconds, name }
            })
            .collect();
        routes.sort_by(|a, b| b.per_second.total_cmp(&a.per_second));
        let outcomes = grown.by("supersync_operations_total", |labels| label(labels, "outcome").to_owned());
        let (accepted, rejected): (Vec<_>, Vec<_>) = outcomes.partition(|(outcome, _)| outcome == "accepted");
        let mut rejections: Vec<_> = rejected.into_iter().map(|(code, count)| (code, count / seconds)).collect();
        rejections.sort_by(|a, b| b.1.total_cmp(&a.1));
        let pool = |(labels, busy): &(Labels<'_>, f64)| {
            let most = now.of("supersync_store_connections_max").iter().find(|(most, _)| most == labels);
            Pool { name: label(labels, "pool").to_owned(), busy: *busy, most: most.map_or(0.0, |(_, most)| *most) }
        };
        let build = now.of("supersync_build_info").first();
        Self {
            version: build.map_or("", |(labels, _)| label(labels, "version")).to_owned(),
            seconds,
            requests: requests(&all),
            failed: requests(&|labels| label(labels, "status").starts_with('5')),
            refused: requests(&|labels| label(labels, "status").starts_with('4')),
            running: now.sum("supersync_http_requests_running"),
            latency: grown.latency("supersync_http_request_seconds", &all),
            routes,
            uploads: requests(&|labels| label(labels, "method") == "POST" && label(labels, "route") == "/api/sync/ops"),
            operations: accepted.iter().fold(0.0, |sum, (_, count)| sum + count / seconds),
            rejected: rejections.iter().fold(0.0, |sum, (_, rate)| sum + rate),
            rejections,
            commits: rate("supersync_commit_seconds_count", &all),
            commit: grown.latency("supersync_commit_seconds", &all),
            plans_per_commit: grown.mean("supersync_commit_plans"),
            operations_per_commit: grown.mean("supersync_commit_operations"),
            sockets: now.sum("supersync_sockets"),
            notices: rate("supersync_notices_total", &all),
            actors: now.sum("supersync_actors_live"),
            writing: now.sum("supersync_actors_writing"),
            queued: now.sum("supersync_engine_requests"),
            mailbox: grown.latency("supersync_mailbox_wait_seconds", &all),
            pools: now.of("supersync_store_connections_busy").iter().map(pool).collect(),
            resident_bytes: now.one("supersync_process_resident_memory_bytes"),
            cores: now.one("supersync_process_cpu_seconds").map(|_| rate("supersync_process_cpu_seconds", &all)),
            open_fds: now.one("supersync_process_open_fds"),
            threads: now.one("supersync_process_threads"),
            database_bytes: now.one("supersync_database_bytes"),
            window_seconds: seen.window_seconds,
            accounts: seen.accounts,
            slowest: seen.slowest,
        }
    }
}

/// `name="value",…` as it is rendered; none of our values holds a quotation mark.
type Labels<'a> = &'a str;

fn all(_: Labels<'_>) -> bool {
    true
}

fn label<'a>(labels: Labels<'a>, name: &str) -> &'a str {
    let of_name = |pair: &'a str| pair.trim_matches(['"', ',']).split_once("=\"").filter(|(key, _)| *key == name);
    labels.split("\",").find_map(of_name).map_or("", |(_, value)| value)
}

/// Every figure of a rendering, by name.
struct Samples<'a>(BTreeMap<&'a str, Vec<(Labels<'a>, f64)>>);

impl<'a> Samples<'a> {
    fn parse(text: &'a str) -> Self {
        let mut samples = Self(BTreeMap::new());
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let (name, labels) =
                series.strip_suffix('}').and_then(|series| series.split_once('{')).unwrap_or((series, ""));
            samples.0.entry(name).or_default().extend(value.parse().ok().map(|value| (labels, value)));
        }
        samples
    }

    fn of(&self, name: &str) -> &[(Labels<'a>, f64)] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    fn sum(&self, name: &str) -> f64 {
        self.of(name).iter().fold(0.0, |sum, (_, value)| sum + value)
    }

    fn one(&self, name: &str) -> Option<f64> {
        self.of(name).first().map(|(_, value)| *value)
    }
}

/// What counters have grown by.
struct Grown<'a> {
    before: &'a Samples<'a>,
    now: &'a Samples<'a>,
}

impl<'a> Grown<'a> {
    fn of(&self, name: &str) -> impl Iterator<Item = (Labels<'a>, f64)> {
        let known: BTreeMap<Labels<'_>, f64> = self.before.of(name).iter().copied().collect();
        let now = self.now.of(name).iter();
        now.map(move |(labels, value)| (*labels, value - known.get(labels).copied().unwrap_or_default()))
    }

    fn sum(&self, name: &str, wanted: &dyn Fn(Labels<'_>) -> bool) -> f64 {
        self.of(name).filter(|(labels, _)| wanted(labels)).fold(0.0, |sum, (_, grown)| sum + grown)
    }

    /// Sums of those that have grown, by a key.
    fn by(&self, name: &str, key: impl Fn(Labels<'_>) -> String) -> impl Iterator<Item = (String, f64)> {
        let mut sums: BTreeMap<String, f64> = BTreeMap::new();
        for (labels, grown) in self.of(name).filter(|(_, grown)| *grown > 0.0) {
            *sums.entry(key(labels)).or_default() += grown;
        }
        sums.into_iter()
    }

    fn mean(&self, name: &str) -> Option<f64> {
        let count = self.sum(&format!("{name}_count"), &all);
        (count > 0.0).then(|| self.sum(&format!("{name}_sum"), &all) / count)
    }

    /// Values are taken to lie evenly in their bucket; those beyond the last bound count as that bound.
    fn latency(&self, name: &str, wanted: &dyn Fn(Labels<'_>) -> bool) -> Latency {
        let name = format!("{name}_bucket");
        let buckets = self.of(&name).filter(|(labels, _)| wanted(labels));
        let mut sums: Vec<(f64, f64)> = Vec::new();
        for (bound, count) in buckets.filter_map(|(labels, count)| Some((label(labels, "le").parse().ok()?, count))) {
            match sums.iter_mut().find(|(known, _): &&mut (f64, f64)| known.total_cmp(&bound).is_eq()) {
                Some((_, sum)) => *sum += count,
                None => sums.push((bound, count)),
            }
        }
        sums.sort_by(|a, b| a.0.total_cmp(&b.0));
        let count = sums.last().map_or(0.0, |(_, count)| *count);
        let quantile = |part: f64| {
            let at = sums.iter().position(|(_, cumulative)| count > 0.0 && *cumulative >= part * count)?;
            let (below, counted) = if at == 0 { (0.0, 0.0) } else { sums[at - 1] };
            let (bound, cumulative) = sums[at];
            let within = (part * count - counted) / (cumulative - counted);
            Some(if bound.is_finite() { below + (bound - below) * within } else { below })
        };
        Latency { p50: quantile(0.5), p95: quantile(0.95), p99: quantile(0.99) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After `n` seconds of ten requests, four uploaded operations and two commits per second.
    fn rendered(n: u32) -> String {
        let (requests, uploads, commits) = (7 * n, 2 * n, 2 * n);
        format!(
            "# TYPE supersync_build_info gauge
supersync_build_info{{version=\"1.2.3\"}} 1
supersync_http_requests_total{{method=\"GET\",route=\"/api/sync/ops\",status=\"200\"}} {requests}
supersync_http_requests_total{{method=\"POST\",route=\"/api/sync/ops\",status=\"200\"}} {uploads}
supersync_http_requests_total{{method=\"GET\",route=\"/api/sync/status\",status=\"503\"}} {n}
supersync_http_request_seconds_bucket{{method=\"GET\",route=\"/api/sync/ops\",le=\"0.01\"}} {requests}
supersync_http_request_seconds_bucket{{method=\"GET\",route=\"/api/sync/ops\",le=\"+Inf\"}} {requests}
supersync_operations_total{{outcome=\"accepted\"}} {}
supersync_operations_total{{outcome=\"CONFLICT_STALE\"}} {n}
supersync_operations_total{{outcome=\"INTERNAL_ERROR\"}} 0
supersync_commit_seconds_bucket{{lane=\"ordinary\",le=\"0.25\"}} 0
supersync_commit_seconds_bucket{{lane=\"ordinary\",le=\"0.5\"}} {commits}
supersync_commit_seconds_bucket{{lane=\"ordinary\",le=\"+Inf\"}} {commits}
supersync_commit_seconds_count{{lane=\"ordinary\"}} {commits}
supersync_commit_plans_sum {}
supersync_commit_plans_count {commits}
supersync_actors_live 34
supersync_store_connections_busy{{pool=\"requests\"}} 3
supersync_store_connections_max{{pool=\"requests\"}} 8
supersync_process_cpu_seconds {n}
",
            4 * n,
            3 * commits
        )
    }

    fn view(before: u32, now: u32) -> View {
        let seen = Seen { window_seconds: 60, accounts: Vec::new(), slowest: Vec::new() };
        View::between(&rendered(before), &rendered(now), f64::from(now - before).max(1.0), seen)
    }

    #[test]
    fn rates_and_latencies_are_of_what_came_between() {
        let view = view(1, 3);
        assert_eq!((view.version.as_str(), view.requests, view.failed, view.refused), ("1.2.3", 10.0, 1.0, 0.0));
        assert_eq!((view.uploads, view.operations, view.rejected, view.commits), (2.0, 4.0, 1.0, 2.0));
        assert_eq!(view.rejections, [("CONFLICT_STALE".to_owned(), 1.0)]);
        let names: Vec<_> = view.routes.iter().map(|route| (route.name.as_str(), route.per_second)).collect();
        let expected = [("GET /api/sync/ops", 7.0), ("POST /api/sync/ops", 2.0), ("GET /api/sync/status", 1.0)];
        assert_eq!(names, expected);
        assert_eq!(view.latency, Latency { p50: Some(0.005), p95: Some(0.0095), p99: Some(0.0099) });
        assert_eq!((view.routes[0].latency, view.routes[1].latency), (view.latency, Latency::default()));
        assert_eq!((view.commit.p50, view.plans_per_commit), (Some(0.375), Some(3.0)));
        assert_eq!((view.actors, view.cores, view.resident_bytes), (34.0, Some(1.0), None));
        assert_eq!(view.pools, [Pool { name: "requests".to_owned(), busy: 3.0, most: 8.0 }]);
    }

    #[test]
    fn nothing_has_no_latency() {
        let view = view(2, 2);
        assert_eq!((view.requests, view.latency, view.plans_per_commit), (0.0, Latency::default(), None));
        assert!(view.routes.is_empty() && view.rejections.is_empty());
    }
}
