//! What operators run and read: commands, settings, monitoring, packages, proxies.

#[macro_use]
#[path = "../harness/mod.rs"]
mod harness;

mod command_line;
mod compose;
mod doctor;
mod helm;
mod monitoring;
mod packaging;
mod proxy;
mod tools;
