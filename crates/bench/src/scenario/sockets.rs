//! What open sockets cost and how soon they are told: idle ones, notices under load, a real day's mixture.

use std::time::Duration;

use anyhow::{Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use supersync::engine::notifier::NotifierOptions;

use crate::Bench;
use crate::check::compare_logs;
use crate::device::Device;
use crate::listeners::Listeners;
use crate::load::{self, Act, Crew, Pace, Plan, in_turn};
use crate::report::{Case, float};
use crate::usage::open_files_limit;

/// Files that a process needs besides its sockets.
const OTHER_FILES: usize = 512;
/// Uploads of one account are so far apart that each gets a notice of its own: further than the longest delay that
/// gathers them.
const APART: Duration = Duration::from_millis(600);
/// How long sockets are held before memory is read, so that what opening them needed is given back.
const SETTLE: Duration = Duration::from_secs(2);

/// As many sockets as were asked for, or as many as the limit of open files lets this process and the server have.
fn affordable(bench: &Bench, sockets: usize) -> Result<usize> {
    let limit = open_files_limit().saturating_sub(OTHER_FILES);
    if limit < sockets {
        bench.progress(&format!("only {limit} of {sockets} sockets: raise the limit of open files (ulimit -n)"));
    }
    ensure!(limit >= 2, "the limit of open files leaves no room for sockets");
    Ok(sockets.min(limit))
}

pub async fn fanout(bench: &Bench) -> Result<Vec<Case>> {
    let options = &bench.options;
    let session = bench.session(affordable(bench, options.size(2_000, 40))?, &[]).await?;
    let writers = bench.devices(&session, 0).await?;
    let readers = bench.devices(&session, 1).await?;
    bench.progress("fanout: the peak");
    let usual = options.pace();
    let crews = Crew::deal(writers, options.connections(), in_turn(Act::Upload(20)));
    let (peak, crews) = load::run(&session, crews, Pace { lasts: usual.lasts / 3, ..usual }).await?;
    let peak_rate = float(peak.uploads.latency.len()) / peak.lasted.as_secs_f64();
    let rate = (peak_rate / 2.0).min(float(session.tokens.len() as u64) / APART.as_secs_f64()).max(1.0);
    bench.progress(&format!("fanout: {rate:.0} uploads/s"));
    let debounce = NotifierOptions::default().debounce;
    let mut listeners = Listeners::open(&session, &readers, debounce).await?;
    let crews: Vec<Crew> = crews.into_iter().map(|crew| crew.noted_on(&listeners.board)).collect();
    let every = Duration::from_secs_f64(float(crews.len() as u64) / rate);
    let (outcome, crews) = load::run(&session, crews, Pace { every: Some(every), ..usual }).await?;
    let told = listeners.check().await;
    let mut case = Case::new("fanout", "half of the peak")
        .with("sockets", listeners.len())
        .with("peak_uploads_per_second", peak_rate.round());
    case.load(&outcome, &session);
    case.latencies("notice_", &listeners.board.lock().delays);
    case.figure("notices", float(listeners.board.lock().notices));
    case.checks.extend([told, compare_logs(&session, load::devices(crews)).await?]);
    drop(listeners);
    session.close().await?;
    Ok(vec![case])
}

pub async fn mixed(bench: &Bench) -> Result<Vec<Case>> {
    let options = &bench.options;
    let connections = options.connections();
    let accounts = options.accounts.unwrap_or(options.size(1_000, 20));
    bench.progress("mixed");
    let (session, first) = bench.filled(affordable(bench, accounts * 2)? / 2, 20).await?;
    let second = bench.devices(&session, 1).await?;
    let devices: Vec<Device> = first.into_iter().zip(second).flat_map(|(first, second)| [first, second]).collect();
    let mut listeners = Listeners::open(&session, &devices, Duration::ZERO).await?;
    let plan = || -> Plan {
        let mut random = StdRng::seed_from_u64(1);
        Box::new(move |_, devices| {
            let act = match random.random_range(0..50) {
                0 => Act::Upload(random.random_range(1..=5)),
                _ => Act::Download { limit: None, expected: None },
            };
            Some((random.random_range(0..devices.len()), act))
        })
    };
    let crews =
        Crew::deal_groups(devices, 2, connections, plan).into_iter().map(|crew| crew.noted_on(&listeners.board));
    let (outcome, crews) = load::run(&session, crews.collect(), options.pace()).await?;
    let told = listeners.check().await;
    let mut case = Case::new("mixed", "2 % uploads, 98 % polls")
        .with("accounts", session.tokens.len())
        .with("sockets", listeners.len())
        .with("connections", crews.len());
    case.load(&outcome, &session);
    case.counted("poll_", &outcome.downloads, outcome.lasted);
    case.counted("upload_", &outcome.uploads, outcome.lasted);
    case.figure("notices", float(listeners.board.lock().notices));
    case.checks.extend([told, compare_logs(&session, load::devices(crews)).await?]);
    drop(listeners);
    session.close().await?;
    Ok(vec![case])
}

pub async fn hold(bench: &Bench) -> Result<Vec<Case>> {
    let sockets = affordable(bench, bench.options.size(10_000, 50))?;
    bench.progress(&format!("hold: {sockets} sockets"));
    let session = bench.session(sockets, &[]).await?;
    let settle = if bench.options.quick { SETTLE / 10 } else { SETTLE };
    tokio::time::sleep(settle).await;
    let at_rest = session.meter().server_memory();
    let devices = bench.devices(&session, 0).await?;
    let mut listeners = Listeners::open(&session, &devices, Duration::ZERO).await?;
    tokio::time::sleep(settle).await;
    let holding = session.meter().server_memory();
    let mut case = Case::new("hold", "sockets").with("sockets", listeners.len());
    case.figure("memory_at_rest_bytes", at_rest.map(float));
    case.figure("memory_with_sockets_bytes", holding.map(float));
    let grown = at_rest.zip(holding).map(|(rest, held)| float(held.saturating_sub(rest)));
    case.figure("memory_bytes_per_socket", grown.map(|grown| grown / float(sockets as u64)));
    case.checks.push(listeners.check().await);
    drop(listeners);
    session.close().await?;
    Ok(vec![case])
}
