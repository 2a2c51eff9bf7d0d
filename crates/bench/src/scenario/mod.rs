//! What can be measured, one file each. A scenario gets servers from the [`Bench`], puts load on them, checks, and gives
//! back its cases; it prints nothing.

use async_trait::async_trait;
use clap::builder::PossibleValuesParser;

use super::Bench;
use super::case::Case;
use super::error::Result;

mod accounts;
mod bystanders;
mod download;
mod import;
mod logins;
mod poll;
mod restore;
mod sockets;
mod tail;
mod upload;

/// Something that can be measured.
#[async_trait(?Send)]
pub trait Scenario: Sync {
    /// Its name on the command line and in reports.
    fn name(&self) -> &'static str;

    /// What it measures, in one line.
    fn about(&self) -> &'static str;

    /// Whether it can't do without a server of its own, because it restarts it or looks at its memory or database.
    fn needs_own_server(&self) -> bool {
        false
    }

    /// Measures.
    ///
    /// # Errors
    /// Whatever keeps it from measuring. A check that fails is no error, but part of the case.
    async fn run(&self, bench: &Bench) -> Result<Vec<Case>>;
}

/// All scenarios, in the order in which they run.
pub const ALL: &[&dyn Scenario] = &[
    &upload::Upload,
    &poll::Poll,
    &tail::Tail,
    &download::Download,
    &download::Fresh,
    &import::LargeImport,
    &logins::Logins,
    &restore::Restore,
    &sockets::Fanout,
    &sockets::Mixed,
    &accounts::Cold,
    &sockets::Hold,
    &accounts::Touched,
];

/// The names for the command line.
#[must_use]
pub fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(super::all().map(|scenario| scenario.name()))
}
