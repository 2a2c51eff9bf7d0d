//! The engine on a real SQLite store: actor life, back-pressure, ambiguous commits, two instances on one database,
//! retention.

mod faulty_store;
mod life;
mod sealing;
mod setup;
mod touches;
mod trouble;
mod upkeep;
