//! Taking over the old (Node) server's database (operations contract, sections 8.4 to 8.6).

pub mod error;
pub mod postgres;
pub mod report;
pub mod schema;
pub mod source;
pub mod transform;

pub use error::ImportError;
