//! Whether an upload costs more when there are many accounts.

use async_trait::async_trait;

use super::turns::{Group, ratios};
use crate::bench::Bench;
use crate::bench::case::Case;
use crate::bench::check::compare_logs;
use crate::bench::error::Result;
use crate::bench::fleet;
use crate::bench::scenario::Scenario;

pub struct Crowd;

const BATCH: usize = 20;

#[async_trait(?Send)]
impl Scenario for Crowd {
    fn name(&self) -> &'static str {
        "crowd"
    }

    fn about(&self) -> &'static str {
        "uploads of 20 operations to 100 and to 20,000 accounts in turn, in databases of the same size"
    }

    async fn run(&self, bench: &Bench) -> Result<Vec<Case>> {
        let options = &bench.options;
        let (few, many) = (options.size(100, 10), options.size(20_000, 200));
        let of_few = measure(bench, few, many).await?;
        let of_many = measure(bench, many, many).await?;
        let mut growth = Case::new("crowd", "growth").with("from", few).with("to", many);
        ratios(&of_many, &of_few, &mut growth);
        Ok(vec![of_few, of_many, growth])
    }
}

/// As many operations and uploads in all as if there were `of` accounts with one upload each before.
async fn measure(bench: &Bench, accounts: usize, of: usize) -> Result<Case> {
    let options = &bench.options;
    let connections = options.connections();
    bench.progress(&format!("crowd: {accounts} accounts"));
    let session = bench.session(accounts).await?;
    let devices = session.devices(0, options.payload_bytes()).await?;
    let before = of * BATCH / accounts;
    let devices = fleet::fill(&session, devices, before, connections).await?;
    let mut group = Group::new(devices);
    group.upload_each(&session, connections, of / accounts, BATCH).await?;
    let case = Case::new("crowd", format!("{accounts} accounts"))
        .with("accounts", accounts)
        .with("operations_before", before * accounts)
        .with("connections", connections)
        .with("batch", BATCH)
        .with("uploads", of);
    let (mut case, devices) = group.finish(case);
    case.check(compare_logs(&session, devices).await?);
    session.close().await?;
    Ok(case)
}
