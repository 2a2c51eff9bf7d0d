//! What uses the space.

use std::sync::Arc;

use serde_json::Value;
use supersync::admin::data::{self, DataCommand};
use supersync::admin::usage::UsageArgs;

use crate::harness::{Account, Backend, Server, ciphertext, import, op, snapshot};

on_both_databases! {
    an_empty_server_has_nothing_to_show,
    accounts_kinds_and_parts_are_shown,
}

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

async fn run(server: &Server, limit: usize, json: bool, unmask: bool, thorough: bool) -> String {
    let mut output = Vec::new();
    let command = DataCommand::Usage(UsageArgs { limit, json, unmask, thorough });
    let (store, clock) = (Arc::clone(&server.store), server.clock.clone());
    data::run(command, store, server.config(), clock, &mut std::io::empty(), &mut output).await.expect("it runs");
    String::from_utf8(output).expect("text")
}

async fn told(server: &Server, thorough: bool) -> Value {
    serde_json::from_str(&run(server, 1, true, false, thorough).await).expect("JSON")
}

async fn an_empty_server_has_nothing_to_show(on: Backend) {
    let server = Server::start(on).await;
    for thorough in [false, true] {
        let usage = told(&server, thorough).await;
        assert_eq!((&usage["accounts"], &usage["operations"]), (&0.into(), &0.into()), "{usage}");
        assert_eq!(usage["grownBytes"]["month"], 0);
        assert!(usage["kinds"].as_array().is_some_and(Vec::is_empty), "{usage}");
        assert!(usage["tables"].as_array().is_some_and(|tables| tables.len() > 10), "{usage}");
    }
    let table = run(&server, 10, false, false, false).await;
    assert!(table.starts_with("0 accounts, 0 operations"), "{table}");
}

/// How many operations there are of a kind, and what they are charged.
fn kind(usage: &Value, op_type: &str, entity_type: &str, encrypted: bool) -> (i64, i64) {
    let kinds = usage["kinds"].as_array().expect("a list");
    let found = kinds
        .iter()
        .find(|kind| kind["opType"] == op_type && kind["entityType"] == entity_type && kind["encrypted"] == encrypted);
    let found = found.unwrap_or_else(|| panic!("no {op_type} of {entity_type} in {usage}"));
    (found["operations"].as_i64().expect("a number"), found["bytes"].as_i64().expect("a number"))
}

fn growth(usage: &Value) -> [i64; 3] {
    ["day", "week", "month"].map(|since| usage["grownBytes"][since].as_i64().expect("a number"))
}

async fn used(accounts: &[&Account]) -> i64 {
    let mut sum = 0;
    for account in accounts {
        sum += account.status().await["storageUsedBytes"].as_i64().expect("a number");
    }
    sum
}

async fn accounts_kinds_and_parts_are_shown(on: Backend) {
    let server = Server::start(on).await;
    let (small, large) = (server.account().await, server.account().await);
    small.upload("A", &[op("A"), op("A").entity("PROJECT", "p").kind("CRT")]).await.ok();
    small.snapshot(&snapshot("A").clean_slate()).await.ok();
    small.upload("A", &[op("A")]).await.ok();
    let secret = op("B").payload(ciphertext(5_000)).with("isPayloadEncrypted", true);
    large.upload("B", &[import("B"), secret.clone()]).await.ok();
    let all = used(&[&small, &large]).await;

    let usage = told(&server, false).await;
    assert_eq!((&usage["accounts"], &usage["operations"], &usage["usedBytes"]), (&2.into(), &4.into(), &all.into()));
    assert_eq!(growth(&usage), [all; 3], "{usage}");
    assert_eq!(usage["largest"].as_array().map(Vec::len), Some(1));
    let largest = &usage["largest"][0];
    assert_eq!((&largest["account"], &largest["usedBytes"]), (&large.id.into(), &used(&[&large]).await.into()));
    assert_eq!(largest["grownBytes"]["day"], largest["usedBytes"]);
    let shown = largest["address"].as_str().expect("text");
    assert!(shown.starts_with("u***") && shown.ends_with("@example.org"), "{shown}");
    assert_eq!((kind(&usage, "UPD", "TASK", false).0, kind(&usage, "UPD", "TASK", true).0), (1, 1));
    assert!(kind(&usage, "UPD", "TASK", true).1 > 5_000, "{usage}");
    assert_eq!(usage["kindsOf"], "unpacked");
    assert_eq!((&usage["archive"]["count"], &usage["archive"]["operations"]), (&1.into(), &2.into()));

    // What has been packed is counted by its segments, or read.
    for _ in 0..30 {
        large.upload("B", &[op("B")]).await.ok();
    }
    server.seal().await;
    server.clock.advance_ms(10 * DAY_MS);
    small.upload("A", &[op("A")]).await.ok();
    let all = used(&[&small, &large]).await;
    let (usage, thorough) = (told(&server, false).await, told(&server, true).await);
    assert!(usage["segments"]["operations"].as_i64().is_some_and(|packed| packed >= 30), "{usage}");
    assert_eq!((growth(&usage), growth(&thorough)[2]), (growth(&thorough), all), "{usage}");
    let [day, week, _] = growth(&usage);
    assert!(day == week && day > 0 && day < all / 2, "{usage}");
    assert_eq!(thorough["kindsOf"], "all");
    assert_eq!(kind(&thorough, "UPD", "TASK", false).0, 32, "{thorough}");
    assert_eq!(kind(&thorough, "SYNC_IMPORT", "ALL", false).0, 2, "{thorough}");

    let table = run(&server, 10, false, true, false).await;
    for part in [small.email.as_str(), &large.email, "By kind", "By part", "segments", "user_sync_state"] {
        assert!(table.contains(part), "{part} is missing in\n{table}");
    }
    let masked = run(&server, 10, false, false, false).await;
    assert!(!masked.contains(&small.email) && masked.contains("u***"), "{masked}");
}
