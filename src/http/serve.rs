//! The listener: accepts connections, bounds how long they may be silent, and stops in an orderly way.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
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

/// Serves until `shutdown` is cancelled, then stops: not ready any more, no new connections, sockets closed, running
/// requests finished within `timeouts.drain`. Whatever runs longer is cut off.
///
/// # Errors
/// When the listener's address can't be read.
pub async fn serve(listener: TcpListener, state: AppState, shutdown: CancellationToken) -> io::Result<()> {
    let address = listener.local_addr()?;
    let connections = Connections {
        router: super::router(state.clone()),
        silence: state.config.timeouts.socket,
        running: TaskTracker::new(),
        finish: CancellationToken::new(),
        cut: CancellationToken::new(),
    };
    tracing::debug!(%address, "accepting connections");
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
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
    state.draining.cancel();
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
        let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Peer(peer.ip()));
            router.clone().oneshot(request)
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
