//! Many devices at once, through real HTTP, judged from the outside: what the server acknowledged is what everybody
//! sees.
//!
//! 50 accounts with 4 devices each (the reference client's whole sync), one account with 32 writers (bare uploads, some
//! of them sent twice), a WebSocket for every device that may have one. `SUPERSYNC_CONCURRENCY_OPS` sets how many
//! operations have to be accepted in total.
//!
//! Checked of every account: its sequence has no holes; each acknowledged operation stands in the log once, at the
//! acknowledged place, as it was sent; nothing else stands there, least of all somebody else's; no cursor ever went
//! back or skipped anything, so that each device has seen the whole log; each socket heard of the last operation.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use crate::harness::{Backend, Server};
use serde_json::value::RawValue;
use supersync::clock::Clock;
use supersync::config::RateLimit;
use supersync_client::wire::{NewOp, ServerOp, UploadBody};
use supersync_client::{Change, Client, Device, Ladder, Notice, Notices, OpType, Seq};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

const ACCOUNTS: usize = 50;
const DEVICES: usize = 4;
const HOT_WRITERS: usize = 32;
/// Sockets that one account may hold.
const SOCKETS: usize = 10;
const BATCH: usize = 20;
/// Longest wait for what must happen. Never waited out when all is well.
const PATIENCE: Duration = Duration::from_mins(1);

/// What one device knows at the end.
struct Witness {
    account: usize,
    name: String,
    /// Acknowledged: op id to place.
    acknowledged: HashMap<String, Seq>,
    /// Operations of others: place to op id.
    seen: BTreeMap<Seq, String>,
    cursor: Seq,
    violations: Vec<String>,
}

impl Witness {
    fn new(account: usize, name: String) -> Self {
        Self { account, name, acknowledged: HashMap::new(), seen: BTreeMap::new(), cursor: 0, violations: Vec::new() }
    }

    fn blame(&mut self, what: &str) {
        self.violations.push(format!("{}: {what}", self.name));
    }

    fn acknowledge(&mut self, id: &str, seq: Seq) {
        if let Some(before) = self.acknowledged.insert(id.to_owned(), seq) {
            self.blame(&format!("{id} acknowledged at {before} and at {seq}"));
        }
    }

    /// Takes operations of other devices that arrived when everything up to `after` had been seen.
    fn receive(&mut self, ops: Vec<ServerOp>, after: Seq) {
        let mine = ending(self.account);
        for op in ops {
            let seq = op.server_seq;
            if seq <= after {
                self.blame(&format!("{seq} arrived again after {after}"));
            }
            if op.op.client_id == self.name {
                self.blame(&format!("got its own {seq} back"));
            }
            if !op.op.payload.get().ends_with(&mine) {
                self.blame(&format!("{seq} is of another account: {}", op.op.payload));
            }
            if self.seen.insert(seq, op.op.id).is_some() {
                self.blame(&format!("{seq} arrived twice"));
            }
        }
    }

    fn advance(&mut self, cursor: Seq) {
        if cursor < self.cursor {
            self.blame(&format!("cursor went back from {} to {cursor}", self.cursor));
        }
        self.cursor = cursor;
    }
}

fn payload(account: usize, device: &str, n: usize) -> Box<RawValue> {
    let text = format!(r#"{{"device":"{device}","n":{n}{}"#, ending(account));
    RawValue::from_string(text).expect("a JSON object")
}

/// How every payload of an account ends.
fn ending(account: usize) -> String {
    format!(r#","account":{account}}}"#)
}

fn change(account: usize, device: &str, n: usize, entity: String) -> Change {
    Change {
        action_type: "[Task] Update".into(),
        op_type: OpType::Update,
        entity_type: "TASK".into(),
        entity_id: Some(entity),
        entity_ids: Vec::new(),
        payload: payload(account, device, n),
        is_payload_encrypted: false,
    }
}

/// A device that syncs until `target` operations of its own have been accepted and nothing is pending.
async fn whole_device(client: Client, account: usize, name: String, target: usize) -> Witness {
    let mut witness = Witness::new(account, name.clone());
    let mut device = Device::new(client, &name);
    let mut made = 0;
    while witness.acknowledged.len() < target || device.pending() > 0 {
        if witness.acknowledged.len() < target {
            for _ in 0..BATCH {
                device.change(change(account, &name, made, format!("{name}-{made}")));
                made += 1;
            }
            // Every device of the account wants this one: most of these lose at first.
            device.change(change(account, &name, made, "contested".into()));
            made += 1;
        }
        let after = device.cursor();
        let report = device.sync().await.expect("the sync succeeds");
        if !report.rejected.is_empty()
            || !report.duplicates.is_empty()
            || !report.deferred.is_empty()
            || report.restarted
        {
            witness.blame(&format!("unexpected results: {report:?}"));
        }
        for (id, seq) in report.accepted {
            witness.acknowledge(&id, seq);
        }
        witness.receive(device.take_inbox(), after);
        witness.advance(device.cursor());
    }
    witness
}

/// A writer that speaks plain uploads, several of which it sends again, at once or later.
async fn bare_writer(client: Client, account: usize, name: String, target: usize) -> Witness {
    let mut witness = Witness::new(account, name.clone());
    for batch in 0..target.div_ceil(BATCH) {
        let numbers = batch * BATCH..(batch + 1) * BATCH;
        let ops: Vec<NewOp> = numbers.map(|n| new_op(account, &name, n)).collect();
        let request_id = format!("{name}-{batch}");
        let after = witness.cursor;
        let body = UploadBody {
            ops: &ops,
            client_id: &name,
            last_known_server_seq: Some(after),
            request_id: Some(&request_id),
        };
        let answer = if batch % 10 == 9 {
            // The same request twice at the same time, as when an answer is late.
            let (one, other) = tokio::join!(client.upload(&body), client.upload(&body));
            let (one, other) = (one.expect("an answer"), other.expect("an answer"));
            for (first, second) in one.results.iter().zip(&other.results) {
                let seqs: HashSet<Seq> = [first.server_seq, second.server_seq].into_iter().flatten().collect();
                let codes: Vec<&String> = first.error_code.iter().chain(&second.error_code).collect();
                if seqs.len() != 1 || codes.iter().any(|code| *code != "DUPLICATE_OPERATION") {
                    witness.blame(&format!("{} sent twice: {seqs:?} {codes:?}", first.op_id));
                }
            }
            if one.results[0].accepted { one } else { other }
        } else {
            client.upload(&body).await.expect("an answer")
        };
        for result in answer.results {
            match result.server_seq {
                Some(seq) => witness.acknowledge(&result.op_id, seq),
                None => witness.blame(&format!("refused: {result:?}")),
            }
        }
        let new_ops = answer.new_ops.unwrap_or_default();
        let cursor = match (answer.has_more_piggyback, new_ops.last()) {
            (Some(_), Some(last)) => last.server_seq,
            (Some(_), None) => after,
            (None, _) => answer.latest_seq,
        };
        witness.receive(new_ops, after);
        witness.advance(cursor);
    }
    witness
}

fn new_op(account: usize, name: &str, n: usize) -> NewOp {
    NewOp {
        id: format!("{name}-{n}"),
        client_id: name.to_owned(),
        action_type: "[Task] Update".into(),
        op_type: OpType::Update,
        entity_type: "TASK".into(),
        entity_id: Some(format!("{name}-{n}")),
        entity_ids: Vec::new(),
        payload: payload(account, name, n),
        vector_clock: BTreeMap::from([(name.to_owned(), u32::try_from(n + 1).expect("a small number"))]),
        timestamp: 1_700_000_000_000,
        schema_version: 4,
        is_payload_encrypted: false,
        sync_import_reason: None,
    }
}

/// Reads everything that is left after the device's cursor.
async fn catch_up(client: &Client, witness: &mut Witness) {
    loop {
        let after = witness.cursor;
        let page = client.download(after, Some(&witness.name), 1000).await.expect("a page");
        if page.gap_detected.is_some() {
            witness.blame(&format!("gap after {after}"));
        }
        let last = page.ops.last().map_or(after, |op| op.server_seq);
        witness.receive(page.ops, after);
        witness.advance(if page.has_more { last } else { page.latest_seq });
        if !page.has_more {
            return;
        }
    }
}

/// An open socket of a device, and what it is to hear of, which is known at the end only.
struct Listener {
    name: String,
    wanted: watch::Sender<Option<Seq>>,
    listening: JoinHandle<Vec<String>>,
}

impl Listener {
    async fn open(client: &Client, account: usize, name: String) -> Self {
        let mut socket = client.notices(&name).await.expect("a socket");
        let greeting = timeout(PATIENCE, socket.next()).await.expect("a greeting in time").expect("a greeting");
        assert!(matches!(greeting, Notice::Connected { .. }), "{greeting:?}");
        let (wanted, told) = watch::channel(None);
        let who = format!("account {account} socket {name}");
        let listening = tokio::spawn(async move {
            listen(socket, told).await.err().map(|what| format!("{who}: {what}")).into_iter().collect()
        });
        Self { name, wanted, listening }
    }

    /// Waits until the socket has heard of everything that its device did not write.
    async fn finish(self, log: &[Logged]) -> Vec<String> {
        let last = log.iter().rev().find(|op| op.author != self.name).map_or(0, |op| op.seq);
        self.wanted.send_replace(Some(last));
        self.listening.await.expect("the listener does not panic")
    }
}

async fn listen(mut socket: Notices, mut told: watch::Receiver<Option<Seq>>) -> Result<(), String> {
    let mut heard = 0;
    loop {
        let wanted = *told.borrow_and_update();
        if wanted.is_some_and(|wanted| heard >= wanted) {
            return Ok(());
        }
        let patience = if wanted.is_some() { PATIENCE } else { Duration::MAX };
        tokio::select! {
            changed = told.changed(), if wanted.is_none() => changed.map_err(|error| error.to_string())?,
            notice = timeout(patience, socket.next()) => match notice {
                Err(_) => return Err(format!("heard of {heard}, not of {wanted:?}")),
                Ok(Ok(Notice::NewOps { latest_seq })) if latest_seq < heard => {
                    return Err(format!("heard of {latest_seq} after {heard}"));
                }
                Ok(Ok(Notice::NewOps { latest_seq })) => heard = latest_seq,
                Ok(other) => return Err(format!("{other:?}")),
            },
        }
    }
}

/// An operation as a new device downloads it.
struct Logged {
    seq: Seq,
    id: String,
    author: String,
    payload: String,
}

/// The account's whole log.
async fn whole_log(client: &Client) -> Vec<Logged> {
    let (mut log, mut since) = (Vec::new(), 0);
    loop {
        let page = client.download(since, None, 1000).await.expect("a page");
        let has_more = page.has_more;
        for op in page.ops {
            since = op.server_seq;
            let payload = op.op.payload.get().to_owned();
            log.push(Logged { seq: since, id: op.op.id, author: op.op.client_id, payload });
        }
        if !has_more {
            return log;
        }
    }
}

/// What is wrong with an account's log, given what its devices were told.
fn judge(account: usize, log: &[Logged], witnesses: &[Witness]) -> Vec<String> {
    let mut wrong = Vec::new();
    if let Some((expected, op)) = (1..).zip(log).find(|(expected, op)| *expected != op.seq) {
        wrong.push(format!("{} where {expected} should be", op.seq));
    }
    let mut acknowledged: HashMap<&str, (Seq, &str)> = HashMap::new();
    for witness in witnesses {
        acknowledged.extend(witness.acknowledged.iter().map(|(id, seq)| (id.as_str(), (*seq, witness.name.as_str()))));
    }
    for op in log {
        let (seq, author) = (op.seq, op.author.as_str());
        if acknowledged.remove(op.id.as_str()) != Some((seq, author)) {
            wrong.push(format!("{} of {author} stands at {seq}, which nobody was told", op.id));
        }
        let start = format!(r#"{{"device":"{author}","n":"#);
        if !op.payload.starts_with(&start) || !op.payload.ends_with(&ending(account)) {
            wrong.push(format!("{seq} is not what {author} sent: {}", op.payload));
        }
    }
    for (id, (seq, author)) in acknowledged {
        wrong.push(format!("{id} of {author} was acknowledged at {seq} and is not there"));
    }
    for witness in witnesses {
        let own: HashSet<Seq> = witness.acknowledged.values().copied().collect();
        let missed = log.iter().find(|op| !own.contains(&op.seq) && witness.seen.get(&op.seq) != Some(&op.id));
        if let Some(op) = missed {
            wrong.push(format!("{} never saw {}, although its cursor is {}", witness.name, op.seq, witness.cursor));
        }
        if own.len() + witness.seen.len() != log.len() {
            wrong.push(format!("{} saw what is not in the log", witness.name));
        }
    }
    let told = witnesses.iter().flat_map(|witness| witness.violations.iter().cloned());
    wrong.extend(told);
    wrong.into_iter().map(|what| format!("account {account}: {what}")).collect()
}

/// All devices of one account at work, with their sockets. Returns the length of the log and what went wrong.
async fn run_account(client: Client, account: usize, kind: Kind, each: usize) -> (usize, Vec<String>) {
    let (prefix, writers) = match kind {
        Kind::Whole => ("D", DEVICES),
        Kind::Bare => ("W", HOT_WRITERS),
    };
    let names: Vec<String> = (0..writers).map(|index| format!("{prefix}_{index}")).collect();
    // One that writes nothing, and as many of the writers as may have a socket.
    let mut listeners = vec![Listener::open(&client, account, "listener".into()).await];
    for name in names.iter().take(SOCKETS - 1) {
        listeners.push(Listener::open(&client, account, name.clone()).await);
    }
    let mut work = JoinSet::new();
    for name in names {
        match kind {
            Kind::Whole => work.spawn(whole_device(client.clone(), account, name, each)),
            Kind::Bare => work.spawn(bare_writer(client.clone(), account, name, each)),
        };
    }
    let mut witnesses = work.join_all().await;
    for witness in &mut witnesses {
        catch_up(&client, witness).await;
    }
    let log = whole_log(&client).await;
    let mut wrong = judge(account, &log, &witnesses);
    for listener in listeners {
        wrong.extend(listener.finish(&log).await);
    }
    (log.len(), wrong)
}

/// How an account's devices work.
#[derive(Clone, Copy)]
enum Kind {
    /// The reference client's whole sync, with races for an entity that everybody wants.
    Whole,
    /// Bare uploads, some of them sent twice.
    Bare,
}

async fn everybody_at_once(backend: Backend) {
    let total: usize =
        std::env::var("SUPERSYNC_CONCURRENCY_OPS").map_or(50_000, |text| text.parse().expect("a number"));
    let each = total.div_ceil(ACCOUNTS * DEVICES + HOT_WRITERS);
    let server = Server::start_setup(backend, |setup| {
        setup.clock = Clock::System;
        setup.config.rate_limits.uploads_per_user = RateLimit { max: 0, window: Duration::from_mins(1) };
    })
    .await;
    let stranger = Client::new(&server.base, &Ladder::default()).expect("an address");
    let mut accounts = JoinSet::new();
    for account in 0..=ACCOUNTS {
        let kind = if account == 0 { Kind::Bare } else { Kind::Whole };
        let token = server.account().await.token;
        let client = stranger.with_token(&token).expect("a token");
        accounts.spawn(run_account(client, account, kind, each));
    }
    let (mut accepted, mut wrong) = (0, Vec::new());
    for (length, faults) in accounts.join_all().await {
        accepted += length;
        wrong.extend(faults);
    }
    assert!(wrong.is_empty(), "{} violations, the first: {:#?}", wrong.len(), &wrong[..wrong.len().min(20)]);
    assert!(accepted >= total, "only {accepted} operations were accepted");
    eprintln!("{accepted} operations accepted, no violation");
    server.stop().await;
}

on_both_databases! {
    everybody_at_once,
}
