//! What handlers share.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::budget::BodyBudget;
use super::cors::CorsPolicy;
use super::headers::SecurityHeaders;
use super::limits::FixedWindow;
use super::meter::Meters;
use super::route::Class;
use crate::accounts::Accounts;
use crate::clock::Clock;
use crate::config::Config;
use crate::engine::Handle;
use crate::protocol::UserId;
use crate::store::Store;
use crate::telemetry::recent::Recent;

/// Addresses whose requests are counted, per class of routes.
const TRACKED_ADDRESSES: NonZeroUsize = NonZeroUsize::new(5_000).expect("not zero");
/// Users whose uploads are counted.
const TRACKED_USERS: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");

/// Who is counted: an address, for sockets together with the device.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AddressKey {
    /// As [`super::address::counted`] gives it.
    pub address: IpAddr,
    /// A valid client id, for sockets only.
    pub client_id: Option<Box<str>>,
}

/// Every rate limiter.
#[derive(Debug)]
pub struct Limiters {
    per_address: Option<Vec<FixedWindow<AddressKey>>>,
    /// Uploads of a user. Cleared when the user starts a new data set.
    pub uploads: FixedWindow<UserId>,
}

impl Limiters {
    /// Limiters as configured. The per-address ones are off in test mode.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let rules = &config.rate_limits;
        let per_address = (rules.per_address && !config.test_mode)
            .then(|| Class::ALL.iter().map(|class| FixedWindow::new(class.rule(rules), TRACKED_ADDRESSES)).collect());
        Self { per_address, uploads: FixedWindow::new(rules.uploads_per_user, TRACKED_USERS) }
    }

    /// The per-address limiter of a class; `None` when these limits are off.
    #[must_use]
    pub fn per_address(&self, class: Class) -> Option<&FixedWindow<AddressKey>> {
        self.per_address.as_ref()?.get(class as usize)
    }
}

/// What handlers share. One pointer: it is cloned several times per request, and a dozen counters shared by all cores
/// cost more than the poll that they are cloned for.
#[derive(Clone)]
pub struct AppState(Arc<Shared>);

impl std::ops::Deref for AppState {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// The parts of [`AppState`].
#[allow(missing_docs)]
pub struct Shared {
    pub config: Arc<Config>,
    pub engine: Handle,
    pub accounts: Accounts,
    pub store: Arc<dyn Store>,
    pub clock: Clock,
    pub limiters: Limiters,
    pub cors: CorsPolicy,
    pub security: SecurityHeaders,
    /// What is counted about requests.
    pub meters: Meters,
    /// Who asks most, and what took longest.
    pub recent: Arc<Recent>,
    /// How many large bodies are packed or unpacked at once: more than there are cores gains nothing and costs memory.
    pub codecs: Arc<Semaphore>,
    /// Memory for request bodies.
    pub bodies: BodyBudget,
    /// Places for sockets, of the whole process.
    pub sockets: Arc<Semaphore>,
    /// Cancelled when the server begins to stop: it is not ready any more.
    pub draining: CancellationToken,
    /// When the server began.
    pub started: Instant,
}

impl AppState {
    /// The state of a server that is ready.
    #[must_use]
    pub fn new(config: Arc<Config>, engine: Handle, accounts: Accounts, store: Arc<dyn Store>, clock: Clock) -> Self {
        Self::watched(config, engine, accounts, store, clock, Arc::default())
    }

    /// The same, with what is known of requests kept where somebody else can see it.
    #[must_use]
    pub fn watched(
        config: Arc<Config>,
        engine: Handle,
        accounts: Accounts,
        store: Arc<dyn Store>,
        clock: Clock,
        recent: Arc<Recent>,
    ) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, NonZeroUsize::get);
        Self(Arc::new(Shared {
            limiters: Limiters::new(&config),
            cors: CorsPolicy::new(&config.cors),
            security: SecurityHeaders::new(&config.public_url),
            meters: Meters::default(),
            recent,
            codecs: Arc::new(Semaphore::new(cores)),
            bodies: BodyBudget::new(config.limits.max_queued_bytes),
            sockets: Arc::new(Semaphore::new(config.limits.max_sockets.min(Semaphore::MAX_PERMITS))),
            draining: CancellationToken::new(),
            started: Instant::now(),
            config,
            engine,
            accounts,
            store,
            clock,
        }))
    }

    /// Waits until no socket is left.
    pub async fn all_sockets_closed(&self) {
        let places = self.config.limits.max_sockets.min(Semaphore::MAX_PERMITS);
        let all = u32::try_from(places).unwrap_or(u32::MAX);
        // The semaphore is never closed, so this ends only when every place is free.
        let _places = self.sockets.acquire_many(all).await;
    }
}
