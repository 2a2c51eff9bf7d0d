//! The old server's database: out of it.
//!
//! Owns what is known of the Node server's schema (operations contract, section 8). Never writes to it.

pub mod import;
