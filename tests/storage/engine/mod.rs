//! The engine on a real SQLite store: actor life, back-pressure, ambiguous commits, two engines on one database,
//! retention. And on PostgreSQL, where several processes share a database.

mod faulty_store;
mod heads;
mod life;
mod peers;
use crate::harness::postgres;
mod sealing;
mod setup;
mod touches;
mod trouble;
mod upkeep;
