//! Processes that die, freeze or are cut off.

#[macro_use]
#[path = "../harness/mod.rs"]
mod harness;

mod cluster;
mod crash;
