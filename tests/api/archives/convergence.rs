//! Whatever devices have seen before, after a data set has been brought back all of them hold the same data. The devices
//! here follow the app's rules: what they have applied they skip, by id; what bears their name they don't ask for; a full
//! state replaces everything, and what does not know of it, by its clock, is dropped.

use std::collections::{BTreeMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{bring_back, newest_id};
use crate::harness::{Account, Backend, Reply, Server, fresh, fresh_uuid};

on_both_databases! {
    after_a_clean_slate_every_device_comes_back,
    after_a_wipe_and_a_new_start_every_device_comes_back,
    encrypted_data_comes_back_unread,
    data_that_never_had_a_full_state_comes_back_right_after_a_wipe,
    a_device_with_changes_of_its_own_is_kept_from_writing_on_top,
    what_has_been_brought_back_can_be_undone,
    packed_data_comes_back,
}

type Clock = BTreeMap<String, u64>;

/// A device with the app on it.
struct App {
    account: Account,
    client: String,
    is_encrypted: bool,
    cursor: i64,
    applied: HashSet<String>,
    import: Option<(String, Clock)>,
    clock: Clock,
    tasks: BTreeMap<String, i64>,
}

impl App {
    fn new(account: &Account, is_encrypted: bool) -> Self {
        Self {
            account: account.clone(),
            client: format!("B_{:06}", fresh()),
            is_encrypted,
            cursor: 0,
            applied: HashSet::new(),
            import: None,
            clock: Clock::new(),
            tasks: BTreeMap::new(),
        }
    }

    fn seal(&self, payload: &Value) -> Value {
        if self.is_encrypted { STANDARD.encode(format!("{:<40}", payload.to_string())).into() } else { payload.clone() }
    }

    fn open(payload: &Value) -> Value {
        let Some(text) = payload.as_str() else { return payload.clone() };
        let bytes = STANDARD.decode(text).expect("what the devices wrote");
        serde_json::from_slice(&bytes).expect("what the devices wrote")
    }

    fn state(&self) -> Value {
        json!({ "tasks": self.tasks })
    }

    fn tick(&mut self) -> Clock {
        *self.clock.entry(self.client.clone()).or_default() += 1;
        self.clock.clone()
    }

    /// A change that adds to a task, as time tracking does: applied twice it is wrong.
    async fn add(&mut self, task: &str, amount: i64) -> Reply {
        let (id, clock) = (fresh_uuid(), self.tick());
        let payload = self.seal(&json!({ "add": amount }));
        let body = json!({
            "ops": [{
                "id": id, "clientId": self.client, "actionType": "[Task] Add", "opType": "UPD", "entityType": "TASK",
                "entityId": task, "payload": payload, "vectorClock": clock, "timestamp": 1, "schemaVersion": 4,
                "isPayloadEncrypted": self.is_encrypted,
            }],
            "clientId": self.client, "lastKnownServerSeq": self.cursor, "requestId": format!("r-{}", fresh()),
        });
        let reply = self.account.post("/api/sync/ops", &body).await.ok();
        if reply["results"][0]["accepted"] == true {
            self.applied.insert(id);
            *self.tasks.entry(task.to_owned()).or_default() += amount;
            self.cursor = reply["latestSeq"].as_i64().expect("a number");
        }
        reply
    }

    /// Uploads the state in the place of everything, under a new name.
    async fn clean_slate(&mut self) {
        self.client = format!("B_{:06}", fresh());
        self.clock = Clock::from([(self.client.clone(), 1)]);
        self.upload_state(&json!({ "reason": "recovery", "isCleanSlate": true, "syncImportReason": "FORCE_UPLOAD" }))
            .await;
    }

    async fn upload_state(&mut self, how: &Value) {
        let id = fresh_uuid();
        let mut body = json!({
            "state": self.seal(&self.state()), "clientId": self.client, "vectorClock": self.clock, "schemaVersion": 4,
            "isPayloadEncrypted": self.is_encrypted, "opId": id, "snapshotOpType": "SYNC_IMPORT",
        });
        for (name, value) in how.as_object().expect("members") {
            body[name] = value.clone();
        }
        let reply = self.account.post("/api/sync/snapshot", &body).await.ok();
        assert_eq!(reply["accepted"], true, "{}", reply.text);
        self.cursor = reply["serverSeq"].as_i64().expect("a number");
        self.applied.insert(id);
        self.import = Some((self.client.clone(), self.clock.clone()));
    }

    /// Downloads and applies; on an empty server a device that has something uploads it.
    async fn sync(&mut self) {
        let (mut since, mut ops, mut restarted) = (self.cursor, Vec::new(), false);
        let latest = loop {
            let path = format!("/api/sync/ops?sinceSeq={since}&limit=3&excludeClient={}", self.client);
            let page = self.account.get(&path).await.ok();
            if page.has("gapDetected") && !restarted {
                (since, restarted) = (0, true);
                ops.clear();
                continue;
            }
            for op in page["ops"].as_array().expect("a list") {
                since = op["serverSeq"].as_i64().expect("a number");
                ops.push(op["op"].clone());
            }
            if page["hasMore"] != true {
                break page["latestSeq"].as_i64().expect("a number");
            }
        };
        if latest == 0 && !self.applied.is_empty() {
            self.tick();
            return self.upload_state(&json!({ "reason": "initial", "syncImportReason": "SERVER_MIGRATION" })).await;
        }
        ops.retain(|op| !self.applied.contains(op["id"].as_str().expect("an id")));
        self.apply(&ops);
        self.cursor = latest;
    }

    fn apply(&mut self, ops: &[Value]) {
        let is_full_state = |op: &Value| op["entityType"] == "ALL";
        if let Some(import) = ops.iter().rev().find(|op| is_full_state(op)) {
            self.import = Some((text(&import["clientId"]), clock_of(import)));
        }
        for op in ops {
            let clock = clock_of(op);
            let payload = Self::open(&op["payload"]);
            self.applied.insert(text(&op["id"]));
            if is_full_state(op) {
                self.tasks = serde_json::from_value(payload["tasks"].clone()).expect("a state");
                let own = self.clock.get(&self.client).copied();
                self.clock = clock;
                self.clock.extend(own.map(|own| (self.client.clone(), own)));
                continue;
            }
            let dropped = self.import.as_ref().is_some_and(|(author, import)| {
                let knows = import.iter().all(|(client, n)| clock.get(client).is_some_and(|m| m >= n));
                !knows && clock.get(author).is_none_or(|n| *n < import[author])
            });
            if dropped {
                continue;
            }
            *self.tasks.entry(text(&op["entityId"])).or_default() += payload["add"].as_i64().expect("an amount");
            for (client, n) in clock {
                let mine = self.clock.entry(client).or_default();
                *mine = n.max(*mine);
            }
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

fn clock_of(op: &Value) -> Clock {
    serde_json::from_value(op["vectorClock"].clone()).expect("a clock")
}

/// Three devices that have worked on a data set; the third one has been away since.
async fn three(account: &Account, is_encrypted: bool, with_import: bool) -> [App; 3] {
    let mut apps = [(); 3].map(|()| App::new(account, is_encrypted));
    apps[0].tasks.insert("imported".to_owned(), 100);
    if with_import {
        apps[0].tick();
        apps[0].upload_state(&json!({ "reason": "initial", "syncImportReason": "SERVER_MIGRATION" })).await;
    } else {
        apps[0].tasks.clear();
    }
    for app in &mut apps {
        app.sync().await;
        for task in ["t1", "t2"] {
            app.add(task, 1).await;
        }
    }
    for app in &mut apps {
        app.sync().await;
    }
    apps
}

/// Everybody syncs, and so does a device that joins now: all of them hold this.
async fn all_hold(apps: &mut [App], expected: &BTreeMap<String, i64>) {
    let newcomer = App::new(&apps[0].account, apps[0].is_encrypted);
    let mut newcomer = [newcomer];
    for app in apps.iter_mut().chain(&mut newcomer) {
        app.sync().await;
        assert_eq!(app.tasks, *expected, "{}", app.client);
    }
    // And they go on working together.
    let amount = 7;
    for app in apps.iter_mut().chain(&mut newcomer) {
        app.sync().await;
        let reply = app.add("t1", amount).await;
        assert_eq!(reply["results"][0]["accepted"], true, "{}", reply.text);
    }
    let mut expected = expected.clone();
    *expected.entry("t1".to_owned()).or_default() += amount * 4 - if apps.len() < 3 { amount } else { 0 };
    for app in apps.iter_mut().chain(&mut newcomer) {
        app.sync().await;
        assert_eq!(app.tasks, expected, "{}", app.client);
    }
}

async fn clean_slate_and_back(on: Backend, is_encrypted: bool, packed: bool) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let mut apps = three(&account, is_encrypted, true).await;
    let before = apps[0].tasks.clone();
    assert_eq!(before, BTreeMap::from([("imported", 100), ("t1", 3), ("t2", 3)].map(|(k, v)| (k.to_owned(), v))));
    if packed {
        server.seal().await;
    }
    let [first, second, _away] = &mut apps;
    second.tasks = BTreeMap::from([("t1".to_owned(), -1)]);
    second.clean_slate().await;
    second.add("t9", 9).await;
    first.sync().await;
    first.add("t1", -1).await;
    assert_eq!(first.tasks["t1"], -2);
    let done = bring_back(&account, &newest_id(&account).await).await.ok();
    assert_eq!((&done["success"], &done["operations"]), (&json!(true), &json!(7)));
    all_hold(&mut apps, &before).await;
}

async fn after_a_clean_slate_every_device_comes_back(on: Backend) {
    clean_slate_and_back(on, false, false).await;
}

async fn encrypted_data_comes_back_unread(on: Backend) {
    clean_slate_and_back(on, true, false).await;
}

async fn packed_data_comes_back(on: Backend) {
    clean_slate_and_back(on, false, true).await;
}

async fn after_a_wipe_and_a_new_start_every_device_comes_back(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let mut apps = three(&account, false, true).await;
    let before = apps[0].tasks.clone();
    account.delete("/api/sync/data").await.ok();
    // The first one that polls uploads what it has, and goes on.
    apps[0].sync().await;
    apps[0].add("t1", 50).await;
    apps[1].sync().await;
    bring_back(&account, &newest_id(&account).await).await.ok();
    all_hold(&mut apps, &before).await;
}

async fn data_that_never_had_a_full_state_comes_back_right_after_a_wipe(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let mut apps = three(&account, false, false).await;
    let before = apps[0].tasks.clone();
    assert_eq!(before, BTreeMap::from([("t1".to_owned(), 3), ("t2".to_owned(), 3)]));
    account.delete("/api/sync/data").await.ok();
    bring_back(&account, &newest_id(&account).await).await.ok();
    all_hold(&mut apps, &before).await;
}

async fn a_device_with_changes_of_its_own_is_kept_from_writing_on_top(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let mut apps = three(&account, false, true).await;
    let before = apps[0].tasks.clone();
    apps[1].clean_slate().await;
    bring_back(&account, &newest_id(&account).await).await.ok();
    for app in &mut apps {
        let reply = app.add("t1", 1000).await;
        assert_eq!(reply.outcomes(), ["INTERNAL_ERROR"], "{}", app.client);
        assert_eq!(reply["newOps"][0]["op"]["opType"], "SYNC_IMPORT", "what it has to start from comes along");
    }
    all_hold(&mut apps, &before).await;
}

async fn what_has_been_brought_back_can_be_undone(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let mut apps = three(&account, false, true).await;
    apps[1].tasks = BTreeMap::from([("new".to_owned(), 1)]);
    apps[1].clean_slate().await;
    apps[1].add("new", 1).await;
    let replaced = apps[1].tasks.clone();
    bring_back(&account, &newest_id(&account).await).await.ok();
    apps[0].sync().await;
    assert_ne!(apps[0].tasks, replaced);
    bring_back(&account, &newest_id(&account).await).await.ok();
    all_hold(&mut apps, &replaced).await;
}
