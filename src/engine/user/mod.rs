//! One account's writer: a pure state machine ([`plan`]) in a thin actor ([`actor`]).

pub mod actor;
pub mod facts;
pub mod heads;
pub mod lookup;
pub mod plan;
pub mod requests;
pub mod work;

#[cfg(test)]
mod model_tests;
