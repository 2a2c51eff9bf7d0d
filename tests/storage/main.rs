//! Databases, the engine above them, backups, and the way from and to the old server.

#[macro_use]
#[path = "../harness/mod.rs"]
mod harness;
#[path = "upstream_schema/mod.rs"]
mod old_schema;

mod backup;
mod engine;
mod explain;
mod fuzz_seeds;
mod store_contract;
mod upstream_export;
mod upstream_import;
