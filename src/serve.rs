//! `supersync serve`: opens the database, starts the server on its addresses, and stops it on a signal.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use supersync::admin::Failure;
use supersync::clock::Clock;
use supersync::config::{Config, Database, private_folder};
use supersync::mail::Mailer;
use supersync::server::{Parts, Server, Upkeep};
use supersync::store::{OpenMode, Store};
use supersync::telemetry::metrics;
use supersync::telemetry::recent::Recent;
use supersync::{descriptors, http, store, timekeeper};
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::welcome::welcome;

/// Connections that the kernel keeps until they are accepted. Of the usual 128 a wave of devices that come back would lose
/// some, and those try again after a second. `net.core.somaxconn` bounds it.
const BACKLOG: u32 = 4096;
/// A start that takes longer answers probes meanwhile.
const WAIT_SILENTLY: Duration = Duration::from_secs(1);

/// Serves until a signal says stop.
pub async fn run(config: Config) -> Result<(), Failure> {
    log_panics();
    if let Err(error) = descriptors::raise() {
        tracing::warn!(%error, "the limit of open files can't be raised");
    }
    let mut signals = Signals::new().map_err(Failure::failed)?;
    let config = Arc::new(config);
    private_folder(&config.data_dir).map_err(|error| {
        Failure::failed(format!("DATA_DIR {} can't be created: {error}", config.data_dir.display()))
    })?;

    // Before the store, which records metrics from its first statement on.
    let recent = Arc::new(Recent::default());
    let _metrics = start_metrics(&config, Arc::clone(&recent))?;
    let mailer = Mailer::from_config(&config)?;
    let Some(store) = open_store(&config, &mut signals).await? else { return Ok(()) };
    if store.is_adopting().await? {
        return Err(Failure::failed(
            "an import of the old server's database was broken off: run `supersync import` again, or \
             `supersync import --accept-partial` to serve what it has left",
        ));
    }
    let mut parts = Parts::of(&config, Clock::System, mailer);
    parts.recent = recent;
    parts.clock = timekeeper::watched(&*store, Clock::System, config.retention.leap(), &parts.instance).await?;
    let assembled = Server::assemble(Arc::clone(&config), store, parts).await.map_err(Failure::failed)?;

    let address = SocketAddr::new(config.host, config.port);
    let listener = bind("HOST or PORT", address)?;
    let room = assembled.state.room;
    if room.sockets < config.limits.max_sockets {
        tracing::warn!(
            files = descriptors::limit(),
            needed = descriptors::needed(&config),
            sockets = room.sockets,
            connections = room.connections,
            "too few files may be open for MAX_SOCKETS, so there will be fewer sockets"
        );
    }
    let database = assembled.store.kind();
    let mut running = assembled.start(listener, Upkeep::Runs);
    tracing::info!(%address, database, version = env!("CARGO_PKG_VERSION"), "listening");
    welcome(&config, &running.accounts).await;

    let served = tokio::select! {
        served = running.ended() => served,
        () = signals.next() => {
            tracing::info!("stopping: running requests may finish");
            running.drain();
            tokio::select! {
                served = running.ended() => served,
                () = signals.next() => {
                    tracing::warn!("told to stop again: not waiting for requests");
                    Ok(())
                }
            }
        }
    };
    if let Err(error) = &served {
        tracing::error!(%error, "the listener failed");
    }
    running.stop().await;
    tracing::info!("stopped");
    served.map_err(Failure::failed)
}

/// Opens the store. While that takes long, because the database can't be reached or is being migrated, probes are answered.
/// `None`: told to stop.
async fn open_store(config: &Config, signals: &mut Signals) -> Result<Option<Arc<dyn Store>>, Failure> {
    let is_open = CancellationToken::new();
    let waiting = async {
        if is_open.run_until_cancelled(tokio::time::sleep(WAIT_SILENTLY)).await.is_none() {
            return Ok(());
        }
        let listener = bind("HOST or PORT", SocketAddr::new(config.host, config.port))?;
        tracing::warn!("waiting for the database; meanwhile /livez answers 200 and everything else 503");
        http::serve_few("http", listener, http::waiting_router(), is_open.clone()).await.map_err(Failure::failed)
    };
    let mut waiting = std::pin::pin!(waiting);
    let store = tokio::select! {
        opened = store::open_with(OpenMode::Serve, &config.database, config.timeouts.statement) => {
            opened.map_err(|error| database_failed(config, &error))?
        }
        failed = &mut waiting => return Err(failed.err().unwrap_or_else(|| Failure::failed("the listener ended"))),
        () = signals.next() => return Ok(None),
    };
    is_open.cancel();
    waiting.await?;
    Ok(Some(store))
}

/// The signals that mean stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

/// Shows metrics until the answer is dropped.
fn start_metrics(config: &Config, recent: Arc<Recent>) -> Result<DropGuard, Failure> {
    let stopping = CancellationToken::new();
    let handle = metrics::install()?;
    if let Some(address) = config.metrics_addr {
        let listener = bind("METRICS_ADDR", address)?;
        let router = metrics::router(handle.clone(), recent);
        let serving = http::serve_few("metrics", listener, router, stopping.clone());
        tokio::spawn(async {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the metrics listener failed");
            }
        });
    }
    tokio::spawn(metrics::keep_up(handle, stopping.clone()));
    Ok(stopping.drop_guard())
}

fn bind(setting: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|error: io::Error| {
        let advice = match error.kind() {
            ErrorKind::AddrInUse => "another program listens there, maybe a second supersync".to_owned(),
            ErrorKind::PermissionDenied => "permission denied; ports below 1024 need privileges".to_owned(),
            ErrorKind::AddrNotAvailable => "this machine does not have that address".to_owned(),
            _ => error.to_string(),
        };
        Failure::failed(format!("can't listen on {address}: {advice} (change {setting})"))
    })
}

fn database_failed(config: &Config, error: &store::StoreError) -> Failure {
    Failure::failed(match (&config.database, error) {
        // Says what to do already.
        (_, store::StoreError::Refused(_)) => error.to_string(),
        (Database::Sqlite { path }, _) => format!("the database {} can't be opened: {error}", path.display()),
        (Database::Postgres { .. }, _) => format!("the database that DATABASE_URL names can't be used: {error}"),
    })
}

/// A panic is a defect; its place is logged like everything else. Its text may hold data, so it is shown only on
/// request.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(String::new, ToString::to_string);
        tracing::error!(place, "panic");
        tracing::debug!(place, text = panic.payload_as_str().unwrap_or_default(), "panic");
    }));
}
