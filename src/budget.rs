//! Limits per account on resources that a request holds: memory, replays, exports.
//!
//! A [`Pool`] is an amount shared by all accounts, with a maximum per account. A request takes a part and holds it
//! until its work is done: [`PoolPermit`] returns it on drop. A pool never waits: on refusal ([`Refused`] tells whose limit
//! was reached) the caller fails or waits for a limited time. [`Memory`] counts the memory of accounts between
//! requests: it refuses nothing, but signals an excess, and the least recently used accounts are evicted. [`Resource`]
//! labels a pool for logs and metrics. `docs/security.md` lists all limits.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use metrics::{Counter, Gauge};
use tokio::sync::Notify;

use crate::protocol::UserId;

/// The resource of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// Bytes of request bodies being received or processed.
    Bodies,
    /// Encoded bytes of answers not yet sent.
    Answers,
    /// Running downloads of whole data sets.
    Exports,
    /// Memory of replays, in bytes.
    Replays,
    /// Memory of accounts between requests, in bytes.
    Memory,
    /// Bytes of requests from unknown senders, on account routes.
    AccountBodies,
    /// Bytes of requests waiting in the engine.
    Queued,
    /// Compressions and decompressions, queued or running.
    Codecs,
}

/// An account may hold its share divided by this in addition to one large part.
const FEW_BESIDE: usize = 4;

/// Requests and answers up to this size are not counted: the limit on connections limits their number.
pub const SMALL_BYTES: usize = 16 * 1024;

impl Resource {
    /// The value of the label `resource`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Bodies => "bodies",
            Self::Answers => "answers",
            Self::Exports => "exports",
            Self::Replays => "replays",
            Self::Memory => "memory",
            Self::AccountBodies => "account_bodies",
            Self::Queued => "queued",
            Self::Codecs => "codecs",
        }
    }
}

/// A pool's refusal. Nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room for more {} of {}", resource.label(), if *by_account { "this account" } else { "all accounts" })]
pub struct Refused {
    /// What there was no room for.
    pub resource: Resource,
    /// Whether the account's share was used up, not the total.
    pub by_account: bool,
}

#[derive(Default)]
struct Use {
    total: usize,
    by_account: HashMap<UserId, usize>,
}

struct Inner {
    resource: Resource,
    most: usize,
    most_per_account: usize,
    most_alone: usize,
    used: Mutex<Use>,
    held: Gauge,
    refused_account: Counter,
    refused_all: Counter,
}

/// An amount shared by accounts. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("resource", &self.0.resource).field("held", &self.held()).finish_non_exhaustive()
    }
}

/// A part of a pool, returned on drop.
#[derive(Debug)]
#[must_use = "dropping it gives it back"]
pub struct PoolPermit {
    pool: Pool,
    account: UserId,
    amount: usize,
}

impl Pool {
    /// A pool of `most`, of which one account may hold `most_per_account`.
    #[must_use]
    pub fn new(resource: Resource, most: usize, most_per_account: usize) -> Self {
        Self::with_large(resource, most, most_per_account, most_per_account)
    }

    /// The same, but one part may exceed the account's share, up to `most_alone`, while the account holds little
    /// else: a single request of the maximum size must be possible.
    #[must_use]
    pub fn with_large(resource: Resource, most: usize, most_per_account: usize, most_alone: usize) -> Self {
        let label = resource.label();
        let refused =
            |whose| metrics::counter!("supersync_budget_refused_total", "resource" => label, "whose" => whose);
        Self(Arc::new(Inner {
            resource,
            most,
            most_per_account: most_per_account.min(most),
            most_alone: most_alone.max(most_per_account).min(most),
            used: Mutex::default(),
            held: metrics::gauge!("supersync_budget_held", "resource" => label),
            refused_account: refused("account"),
            refused_all: refused("all"),
        }))
    }

    /// Takes a part for an account. An amount of 0 holds nothing yet and can grow.
    ///
    /// # Errors
    /// [`Refused`] when the account's share or the pool has no room for it.
    pub fn acquire(&self, account: UserId, amount: usize) -> Result<PoolPermit, Refused> {
        let mut held = PoolPermit { pool: self.clone(), account, amount: 0 };
        held.grow_to(amount)?;
        Ok(held)
    }

    /// What is held now, by all.
    #[must_use]
    pub fn held(&self) -> usize {
        self.0.used.lock().unwrap_or_else(PoisonError::into_inner).total
    }

    /// The most that all may hold.
    #[must_use]
    pub fn most(&self) -> usize {
        self.0.most
    }

    /// The most that one account may hold.
    #[must_use]
    pub fn most_per_account(&self) -> usize {
        self.0.most_per_account
    }

    /// Adds `more` to a part that is now `part`.
    fn add(&self, account: UserId, part: usize, more: usize) -> Result<(), Refused> {
        let inner = &*self.0;
        let mut used = inner.used.lock().unwrap_or_else(PoisonError::into_inner);
        let of_account = used.by_account.get(&account).copied().unwrap_or(0);
        let beside = of_account - part;
        let within_share = inner.most_per_account.saturating_sub(of_account) >= more;
        let may_be_large = inner.most_alone > inner.most_per_account && beside <= inner.most_per_account / FEW_BESIDE;
        let by_account = !within_share && (!may_be_large || part + more > inner.most_alone);
        if by_account || inner.most - used.total < more {
            if by_account { &inner.refused_account } else { &inner.refused_all }.increment(1);
            return Err(Refused { resource: inner.resource, by_account });
        }
        used.by_account.insert(account, of_account + more);
        used.total += more;
        inner.held.set(as_f64(used.total));
        Ok(())
    }

    fn give_back(&self, account: UserId, amount: usize) {
        let inner = &*self.0;
        let mut used = inner.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.total -= amount;
        if let Some(of_account) = used.by_account.get_mut(&account) {
            *of_account -= amount;
            if *of_account == 0 {
                used.by_account.remove(&account);
            }
        }
        inner.held.set(as_f64(used.total));
    }
}

#[expect(clippy::cast_precision_loss, reason = "a metric")]
fn as_f64(amount: usize) -> f64 {
    amount as f64
}

impl PoolPermit {
    /// What is held.
    #[must_use]
    pub const fn amount(&self) -> usize {
        self.amount
    }

    /// The account that holds it.
    #[must_use]
    pub const fn account(&self) -> UserId {
        self.account
    }

    /// Grows to `amount`; never shrinks.
    ///
    /// # Errors
    /// [`Refused`] when there is no room for it; the part stays as it was.
    pub fn grow_to(&mut self, amount: usize) -> Result<(), Refused> {
        if amount > self.amount {
            self.pool.add(self.account, self.amount, amount - self.amount)?;
            self.amount = amount;
        }
        Ok(())
    }

    /// Grows or shrinks to `amount`.
    ///
    /// # Errors
    /// Like [`PoolPermit::grow_to`].
    pub fn resize(&mut self, amount: usize) -> Result<(), Refused> {
        self.grow_to(amount)?;
        self.shrink_to(amount);
        Ok(())
    }

    /// Shrinks to `amount`; never grows.
    pub fn shrink_to(&mut self, amount: usize) {
        if amount < self.amount {
            self.pool.give_back(self.account, self.amount - amount);
            self.amount = amount;
        }
    }
}

impl Drop for PoolPermit {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

struct Keeping {
    most: usize,
    kept: AtomicUsize,
    gauge: Gauge,
    excess: Notify,
}

/// The memory of all accounts between requests. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct Memory(Arc<Keeping>);

/// The memory of one account; released on drop.
pub struct Kept {
    memory: Memory,
    amount: AtomicUsize,
}

impl Memory {
    /// A limit in bytes.
    #[must_use]
    pub fn new(most: usize) -> Self {
        let gauge = metrics::gauge!("supersync_budget_held", "resource" => Resource::Memory.label());
        Self(Arc::new(Keeping { most, kept: AtomicUsize::new(0), gauge, excess: Notify::new() }))
    }

    /// The limit.
    #[must_use]
    pub fn most(&self) -> usize {
        self.0.most
    }

    /// Bytes in use.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.0.kept.load(Ordering::Relaxed)
    }

    /// Bytes beyond the limit.
    #[must_use]
    pub fn excess(&self) -> usize {
        self.kept().saturating_sub(self.0.most)
    }

    /// Waits until the limit is exceeded.
    pub async fn exceeded(&self) {
        self.0.excess.notified().await;
    }

    /// The counter of one account.
    #[must_use]
    pub fn of_account(&self) -> Kept {
        Kept { memory: self.clone(), amount: AtomicUsize::new(0) }
    }
}

impl Kept {
    /// Bytes in use.
    #[must_use]
    pub fn amount(&self) -> usize {
        self.amount.load(Ordering::Relaxed)
    }

    /// Sets the bytes in use.
    pub fn set(&self, amount: usize) {
        let all = &*self.memory.0;
        let before = self.amount.swap(amount, Ordering::Relaxed);
        // Each call applies its own difference, so the sum is right in any order.
        let kept = if amount >= before {
            all.kept.fetch_add(amount - before, Ordering::Relaxed) + (amount - before)
        } else {
            all.kept.fetch_sub(before - amount, Ordering::Relaxed) - (before - amount)
        };
        all.gauge.set(as_f64(kept));
        if kept > all.most && amount > before {
            all.excess.notify_one();
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Pool {
        Pool::new(Resource::Bodies, 10, 4)
    }

    #[test]
    fn an_account_gets_its_share_and_leaves_the_rest_to_others() {
        let pool = pool();
        let held = pool.acquire(1, 4).expect("the share");
        let refused = Refused { resource: Resource::Bodies, by_account: true };
        assert_eq!(pool.acquire(1, 1).err(), Some(refused));
        let _others = [pool.acquire(2, 4).expect("its own share"), pool.acquire(3, 2).expect("the rest")];
        assert_eq!(pool.acquire(4, 1).err(), Some(Refused { by_account: false, ..refused }));
        drop(held);
        assert!(pool.acquire(4, 4).is_ok());
    }

    #[test]
    fn one_thing_at_a_time_may_be_large() {
        let pool = Pool::with_large(Resource::Bodies, 10, 4, 8);
        let mut only = pool.acquire(1, 8).expect("alone");
        assert!(only.grow_to(9).is_err(), "there is a bound for one as well");
        assert_eq!(pool.acquire(1, 1).err().map(|refused| refused.by_account), Some(true), "nothing beside it");
        assert_eq!(pool.acquire(2, 3).err().map(|refused| refused.by_account), Some(false), "all share the rest");
        only.shrink_to(2);
        let little = pool.acquire(1, 1).expect("a quarter of the share");
        only.resize(8).expect("next to nothing beside it");
        only.shrink_to(2);
        drop(little);
        let beside = pool.acquire(1, 2).expect("the share");
        assert!(only.grow_to(3).is_err(), "not alone");
        drop(beside);
        only.resize(8).expect("alone again");
    }

    #[test]
    fn a_part_grows_and_shrinks_and_a_refusal_takes_nothing() {
        let pool = pool();
        let mut held = pool.acquire(1, 0).expect("nothing");
        held.grow_to(3).expect("within the share");
        assert!(held.grow_to(5).is_err());
        assert_eq!((held.amount(), pool.held()), (3, 3));
        held.shrink_to(1);
        held.grow_to(1).expect("it holds that already");
        assert_eq!((held.amount(), pool.held()), (1, 1));
        drop(held);
        assert_eq!(pool.held(), 0);
        assert!(pool.0.used.lock().unwrap().by_account.is_empty(), "accounts that hold nothing are forgotten");
    }

    #[tokio::test]
    async fn what_is_kept_is_added_up_and_somebody_hears_of_an_excess() {
        let memory = Memory::new(10);
        let (first, second) = (memory.of_account(), memory.of_account());
        first.set(8);
        second.set(2);
        assert_eq!((memory.kept(), memory.excess()), (10, 0));
        second.set(5);
        memory.exceeded().await;
        assert_eq!((memory.kept(), memory.excess(), second.amount()), (13, 3, 5));
        drop(first);
        second.set(4);
        assert_eq!((memory.kept(), memory.excess()), (4, 0));
    }
}
