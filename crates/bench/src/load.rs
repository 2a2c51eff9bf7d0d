//! Puts load on a server: so many connections, each with one request under way, for so long; and counts.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{Instant as TokioInstant, sleep_until};

use super::connection::{Answer, Connection};
use super::error::{BenchError, Result};
use super::latency::Histogram;
use super::session::Session;
use super::usage::CpuUsed;

/// What one connection does.
pub trait Work: Send + 'static {
    /// Writes the next request into the empty buffer and says of which kind it is; kinds are small numbers that the
    /// scenario gives meaning to. `None`: everything is done.
    fn next(&mut self, request: &mut Vec<u8>) -> Option<usize>;

    /// Checks the answer and says how many operations it moved.
    ///
    /// # Errors
    /// An answer that the load did not expect: it ends the run.
    fn answer(&mut self, kind: usize, answer: Answer<'_>) -> Result<u64>;
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

/// What was counted of one kind of request.
#[derive(Clone, Debug, Default)]
pub struct KindOutcome {
    /// How long they took; also how many there were.
    pub latency: Histogram,
    /// Operations that they moved.
    pub operations: u64,
    /// How many were answered in each second of the run.
    pub per_second: Vec<u64>,
}

impl KindOutcome {
    /// Adds another's counts.
    pub fn merge(&mut self, other: &Self) {
        self.latency.merge(&other.latency);
        self.operations += other.operations;
        if self.per_second.len() < other.per_second.len() {
            self.per_second.resize(other.per_second.len(), 0);
        }
        for (mine, others) in self.per_second.iter_mut().zip(&other.per_second) {
            *mine += others;
        }
    }
}

/// What was counted.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How long was counted.
    pub lasted: Duration,
    /// By kind.
    pub kinds: Vec<KindOutcome>,
    /// Processor time that was used meanwhile.
    pub cpu: CpuUsed,
}

impl Outcome {
    /// All requests that were counted.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.latency.count()).sum()
    }

    /// What was counted of one kind.
    #[must_use]
    pub fn kind(&self, kind: usize) -> KindOutcome {
        self.kinds.get(kind).cloned().unwrap_or_default()
    }

    /// All kinds in one.
    #[must_use]
    pub fn total(&self) -> KindOutcome {
        let mut total = KindOutcome::default();
        self.kinds.iter().for_each(|kind| total.merge(kind));
        total
    }
}

/// Lets every worker work on a connection of its own, and gives the workers back for the checks after the run. A load
/// whose workers all end by themselves is counted up to then.
///
/// # Errors
/// The first thing that goes wrong on any connection.
pub async fn run<W: Work>(session: &Session, workers: Vec<W>, pace: Pace) -> Result<(Outcome, Vec<W>)> {
    let mut connections = Vec::with_capacity(workers.len());
    for _ in &workers {
        connections.push(Connection::open(session.target()).await?);
    }
    let from = Instant::now() + pace.warmup;
    let window = Window { from, until: from + pace.lasts };
    let count = u32::try_from(workers.len()).unwrap_or(u32::MAX).max(1);
    let mut tasks = JoinSet::new();
    for (n, (worker, connection)) in (0..).zip(workers.into_iter().zip(connections)) {
        // Paced connections are spread over one period.
        let offset = pace.every.map(|every| every * n / count);
        tasks.spawn(async move {
            let mut counts = Vec::new();
            let worker = drive(worker, connection, window, pace.every.zip(offset), &mut counts).await?;
            Ok::<_, BenchError>((n, worker, counts))
        });
    }
    sleep_until(from.into()).await;
    let before = session.meter().cpu();
    let mut done = Vec::new();
    let mut after = None;
    loop {
        tokio::select! {
            // Time first: what is counted must end when the processor time is read.
            biased;
            () = sleep_until(window.until.into()), if after.is_none() => {
                after = Some((session.meter().cpu(), window.until));
            }
            joined = tasks.join_next() => match joined {
                Some(Ok(finished)) => done.push(finished?),
                Some(Err(panicked)) => std::panic::resume_unwind(panicked.into_panic()),
                None => break,
            },
        }
    }
    let (after, ended) = after.unwrap_or_else(|| (session.meter().cpu(), Instant::now()));
    let mut kinds: Vec<KindOutcome> = Vec::new();
    done.sort_by_key(|(n, _, _)| *n);
    let mut workers = Vec::with_capacity(done.len());
    for (_, worker, counts) in done {
        if kinds.len() < counts.len() {
            kinds.resize(counts.len(), KindOutcome::default());
        }
        for (kind, counted) in kinds.iter_mut().zip(&counts) {
            kind.merge(counted);
        }
        workers.push(worker);
    }
    let lasted = ended.saturating_duration_since(from);
    Ok((Outcome { lasted, kinds, cpu: after.since(&before) }, workers))
}

#[derive(Clone, Copy, Debug)]
struct Window {
    from: Instant,
    until: Instant,
}

async fn drive<W: Work>(
    mut worker: W,
    mut connection: Connection,
    window: Window,
    schedule: Option<(Duration, Duration)>,
    counts: &mut Vec<KindOutcome>,
) -> Result<W> {
    let mut request = Vec::with_capacity(16 * 1024);
    let mut due = schedule.map(|(_, offset)| Instant::now() + offset);
    while Instant::now() < window.until {
        if let Some(due) = due {
            sleep_until(TokioInstant::from_std(due)).await;
        }
        request.clear();
        let Some(kind) = worker.next(&mut request) else { break };
        let sent = Instant::now();
        let answer = connection.send(&request).await?;
        let answered = Instant::now();
        let operations = worker.answer(kind, answer)?;
        // Once every answer is in, the run is over; only those within the window count.
        if answered >= window.from && answered <= window.until {
            if counts.len() <= kind {
                counts.resize(kind + 1, KindOutcome::default());
            }
            let counted = &mut counts[kind];
            counted.latency.record(answered.saturating_duration_since(due.unwrap_or(sent)));
            counted.operations += operations;
            let second = usize::try_from((answered - window.from).as_secs()).unwrap_or(usize::MAX);
            if counted.per_second.len() <= second {
                counted.per_second.resize(second + 1, 0);
            }
            counted.per_second[second] += 1;
        }
        if let (Some(due), Some((every, _))) = (due.as_mut(), schedule) {
            *due += every;
        }
    }
    Ok(worker)
}
