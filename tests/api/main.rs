//! Everything that devices, browsers and administrators are answered, through the public routes.

#[macro_use]
#[path = "../harness/mod.rs"]
mod harness;

mod accounts;
mod archives;
mod browser;
mod concurrency;
mod edge;
mod ladder;
mod reference_client;
mod replay_recordings;
mod scenarios;
mod sessions;
mod signin;
mod traces;
mod transport;
