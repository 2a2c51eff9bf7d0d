//! What one account holds of the server while it sends and reads, and what is left for the others.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{Account, Backend, Server, import, op, snapshot};

on_both_databases! {
    bodies_that_are_announced_keep_nobody_from_uploading,
    bodies_that_have_come_count_to_their_account_only,
    the_largest_request_of_an_account_that_does_one_thing_at_a_time_fits,
    a_large_operation_is_the_same_to_whoever_reads_it_however,
    readers_that_do_not_read_use_up_their_own_share,
    one_download_of_everything_at_a_time,
    metadata_counts_for_a_page,
}

const PATIENCE: Duration = Duration::from_mins(1);

/// A connection on which everything is written by hand.
struct Raw(TcpStream);

impl Raw {
    async fn to(account: &Account) -> Self {
        let address = account.base.strip_prefix("http://").expect("plain HTTP");
        Self(TcpStream::connect(address).await.expect("the server listens"))
    }

    /// Sends a head.
    async fn head(account: &Account, request: &str, headers: &str) -> Self {
        let mut raw = Self::to(account).await;
        let head = format!("{request} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n{headers}\r\n", account.token);
        raw.0.write_all(head.as_bytes()).await.expect("it is taken");
        raw
    }

    async fn post(account: &Account, path: &str, announced: usize) -> Self {
        let headers = format!("content-type: application/json\r\ncontent-length: {announced}\r\n");
        Self::head(account, &format!("POST {path}"), &headers).await
    }

    /// The status, as soon as it comes.
    async fn status(&mut self) -> u16 {
        let mut line = [0; 12];
        timeout(PATIENCE, self.0.read_exact(&mut line)).await.expect("an answer in time").expect("an answer");
        std::str::from_utf8(&line[9..]).expect("ASCII").parse().expect("a status")
    }
}

async fn bodies_that_are_announced_keep_nobody_from_uploading(on: Backend) {
    let server = Server::start(on).await;
    let (hostile, honest) = (server.account().await, server.account().await);
    let mut waiting = Vec::new();
    for _ in 0..40 {
        let mut raw = Raw::post(&hostile, "/api/sync/snapshot", 30 << 20).await;
        raw.0.write_all(b"{").await.expect("it is taken");
        waiting.push(raw);
    }
    honest.snapshot(&snapshot("A").with("state", json!({ "text": "x".repeat(5 << 20) }))).await.ok();
    // Nor themselves.
    hostile.upload("A", &[op("A").sized(100_000)]).await.ok();
}

async fn bodies_that_have_come_count_to_their_account_only(on: Backend) {
    let server = Server::start_with(on, |config| {
        config.limits.max_queued_bytes = 128 << 20;
        config.rate_limits.uploads_per_user.max = 10_000;
    })
    .await;
    let (hostile, honest) = (server.account().await, server.account().await);
    // The first may be large, as long as it is the only one.
    let mut first = Raw::post(&hostile, "/api/sync/snapshot", 20 << 20).await;
    first.0.write_all(&vec![b' '; 18 << 20]).await.expect("it is taken");
    // Once it has arrived, nothing that is not small fits beside it.
    let arrived = async {
        while hostile.upload("A", &[op("A").sized(500_000)]).await.status != 503 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, arrived).await.expect("the first has come");
    let mut refused = 0;
    for _ in 0..4 {
        let mut raw = Raw::post(&hostile, "/api/sync/snapshot", 20 << 20).await;
        // Broken off when it is refused.
        let _refused_meanwhile = raw.0.write_all(&vec![b' '; 20 << 20]).await;
        refused += usize::from(raw.status().await == 503);
    }
    assert_eq!(refused, 4);
    honest.snapshot(&snapshot("A").with("state", json!({ "text": "x".repeat(10 << 20) }))).await.ok();
    hostile.upload("A", &[op("A")]).await.ok();
    let reply = hostile.upload("A", &[op("A").sized(500_000)]).await.expect(503);
    assert!(reply["error"].as_str().is_some_and(|text| text.contains("please retry")), "{}", reply.text);
    assert!(reply.headers.contains_key("retry-after"));
    drop(first);
    // What was held is free again as soon as the connection is seen to be gone.
    let freed = async {
        while hostile.upload("A", &[op("A").sized(500_000)]).await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, freed).await.expect("the memory is given back");
}

async fn the_largest_request_of_an_account_that_does_one_thing_at_a_time_fits(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let limits = server.config().limits;
    let state = json!({ "text": "x".repeat(19 << 20) });
    let request =
        |reason: &str| snapshot("A").reason(reason).with("state", state.clone()).json().to_string().into_bytes();
    let mut body = request("initial");
    body.resize(limits.snapshot_inflated_bytes, b' ');
    account.upload_gzip("/api/sync/snapshot", &body).await.ok();
    let mut body = request("recovery");
    body.resize(limits.snapshot_body_bytes, b' ');
    account.send(reqwest::Method::POST, "/api/sync/snapshot", &[], body).await.ok();
    let mut body = json!({ "ops": [op("A").sized(9 << 20).json()], "clientId": "A" }).to_string().into_bytes();
    body.resize(limits.upload_body_bytes, b' ');
    account.send(reqwest::Method::POST, "/api/sync/ops", &[], body).await.ok();
}

async fn a_large_operation_is_the_same_to_whoever_reads_it_however(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let text: String = (0..3_000_000).map(|n| char::from(b'a' + u8::try_from(n % 23).expect("small"))).collect();
    let task = json!({ "id": "x", "title": text, "more": "äöü\"\\\n" });
    let state = json!({ "task": { "ids": ["x"], "entities": { "x": task } } });
    let payload = json!({ "appDataComplete": state });
    account.upload("A", &[op("A"), import("A").payload(payload.clone()), op("A")]).await.ok();
    let page = account.get("/api/sync/ops?sinceSeq=0").await.ok();
    assert_eq!(page.seqs(), [2, 3]);
    assert_eq!(page["ops"][0]["op"]["payload"], payload);
    assert_eq!(page.headers["content-length"], page.text.len().to_string().as_str());
    let packed = account
        .http
        .get(format!("{}/api/sync/ops?sinceSeq=0", account.base))
        .bearer_auth(&account.token)
        .header("accept-encoding", "gzip")
        .send()
        .await
        .expect("an answer");
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    let packed = packed.bytes().await.expect("all of it");
    let mut unpacked = String::new();
    std::io::Read::read_to_string(&mut flate2::read::MultiGzDecoder::new(&packed[..]), &mut unpacked).expect("gzip");
    let unpacked: Value = serde_json::from_str(&unpacked).expect("JSON");
    assert_eq!(unpacked["ops"], page["ops"]);
    let piggyback = account.upload_from("B", 0, &[op("B")]).await.ok();
    assert_eq!(piggyback["newOps"], page["ops"]);
    let restored = account.get("/api/sync/restore/2").await.ok();
    assert_eq!(restored["state"], state);
}

async fn readers_that_do_not_read_use_up_their_own_share(on: Backend) {
    let server = Server::start(on).await;
    let (hostile, honest) = (server.account().await, server.account().await);
    for account in [&hostile, &honest] {
        let body = json!({ "ops": [op("A").sized(19 << 20).json()], "clientId": "A" }).to_string();
        account.upload_gzip("/api/sync/ops", body.as_bytes()).await.ok();
    }
    let mut readers = Vec::new();
    let mut refused = 0;
    for _ in 0..40 {
        let mut raw = Raw::head(&hostile, "GET /api/sync/ops?sinceSeq=0", "").await;
        match raw.status().await {
            200 => readers.push(raw),
            503 => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert!(refused >= 20 && !readers.is_empty(), "{refused} refused");
    // An upload is acknowledged, and what would come along can be asked for later.
    let piggyback = hostile.upload_from("B", 0, &[op("B")]).await.ok();
    assert_eq!((piggyback.outcomes(), piggyback.has("newOps")), (vec!["#2".to_owned()], false));
    assert_eq!(piggyback["hasMorePiggyback"], true);
    // What is small always passes, and others don't notice.
    hostile.get("/api/sync/ops?sinceSeq=1").await.ok();
    let page = honest.get("/api/sync/ops?sinceSeq=0").await.ok();
    assert!(page.text.len() > 19 << 20);
    // Whoever reads on gets the whole.
    let mut rest = Vec::new();
    let mut reader = readers.pop().expect("one");
    drop(readers);
    let reading = async {
        while !rest.ends_with(b"\"capabilities\":{\"causalRepairSnapshots\":true}}") {
            assert!(reader.0.read_buf(&mut rest).await.expect("more") > 0, "the end is missing");
        }
    };
    timeout(PATIENCE, reading).await.expect("all of it in time");
    assert!(rest.len() > 19 << 20);
}

async fn one_download_of_everything_at_a_time(on: Backend) {
    let server = Server::start(on).await;
    let (hostile, honest) = (server.account().await, server.account().await);
    for account in [&hostile, &honest] {
        // Random, so that the zip is as large.
        for _ in 0..3 {
            let noise: Vec<u8> = (0..6 << 20).map(|_| rand::random::<u8>() % 64 + 32).collect();
            let noise = String::from_utf8(noise).expect("ASCII").replace(['"', '\\'], "x");
            account.upload("A", &[op("A").payload(json!({ "noise": noise }))]).await.ok();
        }
    }
    let mut first = Raw::head(&hostile, "GET /api/account/export", "").await;
    assert_eq!(first.status().await, 200);
    let reply = hostile.get("/api/account/export").await.expect(503);
    assert!(reply.headers.contains_key("retry-after"));
    assert!(reply["error"].as_str().is_some_and(|text| text.contains("please retry")), "{}", reply.text);
    let export = honest.http.get(format!("{}/api/account/export", honest.base)).bearer_auth(&honest.token);
    let export = export.send().await.expect("an answer");
    assert_eq!(export.status(), 200);
    assert!(export.bytes().await.expect("all of it").len() > 10 << 20);
    hostile.upload("A", &[op("A").sized(100_000)]).await.ok();
    drop(first);
    let again = async {
        while hostile.get("/api/account/export").await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, again).await.expect("the place is free again");
}

async fn metadata_counts_for_a_page(on: Backend) {
    let server = Server::start_with(on, |config| config.limits.page_bytes = 300_000).await;
    let account = server.account().await;
    let ids: Vec<String> = (0..400).map(|n| format!("{n}{}", "x".repeat(200))).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    for _ in 0..6 {
        account.upload("A", &[op("A").entity_ids(&ids)]).await.ok();
    }
    let mut cursor = 0;
    loop {
        let page = account.get(&format!("/api/sync/ops?sinceSeq={cursor}")).await.ok();
        assert!(page.text.len() < 310_000, "{} bytes", page.text.len());
        cursor = *page.seqs().last().expect("some");
        if page["hasMore"] == false {
            break;
        }
    }
    assert_eq!(cursor, 6);
}
