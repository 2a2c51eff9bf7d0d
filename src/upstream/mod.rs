//! The old server's database: out of it, and back into it.
//!
//! Owns what is known of the Node server's schema (operations contract, section 8): the statements here are on its tables,
//! never on this server's, whose data is read and written only as the rows of a backup. So both ways work the same with
//! either kind of database.

pub mod export;
pub mod import;
