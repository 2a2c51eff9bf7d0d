//! The program and its database die under load: nothing acknowledged is lost, nothing is done twice.

mod failover;
mod killed;
mod witness;
