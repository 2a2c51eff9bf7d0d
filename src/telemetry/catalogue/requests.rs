//! Metrics of requests and sockets.

use super::{Metric, counter, gauge, histogram};

pub(super) const METRICS: &[Metric] = &[
    counter(
        "supersync_http_requests_total",
        "requests",
        &["method", "route", "status"],
        "Requests answered.",
        "More than a few in ten thousand with a status of 500 or above: users get errors. Many 429: a client loops, or limits are too tight. Many 401 at once: sessions were revoked, or a proxy drops headers.",
    ),
    histogram(
        "supersync_http_request_seconds",
        "seconds",
        &["method", "route", "status"],
        "Time from a request's head to its answer.",
        "Less than 99 % of the answers within 1 s, or anything beyond 30 s: the app seems to hang.",
    ),
    gauge(
        "supersync_http_requests_running",
        "requests",
        &[],
        "Requests under way.",
        "Grows and does not fall: something waits, mostly for the database.",
    ),
    counter(
        "supersync_http_requests_abandoned_total",
        "requests",
        &["route"],
        "Requests given up by the client before the answer.",
        "A steady rate: clients or the proxy lose patience, or the network is bad.",
    ),
    counter(
        "supersync_slow_requests_total",
        "requests",
        &["route"],
        "Requests that took longer than SLOW_REQUEST_SECONDS, answered or given up by the client.",
        "Anything above 0: the log names route and phase.",
    ),
    counter(
        "supersync_refusals_total",
        "answers",
        &["code"],
        "Answers that refuse a whole request with a code that the app reads.",
        "A jump: many clients do the same wrong thing, mostly after a release of the app.",
    ),
    gauge(
        "supersync_sockets",
        "sockets",
        &[],
        "Open WebSockets.",
        "Falls at once: a restart, or the proxy cuts connections. Near MAX_SOCKETS: new ones are refused.",
    ),
    counter(
        "supersync_sockets_opened_total",
        "sockets",
        &[],
        "WebSockets that were admitted.",
        "Many times the number of open ones per hour: clients are cut off and come back.",
    ),
    counter(
        "supersync_sockets_refused_total",
        "sockets",
        &["reason"],
        "WebSockets closed instead of admitted, by why.",
        "`too_many` or `not_accepted` all the time: clients reconnect in a loop.",
    ),
    counter(
        "supersync_sockets_closed_total",
        "sockets",
        &["reason"],
        "Admitted WebSockets that ended; `client`: it went or stopped answering.",
        "`replaced` all the time: two devices share a client id. `error`: see the log.",
    ),
    counter(
        "supersync_notices_total",
        "notices",
        &[],
        "Notices of new operations sent to WebSockets.",
        "None while operations are accepted from accounts with several devices: nobody is told.",
    ),
];
