//! What accounts are charged, recounted beside a running server.

use std::sync::Arc;

use serde_json::{Value, json};
use supersync::admin::data::{self, DataCommand};
use supersync::admin::recount::RecountArgs;
use supersync::admin::{Exit, Failure};

use crate::harness::{Account, Backend, Server, import, op};

on_both_databases! {
    an_account_that_is_not_there_is_named,
    wrong_counters_are_shown_and_put_right_and_the_server_notices,
    packed_operations_count_too,
}

async fn run(server: &Server, account: Option<i64>, dry_run: bool, json: bool) -> Result<String, Failure> {
    let mut output = Vec::new();
    let command = DataCommand::Recount(RecountArgs { account, dry_run, json });
    let store = Arc::clone(&server.store);
    data::run(command, store, server.config(), server.clock.clone(), &mut std::io::empty(), &mut output).await?;
    Ok(String::from_utf8(output).expect("text"))
}

async fn counted(server: &Server, account: Option<i64>, dry_run: bool) -> Value {
    serde_json::from_str(&run(server, account, dry_run, true).await.expect("it runs")).expect("JSON")
}

async fn charged(server: &Server, account: &Account) -> i64 {
    server.state(account).await.storage_used_bytes
}

async fn an_account_that_is_not_there_is_named(on: Backend) {
    let server = Server::start(on).await;
    for dry_run in [true, false] {
        let failure = run(&server, Some(77), dry_run, false).await.expect_err("there is none");
        assert_eq!((failure.exit, &*failure.to_string()), (Exit::NotFound, "there is no account with the number 77"));
    }
    let nothing = run(&server, None, false, false).await.expect("it runs");
    assert_eq!(nothing, "0 account(s) counted: all are charged what they store\n");
}

async fn wrong_counters_are_shown_and_put_right_and_the_server_notices(on: Backend) {
    let server = Server::start(on).await;
    let (right, more, less) = (server.account().await, server.account().await, server.account().await);
    let mut stored = Vec::new();
    for account in [&right, &more, &less] {
        account.upload("A", &[import("A"), op("A"), op("A")]).await.ok();
        stored.push(charged(&server, account).await);
    }
    assert!(stored.iter().all(|bytes| *bytes > 0));
    server.change_state(&more, |state| state.storage_used_bytes += 1_000).await;
    server.change_state(&less, |state| state.storage_used_bytes = 0).await;
    // The server has both in memory, as they are.
    assert_eq!(more.status().await["storageUsedBytes"], stored[1] + 1_000);
    assert_eq!(less.status().await["storageUsedBytes"], 0);

    let difference = |account: &Account, charged: i64, stored: i64, corrected: bool| json!({ "account": account.id, "chargedBytes": charged, "storedBytes": stored, "corrected": corrected });
    let all = |corrected| {
        json!([difference(&more, stored[1] + 1_000, stored[1], corrected), difference(&less, 0, stored[2], corrected)])
    };
    let seen = counted(&server, None, true).await;
    assert_eq!((&seen["wrong"], &seen["corrected"], &seen["differences"]), (&2.into(), &0.into(), &all(false)));
    assert_eq!(charged(&server, &less).await, 0, "a rehearsal changes nothing");
    assert_eq!(server.follow().await, 0);
    let table = run(&server, None, true, false).await.expect("it runs");
    assert!(table.contains("-1000") && table.contains("2 are charged something else; nothing was changed"), "{table}");

    let done = counted(&server, None, false).await;
    assert_eq!((&done["accounts"], &done["corrected"], &done["differences"]), (&3.into(), &2.into(), &all(true)));
    // Before the server hears of it: it plans on the old picture, and then on the new one.
    assert!(less.upload("A", &[op("A")]).await.outcomes()[0].starts_with('#'));
    assert_eq!(server.follow().await, 2);
    assert_eq!(more.status().await["storageUsedBytes"], stored[1]);
    let now = less.status().await["storageUsedBytes"].as_i64().expect("a number");
    assert!(now > stored[2], "{now}");
    assert_eq!(now, charged(&server, &less).await);
    assert_eq!(counted(&server, None, false).await["wrong"], 0);
    assert_eq!(counted(&server, Some(less.id), false).await["wrong"], 0);
}

async fn packed_operations_count_too(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    for _ in 0..20 {
        account.upload("A", &[op("A")]).await.ok();
    }
    server.seal().await;
    account.upload("A", &[op("A")]).await.ok();
    assert_eq!(counted(&server, None, true).await["wrong"], 0);
    // The data set begins in the middle of a segment.
    let (before, _) = server.store.measure(account.id, 0, 7).await.expect("the store works");
    server.change_state(&account, |state| state.pruned_seq = 7).await;
    let done = counted(&server, Some(account.id), false).await;
    let whole = done["differences"][0]["chargedBytes"].as_i64().expect("a number");
    assert_eq!(done["differences"][0]["storedBytes"], whole - before, "{done}");
    assert_eq!(charged(&server, &account).await, whole - before);
    assert_eq!(counted(&server, None, true).await["wrong"], 0);
}
