//! The program and its database die under load: nothing acknowledged is lost, nothing is done twice.

#[macro_use]
#[path = "../harness/mod.rs"]
mod harness;

mod failover;
mod killed;
mod witness;
