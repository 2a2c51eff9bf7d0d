//! Measurements that explain the others: raw ceilings, layouts, growth.

use super::scenario::Scenario;

/// All studies, in the order in which they run, after the scenarios.
pub const ALL: &[&dyn Scenario] = &[];
