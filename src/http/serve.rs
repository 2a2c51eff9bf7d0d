//! The listener: accepts connections, bounds how long they may be silent, and stops in an orderly way.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::address::Peer;
use super::idle::IdleLimit;
use super::state::AppState;

/// After a failed accept (out of file descriptors, mostly) the next try waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown` is cancelled, then stops: not ready any more, no new connections, sockets closed, running requests
/// finished within `timeouts.drain`. Whatever runs longer is cut off.
///
/// # Errors
/// When the listener's address can't be read.
pub async fn serve(listener: TcpListener, state: AppState, shutdown: CancellationToken) -> io::Result<()> {
    let address = listener.local_addr()?;
    let router = super::router(state.clone());
    let graceful = GracefulShutdown::new();
    tracing::info!(%address, "listening");
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => start(stream, peer, &router, &state, &graceful),
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
    let finished = timeout_at(deadline, graceful.shutdown()).await.is_ok();
    let places = u32::try_from(state.config.limits.max_sockets).unwrap_or(u32::MAX);
    let said_goodbye = timeout_at(deadline, state.sockets.acquire_many(places)).await.is_ok();
    if finished && said_goodbye {
        tracing::info!("every request has been answered");
    } else {
        tracing::warn!("requests were still running when the time to stop was up");
    }
    Ok(())
}

fn start(stream: TcpStream, peer: SocketAddr, router: &Router, state: &AppState, graceful: &GracefulShutdown) {
    // Answers are written whole; waiting for more to send along only delays them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection was gone before it was served");
        return;
    }
    let silence = state.config.timeouts.socket;
    let io = TokioIo::new(IdleLimit::new(stream, silence));
    let router = router.clone();
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(peer.ip()));
        router.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(silence)
        .serve_connection(io, service)
        .with_upgrades();
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection ended");
        }
    });
}
