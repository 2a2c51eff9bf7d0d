//! Accounts that were idle: what the first request of each costs, and what memory many of them leave behind.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::Bench;
use crate::check::compare_logs;
use crate::device::Device;
use crate::load::{self, Act, Crew, Outcome, POLL, Pace, Plan};
use crate::report::{Case, Check, float};
use crate::session::Session;

/// Operations in each account's log.
const HISTORY: usize = 5;
/// When the server lets go of an idle account; 10 minutes by default, which is long to wait for.
const IDLE_SECONDS: u64 = 5;
/// How long memory is watched after that.
const WATCHED: Duration = Duration::from_secs(90);

/// Lets every device act once and gives the devices back.
async fn once(session: &Session, devices: Vec<Device>, connections: usize, act: Act) -> Result<(Outcome, Vec<Device>)> {
    let plan = move || -> Plan { Box::new(move |turn, devices| (turn < devices.len()).then_some((turn, act))) };
    let (outcome, crews) = load::run(session, Crew::deal(devices, connections, plan), Pace::UNTIL_DONE).await?;
    Ok((outcome, load::devices(crews)))
}

pub async fn cold(bench: &Bench) -> Result<Vec<Case>> {
    let connections = bench.options.connections();
    let accounts = bench.options.size(20_000, 50);
    bench.progress(&format!("cold: {accounts} accounts"));
    let (mut session, mut devices) = bench.filled(accounts, HISTORY).await?;
    let mut cases = Vec::new();
    for (name, act) in [("poll", POLL), ("upload", Act::Upload(1))] {
        session = session.paused(async |_| Ok(())).await?;
        let (outcome, done) = once(&session, devices, connections, act).await?;
        devices = done;
        let mut case = Case::new("cold", name).with("accounts", accounts).with("connections", connections);
        case.load(&outcome, &session);
        cases.push(case);
    }
    let check = compare_logs(&session, devices).await?;
    for case in &mut cases {
        case.checks.push(check.clone());
    }
    session.close().await?;
    Ok(cases)
}

pub async fn touched(bench: &Bench) -> Result<Vec<Case>> {
    let accounts = bench.options.size(100_000, 200);
    bench.progress(&format!("touched: {accounts} accounts"));
    let (idle, watched) = if bench.options.quick { (1, Duration::from_secs(1)) } else { (IDLE_SECONDS, WATCHED) };
    let session = bench.session(accounts, &[("ACTOR_IDLE_SECONDS", &idle.to_string())]).await?;
    let at_rest = session.meter().server_memory();
    let devices = bench.devices(&session, 0).await?;
    let (outcome, done) = once(&session, devices, bench.options.connections(), POLL).await?;
    let touched = session.meter().server_memory();
    tokio::time::sleep(Duration::from_secs(idle)).await;
    // The smallest memory that is seen once accounts may have gone.
    let (until, mut after) = (Instant::now() + watched, touched);
    while Instant::now() < until {
        after = after.min(session.meter().server_memory());
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let mut case = Case::new("touched", "accounts").with("accounts", accounts).with("idle_seconds", idle);
    case.load(&outcome, &session);
    case.figure("memory_at_rest_bytes", at_rest.map(float));
    case.figure("memory_touched_bytes", touched.map(float));
    case.figure("memory_after_passivation_bytes", after.map(float));
    let detail = format!("{} of {accounts}", done.len());
    let answered = outcome.downloads.latency.len() == accounts as u64;
    case.checks.push(Check::new("every account was answered", answered, detail));
    session.close().await?;
    Ok(vec![case])
}
