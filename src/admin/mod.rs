//! What the operator's subcommands do. Each one is a function of its input, an output and the services it needs; `main`
//! only parses the command line.

pub mod backup;
mod backup_file;
mod clear;
pub mod data;
pub mod doctor;
pub mod export;
mod failure;
pub mod healthcheck;
pub mod import;
pub mod mail;
pub mod migrate;
mod output;
mod progress;
pub mod recount;
mod report;
pub mod sweep;
pub mod usage;
pub mod user;

pub use failure::{CommandError, Exit, Failure};
