//! One request from arrival to answer: its id, its time limit, its log line and its metrics.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::HttpBody as _;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use tokio::time::Instant;
use tracing::Instrument as _;
use uuid::Uuid;

use super::error::{ApiError, Failure};
use super::health::PROBES;
use super::route::{self, Access, BodyLimit, Route};
use super::state::AppState;
use crate::accounts::AuthUser;
use crate::protocol::UserId;
use crate::spans;
use crate::telemetry::recent::{Recent, Request as Counted};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id that is taken over from the caller.
const MAX_REQUEST_ID_CHARS: usize = 128;
/// How much longer than its deadline a handler may take to say itself that it ran out of time.
const DEADLINE_GRACE: Duration = Duration::from_millis(250);

/// What a request is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Finding out who asks.
    Auth,
    /// Reading and unpacking the body.
    Body,
    /// Whatever the request is about.
    Engine,
    /// Putting the answer together.
    Encode,
}

impl Phase {
    const ALL: [Self; 4] = [Self::Auth, Self::Body, Self::Engine, Self::Encode];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Body => "body",
            Self::Engine => "engine",
            Self::Encode => "encode",
        }
    }
}

#[derive(Debug)]
struct Progress {
    phase: Phase,
    since: Instant,
    spent: [Duration; 4],
}

#[derive(Debug)]
struct Inner {
    deadline: Instant,
    route: Option<&'static Route>,
    sender: OnceLock<AuthUser>,
    operations: AtomicU64,
    bytes: AtomicU64,
    progress: Mutex<Progress>,
}

/// The request that is being served; handlers find it in the request's extensions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Trace(Arc<Inner>);

impl Trace {
    fn new(deadline: Instant, route: Option<&'static Route>) -> Self {
        let progress = Mutex::new(Progress::new(Instant::now()));
        let (operations, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        Self(Arc::new(Inner { deadline, route, sender: OnceLock::new(), operations, bytes, progress }))
    }

    /// The request's row in the table of routes; `None`: it has none.
    #[must_use]
    pub fn route(&self) -> Option<&'static Route> {
        self.0.route
    }

    /// The right to use the route; what is not in the table asks for everything.
    #[must_use]
    pub fn access(&self) -> Access {
        self.0.route.map_or(Access::ProvenAdmin, |route| route.access)
    }

    /// The bound of the body.
    #[must_use]
    pub fn body_limit(&self) -> BodyLimit {
        self.0.route.map_or(BodyLimit::NoBody, |route| route.body)
    }

    /// When the request's time is up.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.0.deadline
    }

    /// Says what the request is busy with from now on.
    pub fn enter(&self, phase: Phase) {
        self.0.progress.lock().unwrap_or_else(PoisonError::into_inner).enter(phase, Instant::now());
    }

    /// Says whose request it is.
    #[must_use]
    pub fn set_sender(&self, sender: AuthUser) -> &AuthUser {
        self.0.sender.get_or_init(|| sender)
    }

    /// Whose request it is, once `super::admit` has found out.
    #[must_use]
    pub fn sender(&self) -> Option<&AuthUser> {
        self.0.sender.get()
    }

    /// Says how long its body is, unpacked.
    pub fn received(&self, bytes: usize) {
        self.0.bytes.store(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Says how many operations it brings.
    pub fn brings(&self, operations: usize) {
        self.0.operations.store(u64::try_from(operations).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn user(&self) -> Option<UserId> {
        self.sender().map(|sender| sender.user_id)
    }

    /// What took longest.
    fn slowest(&self) -> Phase {
        self.0.progress.lock().unwrap_or_else(PoisonError::into_inner).slowest(Instant::now())
    }
}

impl Progress {
    fn new(now: Instant) -> Self {
        Self { phase: Phase::Auth, since: now, spent: [Duration::ZERO; 4] }
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        self.spent[self.phase as usize] += now - self.since;
        (self.phase, self.since) = (phase, now);
    }

    fn slowest(&mut self, now: Instant) -> Phase {
        self.enter(self.phase, now);
        let longest = Phase::ALL.into_iter().max_by_key(|phase| self.spent[*phase as usize]);
        longest.unwrap_or(Phase::Engine)
    }
}

/// The request's trace; a request that did not come through [`observed`] gets one with the given time.
#[must_use]
pub fn trace(extensions: &axum::http::Extensions, handler_timeout: Duration) -> Trace {
    extensions.get::<Trace>().cloned().unwrap_or_else(|| Trace::new(Instant::now() + handler_timeout, None))
}

fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(&REQUEST_ID).and_then(|value| value.to_str().ok());
    let sane = |id: &&str| {
        (1..=MAX_REQUEST_ID_CHARS).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    given.filter(sane).map_or_else(|| fresh_id().to_string(), str::to_owned)
}

/// A version 7 id whose random part comes from this thread's generator: asking the kernel would be a system call per
/// request.
fn fresh_id() -> Uuid {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    uuid::Builder::from_unix_timestamp_millis(millis, &rand::random()).into_uuid()
}

fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Gives the request an id and a time limit, and writes it down when it is over.
pub async fn observed(state: &AppState, mut request: Request, next: impl AsyncFnOnce(Request) -> Response) -> Response {
    let started = Instant::now();
    let deadline = started + state.config.timeouts.handler;
    let route = request.extensions().get::<MatchedPath>().cloned();
    let row = route.as_ref().and_then(|route| route::find(state.routes, request.method(), route.as_str()));
    let trace = Trace::new(deadline, row);
    let id = request_id(request.headers());
    let method = method_label(request.method());
    let span = tracing::info_span!("request", request_id = %id);
    let slow = state.config.timeouts.slow_request;
    let _running = state.meters.running();
    let recent = Arc::clone(&state.recent);
    let mut ongoing =
        Ongoing { span: span.clone(), method, route, trace: trace.clone(), started, slow, recent, is_over: false };
    request.extensions_mut().insert(trace.clone());
    // A handler that panics must not take the connection, and the answer, with it. What it worked on is dropped with
    // it.
    let caught = AssertUnwindSafe(next(request)).catch_unwind();
    let traced = spans::request(method, ongoing.route(), &id);
    let served = tokio::time::timeout_at(deadline + DEADLINE_GRACE, caught).instrument(span.clone());
    // One layer less for every request that nobody traces.
    let served = if traced.is_disabled() { served.await } else { served.instrument(traced.clone()).await };
    let mut response = match served {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => ApiError::internal("panic").into_response(),
        Err(_) => ApiError::deadline().closing().into_response(),
    };
    ongoing.is_over = true;
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let (status, duration) = (response.status(), started.elapsed());
    let failure = response.extensions().get::<Failure>().map(|failure| &*failure.0);
    spans::answered(&traced, status.as_u16(), trace.user());
    span.in_scope(|| ongoing.write(status, duration, failure));
    state.meters.record(method, ongoing.route(), status, duration);
    ongoing.count(status.as_u16(), duration, response.body().size_hint().lower());
    response
}

/// A request that is being served. When the client hangs up before it is over, nothing after the handler runs any more: then
/// this writes it down.
struct Ongoing {
    span: tracing::Span,
    method: &'static str,
    route: Option<MatchedPath>,
    trace: Trace,
    started: Instant,
    slow: Duration,
    recent: Arc<Recent>,
    is_over: bool,
}

impl Ongoing {
    fn route(&self) -> &str {
        self.route.as_ref().map_or("unmatched", MatchedPath::as_str)
    }

    /// Counts it with the bytes of its answer. Status 0: it has none.
    fn count(&self, status: u16, duration: Duration, answered: u64) {
        let mut counted = Counted::over(self.method, self.route(), status, self.started, duration);
        counted.account = self.trace.user();
        counted.operations = self.trace.0.operations.load(Ordering::Relaxed);
        counted.bytes = answered + self.trace.0.bytes.load(Ordering::Relaxed);
        self.recent.count(&counted, || self.trace.slowest().as_str());
    }

    fn write(&self, status: StatusCode, duration: Duration, failure: Option<&str>) {
        let (method, route, user_id) = (self.method, self.route(), self.trace.user());
        let duration_ms = millis(duration);
        let code = status.as_u16();
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(user_id, method, route, status = code, duration_ms, error = failure, "request failed");
        } else if let Some(reason) = failure.filter(|_| status.is_client_error()) {
            tracing::info!(user_id, method, route, status = code, duration_ms, reason, "request refused");
        } else if let Some(error) = failure {
            tracing::warn!(user_id, method, route, status = code, duration_ms, error, "request refused");
        } else if PROBES.contains(&route) || route.starts_with("/assets/") || route == "/favicon.ico" {
            // Many, and of no interest while they succeed.
            tracing::debug!(method, route, status = code, duration_ms, "request");
        } else {
            tracing::info!(user_id, method, route, status = code, duration_ms, "request");
        }
        self.write_if_slow(status.as_str(), duration);
    }

    fn write_if_slow(&self, status: &str, duration: Duration) {
        if duration < self.slow {
            return;
        }
        let (method, route, user_id) = (self.method, self.route(), self.trace.user());
        let (duration_ms, phase) = (millis(duration), self.trace.slowest().as_str());
        tracing::warn!(user_id, method, route, status, duration_ms, phase, "slow request");
        metrics::counter!("supersync_slow_requests_total", "route" => route.to_owned()).increment(1);
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let duration = self.started.elapsed();
        metrics::counter!("supersync_http_requests_abandoned_total", "route" => self.route().to_owned()).increment(1);
        self.count(0, duration, 0);
        self.span.in_scope(|| self.write_if_slow("abandoned", duration));
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_for(given: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_str(given).unwrap());
        request_id(&headers)
    }

    #[test]
    fn only_sane_request_ids_are_taken_over() {
        assert_eq!(id_for("abc-1_2.3"), "abc-1_2.3");
        assert_ne!(id_for("a b"), "a b");
        let long = "x".repeat(MAX_REQUEST_ID_CHARS + 1);
        assert_ne!(id_for(&long), long);
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }

    #[test]
    fn the_longest_phase_is_named() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut progress = Progress::new(start);
        progress.enter(Phase::Body, at(2));
        progress.enter(Phase::Engine, at(7));
        assert_eq!(progress.slowest(at(10)), Phase::Body);
        assert_eq!(progress.slowest(at(13)), Phase::Engine);
    }
}
