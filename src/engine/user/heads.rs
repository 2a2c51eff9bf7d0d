//! The latest operation per entity, as far as the actor knows: a cache of the heads that are stored, and the newer ones,
//! which are not stored yet.
//!
//! Storing a head costs half as much as storing the operation itself, and most are replaced soon after. So a commit
//! carries the heads of the last [`STORE_EVERY`] operations at once, each entity's newest only. What is not stored is in
//! the log: whoever takes an account up reads it there ([`crate::store::LogStore::heads_of_log`]).

use foldhash::{HashMap, HashMapExt as _};
use lru::LruCache;

use crate::protocol::Seq;
use crate::store::{EntityHead, EntityKey};

/// Stored heads remembered per account. An account with fewer is remembered whole, so that new entities need no
/// look-up.
pub const CAPACITY: usize = 2048;

/// By so many operations at most the stored heads lag behind the log, and one commit's. Tests reach it sooner.
pub const STORE_EVERY: Seq = if cfg!(test) { 8 } else { 256 };

/// A bounded memory of stored heads that knows whether it knows all, and every newer head.
#[derive(Debug)]
pub struct HeadCache {
    /// Newer than what is stored. Never forgotten: at most those of [`STORE_EVERY`] operations and one commit.
    recent: HashMap<EntityKey, EntityHead>,
    stored: LruCache<EntityKey, Option<EntityHead>, foldhash::fast::RandomState>,
    /// Whether an absent entry means that there is no such head.
    complete: bool,
    /// Whether nothing has been loaded yet.
    unknown: bool,
}

impl HeadCache {
    /// A cache that knows nothing yet.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            recent: HashMap::new(),
            stored: LruCache::unbounded_with_hasher(foldhash::fast::RandomState::default()),
            complete: false,
            unknown: true,
        }
    }

    /// Whether nothing has been loaded yet.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        self.unknown
    }

    /// A cache that knows that there are no heads at all.
    #[must_use]
    pub fn of_empty_data_set() -> Self {
        Self { complete: true, unknown: false, ..Self::unknown() }
    }

    /// A cache of all stored heads of an account, or of none of them (`None`: there are too many), and of those that
    /// are not stored yet.
    #[must_use]
    pub fn loaded(stored: Option<Vec<(EntityKey, EntityHead)>>, recent: Vec<(EntityKey, EntityHead)>) -> Self {
        let mut cache = Self { complete: stored.is_some(), unknown: false, ..Self::unknown() };
        for (key, head) in stored.into_iter().flatten() {
            cache.remember(key, Some(head));
        }
        cache.recent.extend(recent);
        cache
    }

    /// What is known of an entity: `None` = not known, `Some(None)` = it has no head.
    #[must_use]
    pub fn peek(&self, key: &EntityKey) -> Option<Option<&EntityHead>> {
        if let Some(head) = self.recent.get(key) {
            return Some(Some(head));
        }
        match self.stored.peek(key) {
            Some(head) => Some(head.as_ref()),
            None => self.complete.then_some(None),
        }
    }

    /// The heads that are not stored yet.
    pub fn recent(&self) -> impl Iterator<Item = (&EntityKey, &EntityHead)> {
        self.recent.iter()
    }

    /// Takes in the heads of operations that have been committed.
    pub fn advance(&mut self, heads: HashMap<EntityKey, EntityHead>) {
        // What has not been loaded will be loaded with these.
        if !self.unknown {
            self.recent.extend(heads);
        }
    }

    /// Everything known so far has been stored.
    pub fn all_stored(&mut self) {
        for (key, head) in std::mem::take(&mut self.recent) {
            self.remember(key, Some(head));
        }
    }

    fn remember(&mut self, key: EntityKey, head: Option<EntityHead>) {
        self.stored.put(key, head);
        while self.stored.len() > CAPACITY {
            self.stored.pop_lru();
            self.complete = false;
        }
    }
}
