//! What requests cost, in counts that no busy machine can change: database statements here, allocations in
//! [`allocations`]; instructions are counted by `scripts/count-instructions`. A count that grows is a decision, not an
//! accident: whoever means it changes the number here or in `budget.toml`.

#[path = "../harness/mod.rs"]
mod harness;

mod allocations;
mod recorder;
mod statements;
