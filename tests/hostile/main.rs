//! Hostile neighbours: ten honest accounts sync while somebody attacks, and must not notice.
//!
//! Each test starts the program itself on an empty database, with production's limits, on this machine's loopback, under
//! a limit of 768 MB (`prlimit --data`, which counts what the process may write to, used or not; the kernel's count of
//! resident memory decides below that). First the honest accounts are alone, which is what the attacks are compared with;
//! then come the attacks of one kind, one after the other, each for some seconds
//! (`SUPERSYNC_HOSTILE_SECONDS`, see `make hostile`). Attackers are registered accounts, each request from another
//! address, so that no limit per address hides that one per account is missing.
//!
//! Of each attack one line tells what it did, and the test fails unless
//! - 99 of 100 requests of the honest accounts, counted from when they were due, are answered within three times what it
//!   was without the attack, or within [`verdict::NOT_NOTICED`];
//! - none of their requests is refused, nor one of the operator's probes;
//! - the server's memory never exceeds 400 MB;
//! - attackers are answered as clients may be: 503 and 429, never another server error, never 401 and 403;
//! - the database has not grown by more than three times what attackers are charged for, archived data included;
//! - after `kill -9` and a new start each acknowledged operation is in the log, at its place, once, without holes.

#[macro_use]
#[path = "../harness/mod.rs"]
mod harness;

mod addresses;
mod archive;
mod arena;
mod bodies;
mod connections;
mod crew;
mod exports;
mod foe;
mod heads;
mod line;
mod metadata;
mod readers;
mod replay;
mod rows;
mod sockets;
mod verdict;
