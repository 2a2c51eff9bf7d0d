//! What handlers share.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::address_limit::AddressLimit;
use super::class::Class;
use super::codecs::Codecs;
use super::cors::CorsPolicy;
use super::counted;
use super::headers::SecurityHeaders;
use super::limits::{FixedWindow, Verdict, share};
use super::meter::Meters;
use super::route::Route;
use crate::accounts::Accounts;
use crate::budget::{Pool, Resource};
use crate::clock::Clock;
use crate::config::{Config, Limits, RateLimit};
use crate::descriptors::{self, Room};
use crate::engine::Handle;
use crate::protocol::UserId;
use crate::store::Store;
use crate::store::peers::CountedTogether;
use crate::telemetry::recent::Recent;

/// How many times the requests of one address a whole IPv6 network (/48) has, whichever of its addresses asks.
const PER_NETWORK: u32 = 8;
/// How many times the upgrades of one device an address has. The device says itself which it is, so its limit alone is
/// none; many may share an address.
const PER_ADDRESS: u32 = 10;

/// What an account may hold of the bytes that all share: one part in this many.
const ACCOUNT_PART: usize = 8;
/// Bytes of requests to account routes, in all, that are not small.
const ACCOUNT_BODIES: usize = 8 * 1024 * 1024;
/// Downloads of whole data sets under way, in all and of one account.
const EXPORTS: usize = 8;
const EXPORTS_PER_ACCOUNT: usize = 1;

/// Request bodies, while they arrive and are worked on. Whatever is configured, the largest request must fit: while it is
/// unpacked, and again while it is parsed, it takes twice its size.
fn bodies(limits: &Limits) -> Pool {
    let largest = 2 * limits.snapshot_inflated_bytes.max(limits.upload_inflated_bytes);
    let most = limits.max_queued_bytes.max(largest);
    Pool::with_large(Resource::Bodies, most, limits.max_queued_bytes / ACCOUNT_PART, most)
}

/// Answers that have not left. A rebuilt state is the largest that is sent from memory.
fn answers(limits: &Limits) -> Pool {
    let most = (limits.max_queued_bytes / 2).max(limits.max_replay_state_bytes + limits.page_bytes);
    Pool::with_large(Resource::Answers, most, limits.max_queued_bytes / ACCOUNT_PART, most)
}

/// The limits of one class of routes.
#[derive(Debug)]
struct Tiers {
    rule: RateLimit,
    /// Of an address, for sockets together with the device's id.
    own: FixedWindow<(IpAddr, Option<String>)>,
    /// Of an address, whatever the id; for sockets only.
    address: Option<FixedWindow<IpAddr>>,
    /// Of an IPv6 network.
    network: FixedWindow<IpAddr>,
}

/// Every rate limiter. Of several processes each allows its share; what is expensive is counted together, in the database.
#[derive(Debug)]
pub struct Limiters {
    per_address: Option<Vec<Tiers>>,
    /// Upgrades of an address that led to nothing: half as many as a device may make at all.
    failed_sockets: Option<FixedWindow<IpAddr>>,
    /// Uploads of a user. Cleared when the user starts a new data set.
    pub uploads: FixedWindow<UserId>,
}

impl Limiters {
    /// Limiters as configured. The per-address ones are off in test mode.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let rules = &config.rate_limits;
        let is_on = rules.per_address && !config.test_mode;
        let tiers = |class: Class| {
            let rule = class.rule(rules);
            Tiers {
                rule,
                own: FixedWindow::new(rule),
                address: (class == Class::Socket).then(|| FixedWindow::times(rule, PER_ADDRESS)),
                network: FixedWindow::times(rule, PER_NETWORK * if class == Class::Socket { PER_ADDRESS } else { 1 }),
            }
        };
        Self {
            per_address: is_on.then(|| Class::ALL.iter().copied().map(tiers).collect()),
            failed_sockets: is_on.then(|| FixedWindow::new(RateLimit { max: rules.ws.max.div_ceil(2), ..rules.ws })),
            uploads: FixedWindow::new(rules.uploads_per_user),
        }
    }

    /// Counts a request from an address, for a socket with the device's id; `None` when there is no limit. What one tier
    /// refuses is not counted by those behind it, so that one address can't use up what its neighbours have.
    pub async fn count(
        &self,
        class: Class,
        address: IpAddr,
        client_id: Option<String>,
        now_ms: i64,
        others: Others<'_>,
    ) -> Option<Verdict> {
        let tiers = self.per_address.as_ref()?.get(class as usize)?;
        let counted = counted::address(address);
        let parts = others.processes;
        if class == Class::Socket
            && let Some(verdict) = self.failed_sockets.as_ref()?.look(&counted, now_ms, parts)
            && !verdict.allowed
        {
            return Some(refused("failed", verdict));
        }
        // What is counted together is counted here as well, so that nobody asks the database more often than is allowed.
        let is_together = class.is_counted_together() && parts > 1;
        let mut own = tiers.own.hit(&(counted, client_id), now_ms, if is_together { 1 } else { parts })?;
        if own.allowed && is_together {
            own = others.verdict(class, counted, tiers.rule, own).await;
        }
        if !own.allowed {
            return Some(refused("own", own));
        }
        if let Some(verdict) = tiers.address.as_ref().and_then(|tier| tier.hit(&counted, now_ms, parts))
            && !verdict.allowed
        {
            return Some(refused("address", verdict));
        }
        if let Some(network) = counted::network(address)
            && let Some(verdict) = tiers.network.hit(&network, now_ms, parts)
            && !verdict.allowed
        {
            return Some(refused("network", verdict));
        }
        Some(own)
    }

    /// Notes that an upgrade from this address led to nothing.
    pub fn socket_failed(&self, address: IpAddr, now_ms: i64) {
        if let Some(failed) = &self.failed_sockets {
            failed.hit(&counted::address(address), now_ms, 1);
        }
    }
}

/// Who else counts.
#[derive(Clone, Copy)]
pub struct Others<'a> {
    /// Where the processes count together.
    pub store: &'a dyn Store,
    /// How many there are, this one included.
    pub processes: u32,
}

impl Others<'_> {
    /// What all processes together say of a request that this one alone would allow.
    async fn verdict(self, class: Class, address: IpAddr, rule: RateLimit, own: Verdict) -> Verdict {
        match self.store.count_together(&format!("{class:?} {address}"), rule.window).await {
            Ok(Some(CountedTogether { count, left })) => Verdict {
                allowed: count <= rule.max,
                limit: rule.max,
                remaining: rule.max.saturating_sub(count),
                reset: left,
            },
            Ok(None) => own,
            Err(error) => {
                tracing::debug!(%error, "requests can't be counted together: each process allows its share");
                let most = share(rule.max, self.processes);
                let count = own.limit - own.remaining;
                Verdict { allowed: count <= most, limit: most, remaining: most.saturating_sub(count), ..own }
            }
        }
    }
}

fn refused(tier: &'static str, verdict: Verdict) -> Verdict {
    metrics::counter!("supersync_rate_limited_total", "tier" => tier).increment(1);
    verdict
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
    /// Every route.
    pub routes: &'static [Route],
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
    /// Turns at packing and unpacking.
    pub codecs: Codecs,
    /// Memory for request bodies.
    pub bodies: Pool,
    /// Memory for bodies of requests whose sender is not known.
    pub account_bodies: Pool,
    /// Memory for answers that have not left.
    pub answers: Pool,
    /// Downloads of whole data sets.
    pub exports: Pool,
    /// What clients may hold at once.
    pub room: Room,
    /// Places for sockets, of the whole process.
    pub sockets: Arc<Semaphore>,
    /// Who has them.
    pub sockets_by_address: Arc<AddressLimit>,
    /// Cancelled when the server begins to stop: it is not ready any more.
    pub draining: CancellationToken,
    /// When the server began.
    pub started: Instant,
}

impl AppState {
    /// The state of a server that is ready. `recent` keeps what is known of its requests.
    #[must_use]
    pub fn new(
        config: Arc<Config>,
        engine: Handle,
        accounts: Accounts,
        store: Arc<dyn Store>,
        clock: Clock,
        recent: Arc<Recent>,
        routes: &'static [Route],
    ) -> Self {
        let room = Room::within(&config, descriptors::limit());
        Self(Arc::new(Shared {
            routes,
            limiters: Limiters::new(&config),
            cors: CorsPolicy::new(&config.cors),
            security: SecurityHeaders::new(&config.public_url),
            meters: Meters::default(),
            recent,
            codecs: Codecs::new(),
            bodies: bodies(&config.limits),
            account_bodies: Pool::new(Resource::AccountBodies, ACCOUNT_BODIES, ACCOUNT_BODIES),
            answers: answers(&config.limits),
            exports: Pool::new(Resource::Exports, EXPORTS, EXPORTS_PER_ACCOUNT),
            room,
            sockets: Arc::new(Semaphore::new(room.sockets)),
            sockets_by_address: AddressLimit::new(room.sockets_per_address),
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
        let all = u32::try_from(self.room.sockets).unwrap_or(u32::MAX);
        // The semaphore is never closed, so this ends only when every place is free.
        let _places = self.sockets.acquire_many(all).await;
    }
}
