//! How long it takes from the start of the server to its first answer.

use std::time::{Duration, Instant};

use async_trait::async_trait;

use crate::bench::Bench;
use crate::bench::case::Case;
use crate::bench::error::Result;
use crate::bench::fleet;
use crate::bench::latency::Histogram;
use crate::bench::page::Page;
use crate::bench::scenario::Scenario;

pub struct Start;

const STARTS: usize = 5;

#[async_trait(?Send)]
impl Scenario for Start {
    fn name(&self) -> &'static str {
        "start"
    }

    fn about(&self) -> &'static str {
        "from the start of the server to its first download answered, with 1,000,000 operations in the database"
    }

    fn needs_own_server(&self) -> bool {
        true
    }

    async fn run(&self, bench: &Bench) -> Result<Vec<Case>> {
        let options = &bench.options;
        let (accounts, operations) = (options.size(1_000, 10), options.size(1_000_000, 1_000));
        bench.progress(&format!("start: {operations} operations"));
        let mut session = bench.session(accounts).await?;
        let devices = session.devices(0, options.payload_bytes()).await?;
        let mut devices = fleet::fill(&session, devices, operations / accounts, options.connections()).await?;
        let (mut starts, mut slowest) = (Histogram::default(), Duration::ZERO);
        for device in devices.iter_mut().take(STARTS) {
            let (again, ready) = session.restart().await?;
            session = again;
            let asked = Instant::now();
            device.set_cursor(0);
            let mut request = Vec::new();
            device.write_download(&mut request, Some(500));
            Page::read(session.connect().await?.send(&request).await?.ok()?)?;
            let took = ready + asked.elapsed();
            starts.record(took);
            slowest = slowest.max(took);
        }
        let mut case = Case::new("start", "first request").with("operations", operations).with("accounts", accounts);
        case.figure("p50_ms", "ms", starts.quantile_ms(0.5));
        case.figure("max_ms", "ms", starts.max_ms());
        case.figure("start_seconds", "s", slowest.as_secs_f64());
        session.close().await?;
        Ok(vec![case])
    }
}
