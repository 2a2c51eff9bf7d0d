//! Puts load on a server: so many connections, each with one request under way, for so long; and counts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use crate::connection::Connection;
use crate::device::Device;
use crate::listeners::Board;
use crate::session::Session;
use crate::usage::{Cpu, since};

/// What a device does next.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// Uploads so many new operations.
    Upload(usize),
    /// Downloads what is new, at most `limit` operations. With `expected` exactly so many must come.
    Download { limit: Option<usize>, expected: Option<u64> },
}

/// A poll that must bring nothing.
pub const POLL: Act = Act::Download { limit: None, expected: Some(0) };

/// Chooses the next device and what it does, by the number of the turn; `None`: everything is done.
pub type Plan = Box<dyn FnMut(usize, &mut [Device]) -> Option<(usize, Act)> + Send>;

/// Devices that share a connection.
pub struct Crew {
    pub devices: Vec<Device>,
    plan: Plan,
    /// Where acknowledged uploads are noted for listeners.
    board: Option<Arc<Board>>,
}

impl Crew {
    /// Deals the devices out to so many connections, or fewer when there are too few.
    pub fn deal(devices: Vec<Device>, connections: usize, plan: impl Fn() -> Plan) -> Vec<Self> {
        Self::deal_groups(devices, 1, connections, plan)
    }

    /// The same for groups of so many neighbours, which stay together.
    pub fn deal_groups(devices: Vec<Device>, size: usize, connections: usize, plan: impl Fn() -> Plan) -> Vec<Self> {
        let count = connections.min(devices.len() / size);
        let new = |_| Self { devices: Vec::new(), plan: plan(), board: None };
        let mut crews: Vec<Self> = (0..count).map(new).collect();
        for (n, device) in devices.into_iter().enumerate() {
            crews[n / size % count].devices.push(device);
        }
        crews
    }

    /// The same, with acknowledged uploads noted on a board.
    pub fn noted_on(self, board: &Arc<Board>) -> Self {
        Self { board: Some(Arc::clone(board)), ..self }
    }
}

pub fn devices(crews: Vec<Crew>) -> Vec<Device> {
    crews.into_iter().flat_map(|crew| crew.devices).collect()
}

/// How load is put on.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Load before anything is counted.
    pub warmup: Duration,
    /// How long is counted.
    pub lasts: Duration,
    /// Each connection sends a request every so often, not as soon as the last one is answered. Latency then counts
    /// from when a request was due, so that a stall is not hidden by the requests that it kept from being sent.
    pub every: Option<Duration>,
}

impl Pace {
    /// Until every crew is done, from the first request on.
    pub const UNTIL_DONE: Self = Self { warmup: Duration::ZERO, lasts: Duration::from_hours(1), every: None };
}

/// Durations from a microsecond to an hour, in microseconds, within 1 %.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 2).expect("the bounds are in order")
}

pub fn record(histogram: &mut Histogram<u64>, duration: Duration) {
    histogram.saturating_record(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
}

/// What was counted of one kind of request.
#[derive(Clone, Debug)]
pub struct Counted {
    /// How long they took, µs; also how many there were.
    pub latency: Histogram<u64>,
    /// Operations that they moved.
    pub operations: u64,
}

impl Default for Counted {
    fn default() -> Self {
        Self { latency: histogram(), operations: 0 }
    }
}

impl Counted {
    pub fn add(&mut self, other: &Self) {
        self.latency.add(&other.latency).expect("all histograms have the same bounds");
        self.operations += other.operations;
    }
}

#[derive(Clone, Debug)]
pub struct Outcome {
    /// How long was counted.
    pub lasted: Duration,
    pub uploads: Counted,
    pub downloads: Counted,
    /// Processor time that was used meanwhile.
    pub cpu: Cpu,
}

impl Outcome {
    pub fn total(&self) -> Counted {
        let mut total = self.uploads.clone();
        total.add(&self.downloads);
        total
    }
}

/// Lets every crew work on a connection of its own, and gives them back for the checks after the run. A load whose
/// crews all end by themselves is counted up to then. The first thing that goes wrong ends the run.
pub async fn run(session: &Session, crews: Vec<Crew>, pace: Pace) -> Result<(Outcome, Vec<Crew>)> {
    let mut connections = Vec::with_capacity(crews.len());
    for _ in &crews {
        connections.push(session.connect().await?);
    }
    let from = Instant::now() + pace.warmup;
    let until = from + pace.lasts;
    let count = u32::try_from(crews.len()).unwrap_or(u32::MAX).max(1);
    let mut tasks = JoinSet::new();
    for (n, (crew, connection)) in (0..).zip(crews.into_iter().zip(connections)) {
        // Paced connections are spread over one period.
        let schedule = pace.every.map(|every| (every, Instant::now() + every * n / count));
        tasks.spawn(drive(crew, connection, from, until, schedule));
    }
    sleep_until(from.into()).await;
    let before = session.meter().cpu();
    let (mut crews, mut uploads, mut downloads) = (Vec::new(), Counted::default(), Counted::default());
    let mut after = None;
    loop {
        tokio::select! {
            // Time first: what is counted must end when the processor time is read.
            biased;
            () = sleep_until(until.into()), if after.is_none() => after = Some((session.meter().cpu(), until)),
            joined = tasks.join_next() => match joined {
                Some(Ok(finished)) => {
                    let (crew, counted) = finished?;
                    uploads.add(&counted[0]);
                    downloads.add(&counted[1]);
                    crews.push(crew);
                }
                Some(Err(panicked)) => std::panic::resume_unwind(panicked.into_panic()),
                None => break,
            },
        }
    }
    let (after, ended) = after.unwrap_or_else(|| (session.meter().cpu(), Instant::now()));
    let lasted = ended.saturating_duration_since(from);
    Ok((Outcome { lasted, uploads, downloads, cpu: since(&after, &before) }, crews))
}

/// One crew's work; what it counted of uploads and of downloads.
async fn drive(
    mut crew: Crew,
    mut connection: Connection,
    from: Instant,
    until: Instant,
    mut schedule: Option<(Duration, Instant)>,
) -> Result<(Crew, [Counted; 2])> {
    let mut counted = [Counted::default(), Counted::default()];
    let mut request = Vec::with_capacity(16 * 1024);
    for turn in 0.. {
        if Instant::now() >= until {
            break;
        }
        if let Some((_, due)) = schedule {
            sleep_until(due.into()).await;
        }
        let Some((which, act)) = (crew.plan)(turn, &mut crew.devices) else { break };
        let device = &mut crew.devices[which];
        request.clear();
        match act {
            Act::Upload(ops) => device.write_upload(&mut request, ops),
            Act::Download { limit, .. } => device.write_download(&mut request, limit),
        }
        let sent = Instant::now();
        let answer = connection.send(&request).await?;
        let answered = Instant::now();
        let (kind, operations) = match act {
            Act::Upload(_) => (0, device.read_upload(answer)?),
            Act::Download { expected, .. } => (1, device.read_page(answer, expected)?),
        };
        if kind == 0
            && let Some(board) = &crew.board
        {
            board.acknowledged(device.account, device.cursor);
        }
        // Once every answer is in, the run is over; only those within the window count.
        if answered >= from && answered <= until {
            let due = schedule.map_or(sent, |(_, due)| due);
            record(&mut counted[kind].latency, answered.saturating_duration_since(due));
            counted[kind].operations += operations;
        }
        if let Some((every, due)) = &mut schedule {
            *due += *every;
        }
    }
    Ok((crew, counted))
}

/// Lets every device upload so many operations, in requests of at most 100, and gives the devices back.
pub async fn fill(
    session: &Session,
    devices: Vec<Device>,
    operations: usize,
    connections: usize,
) -> Result<Vec<Device>> {
    let rounds = operations.div_ceil(100);
    let plan = move || -> Plan {
        Box::new(move |turn, devices| {
            let left = operations - turn % rounds * 100;
            (turn / rounds < devices.len()).then(|| (turn / rounds, Act::Upload(left.min(100))))
        })
    };
    let (_, crews) = run(session, Crew::deal(devices, connections, plan), Pace::UNTIL_DONE).await?;
    let mut devices = self::devices(crews);
    devices.sort_by_key(|device| device.account);
    Ok(devices)
}

/// Every device acts once, in turn, again and again.
pub fn in_turn(act: Act) -> impl Fn() -> Plan {
    move || Box::new(move |turn, devices| Some((turn % devices.len(), act)))
}
