//! What open sockets cost and how soon they are told: idle ones, notices under load, a real day's mixture.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::Scenario;
use super::upload::Uploads;
use crate::bench::Bench;
use crate::bench::case::{Case, float};
use crate::bench::check::compare_logs;
use crate::bench::connection::Answer;
use crate::bench::device::Device;
use crate::bench::error::{BenchError, Result};
use crate::bench::fleet::{deal, fill};
use crate::bench::listeners::{Board, Listeners};
use crate::bench::load::{self, KindOutcome, Pace, Work};
use crate::bench::random::Random;
use crate::bench::usage::open_files_limit;
use crate::engine::notifier::NotifierOptions;

/// Files that a process needs besides its sockets.
const OTHER_FILES: usize = 512;

/// As many sockets as were asked for, or as many as the limit of open files lets this process and the server have.
fn affordable(bench: &Bench, sockets: usize) -> Result<usize> {
    let limit = open_files_limit().unwrap_or(usize::MAX).saturating_sub(OTHER_FILES);
    if limit < sockets {
        bench.progress(&format!("only {limit} of {sockets} sockets: raise the limit of open files (ulimit -n)"));
    }
    if limit < 2 {
        return Err(BenchError::Options("the limit of open files leaves no room for sockets".to_owned()));
    }
    Ok(sockets.min(limit))
}

pub struct Fanout;

/// Operations per upload.
const BATCH: usize = 20;
/// Uploads of one account are so far apart that each gets a notice of its own: further than the longest delay that
/// gathers them.
const APART: Duration = Duration::from_millis(600);

/// Uploads whose acknowledgement is noted for the listeners.
struct Announced {
    uploads: Uploads,
    board: Arc<Board>,
}

impl Work for Announced {
    fn next(&mut self, request: &mut Vec<u8>) -> Option<usize> {
        self.uploads.next(request)
    }

    fn answer(&mut self, kind: usize, answer: Answer<'_>) -> Result<u64> {
        let operations = self.uploads.answer(kind, answer)?;
        let device = self.uploads.current();
        self.board.acknowledged(device.account(), device.cursor());
        Ok(operations)
    }
}

#[async_trait(?Send)]
impl Scenario for Fanout {
    fn name(&self) -> &'static str {
        "fanout"
    }

    fn about(&self) -> &'static str {
        "from an upload's acknowledgement to the notice on another device's socket, less the debounce, at half of the peak"
    }

    async fn run(&self, bench: &Bench) -> Result<Vec<Case>> {
        let options = &bench.options;
        let connections = options.connections();
        let session = bench.session(affordable(bench, options.size(2_000, 40))?).await?;
        let writers = session.devices(0, options.payload_bytes()).await?;
        let readers = session.devices(1, options.payload_bytes()).await?;
        bench.progress("fanout: the peak");
        let usual = options.pace();
        let short = Pace { lasts: usual.lasts / 3, ..usual };
        let (peak, uploads) = load::run(&session, Uploads::deal(writers, connections, BATCH), short).await?;
        let peak_rate = float(peak.requests()) / peak.lasted.as_secs_f64();
        let accounts = float(session.accounts().len() as u64);
        let rate = (peak_rate / 2.0).min(accounts / APART.as_secs_f64()).max(1.0);
        bench.progress(&format!("fanout: {rate:.0} uploads/s"));
        let mut listeners = Listeners::open(&session, &readers).await?;
        let board = listeners.board();
        let announced: Vec<_> =
            uploads.into_iter().map(|uploads| Announced { uploads, board: Arc::clone(&board) }).collect();
        let every = Duration::from_secs_f64(float(announced.len() as u64) / rate);
        let (outcome, announced) = load::run(&session, announced, Pace { every: Some(every), ..usual }).await?;
        let told = listeners.check().await;
        let debounce = NotifierOptions::default().debounce;
        let mut case = Case::new("fanout", "half of the peak")
            .with("sockets", listeners.len())
            .with("batch", BATCH)
            .with("peak_uploads_per_second", peak_rate.round())
            .with("debounce_ms", debounce.as_secs_f64() * 1e3);
        case.load(&outcome);
        let mut delays = KindOutcome { latency: board.take_delays(), ..KindOutcome::default() };
        delays.latency = delays.latency.less(debounce);
        case.latencies("notice_", &delays);
        case.figure("notices", "", float(board.notices()));
        case.memory(&session);
        case.check(told);
        let devices = announced.into_iter().flat_map(|announced| announced.uploads.into_devices());
        case.check(compare_logs(&session, devices).await?);
        drop(listeners);
        session.close().await?;
        Ok(vec![case])
    }
}

pub struct Mixed;

const POLL: usize = 0;
const UPLOAD: usize = 1;
/// One of so many requests is an upload.
const UPLOAD_EVERY: usize = 50;
/// Operations per upload, at most.
const MOST_OPS: usize = 5;

/// Both devices of some accounts, in random order on one connection.
struct Day {
    devices: Vec<Device>,
    random: Random,
    which: usize,
    board: Arc<Board>,
}

impl Work for Day {
    fn next(&mut self, request: &mut Vec<u8>) -> Option<usize> {
        self.which = self.random.below(self.devices.len());
        let device = &mut self.devices[self.which];
        if self.random.below(UPLOAD_EVERY) == 0 {
            device.write_upload(request, 1 + self.random.below(MOST_OPS));
            return Some(UPLOAD);
        }
        device.write_download(request, None);
        Some(POLL)
    }

    fn answer(&mut self, kind: usize, answer: Answer<'_>) -> Result<u64> {
        let device = &mut self.devices[self.which];
        if kind == UPLOAD {
            let operations = device.read_upload(answer)?;
            self.board.acknowledged(device.account(), device.cursor());
            return Ok(operations);
        }
        let page = device.read_page(answer)?;
        Ok(page.ops)
    }
}

#[async_trait(?Send)]
impl Scenario for Mixed {
    fn name(&self) -> &'static str {
        "mixed"
    }

    fn about(&self) -> &'static str {
        "2 % uploads of 1 to 5 operations, 98 % polls, two devices per account, a socket for each: a real day"
    }

    async fn run(&self, bench: &Bench) -> Result<Vec<Case>> {
        let options = &bench.options;
        let connections = options.connections();
        let accounts = options.accounts.unwrap_or(options.size(1_000, 20));
        let session = bench.session(affordable(bench, accounts * 2)? / 2).await?;
        bench.progress("mixed");
        let first = fill(&session, session.devices(0, options.payload_bytes()).await?, 20, connections).await?;
        let mut devices = session.devices(1, options.payload_bytes()).await?;
        devices.extend(first);
        let mut listeners = Listeners::open(&session, &devices).await?;
        let board = listeners.board();
        // Both devices of an account share a connection, so that the last acknowledged sequence is the highest.
        devices.sort_by_key(Device::account);
        let mut pairs = Vec::new();
        while let (Some(a), Some(b)) = (devices.pop(), devices.pop()) {
            pairs.push([a, b]);
        }
        let days: Vec<_> = (0..)
            .zip(deal(pairs, connections))
            .map(|(n, pairs)| Day {
                devices: pairs.into_iter().flatten().collect(),
                random: Random::new(n),
                which: 0,
                board: Arc::clone(&board),
            })
            .collect();
        let (outcome, days) = load::run(&session, days, options.pace()).await?;
        let told = listeners.check().await;
        let mut case = Case::new("mixed", "2 % uploads, 98 % polls")
            .with("accounts", session.accounts().len())
            .with("sockets", listeners.len())
            .with("connections", days.len());
        case.load(&outcome);
        case.kind("poll", &outcome.kind(POLL), outcome.lasted);
        case.kind("upload", &outcome.kind(UPLOAD), outcome.lasted);
        case.figure("notices", "", float(board.notices()));
        case.memory(&session);
        case.check(told);
        case.check(compare_logs(&session, days.into_iter().flat_map(|day| day.devices)).await?);
        drop(listeners);
        session.close().await?;
        Ok(vec![case])
    }
}

pub struct Hold;

/// How long sockets are held before memory is read, so that what opening them needed is given back.
const SETTLE: Duration = Duration::from_secs(2);

#[async_trait(?Send)]
impl Scenario for Hold {
    fn name(&self) -> &'static str {
        "hold"
    }

    fn about(&self) -> &'static str {
        "memory of a server at rest, and of 10,000 idle sockets"
    }

    fn needs_own_server(&self) -> bool {
        true
    }

    async fn run(&self, bench: &Bench) -> Result<Vec<Case>> {
        let sockets = affordable(bench, bench.options.size(10_000, 50))?;
        bench.progress(&format!("hold: {sockets} sockets"));
        let session = bench.session(sockets).await?;
        // The server has just started: the accounts were created by this process.
        let settle = if bench.options.quick { SETTLE / 10 } else { SETTLE };
        tokio::time::sleep(settle).await;
        let at_rest = session.meter().server_memory();
        let devices = session.devices(0, bench.options.payload_bytes()).await?;
        let mut listeners = Listeners::open(&session, &devices).await?;
        tokio::time::sleep(settle).await;
        let holding = session.meter().server_memory();
        let mut case = Case::new("hold", "sockets").with("sockets", listeners.len());
        case.figure("memory_at_rest_bytes", "B", at_rest.map(float));
        case.figure("memory_with_sockets_bytes", "B", holding.map(float));
        let per_socket =
            at_rest.zip(holding).map(|(rest, held)| float(held.saturating_sub(rest)) / float(sockets as u64));
        case.figure("memory_bytes_per_socket", "B", per_socket);
        case.check(listeners.check().await);
        drop(listeners);
        session.close().await?;
        Ok(vec![case])
    }
}
