//! shim
use crate::clock::Clock;
use crate::protocol::{Seq, UserId};
#[derive(Clone, Debug)]
pub struct NotifierOptions {
    pub max_sockets_per_user: usize,
}
impl Default for NotifierOptions {
    fn default() -> Self {
        Self { max_sockets_per_user: 10 }
    }
}
#[derive(Clone)]
pub struct Notifier {}
impl Notifier {
    pub fn new(_o: NotifierOptions, _c: Clock) -> Self {
        Self {}
    }
    pub fn committed(&self, _user: UserId, _author: &str, _latest_seq: Seq) {
        todo!()
    }
}
