//! The state as of an operation, rebuilt by replay from plaintext operations.

use std::time::Instant;

use async_trait::async_trait;
use serde_json::Value;

use super::Scenario;
use crate::bench::Bench;
use crate::bench::case::Case;
use crate::bench::check::Check;
use crate::bench::connection::Connection;
use crate::bench::device::Device;
use crate::bench::error::{BenchError, Result};
use crate::bench::fleet::fill;
use crate::bench::load::KindOutcome;
use crate::bench::session::Session;
use crate::client::wire::RestoreAnswer;

pub struct Restore;

/// Asks for the newest state of every account once, one after another, and counts the tasks in it.
async fn restore_all(session: &Session, devices: &[Device], name: &str) -> Result<(Case, bool)> {
    let mut connection: Connection = session.connect().await?;
    let mut counted = KindOutcome::default();
    let mut right = true;
    let before = session.meter().cpu();
    let mut bytes = 0;
    let mut request = Vec::new();
    let mut states = Vec::new();
    for device in devices {
        request.clear();
        device.write_get(&mut request, &format!("/api/sync/restore/{}", device.cursor()));
        let began = Instant::now();
        let body = connection.send(&request).await?.ok()?;
        counted.latency.record(began.elapsed());
        bytes += body.len();
        states.push(body.to_vec());
    }
    let cpu = session.meter().cpu().since(&before);
    for (device, body) in devices.iter().zip(&states) {
        let invalid = |error: serde_json::Error| BenchError::answer(&error.to_string(), body);
        let answer: RestoreAnswer = serde_json::from_slice(body).map_err(invalid)?;
        let state: Value = serde_json::from_str(answer.state.get()).map_err(invalid)?;
        let tasks = state["TASK"].as_object().map_or(0, serde_json::Map::len);
        right &= tasks == device.created() && answer.server_seq == device.cursor();
    }
    let mut case = Case::new("restore", name).with("accounts", devices.len());
    case.latencies("", &counted);
    case.cpu(&cpu, counted.latency.count(), 0);
    case.figure("answer_bytes", "B", crate::bench::case::float(bytes as u64 / devices.len().max(1) as u64));
    Ok((case, right))
}

#[async_trait(?Send)]
impl Scenario for Restore {
    fn name(&self) -> &'static str {
        "restore"
    }

    fn about(&self) -> &'static str {
        "the state as of the last of 10,000 plaintext operations: by replay, and again"
    }

    fn needs_own_server(&self) -> bool {
        true
    }

    async fn run(&self, bench: &Bench) -> Result<Vec<Case>> {
        let options = &bench.options;
        let operations = options.size(10_000, 500);
        bench.progress(&format!("restore: {operations} operations"));
        let session = bench.session(options.size(16, 2)).await?;
        let devices = session.devices(0, options.payload_bytes()).await?;
        let devices = fill(&session, devices, operations, options.connections()).await?;
        let mut cases = Vec::new();
        for name in ["by replay", "again"] {
            let (mut case, right) = restore_all(&session, &devices, name).await?;
            case.memory(&session);
            let detail = format!("{} states", devices.len());
            case.check(Check::new("every state holds the tasks that were created", right, detail));
            cases.push(case.with("operations", operations));
        }
        session.close().await?;
        Ok(cases)
    }
}
