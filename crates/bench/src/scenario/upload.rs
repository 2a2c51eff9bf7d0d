//! Uploads of new operations, as fast as they are acknowledged.

use async_trait::async_trait;

use super::Scenario;
use crate::bench::Bench;
use crate::bench::case::Case;
use crate::bench::check::compare_logs;
use crate::bench::connection::Answer;
use crate::bench::device::Device;
use crate::bench::error::Result;
use crate::bench::fleet::deal;
use crate::bench::load::{self, Work};

pub struct Upload;

/// The bar for many users is about so many accounts.
const MANY_ACCOUNTS: usize = 5000;

/// Devices that upload in turn on one connection.
pub struct Uploads {
    devices: Vec<Device>,
    turn: usize,
    batch: usize,
}

impl Uploads {
    /// Deals the devices out to so many connections.
    pub fn deal(devices: Vec<Device>, connections: usize, batch: usize) -> Vec<Self> {
        deal(devices, connections).into_iter().map(|devices| Self { devices, turn: 0, batch }).collect()
    }

    /// The device that uploaded last.
    pub fn current(&self) -> &Device {
        &self.devices[self.turn]
    }

    /// The devices, for the check.
    pub fn into_devices(self) -> Vec<Device> {
        self.devices
    }
}

impl Work for Uploads {
    fn next(&mut self, request: &mut Vec<u8>) -> Option<usize> {
        self.turn = (self.turn + 1) % self.devices.len();
        self.devices[self.turn].write_upload(request, self.batch);
        Some(0)
    }

    fn answer(&mut self, _: usize, answer: Answer<'_>) -> Result<u64> {
        self.devices[self.turn].read_upload(answer)
    }
}

#[async_trait(?Send)]
impl Scenario for Upload {
    fn name(&self) -> &'static str {
        "upload"
    }

    fn about(&self) -> &'static str {
        "uploads of 1, 20 and 100 operations, half of them changes; payloads of 300 B, 500 B and 4 KiB"
    }

    async fn run(&self, bench: &Bench) -> Result<Vec<Case>> {
        let mut cases = Vec::new();
        for (batch, payload, accounts) in matrix(bench) {
            cases.push(measure(bench, batch, payload, accounts).await?);
        }
        Ok(cases)
    }
}

/// Operations per request, bytes per payload, accounts.
fn matrix(bench: &Bench) -> Vec<(usize, usize, usize)> {
    let options = &bench.options;
    let accounts = options.accounts();
    if options.batch.is_empty() && options.payload.is_empty() && options.accounts.is_none() {
        if options.quick {
            return vec![(1, 500, accounts), (20, 500, accounts)];
        }
        let with = |batch, payload| (batch, payload, accounts);
        let many = (1, 500, MANY_ACCOUNTS);
        return vec![with(20, 500), with(1, 500), many, with(100, 500), with(20, 300), with(1, 4096), with(20, 4096)];
    }
    let batches: Vec<usize> = options.batch.iter().map(|batch| usize::from(*batch)).collect();
    let payloads: Vec<usize> = options.payload.iter().map(|bytes| *bytes as usize).collect();
    let batches = if batches.is_empty() { vec![1, 20, 100] } else { batches };
    let payloads = if payloads.is_empty() { vec![500] } else { payloads };
    batches.iter().flat_map(|batch| payloads.iter().map(move |payload| (*batch, *payload, accounts))).collect()
}

async fn measure(bench: &Bench, batch: usize, payload: usize, accounts: usize) -> Result<Case> {
    let connections = bench.options.connections();
    let usual = accounts == 256 || bench.options.quick;
    let name = format!("{batch} x {payload} B") + &if usual { String::new() } else { format!(", {accounts} accounts") };
    bench.progress(&format!("upload: {name}"));
    let session = bench.session(accounts).await?;
    let uploads = Uploads::deal(session.devices(0, payload).await?, connections, batch);
    let (outcome, uploads) = load::run(&session, uploads, bench.options.pace()).await?;
    let mut case = Case::new("upload", name)
        .with("batch", batch)
        .with("payload_bytes", payload)
        .with("accounts", session.accounts().len())
        .with("connections", uploads.len());
    case.load(&outcome);
    case.memory(&session);
    let devices: Vec<Device> = uploads.into_iter().flat_map(Uploads::into_devices).collect();
    let stored = devices.iter().map(Device::acknowledged).sum();
    case.check(compare_logs(&session, devices).await?);
    case.disk(session.close().await?, stored);
    Ok(case)
}
