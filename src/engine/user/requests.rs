//! Answers to recent requests by request id (contract, section 5.5 B): a client that lost an answer gets it again. A
//! shortcut only: what makes retries safe is the op id in the log.

use std::collections::VecDeque;
use std::sync::Arc;

use foldhash::HashMap;

use crate::engine::SnapshotReply;
use crate::protocol::Seq;
use crate::protocol::response::{OpResult, Rejection};

/// How long an answer is remembered, in milliseconds.
const TTL_MS: i64 = 300_000;
/// Answers remembered per account; a device uploads at most some hundred times in five minutes.
const CAPACITY: usize = 256;
/// Results remembered per account, over all answers.
const MAX_RESULTS: usize = 4096;

/// A remembered answer.
#[derive(Clone, Debug)]
pub enum Remembered {
    /// Of an upload: what became of each operation, in the request's order.
    Upload(Arc<[Result<Seq, Box<Rejection>>]>),
    /// Of a snapshot.
    Snapshot(SnapshotReply),
}

impl Remembered {
    /// Of an upload's results; the ids come back with the request.
    #[must_use]
    pub fn upload(results: &[OpResult]) -> Self {
        Self::Upload(results.iter().map(|result| result.outcome.clone().map_err(Box::new)).collect())
    }

    fn weight(&self) -> usize {
        match self {
            Self::Upload(results) => results.len(),
            Self::Snapshot(_) => 1,
        }
    }
}

/// Names a request: a digest of its content, its id, and which of the two kinds it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestKey {
    /// A request with the same id and another content is another request.
    pub fingerprint: u128,
    /// Chosen by the client.
    pub request_id: Arc<str>,
    /// `/snapshot` and `/ops` don't share ids.
    pub is_snapshot: bool,
}

/// Recent answers.
#[derive(Debug, Default)]
pub struct RequestCache {
    answers: HashMap<RequestKey, (i64, Remembered)>,
    /// When each was remembered, oldest first.
    order: VecDeque<(i64, RequestKey)>,
    results: usize,
}

impl RequestCache {
    /// The answer to the same request, if it is recent.
    #[must_use]
    pub fn get(&self, key: &RequestKey, now_ms: i64) -> Option<&Remembered> {
        self.answers.get(key).filter(|(at, _)| now_ms - at < TTL_MS).map(|(_, answer)| answer)
    }

    /// Remembers an answer, in place of an older one to the same request.
    pub fn put(&mut self, key: RequestKey, answer: Remembered, now_ms: i64) {
        self.results += answer.weight();
        self.order.push_back((now_ms, key.clone()));
        if let Some((_, replaced)) = self.answers.insert(key, (now_ms, answer)) {
            self.results -= replaced.weight();
        }
        while let Some((at, _)) = self.order.front() {
            let is_old = now_ms - at >= TTL_MS;
            if !is_old && self.order.len() <= CAPACITY && self.results <= MAX_RESULTS {
                break;
            }
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((at, key)) = self.order.pop_front() else { return };
        // It may have been replaced by a newer one, which has a place of its own in the order.
        if self.answers.get(&key).is_some_and(|(remembered_at, _)| *remembered_at == at)
            && let Some((_, forgotten)) = self.answers.remove(&key)
        {
            self.results -= forgotten.weight();
        }
    }

    /// Forgets everything: a new data set has begun.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> RequestKey {
        RequestKey { fingerprint: 0, request_id: id.into(), is_snapshot: false }
    }

    fn answer(results: usize) -> Remembered {
        Remembered::Upload(vec![Ok(1); results].into())
    }

    #[test]
    fn answers_are_forgotten_when_old_or_too_many() {
        let mut cache = RequestCache::default();
        cache.put(key("a"), answer(1), 0);
        assert!(cache.get(&key("a"), TTL_MS - 1).is_some());
        assert!(cache.get(&key("a"), TTL_MS).is_none());
        assert!(cache.get(&RequestKey { is_snapshot: true, ..key("a") }, 0).is_none());
        assert!(cache.get(&RequestKey { fingerprint: 1, ..key("a") }, 0).is_none());
        for n in 0..=CAPACITY {
            cache.put(key(&n.to_string()), answer(1), 1);
        }
        assert!(cache.get(&key("a"), 1).is_none() && cache.get(&key("0"), 1).is_none());
        assert_eq!((cache.answers.len(), cache.order.len(), cache.results), (CAPACITY, CAPACITY, CAPACITY));
        cache.put(key("large"), answer(MAX_RESULTS), 2);
        assert_eq!((cache.answers.len(), cache.results), (1, MAX_RESULTS));
        cache.put(key("later"), answer(1), TTL_MS + 2);
        assert_eq!((cache.answers.len(), cache.order.len(), cache.results), (1, 1, 1));
    }

    #[test]
    fn an_answer_that_was_replaced_lives_as_long_as_the_new_one() {
        let mut cache = RequestCache::default();
        cache.put(key("a"), answer(3), 0);
        cache.put(key("a"), answer(2), 10);
        assert_eq!(cache.results, 2);
        cache.put(key("b"), answer(1), TTL_MS + 5);
        assert!(cache.get(&key("a"), TTL_MS + 5).is_some());
        assert_eq!((cache.answers.len(), cache.order.len(), cache.results), (2, 2, 3));
    }
}
