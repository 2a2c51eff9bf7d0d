//! What identifies a log.

use sha2::{Digest as _, Sha256};

use crate::protocol::StoredOp;
use crate::protocol::response::encode_op;

/// Identifies operations: what clients get of each, in their order, and what it is charged.
#[derive(Debug, Default)]
pub(super) struct LogDigest {
    digest: Sha256,
    text: Vec<u8>,
    /// How many there were.
    pub(super) count: i64,
}

impl LogDigest {
    pub(super) fn add(&mut self, op: &StoredOp) {
        self.text.clear();
        encode_op(op, &mut self.text);
        self.digest.update((self.text.len() as u64).to_le_bytes());
        self.digest.update(&self.text);
        self.digest.update(op.storage_bytes.to_le_bytes());
        self.count += 1;
    }

    pub(super) fn done(self) -> String {
        hex::encode(self.digest.finalize())
    }
}
