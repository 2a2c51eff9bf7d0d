//! Measurements that explain the others: raw ceilings, layouts, growth.

use super::ceiling::Ceiling;
use super::scenario::Scenario;

mod cold_pages;
mod crowd;
mod disk;
mod history;
mod latency;
pub(super) mod layout;
mod start;
mod turns;

/// All studies, in the order in which they run, after the scenarios.
pub const ALL: &[&dyn Scenario] = &[
    &Ceiling,
    &latency::Latency,
    &history::History,
    &crowd::Crowd,
    &start::Start,
    &disk::Disk,
    &cold_pages::ColdPages,
];
