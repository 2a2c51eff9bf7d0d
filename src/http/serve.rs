//! The listener: accepts connections, bounds how long they may be silent, and stops in an orderly way.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, StatusCode};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::address::Peer;
use super::idle::IdleLimit;
use super::state::AppState;

/// After a failed accept (out of file descriptors, mostly) the next try waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown` is cancelled, then stops. For `timeouts.linger` everything is served as before, but readiness
/// says no and answers end their connections, so that a balancer goes elsewhere without meeting a closed door. Then: no
/// new connections, sockets closed, running requests finished within `timeouts.drain`. Whatever runs longer is cut off.
///
/// # Errors
/// When the listener's address can't be read.
pub async fn serve(listener: TcpListener, state: AppState, shutdown: CancellationToken) -> io::Result<()> {
    let address = listener.local_addr()?;
    let connections = Connections {
        router: super::router(state.clone()),
        silence: state.config.timeouts.socket,
        leaving: state.draining.clone(),
        running: TaskTracker::new(),
        finish: CancellationToken::new(),
        cut: CancellationToken::new(),
    };
    tracing::debug!(%address, "accepting connections");
    let told_to_stop = async {
        shutdown.cancelled().await;
        state.draining.cancel();
        sleep(state.config.timeouts.linger).await;
    };
    let mut told_to_stop = pin!(told_to_stop);
    loop {
        let accepted = tokio::select! {
            () = &mut told_to_stop => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => connections.start(stream, peer),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
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

/// Connections that are being served.
struct Connections {
    router: Router,
    silence: Duration,
    running: TaskTracker,
    /// Whether the server is stopping, and whoever talks to it should talk to another one.
    leaving: CancellationToken,
    /// Finish the running request and close.
    finish: CancellationToken,
    /// Close at once.
    cut: CancellationToken,
}

impl Connections {
    fn start(&self, stream: TcpStream, peer: SocketAddr) {
        // Answers are written whole; waiting for more to send along only delays them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection was gone before it was served");
            return;
        }
        let io = TokioIo::new(IdleLimit::new(stream, self.silence));
        let router = self.router.clone();
        let leaving = self.leaving.clone();
        let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Peer(peer.ip()));
            let (answer, leaving) = (router.clone().oneshot(request), leaving.clone());
            async move {
                let mut answer = answer.await?;
                // The next request must not race with the connection's end. An upgrade is not one of HTTP's any more.
                if leaving.is_cancelled() && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.silence)
            .serve_connection(io, service)
            .with_upgrades();
        let (finish, cut) = (self.finish.clone(), self.cut.clone());
        self.running.spawn(cut.run_until_cancelled_owned(async move {
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = finish.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "connection ended");
            }
        }));
    }
}
