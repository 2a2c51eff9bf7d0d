//! How long one user waits on a quiet server.

use async_trait::async_trait;

use super::turns::Group;
use crate::bench::Bench;
use crate::bench::case::Case;
use crate::bench::check::compare_logs;
use crate::bench::error::Result;
use crate::bench::scenario::Scenario;

pub struct Latency;

#[async_trait(?Send)]
impl Scenario for Latency {
    fn name(&self) -> &'static str {
        "latency"
    }

    fn about(&self) -> &'static str {
        "one user uploads one operation after the other to a quiet server"
    }

    async fn run(&self, bench: &Bench) -> Result<Vec<Case>> {
        bench.progress("latency");
        let uploads = bench.options.size(5_000, 100);
        let session = bench.session(1).await?;
        let mut group = Group::new(session.devices(0, bench.options.payload_bytes()).await?);
        // What is compiled or cached at first use is not measured.
        group.upload_each(&session, 1, uploads / 10, 1).await?;
        let (_, devices) = group.finish(Case::new("latency", "warm-up"));
        let mut group = Group::new(devices);
        group.upload_each(&session, 1, uploads, 1).await?;
        let (mut case, devices) = group.finish(Case::new("latency", "1 operation, one user").with("uploads", uploads));
        case.check(compare_logs(&session, devices).await?);
        session.close().await?;
        Ok(vec![case])
    }
}
