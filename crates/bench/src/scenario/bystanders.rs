//! Devices that poll and upload at an easy pace while somebody else is a burden to the server: how much do they notice?

use std::time::Duration;

use crate::bench::case::Case;
use crate::bench::check::{Check, compare_logs};
use crate::bench::connection::Answer;
use crate::bench::device::Device;
use crate::bench::error::Result;
use crate::bench::fleet::{deal, fill};
use crate::bench::load::{self, KindOutcome, Pace, Work};
use crate::bench::session::Session;

/// Whether the burden is there. Phases take turns, so that what else happens on the machine falls on both kinds.
pub const PHASES: [bool; 4] = [false, true, false, true];

const POLL: usize = 0;
const UPLOAD: usize = 1;
/// One of so many requests is an upload.
const UPLOAD_EVERY: usize = 4;
/// How often each connection asks: far below what the server can do, so that what they wait for is the burden and not
/// each other.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// Operations in each account at first.
const HISTORY: usize = 20;

/// The devices, and what they noticed in each kind of phase.
pub struct Bystanders {
    devices: Vec<Device>,
    connections: usize,
    undisturbed: [KindOutcome; 2],
    disturbed: [KindOutcome; 2],
}

impl Bystanders {
    /// Devices on at most 32 of so many connections.
    pub async fn settle(session: &Session, devices: Vec<Device>, connections: usize) -> Result<Self> {
        let connections = connections.min(32);
        let devices = fill(session, devices, HISTORY, connections).await?;
        Ok(Self { devices, connections, undisturbed: Default::default(), disturbed: Default::default() })
    }

    /// How long one phase is: half of the usual time, since there are two of each kind.
    pub fn pace(usual: Pace) -> Pace {
        Pace { every: Some(ASK_EVERY), lasts: usual.lasts / 2, ..usual }
    }

    /// One phase.
    pub async fn watch(&mut self, session: &Session, pace: Pace, is_disturbed: bool) -> Result<()> {
        let devices = std::mem::take(&mut self.devices);
        let load = deal(devices, self.connections).into_iter().map(|devices| InTurn { devices, turn: 0 }).collect();
        let (outcome, load) = load::run(session, load, pace).await?;
        let noticed = if is_disturbed { &mut self.disturbed } else { &mut self.undisturbed };
        for (kind, counted) in noticed.iter_mut().enumerate() {
            counted.merge(&outcome.kind(kind));
        }
        self.devices = load.into_iter().flat_map(|load: InTurn| load.devices).collect();
        Ok(())
    }

    /// Writes down what they noticed. `others_p99_ratio` is the worse of both kinds of request.
    pub fn figures(&self, case: &mut Case) {
        let mut worst: Option<f64> = None;
        for (kind, name) in [(POLL, "polls"), (UPLOAD, "uploads")] {
            let p99 = [&self.undisturbed, &self.disturbed].map(|phase| phase[kind].latency.quantile_ms(0.99));
            case.figure(format!("{name}_p99_without_ms"), "ms", p99[0]);
            case.figure(format!("{name}_p99_with_ms"), "ms", p99[1]);
            case.figure(format!("{name}_max_with_ms"), "ms", self.disturbed[kind].latency.max_ms());
            let ratio = p99[0].zip(p99[1]).map(|(without, with)| with / without);
            case.figure(format!("{name}_p99_ratio"), "", ratio);
            worst = worst.into_iter().chain(ratio).reduce(f64::max);
        }
        case.figure("others_p99_ratio", "", worst);
    }

    /// A case about them, with how they ask.
    pub fn case(&self, scenario: &'static str, name: impl Into<String>) -> Case {
        let every = u64::try_from(ASK_EVERY.as_millis()).unwrap_or(u64::MAX);
        Case::new(scenario, name).with("others_connections", self.connections).with("others_every_ms", every)
    }

    /// Whether everything that they uploaded is there.
    pub async fn check(self, session: &Session) -> Result<Check> {
        compare_logs(session, self.devices).await
    }
}

/// Devices that take turns on one connection.
struct InTurn {
    devices: Vec<Device>,
    turn: usize,
}

impl Work for InTurn {
    fn next(&mut self, request: &mut Vec<u8>) -> Option<usize> {
        self.turn += 1;
        let which = self.turn % self.devices.len();
        let device = &mut self.devices[which];
        if self.turn.is_multiple_of(UPLOAD_EVERY) {
            device.write_upload(request, 1);
            return Some(UPLOAD);
        }
        device.write_download(request, None);
        Some(POLL)
    }

    fn answer(&mut self, kind: usize, answer: Answer<'_>) -> Result<u64> {
        let which = self.turn % self.devices.len();
        let device = &mut self.devices[which];
        if kind == UPLOAD {
            return device.read_upload(answer);
        }
        device.read_nothing_new(answer)?;
        Ok(0)
    }
}
