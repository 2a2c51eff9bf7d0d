//! Tells open sockets that something is new. Hints only: a lost one costs a poll.

use crate::protocol::{Seq, UserId};

/// The sockets of every account.
#[derive(Clone)]
pub struct Notifier {}

impl Notifier {
    /// Called after a commit that accepted operations of `author`; `latest_seq` is the account's last sequence.
    #[allow(clippy::todo)]
    pub fn committed(&self, _user: UserId, _author: &str, _latest_seq: Seq) {
        todo!()
    }
}
