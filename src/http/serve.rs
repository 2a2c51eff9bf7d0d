//! The listener: accepts connections as far as there is room, bounds how long they may be silent, and stops in an orderly
//! way.

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CONNECTION};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use hyper::body::{Frame, SizeHint};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics::{Counter, counter};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::address::Peer;
use super::base;
use super::codes;
use super::connection_limits::{
    Admission, Bounds, Connection, ConnectionLimits, ConnectionPermit, MAX_HEAD_BYTES, Watched,
};
use super::error::ApiError;
use super::health::PROBES;
use super::idle::IdleLimit;
use super::state::AppState;
use crate::descriptors::{METRICS_CONNECTIONS, METRICS_SPARE, SPARE_CONNECTIONS};

/// After a failed accept (out of file descriptors, mostly) the next try waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// How often such failures are logged at most.
const LOG_EVERY: Duration = Duration::from_secs(1);
/// A request's head has to arrive within this time, from its first byte on. A connection on which nothing comes ends with
/// nine eighths of `REQUEST_TIMEOUT_SECONDS`, or when its place is needed: proxies keep such connections for later requests.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// An evicted connection whose client takes no answer is cut after this time.
const LEAVING_TIME: Duration = Duration::from_secs(1);
/// How long a connection to the metrics listener may be silent.
const METRICS_SILENCE: Duration = Duration::from_secs(30);

/// What the system keeps of an answer that it can't send yet. Without a bound it would be megabytes for each connection, and
/// how fast the other side reads could be seen only each time that they have gone.
const UNSENT_BYTES: u32 = 512 * 1024;

/// Serves until `shutdown` is cancelled, then stops. For `timeouts.linger` everything is served as before, but readiness
/// says no and answers end their connections, so that a balancer goes elsewhere without meeting a closed door. Then: no
/// new connections, sockets closed, running requests finished within `timeouts.drain`. Whatever runs longer is cut off.
///
/// # Errors
/// When the listener's address can't be read.
pub async fn serve(listener: TcpListener, state: AppState, shutdown: CancellationToken) -> io::Result<()> {
    let address = listener.local_addr()?;
    let room = state.room;
    let bounds = Bounds { most: room.connections, spare: SPARE_CONNECTIONS, per_address: room.connections_per_address };
    let trusted = state.config.trusted_proxies.clone();
    let limits = ConnectionLimits::new("http", bounds, move |peer| trusted.trusts(peer));
    let router = super::router(state.clone());
    let base_path = state.config.base_path();
    let connections =
        Connections::new("http", router, limits, base_path, state.config.timeouts.socket, state.draining.clone());
    tracing::debug!(%address, "accepting connections");
    let told_to_stop = async {
        shutdown.cancelled().await;
        state.draining.cancel();
        sleep(state.config.timeouts.linger).await;
    };
    let mut told_to_stop = pin!(told_to_stop);
    connections.accept(&listener, &mut told_to_stop).await;
    drop(listener);
    let deadline = Instant::now() + state.config.timeouts.drain;
    state.engine.notifier().stop();
    connections.finish.cancel();
    connections.running.close();
    let answered = timeout_at(deadline, connections.running.wait()).await.is_ok();
    let said_goodbye = timeout_at(deadline, state.all_sockets_closed()).await.is_ok();
    if answered && said_goodbye {
        tracing::info!("every request has been answered");
    } else {
        tracing::warn!(cut = connections.running.len(), "requests were still running when the time to stop was up");
    }
    connections.cut.cancel();
    connections.running.wait().await;
    Ok(())
}

/// Serves a few connections until `shutdown` is cancelled; for listeners of the operator's.
///
/// # Errors
/// When the listener's address can't be read.
pub async fn serve_few(
    name: &'static str,
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
) -> io::Result<()> {
    listener.local_addr()?;
    let bounds = Bounds { most: METRICS_CONNECTIONS, spare: METRICS_SPARE, per_address: METRICS_CONNECTIONS };
    let limits = ConnectionLimits::new(name, bounds, |_| true);
    let connections = Connections::new(name, router, limits, String::new(), METRICS_SILENCE, shutdown.clone());
    connections.accept(&listener, shutdown.cancelled()).await;
    drop(listener);
    connections.finish.cancel();
    connections.running.close();
    if timeout_at(Instant::now() + LEAVING_TIME, connections.running.wait()).await.is_err() {
        connections.cut.cancel();
    }
    Ok(())
}

/// Connections that are being served.
struct Connections {
    router: Router,
    limits: Arc<ConnectionLimits>,
    /// The path under which users reach the server, or nothing.
    base_path: String,
    silence: Duration,
    running: TaskTracker,
    /// Whether the server is stopping, and whoever talks to it should talk to another one.
    leaving: CancellationToken,
    /// Finish the running request and close.
    finish: CancellationToken,
    /// Close at once.
    cut: CancellationToken,
    slow_heads: Counter,
    refused_busy: Counter,
}

impl Connections {
    fn new(
        name: &'static str,
        router: Router,
        limits: Arc<ConnectionLimits>,
        base_path: String,
        silence: Duration,
        leaving: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            router,
            limits,
            base_path,
            silence,
            leaving,
            running: TaskTracker::new(),
            finish: CancellationToken::new(),
            cut: CancellationToken::new(),
            slow_heads: counter!("supersync_connections_cut_total", "listener" => name, "reason" => "head"),
            refused_busy: counter!("supersync_connections_refused_total", "listener" => name, "reason" => "busy"),
        })
    }

    /// Accepts until `stop`.
    async fn accept(self: &Arc<Self>, listener: &TcpListener, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut logged_at: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                () = &mut stop => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    if let Some((permit, admission)) = self.limits.admit(peer.ip()).await {
                        self.start(stream, peer, permit, admission);
                    }
                }
                // Who has gone again before it was let in.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
                Err(error) => {
                    if logged_at.is_none_or(|at| at.elapsed() > LOG_EVERY) {
                        tracing::warn!(%error, "a connection could not be accepted");
                        logged_at = Some(Instant::now());
                    }
                    self.limits.out_of_files();
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn start(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr, permit: ConnectionPermit, admission: Admission) {
        // Answers are written whole; waiting for more to send along only delays them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection was gone before it was served");
            return;
        }
        #[cfg(target_os = "linux")]
        if let Err(error) = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES) {
            tracing::debug!(%error, "the system decides how much of an answer it keeps");
        }
        let tracked = Arc::clone(permit.connection());
        let io = TokioIo::new(Watched::new(IdleLimit::new(stream, self.silence), permit));
        let (all, asking) = (Arc::clone(self), Arc::clone(&tracked));
        let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            asking.asked();
            let (all, connection) = (Arc::clone(&all), Arc::clone(&asking));
            async move {
                let mut request = request.map(Body::new);
                let slash = base::strip(&mut request, &all.base_path);
                let mut answer = if admission == Admission::ProbesOnly && !PROBES.contains(&request.uri().path()) {
                    all.refused_busy.increment(1);
                    busy()
                } else if let Some(redirect) = slash {
                    redirect
                } else {
                    request.extensions_mut().insert(Peer(peer.ip(), Some(Arc::clone(&connection))));
                    all.router.clone().oneshot(request).await?
                };
                if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                    // It is not one of HTTP's any more.
                    connection.upgraded();
                    return Ok(answer.map(|body| Answer { body, connection: None }));
                }
                // The next request must not race with the connection's end.
                if all.leaving.is_cancelled() || admission == Admission::ProbesOnly {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(answer.map(|body| Answer { body, connection: Some(connection) }))
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // It would count the time between requests as well.
            .header_read_timeout(None::<Duration>)
            .max_header_size(MAX_HEAD_BYTES)
            .serve_connection(io, service)
            .with_upgrades();
        let all = Arc::clone(self);
        self.running.spawn(self.cut.clone().run_until_cancelled_owned(async move {
            let mut connection = pin!(connection);
            // What the system has already received, but not yet reported, is heard first.
            let mut eviction = pin!(async {
                tracked.evicted().await;
                let is_in_head = tracked.head_since().is_some();
                yield_now().await;
                is_in_head
            });
            let mut is_evicted = false;
            let mut is_finishing = false;
            let mut look_at = Instant::now() + all.head_time();
            loop {
                tokio::select! {
                    biased;
                    ended = connection.as_mut() => {
                        if let Err(error) = ended {
                            tracing::debug!(%error, "connection ended");
                        }
                        return;
                    }
                    () = all.finish.cancelled(), if !is_finishing => {
                        is_finishing = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    was_in_head = eviction.as_mut(), if !is_evicted => {
                        is_evicted = true;
                        if was_in_head && !tracked.is_busy() {
                            return;
                        }
                        connection.as_mut().graceful_shutdown();
                        look_at = Instant::now() + LEAVING_TIME;
                    }
                    () = sleep_until(look_at) => match all.look(&tracked, is_evicted) {
                        Some(later) => look_at = later,
                        None => return,
                    },
                }
            }
        }));
    }

    fn head_time(&self) -> Duration {
        HEAD_TIME.min(self.silence)
    }

    /// When to look at a connection again; `None`: its time is up.
    fn look(&self, connection: &Connection, is_evicted: bool) -> Option<Instant> {
        let (now, head_time) = (Instant::now(), self.head_time());
        match connection.head_since() {
            Some(since) if since + head_time <= now => {
                self.slow_heads.increment(1);
                None
            }
            Some(since) => Some(since + head_time),
            None if is_evicted && !connection.is_busy() => None,
            None => Some(now + head_time),
        }
    }
}

/// The answer when there is room for probes only. Any page may read it.
fn busy() -> Response {
    let error = ApiError::from(codes::BUSY).detail("all connections are taken");
    let mut answer = error.into_response();
    answer.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    answer
}

/// An answer's body, which tells its connection when it is gone.
struct Answer {
    body: Body,
    connection: Option<Arc<Connection>>,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            connection.answered();
        }
    }
}
