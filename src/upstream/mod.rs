//! The old server's database: out of it, and back into it.
//!
//! Owns what is known of the Node server's schema (operations contract, section 8): the statements here are on its tables. The
//! way out never writes to it; the way back reads this server's data only as the rows of a backup, and never writes to that.

pub mod copy_text;
pub mod database;
pub mod export;
pub mod import;
pub mod schema;
