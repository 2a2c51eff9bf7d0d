//! `supersync bench plan`: what machines a number of users needs.
//!
//! Owns the capacity model: from the shape of the use ([`shape::Shape`]) and measured prices ([`shape::Prices`]) to rates
//! ([`demand`]), machines ([`capacity`]), and a simulated day that checks the formulas ([`simulate`]). Pure but for
//! [`run`], which reads the prices' file and writes tables. Promises nothing about a shape that nobody measured: every
//! assumption is an argument.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

pub mod capacity;
pub mod demand;
pub mod shape;
pub mod simulate;
mod table;
#[cfg(test)]
mod tests;

use capacity::Capacity;
use shape::{Limits, Prices, Shape};
use simulate::Day;

/// Plan capacity: cores, memory, disk, network and number of databases for a number of accounts.
///
/// Without arguments for the hosted instance's shape at 12,000, 100,000, 1 million and 10 million accounts.
#[derive(Clone, Debug, Args)]
pub struct PlanCommand {
    /// Numbers of accounts to plan for.
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "12000,100000,1000000,10000000")]
    accounts: Vec<u64>,
    #[command(flatten)]
    shape: Shape,
    #[command(flatten)]
    limits: Limits,
    /// Prices as JSON, some or all of those that `--print-figures` prints; without it the built-in ones.
    #[arg(long, value_name = "FILE")]
    figures: Option<PathBuf>,
    /// Print the prices in force as JSON and exit.
    #[arg(long)]
    print_figures: bool,
    /// Requests to simulate for each number of accounts; 0 = no simulation.
    #[arg(long, value_name = "N", default_value_t = 2_000_000)]
    simulate: u32,
    /// Seed of the simulation's random numbers.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
}

/// Everything that was planned.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// The use.
    pub shape: Shape,
    /// The prices.
    pub prices: Prices,
    /// Where a primary ends.
    pub limits: Limits,
    /// One per number of accounts.
    pub scales: Vec<Scale>,
}

/// The plan for one number of accounts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scale {
    /// The formulas' answer.
    pub capacity: Capacity,
    /// A simulated day of one of its primaries.
    pub day: Option<Day>,
}

/// What keeps a plan from being made.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A number that makes no sense.
    #[error(transparent)]
    Input(#[from] shape::BadInput),
    /// The file of prices can't be read.
    #[error("{path} can't be read: {error}")]
    Read {
        /// Which.
        path: String,
        /// Why not.
        error: std::io::Error,
    },
    /// The file of prices is not what it should be.
    #[error("{path} is not a file of prices: {error}")]
    Parse {
        /// Which.
        path: String,
        /// What is wrong in it.
        error: serde_json::Error,
    },
    /// The output is gone.
    #[error("the plan can't be written: {0}")]
    Write(#[from] std::io::Error),
    /// The plan can't be encoded.
    #[error("the plan can't be encoded: {0}")]
    Encode(#[from] serde_json::Error),
}

impl Plan {
    /// Plans for these numbers of accounts; `simulated` requests of each in the simulation, 0 for none.
    ///
    /// # Errors
    /// When a number is out of bounds.
    pub fn make(
        accounts: &[u64],
        shape: Shape,
        prices: Prices,
        limits: Limits,
        simulated: u32,
        seed: u64,
    ) -> Result<Self, shape::BadInput> {
        shape.check()?;
        prices.check()?;
        limits.check()?;
        let scales = accounts
            .iter()
            .map(|accounts| {
                #[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 accounts")]
                let capacity = Capacity::of(&shape, &prices, &limits, *accounts as f64);
                let day = (simulated > 0)
                    .then(|| simulate::simulate(&shape, &prices, &limits, &capacity.cell, f64::from(simulated), seed));
                Scale { capacity, day }
            })
            .collect();
        Ok(Self { shape, prices, limits, scales })
    }

    /// The plan as Markdown tables.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        table::render(self)
    }
}

/// Reads the prices, plans, and writes the result.
///
/// # Errors
/// [`PlanError`].
pub fn run(command: &PlanCommand, out: &mut impl Write) -> Result<(), PlanError> {
    let prices = match &command.figures {
        None => Prices::default(),
        Some(path) => {
            let name = || path.display().to_string();
            let text = std::fs::read(path).map_err(|error| PlanError::Read { path: name(), error })?;
            serde_json::from_slice(&text).map_err(|error| PlanError::Parse { path: name(), error })?
        }
    };
    if command.print_figures {
        writeln!(out, "{}", serde_json::to_string_pretty(&prices)?)?;
        return Ok(());
    }
    let plan = Plan::make(
        &command.accounts,
        command.shape.clone(),
        prices,
        command.limits.clone(),
        command.simulate,
        command.seed,
    )?;
    if command.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&plan)?)?;
    } else {
        write!(out, "{}", plan.to_markdown())?;
    }
    Ok(())
}
