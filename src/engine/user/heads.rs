//! The latest operation per entity, as far as the actor remembers. A cache: the store has them all.

use lru::LruCache;

use crate::store::{EntityHead, EntityKey};

/// Heads remembered per account. An account with fewer is remembered whole, so that new entities need no look-up.
pub const CAPACITY: usize = 2048;

/// A bounded memory of heads that knows whether it knows all.
#[derive(Debug)]
pub struct HeadCache {
    known: LruCache<EntityKey, Option<EntityHead>>,
    /// Whether an absent entry means that there is no such head.
    complete: bool,
    /// Whether nothing has been loaded yet.
    unknown: bool,
}

impl HeadCache {
    /// A cache that knows nothing yet.
    #[must_use]
    pub fn unknown() -> Self {
        Self { known: LruCache::unbounded(), complete: false, unknown: true }
    }

    /// Whether nothing has been loaded yet.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        self.unknown
    }

    /// A cache that knows that there are no heads at all.
    #[must_use]
    pub fn of_empty_data_set() -> Self {
        Self { known: LruCache::unbounded(), complete: true, unknown: false }
    }

    /// A cache of all heads of an account, or of none (`None`: there are too many).
    #[must_use]
    pub fn loaded(all: Option<Vec<(EntityKey, EntityHead)>>) -> Self {
        let mut cache = Self { known: LruCache::unbounded(), complete: all.is_some(), unknown: false };
        for (key, head) in all.into_iter().flatten() {
            cache.insert(key, Some(head));
        }
        cache
    }

    /// What is known of an entity: `None` = not known, `Some(None)` = it has no head.
    #[must_use]
    pub fn peek(&self, key: &EntityKey) -> Option<Option<&EntityHead>> {
        match self.known.peek(key) {
            Some(head) => Some(head.as_ref()),
            None => self.complete.then_some(None),
        }
    }

    /// Remembers a head, or that there is none.
    pub fn insert(&mut self, key: EntityKey, head: Option<EntityHead>) {
        if self.complete && head.is_none() {
            return;
        }
        self.known.put(key, head);
        while self.known.len() > CAPACITY {
            self.known.pop_lru();
            self.complete = false;
        }
    }
}
