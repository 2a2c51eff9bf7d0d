//! One user imports a large full state while others work: how much do they notice?

use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::Scenario;
use super::download::import;
use crate::bench::Bench;
use crate::bench::case::Case;
use crate::bench::check::{Check, compare_logs};
use crate::bench::connection::Answer;
use crate::bench::device::Device;
use crate::bench::error::Result;
use crate::bench::fleet::{deal, fill};
use crate::bench::latency::Histogram;
use crate::bench::load::{self, KindOutcome, Outcome, Pace, Work};
use crate::bench::session::Session;
use crate::bench::state::Import;
use crate::client::{Client, Ladder};

pub struct LargeImport;

const POLL: usize = 0;
const UPLOAD: usize = 1;
/// One of so many requests of the others is an upload.
const UPLOAD_EVERY: usize = 4;
/// How often each of the others' connections asks: far below what the server can do, so that what they wait for is the
/// import and not each other.
const OTHERS_EVERY: Duration = Duration::from_millis(20);
/// An import begins so often, or as soon as the last one is done.
const IMPORT_EVERY: Duration = Duration::from_secs(1);

/// Devices that poll, and now and then upload one operation, in turn on one connection.
struct Others {
    devices: Vec<Device>,
    turn: usize,
}

impl Work for Others {
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

/// Imports again and again until told to stop.
async fn import_until(session: &Session, state: &mut Import, until: Instant) -> Result<Histogram> {
    let mut connection = session.connect().await?;
    let mut took = Histogram::default();
    while Instant::now() < until {
        let began = Instant::now();
        import(&mut connection, state).await?;
        took.record(began.elapsed());
        tokio::time::sleep_until((began + IMPORT_EVERY).into()).await;
    }
    Ok(took)
}

fn add(to: &mut [KindOutcome; 2], outcome: &Outcome) {
    for (kind, counted) in to.iter_mut().enumerate() {
        counted.merge(&outcome.kind(kind));
    }
}

#[async_trait(?Send)]
impl Scenario for LargeImport {
    fn name(&self) -> &'static str {
        "import"
    }

    fn about(&self) -> &'static str {
        "others' polls and uploads while one user imports a full state of 20 MB every second, and while nobody does"
    }

    fn needs_own_server(&self) -> bool {
        true
    }

    async fn run(&self, bench: &Bench) -> Result<Vec<Case>> {
        let options = &bench.options;
        let connections = options.connections().min(32);
        let state_bytes = options.size(20_000_000, 1_000_000);
        bench.progress("import");
        let session = bench.session(options.size(65, 9)).await?;
        let mut devices = session.devices(0, options.payload_bytes()).await?;
        let importer = devices.remove(0);
        let mut others = fill(&session, devices, 20, connections).await?;
        let mut state = Import::new(&importer, state_bytes);
        let usual = options.pace();
        let pace = Pace { every: Some(OTHERS_EVERY), lasts: usual.lasts / 2, ..usual };
        let (mut quiet, mut busy) = <([KindOutcome; 2], [KindOutcome; 2])>::default();
        let mut imports = Histogram::default();
        // Quiet and busy phases take turns, so that what else happens on the machine falls on both.
        for importing in [false, true, false, true] {
            let load = deal(others, connections).into_iter().map(|devices| Others { devices, turn: 0 }).collect();
            let (outcome, load) = if importing {
                let until = Instant::now() + pace.warmup + pace.lasts;
                let (done, took) =
                    tokio::join!(load::run(&session, load, pace), import_until(&session, &mut state, until));
                imports.merge(&took?);
                done?
            } else {
                load::run(&session, load, pace).await?
            };
            add(if importing { &mut busy } else { &mut quiet }, &outcome);
            others = load.into_iter().flat_map(|load: Others| load.devices).collect();
        }
        let mut case = Case::new("import", format!("{} MB", state_bytes / 1_000_000))
            .with("others_connections", connections)
            .with("others_every_ms", 20)
            .with("imports", imports.count());
        figures(&mut case, &quiet, &busy, &imports);
        case.memory(&session);
        case.check(compare_logs(&session, others).await?);
        let client = Client::new(&session.target().base(), &session.accounts()[0].token, Ladder::default())?;
        let stored = client.restore_points(100).await?.restore_points.len() as u64;
        let detail = format!("{} imports, {stored} restore points", imports.count());
        case.check(Check::new("every import is a restore point", stored == imports.count().min(100), detail));
        session.close().await?;
        Ok(vec![case])
    }
}

fn figures(case: &mut Case, quiet: &[KindOutcome; 2], busy: &[KindOutcome; 2], imports: &Histogram) {
    for (name, share) in [("import_p50_ms", 0.5), ("import_max_ms", 1.0)] {
        case.figure(name, "ms", imports.quantile_ms(share));
    }
    let mut worst: Option<f64> = None;
    for (kind, name) in [(POLL, "polls"), (UPLOAD, "uploads")] {
        let p99 = [quiet, busy].map(|phase| phase[kind].latency.quantile_ms(0.99));
        case.figure(format!("{name}_p99_without_ms"), "ms", p99[0]);
        case.figure(format!("{name}_p99_with_ms"), "ms", p99[1]);
        case.figure(format!("{name}_max_with_ms"), "ms", busy[kind].latency.max_ms());
        let ratio = p99[0].zip(p99[1]).map(|(without, with)| with / without);
        worst = worst.into_iter().chain(ratio).reduce(f64::max);
    }
    case.figure("others_p99_ratio", "", worst);
}
