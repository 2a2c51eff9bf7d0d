//! Accounts that were idle: what the first request of each costs, and what memory many of them leave behind.

use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::Scenario;
use crate::bench::Bench;
use crate::bench::case::{Case, float};
use crate::bench::check::{Check, compare_logs};
use crate::bench::connection::Answer;
use crate::bench::device::Device;
use crate::bench::error::Result;
use crate::bench::fleet::{deal, fill};
use crate::bench::load::{self, Outcome, Pace, Work};
use crate::bench::session::Session;

/// One request of each device, then the end.
struct Once {
    waiting: Vec<Device>,
    done: Vec<Device>,
    uploads: bool,
}

impl Work for Once {
    fn next(&mut self, request: &mut Vec<u8>) -> Option<usize> {
        let device = self.waiting.last_mut()?;
        if self.uploads {
            device.write_upload(request, 1);
        } else {
            device.write_download(request, None);
        }
        Some(0)
    }

    fn answer(&mut self, _: usize, answer: Answer<'_>) -> Result<u64> {
        let Some(mut device) = self.waiting.pop() else { return Ok(0) };
        let operations = if self.uploads {
            device.read_upload(answer)?
        } else {
            device.read_nothing_new(answer)?;
            0
        };
        self.done.push(device);
        Ok(operations)
    }
}

/// Longer than any load of these scenarios takes.
const UNTIL_DONE: Duration = Duration::from_hours(1);

/// Lets every device send one request and gives the devices back.
async fn once(
    session: &Session,
    devices: Vec<Device>,
    connections: usize,
    uploads: bool,
) -> Result<(Outcome, Vec<Device>)> {
    let work = deal(devices, connections);
    let work = work.into_iter().map(|waiting| Once { done: Vec::with_capacity(waiting.len()), waiting, uploads });
    let pace = Pace { warmup: Duration::ZERO, lasts: UNTIL_DONE, every: None };
    let (outcome, work) = load::run(session, work.collect(), pace).await?;
    Ok((outcome, work.into_iter().flat_map(|work| work.done).collect()))
}

pub struct Cold;

/// Operations in each account's log.
const HISTORY: usize = 5;

#[async_trait(?Send)]
impl Scenario for Cold {
    fn name(&self) -> &'static str {
        "cold"
    }

    fn about(&self) -> &'static str {
        "every request is the first one of an idle account since the server started"
    }

    fn needs_own_server(&self) -> bool {
        true
    }

    async fn run(&self, bench: &Bench) -> Result<Vec<Case>> {
        let options = &bench.options;
        let connections = options.connections();
        let accounts = options.size(20_000, 50);
        bench.progress(&format!("cold: {accounts} accounts"));
        let mut session = bench.session(accounts).await?;
        let devices = session.devices(0, options.payload_bytes()).await?;
        let mut devices = fill(&session, devices, HISTORY, connections).await?;
        let mut cases = Vec::new();
        for (name, uploads) in [("poll", false), ("upload", true)] {
            session = session.restart().await?.0;
            for device in &mut devices {
                device.retarget(session.target());
            }
            let (outcome, done) = once(&session, devices, connections, uploads).await?;
            devices = done;
            let mut case = Case::new("cold", name).with("accounts", accounts).with("connections", connections);
            case.load(&outcome);
            case.memory(&session);
            cases.push(case);
        }
        let check = compare_logs(&session, devices).await?;
        for case in &mut cases {
            case.check(check.clone());
        }
        session.close().await?;
        Ok(cases)
    }
}

pub struct Touched;

/// When the server lets go of an idle account; 10 minutes by default, which is long to wait for.
const IDLE_SECONDS: u64 = 5;
/// How long memory is watched after that.
const WATCHED: Duration = Duration::from_secs(90);

#[async_trait(?Send)]
impl Scenario for Touched {
    fn name(&self) -> &'static str {
        "touched"
    }

    fn about(&self) -> &'static str {
        "memory before, while and after 100,000 accounts are polled once each and become idle again"
    }

    fn needs_own_server(&self) -> bool {
        true
    }

    async fn run(&self, bench: &Bench) -> Result<Vec<Case>> {
        let options = &bench.options;
        let accounts = options.size(100_000, 200);
        bench.progress(&format!("touched: {accounts} accounts"));
        let idle = if options.quick { 1 } else { IDLE_SECONDS };
        let session = bench.session_with(accounts, &[("ACTOR_IDLE_SECONDS", &idle.to_string())]).await?;
        let at_rest = session.meter().server_memory();
        let devices = session.devices(0, options.payload_bytes()).await?;
        let (outcome, done) = once(&session, devices, options.connections(), false).await?;
        let touched = session.meter().server_memory();
        let after = settled_memory(&session, Duration::from_secs(idle), options.quick).await;
        let mut case = Case::new("touched", "accounts").with("accounts", accounts).with("idle_seconds", idle);
        case.load(&outcome);
        case.figure("memory_at_rest_bytes", "B", at_rest.map(float));
        case.figure("memory_touched_bytes", "B", touched.map(float));
        case.figure("memory_after_passivation_bytes", "B", after.map(float));
        let detail = format!("{} of {accounts}", done.len());
        case.check(Check::new("every account was answered", done.len() == accounts, detail));
        session.close().await?;
        Ok(vec![case])
    }
}

/// The smallest memory that is seen once accounts may have gone.
async fn settled_memory(session: &Session, idle: Duration, quick: bool) -> Option<u64> {
    tokio::time::sleep(idle).await;
    let until = Instant::now() + if quick { Duration::from_secs(1) } else { WATCHED };
    let mut smallest = None;
    while Instant::now() < until {
        let now = session.meter().server_memory();
        smallest = smallest.min(now).or(now);
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    smallest
}
