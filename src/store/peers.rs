//! The processes that serve one database, to each other: who is there, and a channel on which each hears what any of them
//! says. What is said is the engine's business.
//!
//! Only a database that several processes may serve has such a channel; the embedded one is served by one process.

use std::time::Duration;

use async_trait::async_trait;

use super::Result;

/// A process among those that serve the database, for as long as it listens. Never negative.
pub type PeerId = i32;

/// One process's ear on the channel.
#[async_trait]
pub trait PeerLine: Send {
    /// The next thing that anybody has said, this process included, in the order in which it was said. `None`: the line is
    /// broken; what is said from now on is not heard, and the others see this process as gone.
    async fn hear(&mut self) -> Option<String>;
}

/// Requests of all processes under one key, within a window that begins with the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountedTogether {
    /// How many, this one included.
    pub count: u32,
    /// Until the window ends.
    pub left: Duration,
}

/// The channel, and what is counted together.
#[async_trait]
pub trait PeerStore: Send + Sync + 'static {
    /// Joins the others: from the return on this process is present and hears everything, until the line is dropped or breaks.
    /// `None`: no other process may serve this database.
    async fn join_peers(&self, me: PeerId) -> Result<Option<Box<dyn PeerLine>>>;
    /// Says something to everybody, each text at most [`MAX_SAID_BYTES`].
    async fn tell_peers(&self, said: &[String]) -> Result<()>;
    /// Who is present. A process whose line breaks, or that dies, is present no more.
    async fn present_peers(&self) -> Result<Vec<PeerId>>;
    /// Whether the database refuses every connection, as it does when it is down; not if it is silent.
    async fn refuses_everybody(&self) -> bool;
    /// Counts a request under a key that all processes share. `None`: no other process may serve this database.
    async fn count_together(&self, key: &str, window: Duration) -> Result<Option<CountedTogether>>;
}

/// What PostgreSQL carries in one notification is a little more.
pub const MAX_SAID_BYTES: usize = 7900;
