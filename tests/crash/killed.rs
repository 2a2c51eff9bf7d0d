//! `kill -9` under load, again and again: the program itself, started as an operator starts it, loses nothing that it
//! has acknowledged and does nothing twice, whatever it was doing when it died.

mod harness;

use std::collections::{HashMap, HashSet};

use harness::{Backend, LONG_PATIENCE as PATIENCE, Program, TestDatabase, ladder};
use reqwest::Method;
use serde_json::json;
use serde_json::value::RawValue;
use supersync::client::raw::{Body, Encoding, Raw};
use supersync::client::{Change, Client, Device};
use supersync::protocol::{OpType, Seq};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

const KILLS: usize = 10;
const ACCOUNTS: usize = 4;
const DEVICES: usize = 3;
const BATCH: usize = 10;
/// Acknowledged operations between two kills.
const ACKNOWLEDGED_PER_LIFE: usize = 400;

/// How far the load has come in one life of the program.
#[derive(Clone, Copy, Default)]
struct Progress {
    /// Operations acknowledged.
    acknowledged: usize,
    /// Syncs begun.
    syncs: usize,
}

/// A device with everything it was ever told.
struct Witness {
    device: Device,
    account: usize,
    made: HashSet<String>,
    acknowledged: HashMap<String, Seq>,
    duplicates: usize,
}

impl Witness {
    /// Works until the server dies.
    async fn work(mut self, progress: watch::Sender<Progress>) -> Self {
        loop {
            for _ in 0..BATCH {
                let n = self.made.len();
                self.made.insert(self.device.change(Change {
                    action_type: "[Task] Update".into(),
                    op_type: OpType::Update,
                    entity_type: "TASK".into(),
                    entity_id: Some(format!("{}-{n}", self.device.client_id())),
                    entity_ids: Vec::new(),
                    payload: RawValue::from_string(format!(r#"{{"n":{n}}}"#)).expect("a JSON object"),
                    is_payload_encrypted: false,
                }));
            }
            progress.send_modify(|progress| progress.syncs += 1);
            match self.sync().await {
                Some(count) => progress.send_modify(|progress| progress.acknowledged += count),
                None => return self,
            }
        }
    }

    /// Syncs once; `None` when the server was gone.
    async fn sync(&mut self) -> Option<usize> {
        match self.device.sync().await {
            Ok(report) => {
                assert!(report.rejected.is_empty() && report.conflicts.is_empty() && !report.restarted, "{report:?}");
                self.duplicates += report.duplicates.len();
                let count = report.accepted.len();
                for (id, seq) in report.accepted {
                    assert_eq!(self.acknowledged.insert(id, seq), None, "acknowledged twice");
                }
                Some(count)
            }
            Err(error) => {
                assert!(error.is_network(), "{error}");
                None
            }
        }
    }
}

/// An account's log: place and op id.
async fn whole_log(client: &Client) -> Vec<(Seq, String)> {
    let (mut log, mut since) = (Vec::new(), 0);
    loop {
        let page = client.download(since, None, 1000).await.expect("a page");
        log.extend(page.ops.into_iter().map(|op| (op.server_seq, op.op.id)));
        since = log.last().map_or(0, |(seq, _)| *seq);
        if !page.has_more {
            return log;
        }
    }
}

/// Everything acknowledged so far is there, at its place; nothing is there twice; no number is missing.
async fn check(clients: &[Client], witnesses: &[Witness]) {
    for (account, client) in clients.iter().enumerate() {
        let log = whole_log(client).await;
        let seqs: Vec<Seq> = log.iter().map(|(seq, _)| *seq).collect();
        let expected: Vec<Seq> = (1..).take(log.len()).collect();
        assert_eq!(seqs, expected, "account {account} has holes");
        let places: HashMap<&str, Seq> = log.iter().map(|(seq, id)| (id.as_str(), *seq)).collect();
        assert_eq!(places.len(), log.len(), "account {account} has an operation twice");
        for witness in witnesses.iter().filter(|witness| witness.account == account) {
            for (id, seq) in &witness.acknowledged {
                assert_eq!(places.get(id.as_str()), Some(seq), "account {account}: {id} was acknowledged at {seq}");
            }
        }
        let made: HashSet<&str> =
            witnesses.iter().filter(|w| w.account == account).flat_map(|w| &w.made).map(String::as_str).collect();
        assert!(places.keys().all(|id| made.contains(id)), "account {account} holds what nobody made");
    }
}

async fn create_account(raw: &Raw, account: usize) -> String {
    let credentials = json!({"email": format!("crash-{account}@example.org"), "password": "a long passphrase"});
    let body = Body::new(credentials.to_string().as_bytes(), Encoding::Plain);
    let answer = raw.send(Method::POST, "/api/test/create-user", Some(&body)).await.expect("an answer");
    let answer: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    answer["token"].as_str().expect("a token").to_owned()
}

async fn killed_under_load(backend: Backend) {
    let database = TestDatabase::create(backend).await;
    let mut program = Program::start(&database).await;
    let mut tokens = Vec::new();
    for account in 0..ACCOUNTS {
        tokens.push(create_account(&program.raw(), account).await);
    }
    let connect = |program: &Program| -> Vec<Client> {
        let raw = program.raw();
        tokens.iter().map(|token| Client::over(&raw, token, ladder()).expect("a token")).collect()
    };
    let mut clients = connect(&program);
    let mut witnesses: Vec<Witness> = (0..ACCOUNTS * DEVICES)
        .map(|n| Witness {
            device: Device::new(clients[n % ACCOUNTS].clone(), &format!("D_{}", n / ACCOUNTS)),
            account: n % ACCOUNTS,
            made: HashSet::new(),
            acknowledged: HashMap::new(),
            duplicates: 0,
        })
        .collect();
    for life in 0..KILLS {
        let (progress, mut seen) = watch::channel(Progress::default());
        let mut work = JoinSet::new();
        for witness in witnesses {
            work.spawn(witness.work(progress.clone()));
        }
        let enough = async {
            let syncs = seen.wait_for(|now| now.acknowledged >= ACKNOWLEDGED_PER_LIFE).await?.syncs;
            // Not at the moment of an answer, when nothing may be under way, but a different number of requests later.
            seen.wait_for(|now| now.syncs > syncs + life).await.map(|_| ())
        };
        timeout(PATIENCE, enough).await.expect("the load makes progress").expect("the devices work");
        program.kill().await;
        witnesses = work.join_all().await;
        program = Program::start(&database).await;
        clients = connect(&program);
        check(&clients, &witnesses).await;
        for witness in &mut witnesses {
            witness.device.reconnect(clients[witness.account].clone());
        }
    }
    // What was under way when the server died is sent again and ends up there once.
    for witness in &mut witnesses {
        while witness.device.pending() > 0 {
            witness.sync().await.expect("the server is up");
        }
        // What was acknowledged before the download of the same sync failed, nobody has noted.
        assert!(witness.acknowledged.len() + witness.duplicates <= witness.made.len());
    }
    check(&clients, &witnesses).await;
    let made: usize = witnesses.iter().map(|witness| witness.made.len()).sum();
    let mut stored = 0;
    for client in &clients {
        stored += whole_log(client).await.len();
    }
    assert_eq!(stored, made, "every operation ever made is stored once");
    let unheard: usize = witnesses.iter().map(|witness| witness.duplicates).sum();
    eprintln!("{made} operations over {KILLS} kills, {unheard} of them stored without the device having heard of it");
    program.kill().await;
}

mod sqlite {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn killed_under_load() {
        super::killed_under_load(super::Backend::Sqlite).await;
    }
}

mod postgres {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn killed_under_load() {
        super::killed_under_load(super::Backend::Postgres).await;
    }
}
