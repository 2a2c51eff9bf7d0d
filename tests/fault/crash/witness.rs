//! Devices that note what they were told, and the check of it.

use std::collections::{HashMap, HashSet};

use reqwest::Method;
use serde_json::json;
use serde_json::value::RawValue;
use supersync_client::raw::{Body, Encoding};
use supersync_client::{Change, Client, ClientError, Device, OpType, Seq};

/// A device with everything it was ever told.
pub struct Witness {
    pub device: Device,
    pub account: usize,
    pub made: HashSet<String>,
    pub acknowledged: HashMap<String, Seq>,
    pub duplicates: usize,
}

impl Witness {
    pub fn new(account: usize, client: Client, name: &str) -> Self {
        Self {
            device: Device::new(client, name),
            account,
            made: HashSet::new(),
            acknowledged: HashMap::new(),
            duplicates: 0,
        }
    }

    /// Makes so many operations, to be sent with the next sync.
    pub fn make(&mut self, count: usize) {
        for _ in 0..count {
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
    }

    /// Syncs once and notes what was acknowledged.
    pub async fn sync(&mut self) -> Result<usize, ClientError> {
        let report = self.device.sync().await?;
        assert!(report.rejected.is_empty() && report.conflicts.is_empty() && !report.restarted, "{report:?}");
        self.duplicates += report.duplicates.len();
        let count = report.accepted.len();
        for (id, seq) in report.accepted {
            assert_eq!(self.acknowledged.insert(id, seq), None, "acknowledged twice");
        }
        Ok(count)
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
pub async fn check(clients: &[Client], witnesses: &[Witness]) {
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

/// The same once nothing is pending any more: every operation ever made is stored. Returns their number.
pub async fn check_all(clients: &[Client], witnesses: &[Witness]) -> usize {
    check(clients, witnesses).await;
    let made: usize = witnesses.iter().map(|witness| witness.made.len()).sum();
    let mut stored = 0;
    for client in clients {
        stored += whole_log(client).await.len();
    }
    assert_eq!(stored, made, "every operation ever made is stored once");
    made
}

pub async fn create_account(client: &Client, account: usize) -> String {
    let credentials = json!({"email": format!("crash-{account}@example.org"), "password": "a long passphrase"});
    let body = Body::new(credentials.to_string().as_bytes(), Encoding::Plain);
    let answer = client.send(Method::POST, "/api/test/create-user", Some(&body)).await.expect("an answer");
    let answer: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    answer["token"].as_str().expect("a token").to_owned()
}
