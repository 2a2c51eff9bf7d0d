//! The live accounts: user → slot. A slot is made by the first request and filled by exactly one activation, however
//! many wait for it. It goes when its actor has been idle, when there are too many, or when the actor dies; each slot
//! has a number of its own, so that a dying actor takes only its own slot away.
//!
//! A request holds a *lease* from before it looks at the slot until it is answered. Slots are only taken away while
//! nobody leases them, decided under the map's shard lock: an actor is never stopped with a message on its way to it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::{Notify, OnceCell};
use tokio_util::sync::CancellationToken;

use super::EngineError;
use super::devices::SeenDevices;
use super::restore::SingleFlight;
use super::user::actor::{Arguments, Context, Message, UserActor, load_state};
use super::view::UserView;
use crate::protocol::UserId;

/// A live account.
pub struct Slot {
    /// Grows with every slot of the process.
    number: u64,
    user: UserId,
    ready: OnceCell<ActorRef<Message>>,
    view: OnceCell<ArcSwap<UserView>>,
    /// The activation failed: who still waits for this slot must not try again on it.
    failed: AtomicBool,
    /// The janitor stopped the actor on purpose.
    retired: AtomicBool,
    leases: AtomicUsize,
    last_used: Mutex<Instant>,
    /// Requests in the engine.
    pub waiting: Arc<AtomicUsize>,
    /// Restores under way.
    pub restores: SingleFlight,
    devices: Mutex<SeenDevices>,
}

impl Slot {
    fn new(number: u64, user: UserId) -> Self {
        Self {
            number,
            user,
            ready: OnceCell::new(),
            view: OnceCell::new(),
            failed: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            leases: AtomicUsize::new(0),
            last_used: Mutex::new(Instant::now()),
            waiting: Arc::new(AtomicUsize::new(0)),
            restores: SingleFlight::default(),
            devices: Mutex::new(SeenDevices::default()),
        }
    }

    /// The account as last published.
    #[must_use]
    pub fn view(&self) -> Arc<UserView> {
        self.view.get().expect("a slot is leased only after its activation has set the view").load_full()
    }

    /// Publishes a newer picture of the account.
    pub fn publish(&self, view: UserView) {
        if let Some(current) = self.view.get() {
            current.store(Arc::new(view));
        }
    }

    /// Which devices were seen, and when.
    pub fn devices(&self) -> MutexGuard<'_, SeenDevices> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle_for(&self) -> Duration {
        self.last_used.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

/// Keeps a slot's actor from being stopped as idle.
pub struct Lease {
    slot: Arc<Slot>,
}

impl Lease {
    /// The leased slot.
    #[must_use]
    pub fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    /// The slot's actor.
    #[must_use]
    pub fn actor(&self) -> &ActorRef<Message> {
        self.slot.ready.get().expect("a lease is given out only after the activation")
    }
}

impl Clone for Lease {
    fn clone(&self) -> Self {
        self.slot.leases.fetch_add(1, Ordering::AcqRel);
        Self { slot: Arc::clone(&self.slot) }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        *self.slot.last_used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.slot.leases.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Part of an actor's state: dropped when the actor ends, however it ends.
pub struct ActorGuard {
    registry: Weak<Registry>,
    slot: Arc<Slot>,
}

impl Drop for ActorGuard {
    fn drop(&mut self) {
        metrics::gauge!("supersync_actors_live").decrement(1.0);
        if let Some(registry) = self.registry.upgrade() {
            registry.slots.remove_if(&self.slot.user, |_, slot| slot.number == self.slot.number);
            if !self.slot.retired.load(Ordering::Acquire) {
                registry.crashed(self.slot.user);
            }
        }
    }
}

/// The live accounts of this process.
pub struct Registry {
    slots: DashMap<UserId, Arc<Slot>>,
    next_number: AtomicU64,
    context: Arc<Context>,
    supervisor: ActorRef<()>,
    crowded: Notify,
    crashes: Mutex<HashMap<UserId, (u32, Instant)>>,
    stopping: AtomicBool,
}

/// Counts and logs the deaths of account actors. It restarts nothing: the next request of the account does, from the
/// database.
struct Supervisor;

impl Actor for Supervisor {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _myself: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<()>,
        event: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(_, error) = event {
            metrics::counter!("supersync_actor_failures_total").increment(1);
            tracing::error!(%error, "an account's actor died; it starts anew with the next request");
        }
        Ok(())
    }
}

impl Registry {
    /// An empty registry with a supervisor.
    ///
    /// # Errors
    /// When the supervisor does not start, which has no cause from outside.
    pub async fn start(context: Arc<Context>) -> Result<Arc<Self>, EngineError> {
        let (supervisor, _task) = Actor::spawn(None, Supervisor, ())
            .await
            .map_err(|e| EngineError::Internal(format!("the supervisor does not start: {e}")))?;
        Ok(Arc::new(Self {
            slots: DashMap::new(),
            next_number: AtomicU64::new(1),
            context,
            supervisor,
            crowded: Notify::new(),
            crashes: Mutex::new(HashMap::new()),
            stopping: AtomicBool::new(false),
        }))
    }

    /// Leases an account's slot, activating the account when it is not live.
    ///
    /// # Errors
    /// [`EngineError::NoAccount`], [`EngineError::Quarantined`], or the store's trouble.
    pub async fn lease(self: &Arc<Self>, user: UserId) -> Result<Lease, EngineError> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(EngineError::Busy);
        }
        let lease = self.take(user);
        if lease.slot.ready.initialized() {
            return Ok(lease);
        }
        self.check_quarantine(user)?;
        let slot = Arc::clone(&lease.slot);
        let activated = slot.ready.get_or_try_init(|| self.activate(Arc::clone(&lease.slot))).await;
        match activated {
            Ok(_) => Ok(lease),
            Err(error) => {
                lease.slot.failed.store(true, Ordering::Release);
                self.slots.remove_if(&user, |_, slot| slot.number == lease.slot.number);
                Err(error)
            }
        }
    }

    fn take(&self, user: UserId) -> Lease {
        let lease = |slot: &Arc<Slot>| {
            slot.leases.fetch_add(1, Ordering::AcqRel);
            Lease { slot: Arc::clone(slot) }
        };
        // The count grows under the shard's lock, which `retire` takes exclusively.
        if let Some(slot) = self.slots.get(&user) {
            return lease(slot.value());
        }
        let entry = self
            .slots
            .entry(user)
            .or_insert_with(|| Arc::new(Slot::new(self.next_number.fetch_add(1, Ordering::Relaxed), user)));
        lease(entry.value())
    }

    async fn activate(self: &Arc<Self>, slot: Arc<Slot>) -> Result<ActorRef<Message>, EngineError> {
        if slot.failed.load(Ordering::Acquire) {
            return Err(EngineError::Unavailable);
        }
        let started = Instant::now();
        let user = slot.user;
        let state = load_state(self.context.store.as_ref(), user).await?;
        let view = UserView::loaded(state.account.clone());
        // Set once: a second activation of the same slot can't be, it is marked as failed first.
        let _ = slot.view.set(ArcSwap::from_pointee(view));
        metrics::gauge!("supersync_actors_live").increment(1.0);
        let guard = ActorGuard { registry: Arc::downgrade(self), slot: Arc::clone(&slot) };
        let args = Arguments { context: Arc::clone(&self.context), slot, guard, state };
        let (actor, _task) = UserActor::spawn_linked(None, UserActor, args, self.supervisor.get_cell())
            .await
            .map_err(|e| EngineError::Internal(format!("an account's actor does not start: {e}")))?;
        metrics::counter!("supersync_actor_activations_total").increment(1);
        metrics::histogram!("supersync_actor_activation_seconds").record(started.elapsed().as_secs_f64());
        if self.slots.len() > self.context.options.max_live_actors {
            self.crowded.notify_one();
        }
        Ok(actor)
    }

    fn check_quarantine(&self, user: UserId) -> Result<(), EngineError> {
        let mut crashes = self.crashes.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((count, since)) = crashes.get(&user).copied() else { return Ok(()) };
        let options = &self.context.options;
        if since.elapsed() >= options.quarantine_for {
            crashes.remove(&user);
            return Ok(());
        }
        if count >= options.quarantine_after { Err(EngineError::Quarantined) } else { Ok(()) }
    }

    fn crashed(&self, user: UserId) {
        let options = &self.context.options;
        let mut crashes = self.crashes.lock().unwrap_or_else(PoisonError::into_inner);
        crashes.retain(|_, (_, since)| since.elapsed() < options.quarantine_for);
        let (count, since) = crashes.entry(user).or_insert((0, Instant::now()));
        *count += 1;
        if *count == options.quarantine_after {
            *since = Instant::now();
            metrics::counter!("supersync_quarantines_total").increment(1);
            tracing::error!(user_id = user, "account quarantined: its actor keeps dying");
        }
    }

    /// Stops idle actors, and the least recently used ones when there are too many, until cancelled.
    pub async fn run_janitor(self: Arc<Self>, cancel: CancellationToken) {
        let every = self.context.options.passivate_every;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(every) => {}
                () = self.crowded.notified() => {}
            }
            self.passivate();
        }
    }

    fn passivate(&self) {
        let options = &self.context.options;
        let mut unused: Vec<(Duration, UserId, u64)> = self
            .slots
            .iter()
            .filter(|slot| slot.leases.load(Ordering::Acquire) == 0 && slot.ready.initialized())
            .map(|slot| (slot.idle_for(), slot.user, slot.number))
            .collect();
        unused.sort_unstable_by_key(|(idle, ..)| std::cmp::Reverse(*idle));
        let mut surplus = self.slots.len().saturating_sub(options.max_live_actors);
        for (idle, user, number) in unused {
            if idle < options.actor_idle && surplus == 0 {
                break;
            }
            if self.retire(user, number) {
                surplus = surplus.saturating_sub(1);
            }
        }
    }

    /// Takes a slot away if nobody leases it, and stops its actor.
    fn retire(&self, user: UserId, number: u64) -> bool {
        let unused = |_: &UserId, slot: &Arc<Slot>| slot.number == number && slot.leases.load(Ordering::Acquire) == 0;
        let Some((_, slot)) = self.slots.remove_if(&user, unused) else { return false };
        slot.retired.store(true, Ordering::Release);
        if let Some(actor) = slot.ready.get() {
            actor.stop(None);
        }
        metrics::counter!("supersync_actor_passivations_total").increment(1);
        true
    }

    /// Takes an account's slot away although it may be in use: its rows are gone. Requests under way fail or find
    /// nothing.
    pub fn evict(&self, user: UserId) {
        if let Some((_, slot)) = self.slots.remove(&user) {
            slot.retired.store(true, Ordering::Release);
            if let Some(actor) = slot.ready.get() {
                actor.stop(None);
            }
        }
    }

    /// Refuses new leases, waits until the given ones are back or time is up, then stops every actor.
    pub async fn shutdown(&self, patience: Duration) {
        self.stopping.store(true, Ordering::Release);
        let deadline = Instant::now() + patience;
        while self.slots.iter().any(|slot| slot.leases.load(Ordering::Acquire) > 0) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let users: Vec<UserId> = self.slots.iter().map(|slot| slot.user).collect();
        for user in users {
            self.evict(user);
        }
        let supervisor: ActorCell = self.supervisor.get_cell();
        supervisor.stop(None);
    }

    /// Accounts that are live.
    #[must_use]
    pub fn live(&self) -> usize {
        self.slots.len()
    }
}
