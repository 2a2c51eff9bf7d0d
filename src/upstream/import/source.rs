//! Where an import reads from: the old server's database, or a dump of it.

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::error::ImportError;
use super::rows::{SourceOp, Tables};
use crate::protocol::UserId;

/// Operations that are handed over together at most,
const BATCH_OPS: usize = 500;
/// and the bytes of their payloads, but for the last of them.
const BATCH_BYTES: usize = 1 << 20;

/// The old server's data as it is at one instant.
#[async_trait]
pub trait Source: Send {
    /// Who else works on it, in words; empty if nobody. To be asked before it is opened: whoever leaves may have written
    /// something at last.
    async fn others(&mut self) -> Result<String, ImportError>;

    /// From now on it is seen as it is now. Gives back everything but operations and cached states. Refuses what is not the
    /// old server's.
    async fn open(&mut self) -> Result<Tables, ImportError>;

    /// An account's cached state, as it is stored: JSON, compressed with gzip.
    async fn snapshot(&mut self, user: UserId) -> Result<Option<Vec<u8>>, ImportError>;

    /// Hands over an account's operations by `server_seq`, some at a time. If nobody takes any more, it ends without error.
    async fn operations(&mut self, user: UserId, to: &mpsc::Sender<Vec<SourceOp>>) -> Result<(), ImportError>;
}

/// Gathers operations until they are worth being handed over.
#[derive(Default)]
pub(super) struct Batch {
    ops: Vec<SourceOp>,
    bytes: usize,
}

impl Batch {
    /// Adds an operation. Gives back a batch that is full.
    pub(super) fn add(&mut self, op: SourceOp) -> Option<Vec<SourceOp>> {
        self.bytes += op.as_ref().map_or(0, |op| op.payload.len());
        self.ops.push(op);
        (self.ops.len() >= BATCH_OPS || self.bytes >= BATCH_BYTES).then(|| self.rest())
    }

    /// What is left.
    pub(super) fn rest(&mut self) -> Vec<SourceOp> {
        self.bytes = 0;
        std::mem::take(&mut self.ops)
    }
}
