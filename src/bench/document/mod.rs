//! `supersync bench report`: from results to a page with tables and charts.
//!
//! Owns the rendering: which tables and charts there are and how they read. Promises to change nothing of a page but what
//! stands between its markers, so that a person writes the words and a command the numbers.

use std::path::{Path, PathBuf};

use clap::Args;

pub mod charts;
mod markers;
pub mod prices;
pub mod results;
mod sections;
#[cfg(test)]
mod tests;

use results::{Results, SCHEMA};

use crate::bench::error::{BenchError, Result};
use crate::bench::plan::Plan;
use crate::bench::plan::shape::{Limits, Shape};

pub use markers::fill;

/// Fill the tables and charts of the documents from results.
///
/// Writes the charts and `prices.json` (for `supersync bench plan --figures`) into the directory, and fills what stands
/// between the markers `<!-- bench:NAME -->` and `<!-- /bench -->` in the page of the same name (`docs/performance.md` for
/// `docs/performance`) and in `scaling.md` beside it.
#[derive(Clone, Debug, Args)]
pub struct ReportCommand {
    /// What `supersync bench --json` wrote; of several the later one counts where both measured the same.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The directory of the charts.
    #[arg(long, value_name = "DIRECTORY", default_value = "docs/performance")]
    into: PathBuf,
}

/// Accounts for which the tables of `scaling.md` are made.
const SCALES: [u64; 4] = [12_000, 100_000, 1_000_000, 10_000_000];
/// Requests simulated for each.
const SIMULATED: u32 = 2_000_000;

/// The scenarios that measure what the server does; the others explain them.
fn is_study(scenario: &str) -> bool {
    matches!(scenario, "ceiling" | "latency" | "history" | "crowd" | "start" | "disk" | "cold-pages")
}

/// Reads results.
///
/// # Errors
/// When a file can't be read or holds something else.
pub fn read(files: &[PathBuf]) -> Result<Results> {
    let mut results = Results::default();
    for path in files {
        let text = std::fs::read(path).map_err(BenchError::io(format!("reading {}", path.display())))?;
        let invalid = |reason: String| BenchError::Options(format!("{}: {reason}", path.display()));
        let run: results::Run =
            serde_json::from_slice(&text).map_err(|error| invalid(format!("not the results of a run: {error}")))?;
        if run.schema != SCHEMA {
            return Err(invalid(format!("version {} of the results; this program reads {SCHEMA}", run.schema)));
        }
        results.runs.push(run);
    }
    Ok(results)
}

/// The tables and charts of the page on performance, by the names of their markers; `folder` is where the charts are.
#[must_use]
pub fn tables(results: &Results, folder: &str) -> Vec<(&'static str, String)> {
    vec![
        ("run", sections::run(results)),
        ("bars", sections::bars(results)),
        ("charts", charts::images(results, folder)),
        ("scenarios", sections::cases(results, |case| !is_study(&case.scenario))),
        ("studies", sections::cases(results, |case| is_study(&case.scenario))),
    ]
}

/// Writes everything, or nothing when a page can't be filled.
///
/// # Errors
/// When a file can't be read or written, or a page lacks a marker.
pub fn run(command: &ReportCommand) -> Result<()> {
    let results = read(&command.files)?;
    let page = command.into.with_extension("md");
    let scaling = command.into.with_file_name("scaling.md");
    let folder = command.into.file_name().map(|name| name.to_string_lossy().into_owned());
    let folder = folder.ok_or_else(|| BenchError::Options("--into needs a directory with a name".to_owned()))?;
    let prices = prices::of(&results);
    let plan = Plan::make(&SCALES, Shape::default(), prices.clone(), Limits::default(), SIMULATED, 1)
        .map_err(|error| BenchError::Options(format!("the measured prices: {error}")))?;

    let mut files = vec![
        (page.clone(), filled(&page, &tables(&results, &folder))?),
        (scaling.clone(), filled(&scaling, &[("plan", plan.to_markdown())])?),
    ];
    let json = serde_json::to_string_pretty(&prices).map_err(|error| BenchError::Options(error.to_string()))?;
    files.push((command.into.join("prices.json"), json + "\n"));
    files.extend(charts::all(&results).into_iter().map(|(name, svg)| (command.into.join(name), svg)));

    std::fs::create_dir_all(&command.into).map_err(BenchError::io(format!("creating {}", command.into.display())))?;
    for (path, text) in files {
        std::fs::write(&path, text).map_err(BenchError::io(format!("writing {}", path.display())))?;
        println!("{}", path.display());
    }
    Ok(())
}

fn filled(path: &Path, tables: &[(&str, String)]) -> Result<String> {
    let text = std::fs::read_to_string(path).map_err(BenchError::io(format!("reading {}", path.display())))?;
    fill(&text, tables).map_err(|reason| BenchError::Options(format!("{}: {reason}", path.display())))
}
