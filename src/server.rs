//! A server: put together from its parts, started on a listener, and taken apart in the reverse order. The program and the
//! tests do it here, so that tests run what operators run.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::accounts::{Accounts, HashParams, Passwords};
use crate::clock::Clock;
use crate::config::Config;
use crate::engine::sweeper::Sweeper;
use crate::engine::{EngineError, Handle, Options};
use crate::events::Follower;
use crate::gauges::Gauges;
use crate::http::routes::ROUTES;
use crate::http::{self, AppState};
use crate::mail::Mailer;
use crate::store::{Store, StoreError};
use crate::telemetry::recent::Recent;
use crate::timekeeper::Timekeeper;

/// How long each part may take to stop once requests have ended.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// How often it is written down which sessions have been seen.
const RECORD_SESSIONS_EVERY: Duration = Duration::from_secs(10);

/// What a server is made of besides its settings and its store.
pub struct Parts {
    /// Its time.
    pub clock: Clock,
    /// Sends its mails.
    pub mailer: Mailer,
    /// Hashes passwords. Tests need not pay for strong hashes.
    pub passwords: Passwords,
    /// The engine's bounds.
    pub options: Options,
    /// Recent requests, which the metrics listener shows.
    pub recent: Arc<Recent>,
    /// Its name among the servers of one database.
    pub instance: String,
}

impl Parts {
    /// As configured, with a name of its own.
    #[must_use]
    pub fn of(config: &Config, clock: Clock, mailer: Mailer) -> Self {
        Self {
            clock,
            mailer,
            passwords: Passwords::new(HashParams::default(), config.limits.password_hash_parallelism),
            options: Options::from(config),
            recent: Arc::default(),
            instance: Uuid::now_v7().to_string(),
        }
    }
}

/// Why a server can't be put together.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The engine's supervisor does not start.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The database fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A server that is put together. Only its engine works yet.
pub struct Server {
    /// Its settings.
    pub config: Arc<Config>,
    /// Its database.
    pub store: Arc<dyn Store>,
    /// Its time.
    pub clock: Clock,
    /// Its accounts.
    pub accounts: Accounts,
    /// Its engine.
    pub engine: Handle,
    /// Acts on what other processes did to accounts.
    pub follower: Follower,
    /// What its routes share.
    pub state: AppState,
    instance: String,
}

/// Whether what a server does by itself runs: clean-up, events, sessions seen, clock, figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upkeep {
    /// It runs in the background.
    Runs,
    /// It does not: a test takes each step itself.
    ByHand,
}

impl Server {
    /// Puts a server together on an open store.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn assemble(config: Arc<Config>, store: Arc<dyn Store>, parts: Parts) -> Result<Self, StartError> {
        let Parts { clock, mailer, passwords, options, recent, instance } = parts;
        let accounts = Accounts::with_passwords(Arc::clone(&store), &config, clock.clone(), mailer, passwords);
        let engine = Handle::start(Arc::clone(&store), clock.clone(), options).await?;
        accounts.count_in(engine.memory());
        let follower = Follower::start(Arc::clone(&store), accounts.clone(), engine.clone(), clock.clone()).await?;
        let state = AppState::new(
            Arc::clone(&config),
            engine.clone(),
            accounts.clone(),
            Arc::clone(&store),
            clock.clone(),
            recent,
            ROUTES,
        );
        Ok(Self { config, store, clock, accounts, engine, follower, state, instance })
    }

    /// Its routes, for requests without a socket.
    pub fn router(&self) -> Router {
        http::router(self.state.clone())
    }

    /// Serves requests from now on.
    #[must_use]
    pub fn start(self, listener: TcpListener, upkeep: Upkeep) -> Running {
        let Self { config, store, clock, accounts, engine, follower, state, instance } = self;
        let (draining, stopping) = (CancellationToken::new(), CancellationToken::new());
        let background = TaskTracker::new();
        let follower = match upkeep {
            Upkeep::ByHand => Some(follower),
            Upkeep::Runs => {
                let timekeeper = Timekeeper::new(Arc::clone(&store), clock.clone(), instance.clone());
                background.spawn(timekeeper.run(stopping.clone()));
                let sweeper =
                    Sweeper::new(Arc::clone(&store), engine.clone(), clock.clone(), config.retention, instance);
                background.spawn(sweeper.run(stopping.clone()));
                background.spawn(accounts.clone().run_janitor(config.limits.actor_idle, stopping.clone()));
                background.spawn(Gauges::new(Arc::clone(&store), &config).run(stopping.clone()));
                background.spawn(follower.run(stopping.clone()));
                background.spawn(accounts.clone().run_recorder(RECORD_SESSIONS_EVERY, stopping.clone()));
                None
            }
        };
        let serving = tokio::spawn(http::serve(listener, state, draining.clone()));
        Running {
            store,
            clock,
            accounts,
            engine,
            follower,
            serving,
            background,
            draining: draining.drop_guard(),
            stopping: stopping.drop_guard(),
        }
    }
}

/// A server that serves. It stops when it is dropped.
pub struct Running {
    /// Its database.
    pub store: Arc<dyn Store>,
    /// Its time.
    pub clock: Clock,
    /// Its accounts.
    pub accounts: Accounts,
    /// Its engine.
    pub engine: Handle,
    /// Acts on events, with [`Upkeep::ByHand`].
    pub follower: Option<Follower>,
    serving: JoinHandle<io::Result<()>>,
    background: TaskTracker,
    draining: DropGuard,
    stopping: DropGuard,
}

impl Running {
    /// Waits until the listener fails, or all requests have ended after [`Running::drain`].
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn ended(&mut self) -> io::Result<()> {
        (&mut self.serving).await.unwrap_or_else(|panicked| Err(io::Error::other(panicked)))
    }

    /// Takes no new requests; running ones may finish.
    pub fn drain(&self) {
        self.draining.token().cancel();
    }

    /// Stops its parts, and requests that still run. What was acknowledged is stored.
    pub async fn stop(self) {
        self.serving.abort();
        self.stopping.disarm().cancel();
        self.background.close();
        let stop = async {
            self.engine.shutdown().await;
            self.background.wait().await;
            self.accounts.drain_mails().await;
            self.store.close().await;
        };
        if timeout(STOP_PATIENCE, stop).await.is_err() {
            tracing::warn!("something did not stop in time; what was acknowledged is stored");
        }
    }
}
