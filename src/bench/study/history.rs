//! Whether an upload costs more when the account has a long history.

use async_trait::async_trait;

use super::turns::{Group, ratios};
use crate::bench::Bench;
use crate::bench::case::Case;
use crate::bench::check::compare_logs;
use crate::bench::error::Result;
use crate::bench::fleet;
use crate::bench::scenario::Scenario;

pub struct History;

/// Accounts with a short history. One alone would soon have a longer one.
const SHORT_ACCOUNTS: usize = 64;
/// Uploads of one account in succession, so that both groups find the account as warm.
const RUN: usize = 25;
/// The groups take turns, so that what else happens on the machine happens to both.
const ROUNDS: usize = 4;
const BATCH: usize = 20;

#[async_trait(?Send)]
impl Scenario for History {
    fn name(&self) -> &'static str {
        "history"
    }

    fn about(&self) -> &'static str {
        "uploads of 20 operations to accounts with 1,000 and with 1,000,000 operations"
    }

    async fn run(&self, bench: &Bench) -> Result<Vec<Case>> {
        let options = &bench.options;
        let (short, long) = (options.size(1_000, 100), options.size(1_000_000, 5_000));
        let rounds = options.size(ROUNDS, 2);
        let part = SHORT_ACCOUNTS / ROUNDS;
        let uploads = part * RUN;
        bench.progress(&format!("history: {long} operations"));
        let session = bench.session(SHORT_ACCOUNTS + 1).await?;
        let mut shorts = session.devices(0, options.payload_bytes()).await?;
        let one = shorts.split_off(SHORT_ACCOUNTS);
        let shorts = fleet::fill(&session, shorts, short, options.connections()).await?;
        let one = fleet::fill(&session, one, long, 1).await?;
        bench.progress("history: uploads");
        let (mut shorts, mut one) = (Group::new(shorts), Group::new(one));
        for _ in 0..rounds {
            shorts.upload_first(&session, part, RUN, BATCH).await?;
            one.upload_first(&session, 1, uploads, BATCH).await?;
        }
        let case = |operations: usize, accounts: usize| {
            let name = format!("{operations} operations in the account");
            Case::new("history", name)
                .with("operations_before", operations)
                .with("accounts", accounts)
                .with("batch", BATCH)
                .with("uploads", uploads * rounds)
        };
        let (of_short, devices) = shorts.finish(case(short, SHORT_ACCOUNTS));
        let (of_long, more) = one.finish(case(long, 1));
        let mut growth = Case::new("history", "growth").with("from", short).with("to", long);
        ratios(&of_long, &of_short, &mut growth);
        growth.check(compare_logs(&session, devices.into_iter().chain(more)).await?);
        session.close().await?;
        Ok(vec![of_short, of_long, growth])
    }
}
