//! From what was measured on PostgreSQL to the prices of a capacity plan. What was not measured keeps its built-in price.

use super::results::Results;
use crate::bench::plan::shape::Prices;

const ON: &str = "postgres";
/// Operations in each tail of the scenario.
const TAIL_OPS: f64 = 5.0;

/// A fixed part and a part per operation, from the same cost at 1 and at 20 operations.
fn split(at_1: Option<f64>, at_20: Option<f64>) -> Option<(f64, f64)> {
    let (at_1, at_20) = at_1.zip(at_20)?;
    let each = ((at_20 - at_1) / 19.0).max(0.0);
    Some(((at_1 - each).max(0.0), each))
}

/// Puts a measured price in the place of the built-in one.
fn set(price: &mut f64, measured: Option<f64>) {
    if let Some(measured) = measured.filter(|measured| measured.is_finite()) {
        *price = measured.max(0.0);
    }
}

/// Prices by these results.
#[must_use]
pub fn of(results: &Results) -> Prices {
    let get = |scenario: &str, case: &str, figure: &str| results.value(ON, scenario, case, figure);
    let server = |scenario: &str, case: &str| get(scenario, case, "server_cpu_us_per_request");
    let database = |scenario: &str, case: &str| get(scenario, case, "database_cpu_us_per_request");
    let mut prices = Prices::default();
    let built_in = prices.source.clone();

    let poll = server("poll", "nothing new");
    set(&mut prices.poll_server_us, poll);
    let (one, twenty) = ("1 x 500 B", "20 x 500 B");
    let of_upload = split(server("upload", one), server("upload", twenty));
    set(&mut prices.upload_server_us, of_upload.map(|split| split.0));
    set(&mut prices.upload_op_server_us, of_upload.map(|split| split.1));
    let of_upload = split(database("upload", one), database("upload", twenty));
    set(&mut prices.upload_db_us, of_upload.map(|split| split.0));
    set(&mut prices.upload_op_db_us, of_upload.map(|split| split.1));
    let tail = server("tail", "5 written before");
    let tail_op = tail.zip(poll).map(|(tail, poll)| ((tail - poll) / TAIL_OPS).max(0.0));
    set(&mut prices.tail_op_server_us, tail_op);
    set(&mut prices.tail_server_us, tail.zip(tail_op).map(|(tail, op)| tail - TAIL_OPS * op));
    set(&mut prices.page_server_us, server("download", "500, warm, sealed"));
    set(&mut prices.page_db_us, database("download", "500, warm, sealed"));
    set(&mut prices.activation_server_us, server("cold", "poll").zip(poll).map(|(cold, poll)| cold - poll));
    set(&mut prices.activation_db_us, database("cold", "poll"));
    set(&mut prices.commit_ms, get("ceiling", "one commit", "p50_ms"));
    set(&mut prices.rest_bytes, get("hold", "sockets", "memory_at_rest_bytes"));
    set(&mut prices.socket_bytes, get("hold", "sockets", "memory_bytes_per_socket"));
    let touched = results.find(ON, "touched", "accounts").and_then(|case| {
        let accounts = case.parameters.get("accounts")?.as_f64().filter(|accounts| *accounts > 0.0)?;
        Some((case.value("memory_touched_bytes")? - case.value("memory_at_rest_bytes")?) / accounts)
    });
    set(&mut prices.live_account_bytes, touched);
    set(&mut prices.row_bytes, get("upload", twenty, "disk_bytes_per_operation"));
    // Heads, state and the newest rows included, which the plan counts on their own as well: rather too much than too little.
    set(&mut prices.sealed_bytes, get("disk", "old operations", "disk_bytes_per_operation"));

    if prices != Prices::default() {
        let mut runs: Vec<_> = results
            .runs
            .iter()
            .map(|run| {
                format!(
                    "{} (commit {})",
                    run.date.split('T').next().unwrap_or(""),
                    run.commit.as_deref().unwrap_or("unknown")
                )
            })
            .collect();
        runs.dedup();
        prices.source = format!("`supersync bench` of {}; what it does not measure: {built_in}", runs.join(", "));
    }
    prices
}
