//! The honest neighbours: ten accounts with two devices each that upload and poll as the app does, only more often, and
//! an operator's probes. They work on a thread of their own, from before the attack until after it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::value::RawValue;
use supersync::protocol::Seq;
use supersync_client::wire::{Clock, NewOp, UploadBody};
use supersync_client::{Client, Ladder, OpType};
use tokio::sync::watch;
use tokio::time::{Instant, interval_at};
use tokio_util::sync::CancellationToken;

use crate::foe::address;
use crate::harness::{Account, fresh, fresh_uuid};

pub const ACCOUNTS: usize = 10;
const DEVICES: usize = 2;
/// How often a device does something. With what follows it stays below production's limits: of 100 uploads of an account
/// and 200 polls of an address in a minute.
const EVERY: Duration = Duration::from_millis(300);
/// How much later than the one before each device begins.
const APART: Duration = Duration::from_millis(14);
/// Of so many requests of a device one is an upload.
const UPLOAD_EVERY: usize = 6;
/// Of so many requests of a device one comes over a new connection.
const NEW_CONNECTION_EVERY: usize = 4;
const OPS: usize = 3;
const PAYLOAD_BYTES: usize = 500;

/// What an orchestrator or a scraper waits for an answer.
const PROBE_PATIENCE: Duration = Duration::from_millis(1500);

/// Honest requests give up after this.
fn ladder() -> Ladder {
    Ladder { connect: Duration::from_secs(10), request: Duration::from_secs(30), ..Ladder::default() }
}

/// What became of one request.
struct Sample {
    due: Instant,
    took: Duration,
    refusal: Option<String>,
    is_probe: bool,
}

/// How honest requests fared for a while.
#[derive(Debug)]
pub struct Pace {
    pub requests: usize,
    pub p50: Duration,
    pub p99: Duration,
    pub worst: Duration,
    pub refusals: Vec<String>,
}

type Samples = Arc<Mutex<Vec<Sample>>>;

/// All of them at work.
pub struct Crew {
    samples: Samples,
    done_until: Vec<watch::Receiver<Instant>>,
    stop: CancellationToken,
    thread: std::thread::JoinHandle<Vec<Device>>,
}

impl Crew {
    pub fn start(base: &str, metrics: &str, accounts: &[Account]) -> Self {
        let (samples, stop) = (Samples::default(), CancellationToken::new());
        let begin = Instant::now();
        let (mut done_until, mut workers) = (Vec::new(), Vec::new());
        for (number, account) in (0..).zip(accounts.iter().flat_map(|account| [account; DEVICES])) {
            let (sender, receiver) = watch::channel(begin);
            done_until.push(receiver);
            // Nobody works in step with somebody else.
            let first = begin + APART * number;
            let device = Device::new(base, account, number.try_into().expect("a small number"));
            workers.push((device, first, sender));
        }
        let probes = [format!("{base}/readyz"), format!("http://{metrics}/metrics")].map(Probe);
        let thread = std::thread::spawn({
            let (samples, stop) = (samples.clone(), stop.clone());
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(async {
                    let working = join_all(
                        workers.into_iter().map(|(device, first, done)| device.work(first, done, &samples, &stop)),
                    );
                    let probing = join_all(probes.iter().map(|probe| probe.work(begin, &samples, &stop)));
                    tokio::join!(working, probing).0
                })
            }
        });
        Self { samples, done_until, stop, thread }
    }

    /// How requests fared that were due in this time; waits until all of them have been answered.
    pub async fn pace(&mut self, from: Instant, to: Instant) -> Pace {
        for done in &mut self.done_until {
            done.wait_for(|done| *done >= to).await.expect("the crew works until it is told to stop");
        }
        let samples = self.samples.lock().expect("nobody panicked");
        let of_window = samples.iter().filter(|sample| (from..to).contains(&sample.due));
        let refusals = of_window.clone().filter_map(|sample| sample.refusal.clone()).collect();
        let mut times: Vec<Duration> = of_window.filter(|sample| !sample.is_probe).map(|sample| sample.took).collect();
        times.sort_unstable();
        let part = |percent: usize| times[(times.len() * percent).div_ceil(100) - 1];
        Pace { requests: times.len(), p50: part(50), p99: part(99), worst: part(100), refusals }
    }

    /// Ends the work; what is under way is finished.
    pub async fn stop(self) -> Vec<Device> {
        self.stop.cancel();
        let joined = tokio::task::spawn_blocking(|| self.thread.join()).await.expect("it is waited for");
        joined.expect("the crew did not panic")
    }
}

/// An address that must always answer, whatever else is going on. Each look comes over a new connection.
struct Probe(String);

impl Probe {
    async fn work(&self, begin: Instant, samples: &Samples, stop: &CancellationToken) {
        let mut ticks = interval_at(begin, EVERY * 2);
        loop {
            let due = tokio::select! { () = stop.cancelled() => return, due = ticks.tick() => due };
            let looked = match Client::new(&self.0, &Ladder { request: PROBE_PATIENCE, ..ladder() }) {
                Ok(client) => client.send(Method::GET, "", None).await,
                Err(error) => Err(error),
            };
            let refusal = match looked {
                Ok(answer) if answer.status.is_success() => None,
                Ok(answer) => Some(format!("{}: {}", self.0, answer.status)),
                Err(error) => Some(format!("{}: {error}", self.0)),
            };
            let sample = Sample { due, took: due.elapsed(), refusal, is_probe: true };
            samples.lock().expect("nobody panicked").push(sample);
        }
    }
}

/// A device of an honest account, and what it knows.
pub struct Device {
    account: Account,
    name: String,
    client: Client,
    number: usize,
    base: String,
    clock: u32,
    cursor: Seq,
    /// What it has sent; whether it was stored is not always told.
    made: HashSet<String>,
    /// Operation by id, at the place that the server told.
    acknowledged: HashMap<String, Seq>,
    /// Operations of the other device that arrived.
    seen: BTreeMap<Seq, String>,
}

impl Device {
    fn new(base: &str, account: &Account, number: usize) -> Self {
        Self {
            account: account.clone(),
            name: format!("B_dev{number}"),
            client: Self::connect(base, account, number),
            number,
            base: base.to_owned(),
            clock: 0,
            cursor: 0,
            made: HashSet::new(),
            acknowledged: HashMap::new(),
            seen: BTreeMap::new(),
        }
    }

    fn connect(base: &str, account: &Account, number: usize) -> Client {
        let stranger = Client::from_address(base, &ladder(), Some(address(10, number))).expect("an address");
        stranger.with_token(&account.token).expect("a token")
    }

    async fn work(
        mut self,
        first: Instant,
        done: watch::Sender<Instant>,
        samples: &Samples,
        stop: &CancellationToken,
    ) -> Self {
        let mut ticks = interval_at(first, EVERY);
        for n in self.number.. {
            // What could not be done when it was due is done late, and its wait counts.
            let due = tokio::select! { () = stop.cancelled() => break, due = ticks.tick() => due };
            if n % NEW_CONNECTION_EVERY == 0 {
                self.client = Self::connect(&self.base, &self.account, self.number);
            }
            let outcome = if n % UPLOAD_EVERY == 0 { self.upload().await } else { self.poll().await };
            let sample = Sample { due, took: due.elapsed(), refusal: outcome.err(), is_probe: false };
            samples.lock().expect("nobody panicked").push(sample);
            done.send_replace(due);
        }
        self
    }

    async fn upload(&mut self) -> Result<(), String> {
        let ops: Vec<NewOp> = (0..OPS).map(|_| self.change()).collect();
        self.made.extend(ops.iter().map(|op| op.id.clone()));
        let request_id = format!("r-{}", fresh());
        let body = UploadBody {
            ops: &ops,
            client_id: &self.name,
            // Without a cursor nothing comes along, and there is one way only by which operations arrive.
            last_known_server_seq: None,
            request_id: Some(&request_id),
        };
        let answer = self.client.upload(&body).await.map_err(|error| format!("upload: {error}"))?;
        for result in answer.results {
            let Some(seq) = result.server_seq else {
                return Err(format!("upload: {:?} {:?}", result.error_code, result.error));
            };
            if self.acknowledged.insert(result.op_id, seq).is_some() {
                return Err("upload: acknowledged twice".to_owned());
            }
        }
        Ok(())
    }

    fn change(&mut self) -> NewOp {
        self.clock += 1;
        NewOp {
            id: fresh_uuid(),
            client_id: self.name.clone(),
            action_type: "[Task] Update".to_owned(),
            op_type: OpType::Update,
            entity_type: "TASK".to_owned(),
            entity_id: Some(format!("task-{}", fresh())),
            entity_ids: Vec::new(),
            payload: RawValue::from_string(format!("{{\"title\":\"{:0PAYLOAD_BYTES$}\"}}", self.clock)).expect("JSON"),
            vector_clock: Clock::from([(self.name.clone(), self.clock)]),
            timestamp: 1_700_000_000_000,
            schema_version: 4,
            is_payload_encrypted: false,
            sync_import_reason: None,
        }
    }

    async fn poll(&mut self) -> Result<(), String> {
        let page = self.client.download(self.cursor, Some(&self.name), 500).await;
        let page = page.map_err(|error| format!("poll: {error}"))?;
        if page.gap_detected.is_some() {
            return Err("poll: a gap".to_owned());
        }
        let last = page.ops.last().map_or(self.cursor, |op| op.server_seq);
        for op in page.ops {
            if self.seen.insert(op.server_seq, op.op.id).is_some() {
                return Err("poll: an operation came twice".to_owned());
            }
        }
        self.cursor = if page.has_more { last } else { page.latest_seq };
        Ok(())
    }

    /// Compares with the account's whole log: what is wrong, if anything is.
    fn compare(&self, log: &BTreeMap<Seq, String>) -> Vec<String> {
        let mut wrong = Vec::new();
        for (id, seq) in &self.acknowledged {
            if log.get(seq) != Some(id) {
                wrong.push(format!("{}: {id} was acknowledged at {seq} and is not there", self.name));
            }
        }
        for (seq, id) in &self.seen {
            if log.get(seq) != Some(id) {
                wrong.push(format!("{}: {id} was downloaded at {seq} and is not there", self.name));
            }
        }
        for (seq, id) in log.range(..=self.cursor) {
            if !self.seen.contains_key(seq) && !self.made.contains(id) {
                wrong.push(format!("{}: passed by {id} at {seq}", self.name));
            }
        }
        wrong
    }
}

/// Downloads each account's log and says what is missing, misplaced or there twice.
pub async fn losses(base: &str, devices: &[Device]) -> Vec<String> {
    let mut wrong = Vec::new();
    for of_account in devices.chunks(DEVICES) {
        let device = &of_account[0];
        let client = Device::connect(base, &device.account, ACCOUNTS * DEVICES + device.number);
        let mut log = BTreeMap::new();
        let mut ids = HashMap::new();
        loop {
            let since = log.last_key_value().map_or(0, |(seq, _)| *seq);
            let page = match client.download(since, None, 1000).await {
                Ok(page) => page,
                Err(error) => {
                    wrong.push(format!("{}: {error}", device.name));
                    break;
                }
            };
            for op in page.ops {
                if let Some(before) = ids.insert(op.op.id.clone(), op.server_seq) {
                    wrong.push(format!("{}: {} is at {before} and {}", device.name, op.op.id, op.server_seq));
                }
                log.insert(op.server_seq, op.op.id);
            }
            if !page.has_more {
                break;
            }
        }
        if !log.keys().copied().eq((1..).take(log.len())) {
            wrong.push(format!("{}: the log has holes", device.name));
        }
        wrong.extend(of_account.iter().flat_map(|device| device.compare(&log)));
    }
    wrong
}

/// How many operations were acknowledged.
pub fn acknowledged(devices: &[Device]) -> usize {
    devices.iter().map(|device| device.acknowledged.len()).sum()
}

/// One of each account, for asking about it.
pub fn accounts(devices: &[Device]) -> impl Iterator<Item = &Account> {
    devices.chunks(DEVICES).map(|of_account| &of_account[0].account)
}
