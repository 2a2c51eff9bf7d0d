//! The benchmark.

pub mod number;
pub mod plan;
