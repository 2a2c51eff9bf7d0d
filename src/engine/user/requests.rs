//! Answers to recent requests by request id (contract, section 5.5 B): a client that lost an answer gets it again. A
//! shortcut only: what makes retries safe is the op id in the log.

use std::collections::VecDeque;

use crate::engine::SnapshotReply;
use crate::protocol::response::OpResult;

/// How long an answer is remembered, in milliseconds.
const TTL_MS: i64 = 300_000;
/// Answers remembered per account; a device uploads at most some hundred times in five minutes.
const CAPACITY: usize = 256;
/// Results remembered per account, over all answers.
const MAX_RESULTS: usize = 4096;

/// A remembered answer.
#[derive(Clone, Debug)]
pub enum Remembered {
    /// Of an upload.
    Upload(Vec<OpResult>),
    /// Of a snapshot.
    Snapshot(SnapshotReply),
}

impl Remembered {
    fn weight(&self) -> usize {
        match self {
            Self::Upload(results) => results.len(),
            Self::Snapshot(_) => 1,
        }
    }
}

/// Names a request: its id, which of the two kinds it is, and a digest of its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// Chosen by the client.
    pub request_id: String,
    /// `/snapshot` and `/ops` don't share ids.
    pub is_snapshot: bool,
    /// A request with the same id and another content is another request.
    pub fingerprint: [u8; 32],
}

/// Recent answers, oldest first.
#[derive(Debug, Default)]
pub struct RequestCache {
    entries: VecDeque<(i64, RequestKey, Remembered)>,
    results: usize,
}

impl RequestCache {
    /// The answer to the same request, if it is recent.
    #[must_use]
    pub fn get(&self, key: &RequestKey, now_ms: i64) -> Option<&Remembered> {
        self.entries.iter().rev().find(|(at, k, _)| k == key && now_ms - at < TTL_MS).map(|(_, _, answer)| answer)
    }

    /// Remembers an answer; an older one under the same id is forgotten.
    pub fn put(&mut self, key: RequestKey, answer: Remembered, now_ms: i64) {
        self.entries.retain(|(at, k, _)| {
            now_ms - at < TTL_MS && (k.request_id != key.request_id || k.is_snapshot != key.is_snapshot)
        });
        self.entries.push_back((now_ms, key, answer));
        self.results = self.entries.iter().map(|(_, _, a)| a.weight()).sum();
        while self.entries.len() > CAPACITY || self.results > MAX_RESULTS {
            let Some((_, _, dropped)) = self.entries.pop_front() else { break };
            self.results -= dropped.weight();
        }
    }

    /// Forgets everything: a new data set has begun.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.results = 0;
    }
}
