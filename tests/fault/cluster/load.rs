//! Everything at once: devices of many accounts, each request to any of three processes, while these are killed, frozen,
//! cut off, and the database is switched. What is checked all the time: G1 to G5 of ADR 2, and that no answer is
//! older than ADR 14 allows.
//!
//! The short form runs with all tests, the long one by `make prove`: `SUPERSYNC_CLUSTER=long`. `SUPERSYNC_CLUSTER_SEED`
//! repeats a run's faults.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rustix::process::Signal;
use serde_json::value::RawValue;
use sqlx::{AssertSqlSafe, Connection as _};
use supersync_client::{Change, Client, ClientError, Device, Ladder, OpType, Seq};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::cluster::account;
use crate::harness::{Backend, LONG_PATIENCE, Mode, Program, TestDatabase, Wire, free_port};

/// What was acknowledged before a request by so much is in its answer (ADR 14).
const BOUND: Duration = Duration::from_secs(3);
const PROCESSES: usize = 3;
/// Longer than the bound, and not so long that a frozen one is taken for dead.
const FAULT: Duration = Duration::from_millis(4_500);
/// Most changes that a device makes between two syncs; they are one request, and one commit.
const MOST_CHANGES: usize = 5;

/// How much.
struct Scale {
    accounts: usize,
    devices: usize,
    operations: usize,
    /// Faults, in this order, again and again; at least once each.
    faults: &'static [Fault],
    /// How long a device rests between two syncs at most.
    rest: Duration,
}

const SHORT: Scale = Scale {
    accounts: 6,
    devices: 3,
    operations: 1_000,
    faults: &[Fault::Freeze, Fault::Kill, Fault::Silence],
    rest: Duration::from_millis(100),
};

const LONG: Scale = Scale {
    accounts: 200,
    devices: 4,
    operations: 200_000,
    faults: &[Fault::Freeze, Fault::Kill, Fault::Silence, Fault::Reset, Fault::Switch],
    rest: Duration::from_millis(100),
};

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// `kill -9`, and a start a moment later.
    Kill,
    /// `SIGSTOP` for a while.
    Freeze,
    /// Nothing comes from the database for a while, nor goes there.
    Silence,
    /// The database refuses connections for a while.
    Reset,
    /// The database becomes read-only, and everybody has to connect again, as when a standby takes over.
    Switch,
}

/// A process with its own wire to the database.
struct Node {
    wire: Wire,
    port: u16,
    program: Option<Program>,
}

impl Node {
    async fn start(&mut self, database: &TestDatabase) {
        let url = self.wire.url();
        self.program = Some(Program::start_again(database, self.port, &[("DATABASE_URL", &url)]).await);
    }

    fn program(&self) -> &Program {
        self.program.as_ref().expect("it runs")
    }
}

/// What is known of an account: when which sequence had been acknowledged.
#[derive(Default)]
struct Account {
    acknowledged: Mutex<Vec<(Instant, Seq)>>,
}

impl Account {
    fn acknowledge(&self, seq: Seq) {
        let mut all = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        if all.last().is_none_or(|(_, last)| *last < seq) {
            all.push((Instant::now(), seq));
        }
    }

    /// What an answer to a question asked at this time must hold.
    fn due(&self, asked: Instant) -> Seq {
        let all = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.partition_point(|(at, _)| *at + BOUND <= asked);
        before.checked_sub(1).map_or(0, |at| all[at].1)
    }
}

/// A device, and everything that it did and saw.
struct Witness {
    device: Device,
    number: usize,
    account: usize,
    /// The ids of each request's operations.
    batches: Vec<Vec<String>>,
    made: usize,
    acknowledged: HashMap<String, Seq>,
    received: usize,
    /// The last sequence of others that it was given.
    last_seen: Seq,
}

/// What all devices share.
struct World {
    scale: Scale,
    accounts: Vec<Account>,
    /// By process, then by account.
    clients: Vec<Vec<Client>>,
    operations: AtomicUsize,
    syncs: AtomicUsize,
    failed: AtomicUsize,
    stop: CancellationToken,
}

impl Witness {
    async fn work(mut self, world: Arc<World>, mut random: StdRng) -> Self {
        while !world.stop.is_cancelled() {
            // What may have been applied is sent again as it was, so that each batch stays one request.
            if self.device.pending() == 0 && random.random_bool(0.5) {
                self.change(random.random_range(1..=MOST_CHANGES));
            }
            let process = random.random_range(0..PROCESSES);
            self.sync(&world, process).await;
            sleep(world.scale.rest.mul_f64(random.random())).await;
        }
        self
    }

    fn change(&mut self, count: usize) {
        let batch = (0..count).map(|n| {
            self.device.change(Change {
                action_type: "[Task] Update".into(),
                op_type: OpType::Update,
                entity_type: "TASK".into(),
                entity_id: Some(format!("{}-{}", self.number, self.made + n)),
                entity_ids: Vec::new(),
                payload: RawValue::from_string(format!(r#"{{"n":{n}}}"#)).expect("a JSON object"),
                is_payload_encrypted: false,
            })
        });
        let batch = batch.collect();
        self.batches.push(batch);
        self.made += count;
    }

    /// Syncs once with one of the processes, and checks what it says.
    async fn sync(&mut self, world: &World, process: usize) {
        let account = &world.accounts[self.account];
        self.device.client = world.clients[process][self.account].clone();
        let (asked, before) = (Instant::now(), self.device.cursor());
        let due = account.due(asked);
        let done = self.device.sync().await;
        world.syncs.fetch_add(1, Ordering::Relaxed);
        for op in self.device.take_inbox() {
            assert!(op.server_seq > self.last_seen, "G1, G2: {} after {}", op.server_seq, self.last_seen);
            self.last_seen = op.server_seq;
            self.received += 1;
        }
        let whose = format!("device {} at process {process}", self.number);
        match done {
            Ok(report) => {
                assert!(!report.restarted, "G4: {whose} was told of a gap");
                assert!(report.rejected.is_empty() && report.conflicts.is_empty(), "{whose}: {report:?}");
                let cursor = self.device.cursor();
                assert!(cursor >= before, "G4: {whose} was at {before}, now {cursor}");
                assert!(
                    cursor >= due,
                    "old: {whose} was shown {cursor}, and {due} had been acknowledged for {BOUND:?}"
                );
                if self.device.pending() == 0 {
                    let known = i64::try_from(self.received + self.made).expect("few");
                    assert_eq!(known, cursor, "G1: {whose} knows as many operations as there are");
                }
                if let Some((_, seq)) = report.accepted.last() {
                    account.acknowledge(*seq);
                }
                world.operations.fetch_add(report.accepted.len() + report.duplicates.len(), Ordering::Relaxed);
                self.acknowledged.extend(report.accepted);
            }
            Err(error) => {
                let is_fault = error.is_network()
                    || matches!(
                        error,
                        ClientError::ServerBusy(_) | ClientError::ServerTimeout(_) | ClientError::SyncWaitTimeout(_)
                    );
                assert!(is_fault, "{whose}: {error}");
                world.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// A whole log, as a process shows it.
async fn whole_log(client: &Client) -> Vec<(Seq, String)> {
    let (mut log, mut since): (Vec<_>, _) = (Vec::new(), 0);
    loop {
        let page = client.download(since, None, 1000).await.expect("a page");
        log.extend(page.ops.into_iter().map(|op| (op.server_seq, op.op.id)));
        since = log.last().map_or(0, |(seq, _)| *seq);
        if !page.has_more {
            return log;
        }
    }
}

/// G1 to G3 and G5, in what is stored in the end.
fn check(account: usize, log: &[(Seq, String)], witnesses: &[Witness]) {
    let seqs: Vec<Seq> = log.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(seqs, (1..).take(log.len()).collect::<Vec<_>>(), "G1: account {account} has holes");
    let places: HashMap<&str, Seq> = log.iter().map(|(seq, id)| (id.as_str(), *seq)).collect();
    assert_eq!(places.len(), log.len(), "G2: account {account} has an operation twice");
    let mut made = HashSet::new();
    for witness in witnesses.iter().filter(|witness| witness.account == account) {
        for (id, seq) in &witness.acknowledged {
            assert_eq!(places.get(id.as_str()), Some(seq), "G3: account {account}: {id} was acknowledged at {seq}");
        }
        for batch in &witness.batches {
            let stored: Vec<Option<Seq>> = batch.iter().map(|id| places.get(id.as_str()).copied()).collect();
            let first = stored[0].unwrap_or_else(|| panic!("account {account}: {} is not stored", batch[0]));
            let together: Vec<Option<Seq>> = (first..).take(batch.len()).map(Some).collect();
            assert_eq!(stored, together, "G5: account {account}: a batch is not one commit");
            made.extend(batch);
        }
    }
    assert_eq!(made.len(), log.len(), "account {account} holds what nobody made");
}

async fn sql(database: &TestDatabase, statements: &[&str]) {
    let mut session = database.postgres().session().await;
    let name: String = sqlx::query_scalar("SELECT current_database()").fetch_one(&mut session).await.expect("a name");
    for statement in statements {
        let statement = statement.replace("{}", &name);
        sqlx::query(AssertSqlSafe(statement)).execute(&mut session).await.expect("it works");
    }
    session.close().await.expect("closed");
}

const DISCONNECT: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
     WHERE datname = '{}' AND pid <> pg_backend_pid()";

async fn strike(fault: Fault, node: &mut Node, database: &TestDatabase) {
    match fault {
        Fault::Kill => {
            node.program.take().expect("it runs").kill().await;
            node.start(database).await;
        }
        Fault::Freeze => {
            node.program().signal(Signal::STOP);
            sleep(FAULT).await;
            node.program().signal(Signal::CONT);
        }
        Fault::Silence | Fault::Reset => {
            node.wire.set(if matches!(fault, Fault::Silence) { Mode::Silent } else { Mode::Closed });
            sleep(FAULT).await;
            node.wire.set(Mode::Open);
        }
        Fault::Switch => {
            sql(database, &["ALTER DATABASE {} SET default_transaction_read_only = on", DISCONNECT]).await;
            sleep(FAULT).await;
            let back = "SET default_transaction_read_only = off";
            sql(database, &[back, "ALTER DATABASE {} RESET default_transaction_read_only", DISCONNECT]).await;
        }
    }
}

async fn run(scale: Scale) {
    let seed = std::env::var("SUPERSYNC_CLUSTER_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    println!("SUPERSYNC_CLUSTER_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let database = TestDatabase::create(Backend::Postgres).await;
    let mut nodes = Vec::new();
    for _ in 0..PROCESSES {
        let mut node = Node { wire: Wire::to_database(&database).await, port: free_port(), program: None };
        node.start(&database).await;
        nodes.push(node);
    }
    // Whoever is frozen must not hold everybody up.
    let ladder = Ladder { request: FAULT, sync_wait: 2 * FAULT, ..Ladder::default() };
    let servers: Vec<Client> =
        nodes.iter().map(|node| Client::new(&node.program().base, &ladder).expect("an address")).collect();
    let (mut accounts, mut tokens) = (Vec::new(), Vec::new());
    for number in 0..scale.accounts {
        tokens.push(account(nodes[number % PROCESSES].program(), &format!("cluster-{number}")).await);
        accounts.push(Account::default());
    }
    let client = |server: &Client, token: &String| server.with_token(token).expect("a token");
    let clients: Vec<Vec<Client>> =
        servers.iter().map(|server| tokens.iter().map(|token| client(server, token)).collect()).collect();
    let mut devices = JoinSet::new();
    let total = scale.accounts * scale.devices;
    let (operations, syncs, failed) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let world = Arc::new(World { scale, accounts, clients, operations, syncs, failed, stop: CancellationToken::new() });
    for number in 0..total {
        let account = number % world.scale.accounts;
        let witness = Witness {
            device: Device::new(world.clients[0][account].clone(), &format!("D_{number}")),
            number,
            account,
            batches: Vec::new(),
            made: 0,
            acknowledged: HashMap::new(),
            received: 0,
            last_seen: 0,
        };
        devices.spawn(witness.work(Arc::clone(&world), StdRng::seed_from_u64(random.random())));
    }

    let began = Instant::now();
    let mut strikes = 0;
    while strikes < world.scale.faults.len() || world.operations.load(Ordering::Relaxed) < world.scale.operations {
        let fault = world.scale.faults[strikes % world.scale.faults.len()];
        let struck = random.random_range(0..PROCESSES);
        println!("{:?}: {fault:?} at process {struck}", began.elapsed());
        strike(fault, &mut nodes[struck], &database).await;
        strikes += 1;
        // It heals by itself, and everybody goes on.
        for node in &nodes {
            node.program().settles(2.0).await;
        }
        let goal = world.operations.load(Ordering::Relaxed) + total;
        let progress = async {
            while world.operations.load(Ordering::Relaxed) < goal && !devices.is_empty() {
                if let Some(ended) = devices.try_join_next() {
                    // Only a failed check ends a device before its time.
                    ended.expect("every check holds");
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(LONG_PATIENCE, progress).await.expect("the devices go on after a fault");
    }
    world.stop.cancel();
    let mut witnesses = devices.join_all().await;
    for witness in &mut witnesses {
        let flushed = async {
            while witness.device.pending() > 0 {
                witness.sync(&world, random.random_range(0..PROCESSES)).await;
            }
        };
        timeout(LONG_PATIENCE, flushed).await.expect("what was under way is stored");
    }
    let mut stored = 0;
    for number in 0..world.scale.accounts {
        let log = whole_log(&world.clients[0][number]).await;
        check(number, &log, &witnesses);
        stored += log.len();
        // By now everybody has heard of everything.
        let logs = async {
            for clients in &world.clients[1..] {
                while whole_log(&clients[number]).await != log {}
            }
        };
        timeout(LONG_PATIENCE, logs).await.expect("every process shows the same");
    }
    println!(
        "{stored} operations and {} syncs of {total} devices, {} of them without an answer, {strikes} faults, in {:?}",
        world.syncs.load(Ordering::Relaxed),
        world.failed.load(Ordering::Relaxed),
        began.elapsed()
    );
    for node in nodes {
        node.program.expect("it runs").kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_three_processes_keep_every_guarantee_while_they_fail() {
    let is_long = std::env::var("SUPERSYNC_CLUSTER").is_ok_and(|form| form == "long");
    Box::pin(run(if is_long { LONG } else { SHORT })).await;
}
