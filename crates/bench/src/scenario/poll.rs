//! "Anything new?", when there is nothing: what every device asks all day.

use async_trait::async_trait;

use super::Scenario;
use crate::bench::Bench;
use crate::bench::case::Case;
use crate::bench::check::compare_logs;
use crate::bench::connection::Answer;
use crate::bench::device::Device;
use crate::bench::error::Result;
use crate::bench::fleet::{deal, fill};
use crate::bench::load::{self, Work};

pub struct Poll;

/// Devices that ask in turn on one connection.
pub struct Polls {
    devices: Vec<Device>,
    turn: usize,
}

impl Polls {
    /// Deals the devices out to so many connections.
    pub fn deal(devices: Vec<Device>, connections: usize) -> Vec<Self> {
        deal(devices, connections).into_iter().map(|devices| Self { devices, turn: 0 }).collect()
    }

    /// The devices, for the check.
    pub fn into_devices(self) -> Vec<Device> {
        self.devices
    }
}

impl Work for Polls {
    fn next(&mut self, request: &mut Vec<u8>) -> Option<usize> {
        self.turn = (self.turn + 1) % self.devices.len();
        self.devices[self.turn].write_download(request, None);
        Some(0)
    }

    fn answer(&mut self, _: usize, answer: Answer<'_>) -> Result<u64> {
        self.devices[self.turn].read_nothing_new(answer)?;
        Ok(0)
    }
}

#[async_trait(?Send)]
impl Scenario for Poll {
    fn name(&self) -> &'static str {
        "poll"
    }

    fn about(&self) -> &'static str {
        "downloads of a device that has everything already"
    }

    async fn run(&self, bench: &Bench) -> Result<Vec<Case>> {
        bench.progress("poll");
        let options = &bench.options;
        let connections = options.connections();
        let session = bench.session(options.accounts()).await?;
        let devices = fill(&session, session.devices(0, options.payload_bytes()).await?, 20, connections).await?;
        let (outcome, polls) = load::run(&session, Polls::deal(devices, connections), options.pace()).await?;
        let mut case = Case::new("poll", "nothing new")
            .with("accounts", session.accounts().len())
            .with("connections", polls.len());
        case.load(&outcome);
        case.memory(&session);
        let devices = polls.into_iter().flat_map(Polls::into_devices);
        case.check(compare_logs(&session, devices).await?);
        session.close().await?;
        Ok(vec![case])
    }
}
