//! Archived data sets through HTTP, on both databases: what is listed, what is downloaded, and that every device ends up
//! with the same data after one has been brought back.

mod bring_back;
mod command;
mod convergence;
mod crash;
mod download;
mod export;
mod interruption;
mod limit;
mod refusal;

use serde_json::Value;

use crate::harness::{Account, Reply};

/// The archived data sets, newest first.
async fn archives(account: &Account) -> Vec<Value> {
    let reply = account.get("/api/sync/archives").await.ok();
    reply["archives"].as_array().expect("a list").clone()
}

/// The newest one's id.
async fn newest_id(account: &Account) -> String {
    id_of(archives(account).await.first().expect("there is one"))
}

fn id_of(archive: &Value) -> String {
    archive["id"].as_str().expect("an id").to_owned()
}

async fn bring_back(account: &Account, id: &str) -> Reply {
    account.post(&format!("/api/sync/archives/{id}/restore"), &Value::Null).await
}

/// What a device that has seen everything up to `since` gets, page by page: operations without their places.
async fn contents_since(account: &Account, since: i64) -> Vec<Value> {
    let mut ops = Vec::new();
    let mut since = since;
    loop {
        let page = account.get(&format!("/api/sync/ops?sinceSeq={since}&limit=1000")).await.ok();
        for op in page["ops"].as_array().expect("a list") {
            since = op["serverSeq"].as_i64().expect("a number");
            ops.push(op["op"].clone());
        }
        if page["hasMore"] != true {
            return ops;
        }
    }
}

/// What it is about: not who wrote it under which name.
fn essence(ops: &[Value]) -> Vec<[Value; 4]> {
    let of = |op: &Value| ["actionType", "entityId", "payload", "isPayloadEncrypted"].map(|member| op[member].clone());
    ops.iter().map(of).collect()
}
