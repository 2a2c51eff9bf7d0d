//! Downloads of history that was written before: pages of 500, whole logs, and the join of a new device to a long log.

use std::time::Instant;

use async_trait::async_trait;

use super::Scenario;
use crate::bench::Bench;
use crate::bench::case::Case;
use crate::bench::check::{Check, compare_logs};
use crate::bench::connection::Answer;
use crate::bench::device::Device;
use crate::bench::error::{BenchError, Result};
use crate::bench::fleet::{deal, fill};
use crate::bench::latency::Histogram;
use crate::bench::load::{self, KindOutcome, Work};
use crate::bench::page::Page;
use crate::bench::place::Place;
use crate::bench::session::Session;
use crate::bench::state::Import;
use crate::bench::study::layout;
use crate::client::wire::{Check as _, DownloadAnswer};
use crate::protocol::Seq;

/// Operations per page: what the app asks for.
const PAGE: usize = 500;
/// Every so many pages one is read whole, with all of the app's checks; the others from their ends.
const READ_WHOLE_EVERY: usize = 64;

/// Readers that download page after page from the start to the end, again and again, in turn on one connection.
struct Readers {
    devices: Vec<Device>,
    turn: usize,
    pages: usize,
    /// Where every log ends.
    end: Seq,
    /// Where the first page has to begin: later than at 1 if a full state makes what was before superfluous.
    first: Seq,
    began: Instant,
    whole: Histogram,
}

impl Readers {
    fn deal(devices: Vec<Device>, connections: usize, first: Seq, end: Seq) -> Vec<Self> {
        let new = |devices| Self {
            devices,
            turn: 0,
            pages: 0,
            end,
            first,
            began: Instant::now(),
            whole: Histogram::default(),
        };
        deal(devices, connections).into_iter().map(new).collect()
    }
}

impl Work for Readers {
    fn next(&mut self, request: &mut Vec<u8>) -> Option<usize> {
        let device = &self.devices[self.turn];
        if device.cursor() == 0 {
            self.began = Instant::now();
        }
        device.write_download(request, Some(PAGE));
        Some(0)
    }

    fn answer(&mut self, _: usize, answer: Answer<'_>) -> Result<u64> {
        let device = &mut self.devices[self.turn];
        let expected = if device.cursor() == 0 { self.first } else { device.cursor() + 1 };
        let page = device.read_page(answer)?;
        if page.first != expected || page.latest_seq != self.end {
            return Err(BenchError::answer("a page that does not follow the last one", answer.body));
        }
        self.pages += 1;
        if self.pages.is_multiple_of(READ_WHOLE_EVERY) {
            read_whole(answer.body, page)?;
        }
        if !page.has_more {
            if page.last != self.end {
                return Err(BenchError::answer("the log ends too early", answer.body));
            }
            self.whole.record(self.began.elapsed());
            device.set_cursor(0);
            self.turn = (self.turn + 1) % self.devices.len();
        }
        Ok(page.ops)
    }
}

fn read_whole(body: &[u8], page: Page) -> Result<()> {
    let answer: DownloadAnswer =
        serde_json::from_slice(body).map_err(|error| BenchError::answer(&error.to_string(), body))?;
    answer.check().map_err(|reason| BenchError::answer(&reason, body))?;
    let follows = answer.ops.iter().zip(page.first..).all(|(op, seq)| op.server_seq == seq);
    if follows && answer.ops.len() as u64 == page.ops {
        return Ok(());
    }
    Err(BenchError::answer("a page with a hole", body))
}

/// Lets new devices read all logs for a while.
async fn read_logs(bench: &Bench, session: &Session, case: &mut Case, first: Seq, end: Seq) -> Result<()> {
    let devices = session.devices(1, bench.options.payload_bytes()).await?;
    let devices = devices.into_iter().map(|mut device| {
        device.set_cursor(0);
        device
    });
    let readers = Readers::deal(devices.collect(), bench.options.connections(), first, end);
    let (outcome, readers) = load::run(session, readers, bench.options.pace()).await?;
    case.load(&outcome);
    case.memory(session);
    let mut whole = KindOutcome::default();
    for readers in &readers {
        whole.latency.merge(&readers.whole);
    }
    case.latencies("whole_log_", &whole);
    Ok(())
}

/// Nothing but what this run wrote may be in the logs.
fn require_empty(devices: &[Device]) -> Result<()> {
    if devices.iter().all(|device| device.start() == 0) {
        return Ok(());
    }
    Err(BenchError::Options("this scenario needs accounts without operations".to_owned()))
}

pub struct Download;

#[async_trait(?Send)]
impl Scenario for Download {
    fn name(&self) -> &'static str {
        "download"
    }

    fn about(&self) -> &'static str {
        "pages of 500 operations, and whole logs of 10,000, read again and again: as rows, and sealed"
    }

    fn needs_own_server(&self) -> bool {
        true
    }

    async fn run(&self, bench: &Bench) -> Result<Vec<Case>> {
        let options = &bench.options;
        let mut cases = Vec::new();
        let shapes = [
            ("500, warm".to_owned(), options.size(64, 8), options.size(2_000, 600)),
            (format!("whole log of {}", options.size(10_000, 1_200)), options.size(16, 2), options.size(10_000, 1_200)),
        ];
        for (name, accounts, operations) in shapes {
            let session = bench.session(accounts).await?;
            let devices = session.devices(0, options.payload_bytes()).await?;
            let mut devices = fill(&session, devices, operations, options.connections()).await?;
            let end = Seq::try_from(operations).unwrap_or(Seq::MAX);
            let case = |kind: &str| {
                let name = format!("{name}, {kind}");
                bench.progress(&format!("download: {name}"));
                Case::new("download", name).with("accounts", accounts).with("operations", operations)
            };
            // Of the last hours, and older: what a new device mostly meets.
            let mut rows = case("rows");
            read_logs(bench, &session, &mut rows, 1, end).await?;
            let (session, ()) = session
                .paused(async |place: &Place| {
                    layout::seal(place).await?;
                    layout::vacuum(place).await
                })
                .await?;
            let mut sealed = case("sealed");
            read_logs(bench, &session, &mut sealed, 1, end).await?;
            for device in &mut devices {
                device.retarget(session.target());
            }
            sealed.check(compare_logs(&session, devices).await?);
            session.close().await?;
            cases.extend([rows, sealed]);
        }
        Ok(cases)
    }
}

pub struct Fresh;

/// Bytes of the full state in front of what a new device needs.
const STATE_BYTES: usize = 1_000_000;
/// Operations after it.
const AFTER: usize = 700;

#[async_trait(?Send)]
impl Scenario for Fresh {
    fn name(&self) -> &'static str {
        "fresh"
    }

    fn about(&self) -> &'static str {
        "a new device joins an account with 100,000 operations behind a full state of 1 MB and 700 after it"
    }

    fn needs_own_server(&self) -> bool {
        true
    }

    async fn run(&self, bench: &Bench) -> Result<Vec<Case>> {
        let options = &bench.options;
        let accounts = options.size(4, 2);
        let before = options.size(100_000, 1_500);
        bench.progress(&format!("fresh: {before} operations"));
        let session = bench.session(accounts).await?;
        let devices = session.devices(0, options.payload_bytes()).await?;
        require_empty(&devices)?;
        let mut devices = fill(&session, devices, before, options.connections()).await?;
        let mut connection = session.connect().await?;
        let mut full_state = 0;
        for device in &mut devices {
            full_state = import(&mut connection, &mut Import::new(device, STATE_BYTES)).await?;
            device.set_cursor(full_state);
        }
        let devices = fill(&session, devices, AFTER, options.connections()).await?;
        let end = devices.first().map_or(0, Device::cursor);
        let mut case = Case::new("fresh", format!("{before} operations behind a full state"))
            .with("accounts", accounts)
            .with("state_bytes", STATE_BYTES);
        read_logs(bench, &session, &mut case, full_state, end).await?;
        let expected = Seq::try_from(before + AFTER + 1).unwrap_or(Seq::MAX);
        let detail = format!("full state at {full_state}, log ends at {end}");
        case.check(Check::new("the log has as many operations as were acknowledged", end == expected, detail));
        session.close().await?;
        Ok(vec![case])
    }
}

/// Uploads a full state and gives its sequence.
pub async fn import(connection: &mut crate::bench::connection::Connection, import: &mut Import) -> Result<Seq> {
    let body = connection.send(import.renewed()).await?.ok()?;
    let answer: crate::client::wire::SnapshotAnswer =
        serde_json::from_slice(body).map_err(|error| BenchError::answer(&error.to_string(), body))?;
    answer.server_seq.ok_or_else(|| BenchError::answer("the full state was not accepted", body))
}
