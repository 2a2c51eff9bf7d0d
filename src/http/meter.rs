//! Counters of requests by method, route and status. Owns the handles: looking one up in the recorder builds and hashes
//! its labels, which for a poll would cost more than the poll.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::http::StatusCode;
use metrics::{Counter, Gauge, Histogram};

/// One method's, route's and status's counters.
#[derive(Clone)]
struct Meter {
    requests: Counter,
    seconds: Histogram,
}

/// By method and status, then by route: there are few of either, and a route's name is its only owned part.
type Table = HashMap<(&'static str, u16), HashMap<Box<str>, Meter>>;

/// The counters in use so far. Methods, routes and statuses are bounded, so the table is.
pub struct Meters {
    table: ArcSwap<Table>,
    running: Gauge,
}

/// A request under way; dropping it ends it.
pub struct Running(Gauge);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

impl Default for Meters {
    fn default() -> Self {
        Self { table: ArcSwap::default(), running: metrics::gauge!("supersync_http_requests_running") }
    }
}

impl Meters {
    /// Counts a request as under way while the value lives.
    pub fn running(&self) -> Running {
        self.running.increment(1.0);
        Running(self.running.clone())
    }

    /// Counts a request that is over.
    pub fn record(&self, method: &'static str, route: &str, status: StatusCode, duration: Duration) {
        let key = (method, status.as_u16());
        let table = self.table.load();
        let known = table.get(&key).and_then(|routes| routes.get(route));
        let seconds = duration.as_secs_f64();
        match known {
            Some(meter) => meter.count(seconds),
            None => self.add(key, route).count(seconds),
        }
    }

    fn add(&self, key: (&'static str, u16), route: &str) -> Meter {
        let labels = [("method", key.0.to_owned()), ("route", route.to_owned()), ("status", key.1.to_string())];
        let meter = Meter {
            requests: metrics::counter!("supersync_http_requests_total", &labels),
            seconds: metrics::histogram!("supersync_http_request_seconds", &labels),
        };
        // From zero on, or the first slow request would not show as an increase.
        metrics::counter!("supersync_slow_requests_total", "route" => route.to_owned()).increment(0);
        self.table.rcu(|table| {
            let mut table = Table::clone(table);
            table.entry(key).or_default().insert(route.into(), meter.clone());
            Arc::new(table)
        });
        meter
    }
}

impl Meter {
    fn count(&self, seconds: f64) {
        self.requests.increment(1);
        self.seconds.record(seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_request_gets_one_entry() {
        let meters = Meters::default();
        for _ in 0..2 {
            meters.record("GET", "/a", StatusCode::OK, Duration::ZERO);
            meters.record("GET", "/b", StatusCode::OK, Duration::ZERO);
            meters.record("GET", "/a", StatusCode::NOT_FOUND, Duration::ZERO);
        }
        let table = meters.table.load();
        assert_eq!((table.len(), table[&("GET", 200)].len(), table[&("GET", 404)].len()), (2, 2, 1));
    }
}
