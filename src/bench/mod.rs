//! The benchmark.

pub mod chart;
pub mod number;
pub mod plan;
