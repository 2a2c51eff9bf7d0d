//! Answers to recent requests by request id (contract, section 5.5 B): a client that lost an answer gets it again. A
//! shortcut only: what makes retries safe is the op id in the log.

use std::collections::VecDeque;
use std::sync::Arc;

use foldhash::HashMap;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::engine::SnapshotReply;
use crate::protocol::response::{OpResult, Rejection};
use crate::protocol::{Seq, VectorClock};

/// How long an answer is remembered, in milliseconds.
const TTL_MS: i64 = 300_000;
/// Answers remembered per account; a device uploads at most some hundred times in five minutes.
const CAPACITY: usize = 256;
/// Bytes of answers remembered per account. That of an upload of which everything was stored takes next to nothing.
const MAX_BYTES: usize = 128 * 1024;
/// What an answer takes with its places in the table and in the queue.
const PLACES: usize = 2 * (size_of::<(RequestKey, (i64, Remembered))>() + size_of::<(i64, RequestKey)>());

/// A remembered answer.
#[derive(Clone, Debug)]
pub enum Remembered {
    /// Of an upload of which every operation was stored, one after the other, the first one here.
    Stored(Seq),
    /// Of any other upload: what became of each operation, in the request's order.
    Upload(Arc<[Result<Seq, Box<Rejection>>]>),
    /// Of a snapshot.
    Snapshot(SnapshotReply),
}

impl Remembered {
    /// Of an upload's results; the ids come back with the request.
    #[must_use]
    pub fn upload(results: &[OpResult]) -> Self {
        let first = results.first().and_then(|result| result.outcome.as_ref().ok());
        if let Some(first) = first
            && (*first..).zip(results).all(|(seq, result)| result.outcome.as_ref().is_ok_and(|stored| *stored == seq))
        {
            return Self::Stored(*first);
        }
        Self::Upload(results.iter().map(|result| result.outcome.clone().map_err(Box::new)).collect())
    }

    /// The outcomes of an upload, as many as the request has operations.
    #[must_use]
    pub fn outcomes(&self, operations: usize) -> Option<Vec<Result<Seq, Rejection>>> {
        match self {
            Self::Stored(first) => Some((*first..).take(operations).map(Ok).collect()),
            Self::Upload(results) => {
                Some(results.iter().map(|outcome| outcome.clone().map_err(|rejection| *rejection)).collect())
            }
            Self::Snapshot(_) => None,
        }
    }

    /// Bytes that it takes beside itself.
    fn weight(&self) -> usize {
        const BOXED: usize = size_of::<Rejection>() + 32;
        let refused = |rejection: &Rejection| {
            BOXED + rejection.message.len() + rejection.existing_clock.as_ref().map_or(0, VectorClock::weight)
        };
        match self {
            Self::Stored(_) => 0,
            Self::Snapshot(_) => BOXED,
            Self::Upload(results) => {
                let refusals = results.iter().filter_map(|result| result.as_ref().err()).map(|it| refused(it));
                size_of_val(&**results) + refusals.sum::<usize>()
            }
        }
    }
}

/// Names a request: a digest of its content, its id, and which of the two kinds it is. In two halves, so that it takes no
/// more room than it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestKey([u64; 2]);

impl RequestKey {
    /// From the fingerprint of the request's content, its id, and whether it is a snapshot: the two kinds don't share ids.
    #[must_use]
    pub fn new(fingerprint: u128, request_id: &str, is_snapshot: bool) -> Self {
        let digest = fingerprint ^ xxh3_128_with_seed(request_id.as_bytes(), is_snapshot.into());
        let [b0, b1, b2, b3, b4, b5, b6, b7, rest @ ..] = digest.to_le_bytes();
        Self([u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7]), u64::from_le_bytes(rest)])
    }
}

/// Recent answers.
#[derive(Debug, Default)]
pub struct RequestCache {
    answers: HashMap<RequestKey, (i64, Remembered)>,
    /// When each was remembered, oldest first.
    order: VecDeque<(i64, RequestKey)>,
    bytes: usize,
}

impl RequestCache {
    /// The answer to the same request, if it is recent.
    #[must_use]
    pub fn get(&self, key: &RequestKey, now_ms: i64) -> Option<&Remembered> {
        self.answers.get(key).filter(|(at, _)| now_ms - at < TTL_MS).map(|(_, answer)| answer)
    }

    /// Remembers an answer, in place of an older one to the same request.
    pub fn put(&mut self, key: RequestKey, answer: Remembered, now_ms: i64) {
        self.bytes += answer.weight();
        self.order.push_back((now_ms, key));
        if let Some((_, replaced)) = self.answers.insert(key, (now_ms, answer)) {
            self.bytes -= replaced.weight();
        }
        while let Some((at, _)) = self.order.front() {
            let is_old = now_ms - at >= TTL_MS;
            if !is_old && self.order.len() <= CAPACITY && self.bytes <= MAX_BYTES {
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
            self.bytes -= forgotten.weight();
        }
    }

    /// Bytes that this takes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.bytes + self.order.len() * PLACES
    }

    /// Forgets everything: a new data set has begun.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ErrorCode;

    fn key(id: u128) -> RequestKey {
        RequestKey::new(id, "r", false)
    }

    /// Of an upload of which nothing was stored.
    fn answer(results: usize) -> Remembered {
        let rejection = || Rejection::new(ErrorCode::ConflictConcurrent, "refused");
        let result = |n: usize| OpResult { op_id: n.to_string().into(), outcome: Err(rejection()) };
        Remembered::upload(&(0..results).map(result).collect::<Vec<_>>())
    }

    #[test]
    fn answers_are_forgotten_when_old_or_too_many_or_too_large() {
        let mut cache = RequestCache::default();
        cache.put(key(1), answer(1), 0);
        let one = cache.bytes;
        assert!(cache.get(&key(1), TTL_MS - 1).is_some());
        assert!(cache.get(&key(1), TTL_MS).is_none());
        for other in [(1, "r", true), (1, "s", false), (1 << 64, "r", false)] {
            assert!(cache.get(&RequestKey::new(other.0, other.1, other.2), 0).is_none());
        }
        for n in 0..=CAPACITY {
            cache.put(key(1000 + n as u128), answer(1), 1);
        }
        assert!(cache.get(&key(1), 1).is_none() && cache.get(&key(1000), 1).is_none());
        assert_eq!((cache.answers.len(), cache.order.len(), cache.bytes), (CAPACITY, CAPACITY, CAPACITY * one));
        cache.put(key(2), answer(MAX_BYTES / one), 2);
        assert_eq!((cache.answers.len(), cache.bytes), (1, MAX_BYTES / one * one));
        cache.put(key(3), answer(1), TTL_MS + 2);
        assert_eq!((cache.answers.len(), cache.order.len(), cache.bytes), (1, 1, one));
        cache.put(key(4), answer(MAX_BYTES), TTL_MS + 3);
        assert_eq!((cache.answers.len(), cache.weight()), (0, 0), "more than all may take is not kept at all");
    }

    #[test]
    fn the_clocks_of_refusals_count() {
        let mut rejection = Rejection::new(ErrorCode::ConflictConcurrent, "");
        rejection.existing_clock = Some(VectorClock::from_entries([("x".repeat(1000).into(), 1)]));
        let result = OpResult { op_id: "1".into(), outcome: Err(rejection) };
        assert!(Remembered::upload(&[result]).weight() > 1000);
    }

    #[test]
    fn what_was_stored_in_a_row_is_remembered_by_its_beginning() {
        let stored = |seqs: &[Seq]| {
            let results = seqs.iter().map(|seq| OpResult { op_id: seq.to_string().into(), outcome: Ok(*seq) });
            Remembered::upload(&results.collect::<Vec<_>>())
        };
        assert!(matches!(stored(&[7, 8, 9]), Remembered::Stored(7)));
        assert_eq!(stored(&[7, 8, 9]).outcomes(3), Some(vec![Ok(7), Ok(8), Ok(9)]));
        assert_eq!(stored(&[7, 9]).outcomes(2), Some(vec![Ok(7), Ok(9)]));
        assert_eq!(stored(&[]).outcomes(0), Some(Vec::new()));
    }

    #[test]
    fn an_answer_that_was_replaced_lives_as_long_as_the_new_one() {
        let mut cache = RequestCache::default();
        cache.put(key(1), answer(3), 0);
        cache.put(key(1), answer(2), 10);
        let two = cache.bytes;
        cache.put(key(2), answer(1), TTL_MS + 5);
        assert!(cache.get(&key(1), TTL_MS + 5).is_some());
        assert_eq!((cache.answers.len(), cache.order.len(), cache.bytes), (2, 2, two + two / 2));
    }
}
