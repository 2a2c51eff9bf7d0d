//! What `supersync bench` does besides measuring.

use clap::Subcommand;

use super::ceiling;
use super::document::{self, ReportCommand};
use super::drive::{self, DriveCommand};
use super::error::{BenchError, Result};
use super::plan::{self, PlanCommand};

/// Something else than a measurement.
#[derive(Clone, Debug, Subcommand)]
pub enum Tool {
    /// Plan capacity: cores, memory, disk, network and number of databases for a number of accounts.
    Plan(Box<PlanCommand>),
    /// Fill the tables and charts of the documents from results.
    Report(ReportCommand),
    /// Push requests through a server in this process, for instruction counters.
    Drive(DriveCommand),
    /// Serve nothing but a token check: the process that the scenario `ceiling` measures.
    #[command(hide = true)]
    EmptyHandler,
}

/// Does it.
///
/// # Errors
/// What kept it from being done.
pub fn run(tool: Tool) -> Result<()> {
    match tool {
        Tool::Plan(command) => Ok(plan::run(&command, &mut std::io::stdout())?),
        Tool::Report(command) => document::run(&command),
        Tool::Drive(command) => drive::run(&command),
        Tool::EmptyHandler => {
            // As the server's own runtime.
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()
                .map_err(BenchError::io("starting the empty handler"))?;
            runtime.block_on(ceiling::handler::serve())
        }
    }
}
