//! The live accounts: user → slot. A slot is made by the first request and filled by exactly one activation, however
//! many wait for it. Activation loads the view, which is all that reading needs; the actor that writes is started by the
//! first request that needs one: most accounts poll all day and write now and then, and a view is a tenth of an actor.
//! A slot goes when it has been idle, when its actor has had nothing to write for as long, when all of them keep too much
//! memory and it was used longest ago, or when the actor dies; each slot has a number of its own, so that a dying actor takes only its own slot away.
//!
//! A request holds a *lease* from before it looks at the slot until it is answered. Slots are only taken away while
//! nobody leases them, decided under the map's shard lock: an actor is never stopped with a message on its way to it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::{OnceCell, Semaphore};
use tokio_util::sync::CancellationToken;

use super::EngineError;
use super::devices::SeenDevices;
use super::download::READS_AT_ONCE;
use super::peers::Peers;
use super::single_flight::SingleFlight;
use super::user::actor::{Arguments, Context, Message, UserActor};
use super::user::lookup;
use super::user::plan::UserState;
use super::view::UserView;
use crate::budget::{Kept, Memory};
use crate::protocol::UserId;
use crate::store::AccountState;

/// When too much is kept, so much more goes: one part in this many.
const CLEARED_PART: usize = 16;
/// Looking for what can go takes a moment, so there is a pause before the next time.
const BREATHER: Duration = Duration::from_millis(20);
/// A slot with its places in the map and in what hangs on it.
const SLOT_BYTES: usize = size_of::<Slot>() + 512;
/// Room for so many accounts is kept when there are fewer.
const SPARE_SLOTS: usize = 4096;

/// A live account.
pub struct Slot {
    /// Grows with every slot of the process.
    number: u64,
    user: UserId,
    /// Set by the activation.
    view: OnceCell<ArcSwap<UserView>>,
    /// The epoch of [`Peers`] in which the view was last read or found right.
    epoch: AtomicU64,
    /// The highest revision that another process has told of.
    heard: AtomicI64,
    /// The row as loaded lacks something that the writer has worked out and must store.
    unsaved: AtomicBool,
    /// Set by the first request that needs the actor.
    writer: OnceCell<ActorRef<Message>>,
    /// The activation failed: who still waits for this slot must not try again on it.
    failed: AtomicBool,
    /// Taken away on purpose.
    retired: AtomicBool,
    leases: AtomicUsize,
    used: Mutex<Used>,
    /// Requests in the engine.
    pub waiting: Arc<AtomicUsize>,
    /// Turns at reading pages from the store.
    pub reads: Semaphore,
    /// Restores under way.
    pub restores: SingleFlight,
    devices: Mutex<SeenDevices>,
    /// What the view and the actor keep.
    kept: Kept,
    /// What [`Slot::devices`] keep.
    devices_kept: Kept,
    /// Counts the activated slots.
    live: Arc<AtomicUsize>,
}

/// When a slot was used.
#[derive(Clone, Copy)]
struct Used {
    last: Instant,
    /// When its actor was last asked for.
    written: Option<Instant>,
}

impl Used {
    /// How long the slot has had no reason to be kept: nobody used it, or it keeps an actor for readers only.
    fn idle(&self) -> Duration {
        let since_written = self.written.map_or(Duration::ZERO, |at| at.elapsed());
        self.last.elapsed().max(since_written)
    }
}

impl Slot {
    fn new(number: u64, user: UserId, memory: &Memory, live: Arc<AtomicUsize>) -> Self {
        Self {
            number,
            user,
            view: OnceCell::new(),
            epoch: AtomicU64::new(0),
            heard: AtomicI64::new(0),
            unsaved: AtomicBool::new(false),
            writer: OnceCell::new(),
            failed: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            leases: AtomicUsize::new(0),
            used: Mutex::new(Used { last: Instant::now(), written: None }),
            waiting: Arc::new(AtomicUsize::new(0)),
            reads: Semaphore::new(READS_AT_ONCE),
            restores: SingleFlight::default(),
            devices: Mutex::new(SeenDevices::default()),
            kept: memory.of_account(),
            devices_kept: memory.of_account(),
            live,
        }
    }

    /// The account as last published.
    #[must_use]
    pub fn view(&self) -> Arc<UserView> {
        self.view.get().expect("a slot is leased only after its activation has set the view").load_full()
    }

    /// Publishes a newer picture of the account, whose actor keeps so many bytes beside it.
    pub fn publish(&self, view: UserView, writer_bytes: usize) {
        let bytes = SLOT_BYTES + view.weight() + writer_bytes;
        if let Some(current) = self.view.get() {
            current.store(Arc::new(view));
        }
        self.keeps(bytes);
    }

    fn keeps(&self, bytes: usize) {
        // What has been taken away has been counted as gone.
        if !self.retired.load(Ordering::SeqCst) {
            self.kept.set(bytes);
        }
    }

    /// The devices have become more or fewer.
    pub fn weigh_devices(&self, devices: &SeenDevices) {
        self.devices_kept.set(devices.weight());
    }

    /// The account as last published, unless another process may have changed it since.
    #[must_use]
    pub fn current(&self, peers: &Peers) -> Option<Arc<UserView>> {
        let is_of_now = peers.epoch() == Some(self.epoch.load(Ordering::Acquire));
        let view = self.view();
        (is_of_now && view.sync().revision >= self.heard.load(Ordering::Acquire)).then_some(view)
    }

    /// What is published was read, or found right, in this epoch or a later one.
    pub fn read_in(&self, epoch: Option<u64>) {
        self.epoch.store(epoch.unwrap_or_default(), Ordering::Release);
    }

    /// Which devices were seen, and when.
    pub fn devices(&self) -> MutexGuard<'_, SeenDevices> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_away(&self) {
        // Before looking for the actor: who starts one looks here after it has (see `Registry::writer`).
        self.retired.store(true, Ordering::SeqCst);
        self.kept.set(0);
        if let Some(actor) = self.writer.get() {
            actor.stop(None);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.view.initialized() {
            self.live.fetch_sub(1, Ordering::Relaxed);
            metrics::gauge!("supersync_actors_live").decrement(1.0);
        }
    }
}

/// Keeps a slot from being taken away as idle.
pub struct Lease {
    slot: Arc<Slot>,
}

impl Lease {
    /// The leased slot.
    #[must_use]
    pub fn slot(&self) -> &Arc<Slot> {
        &self.slot
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
        self.slot.used().last = Instant::now();
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
        metrics::gauge!("supersync_actors_writing").decrement(1.0);
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
            tracing::error!(%error, "an account's actor died; it restarts with the next request");
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
        if lease.slot.view.initialized() {
            return Ok(lease);
        }
        self.check_quarantine(user)?;
        let slot = &lease.slot;
        match slot.view.get_or_try_init(|| self.activate(slot)).await {
            Ok(_) => Ok(lease),
            Err(error) => {
                slot.failed.store(true, Ordering::Release);
                self.slots.remove_if(&user, |_, other| other.number == slot.number);
                Err(error)
            }
        }
    }

    /// The actor of a leased slot, started when it is not there yet.
    ///
    /// # Errors
    /// When it does not start, which has no cause from outside.
    pub async fn writer(self: &Arc<Self>, lease: &Lease) -> Result<ActorRef<Message>, EngineError> {
        let slot = &lease.slot;
        slot.used().written = Some(Instant::now());
        let actor = slot.writer.get_or_try_init(|| self.start_writer(slot)).await?;
        // The slot may have been taken away while its actor was starting and could not be stopped yet.
        if slot.retired.load(Ordering::SeqCst) {
            actor.stop(None);
        }
        Ok(actor.clone())
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
        let entry = self.slots.entry(user).or_insert_with(|| {
            let number = self.next_number.fetch_add(1, Ordering::Relaxed);
            Arc::new(Slot::new(number, user, &self.context.memory, Arc::clone(&self.context.live)))
        });
        lease(entry.value())
    }

    async fn activate(&self, slot: &Slot) -> Result<ArcSwap<UserView>, EngineError> {
        if slot.failed.load(Ordering::Acquire) {
            return Err(EngineError::Unavailable);
        }
        let started = Instant::now();
        let epoch = self.context.peers.epoch();
        let loaded = lookup::account(self.context.store.as_ref(), slot.user).await?;
        slot.read_in(epoch);
        slot.unsaved.store(loaded.unsaved, Ordering::Release);
        slot.live.fetch_add(1, Ordering::Relaxed);
        metrics::gauge!("supersync_actors_live").increment(1.0);
        metrics::counter!("supersync_actor_activations_total").increment(1);
        metrics::histogram!("supersync_actor_activation_seconds").record(started.elapsed().as_secs_f64());
        let view = UserView::loaded(loaded.account);
        slot.keeps(SLOT_BYTES + view.weight());
        Ok(ArcSwap::from_pointee(view))
    }

    async fn start_writer(self: &Arc<Self>, slot: &Arc<Slot>) -> Result<ActorRef<Message>, EngineError> {
        // Only the actor publishes, so the view still is what the activation has loaded.
        let account = AccountState::clone(&slot.view().account);
        let state = UserState::loaded(slot.user, account, slot.unsaved.load(Ordering::Acquire));
        slot.keeps(SLOT_BYTES + slot.view().weight() + state.weight());
        metrics::gauge!("supersync_actors_writing").increment(1.0);
        let guard = ActorGuard { registry: Arc::downgrade(self), slot: Arc::clone(slot) };
        let args = Arguments { context: Arc::clone(&self.context), slot: Arc::clone(slot), guard, state };
        let (actor, _task) = UserActor::spawn_linked(None, UserActor, args, self.supervisor.get_cell())
            .await
            .map_err(|e| EngineError::Internal(format!("an account's actor does not start: {e}")))?;
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

    /// Stops idle actors, and the least recently used ones when too much is kept, until cancelled.
    pub async fn run_janitor(self: Arc<Self>, cancel: CancellationToken) {
        let every = self.context.options.passivate_every;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(every) => {}
                () = self.context.memory.exceeded() => {}
            }
            self.passivate();
            tokio::time::sleep(BREATHER.min(every)).await;
        }
    }

    fn passivate(&self) {
        let options = &self.context.options;
        let memory = &self.context.memory;
        let excess = memory.excess();
        // Each pass looks at every slot, so that room is made for a while, not for one newcomer.
        let mut surplus = if excess == 0 { 0 } else { excess + memory.most() / CLEARED_PART };
        let mut unused: Vec<(Duration, UserId, u64)> = self
            .slots
            .iter()
            .filter(|slot| slot.leases.load(Ordering::Acquire) == 0 && slot.view.initialized())
            .map(|slot| (slot.used().idle(), slot.user, slot.number))
            .filter(|(idle, ..)| surplus > 0 || *idle >= options.actor_idle)
            .collect();
        if surplus > 0 {
            unused.sort_unstable_by_key(|(idle, ..)| std::cmp::Reverse(*idle));
        }
        for (idle, user, number) in unused {
            if idle < options.actor_idle && surplus == 0 {
                break;
            }
            surplus = surplus.saturating_sub(self.retire(user, number));
        }
        if self.slots.capacity() > SPARE_SLOTS.max(4 * self.slots.len()) {
            self.slots.shrink_to_fit();
        }
    }

    /// Takes a slot away if nobody leases it, and stops its actor. Gives the bytes that it kept.
    fn retire(&self, user: UserId, number: u64) -> usize {
        let unused = |_: &UserId, slot: &Arc<Slot>| slot.number == number && slot.leases.load(Ordering::Acquire) == 0;
        let Some((_, slot)) = self.slots.remove_if(&user, unused) else { return 0 };
        let kept = slot.kept.amount() + slot.devices_kept.amount();
        slot.take_away();
        metrics::counter!("supersync_actor_passivations_total").increment(1);
        kept
    }

    /// Takes an account's slot away although it may be in use: its rows are gone. Requests under way fail or find
    /// nothing.
    pub fn evict(&self, user: UserId) {
        if let Some((_, slot)) = self.slots.remove(&user) {
            slot.take_away();
        }
    }

    /// The same for every account.
    pub fn evict_all(&self) {
        let users: Vec<UserId> = self.slots.iter().map(|slot| slot.user).collect();
        for user in users {
            self.evict(user);
        }
    }

    /// Refuses new leases, waits until the given ones are back or time is up, then stops every actor.
    pub async fn shutdown(&self, patience: Duration) {
        self.stopping.store(true, Ordering::Release);
        let deadline = Instant::now() + patience;
        while self.slots.iter().any(|slot| slot.leases.load(Ordering::Acquire) > 0) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.evict_all();
        let supervisor: ActorCell = self.supervisor.get_cell();
        supervisor.stop(None);
    }

    /// Another process has brought an account to this revision.
    pub fn heard(&self, user: UserId, revision: i64) {
        if let Some(slot) = self.slots.get(&user) {
            slot.heard.fetch_max(revision, Ordering::AcqRel);
        }
    }

    /// Whether the account is live.
    #[must_use]
    pub fn is_live(&self, user: UserId) -> bool {
        self.slots.contains_key(&user)
    }

    /// Accounts that are live.
    #[must_use]
    pub fn live(&self) -> usize {
        self.slots.len()
    }
}
