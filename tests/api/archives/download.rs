//! A download of an archived data set is what devices had uploaded, whole or broken off.

use serde_json::{Value, json};

use super::{contents_since, newest_id};
use crate::harness::{Backend, Server, ciphertext, import, op, snapshot};

on_both_databases! {
    a_download_is_what_was_uploaded,
    packed_and_large_operations_are_all_there,
}

fn ops_of(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

async fn a_download_is_what_was_uploaded(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let odd = json!({ "title": "ä😀\u{2028}\n\"\\", "n": [1.50, 1e300, -0.0, null, true] });
    account.upload("A", &[op("A").payload(odd), import("A"), op("A").encrypted(ciphertext(40))]).await.ok();
    account.upload("B", &[op("B").entity_ids(&["x", "y"]).kind("BATCH")]).await.ok();
    let raw = account.get("/api/sync/ops?sinceSeq=2&limit=1").await.ok();
    let after_import = contents_since(&account, 0).await;
    account.snapshot(&snapshot("A").clean_slate()).await.ok();
    let reply = account.get(&format!("/api/sync/archives/{}", newest_id(&account).await)).await.ok();
    assert_eq!(reply.headers["content-type"], "application/x-ndjson");
    assert_eq!(reply.headers["content-disposition"], "attachment; filename=\"supersync-archive-0-1.ndjson\"");
    assert_eq!(reply.headers["cache-control"], "no-store");
    let ops = ops_of(&reply.text);
    let seqs: Vec<_> = ops.iter().map(|op| op["serverSeq"].as_i64().expect("a number")).collect();
    assert_eq!(seqs, [1, 2, 3, 4]);
    assert_eq!(ops[2], raw["ops"][0], "as devices get them");
    let without_places: Vec<Value> = ops[1..].iter().map(|op| op["op"].clone()).collect();
    assert_eq!(without_places, after_import);
}

async fn packed_and_large_operations_are_all_there(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    for n in 0..13 {
        let mut ops: Vec<_> = (0..100).map(|_| op("A")).collect();
        if n == 6 {
            ops[50] = op("A").sized(2_000_000);
        }
        account.upload("A", &ops).await.ok();
        if n == 9 {
            server.seal().await;
        }
    }
    let before = contents_since(&account, 0).await;
    account.snapshot(&snapshot("A").clean_slate()).await.ok();
    let path = format!("/api/sync/archives/{}", newest_id(&account).await);
    let ops = ops_of(&account.get(&path).await.ok().text);
    assert_eq!(ops.iter().map(|op| op["op"].clone()).collect::<Vec<_>>(), before);
    // What is missing at once is said; what is missing later breaks the download off.
    server.store.delete_ops(account.id, 1_200, 1_201, 10).await.expect("the store works");
    let request = account.http.get(format!("{}{path}", account.base)).bearer_auth(&account.token);
    let response = request.send().await.expect("it begins");
    assert_eq!(response.status(), 200);
    assert!(response.text().await.is_err(), "nobody takes a part for the whole");
    server.store.delete_ops(account.id, 0, 1, 10).await.expect("the store works");
    let reply = account.get(&path).await.expect(409);
    assert_eq!((&reply["errorCode"], &reply["obstacle"]), (&json!("ARCHIVE_NOT_RESTORABLE"), &json!("INCOMPLETE")));
}
