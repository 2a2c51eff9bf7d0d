//! The old server's database: back into it.
//!
//! Owns what is known of the Node server's schema (operations contract, section 8). Reads this server's data only as the
//! rows of a backup, so it works the same from either kind of database, and never writes to it.

pub mod export;
