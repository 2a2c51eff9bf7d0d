//! Scenarios 20 to 31 and 70: clocks, and who wins a race for an entity.

use serde_json::{Map, Value, json};
use tokio::join;

use crate::harness::{Account, Backend, Op, Reply, Server, import, op, time_delta, upload};

on_both_databases! {
    s20_a_concurrent_op_is_refused_with_the_winners_clock,
    s21_an_older_op_is_superseded,
    s21_callers_without_a_request_id_get_the_older_word,
    s22_equal_clocks_pass_only_for_the_same_client,
    s23_other_entity_types_and_accounts_do_not_conflict,
    s24_every_declared_entity_id_counts,
    s25_the_scalar_id_counts_also_when_it_is_no_member,
    s26_ops_of_one_request_are_checked_against_each_other,
    s27_concurrent_time_deltas_add_up,
    s28_a_dominating_clock_of_21_entries_is_stored_with_20,
    s29_the_author_of_the_newest_import_survives_pruning,
    s30_clocks_are_bounded_and_cleaned,
    s31_settings_that_moved_conflict_across_schema_versions,
    s70_of_two_uploads_from_one_base_one_wins,
}

const CONCURRENT: &str = "CONFLICT_CONCURRENT";
const SUPERSEDED: &str = "CONFLICT_SUPERSEDED";

async fn accept(account: &Account, client: &str, op: Op) {
    let outcomes = account.upload(client, &[op]).await.outcomes();
    assert!(outcomes[0].starts_with('#'), "{outcomes:?}");
}

#[track_caller]
fn refused(reply: &Reply, code: &str, existing: &Value) {
    assert_eq!(reply.outcomes(), [code]);
    assert_eq!(reply["results"][0]["existingClock"], *existing);
}

async fn s20_a_concurrent_op_is_refused_with_the_winners_clock(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    accept(&account, "A", op("A").task("t1").clock(json!({ "A": 1 }))).await;
    let reply = account.upload("B", &[op("B").task("t1").clock(json!({ "B": 1 }))]).await;
    refused(&reply, CONCURRENT, &json!({ "A": 1 }));
    let reply = account.upload("B", &[op("B").task("t1").clock(json!({ "A": 1, "B": 1 }))]).await;
    assert_eq!(reply.outcomes(), ["#2"]);
}

async fn s21_an_older_op_is_superseded(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    accept(&account, "A", op("A").task("t1").clock(json!({ "A": 2 }))).await;
    let reply = account.upload("B", &[op("B").task("t1").clock(json!({ "A": 1 }))]).await;
    refused(&reply, SUPERSEDED, &json!({ "A": 2 }));
}

async fn s21_callers_without_a_request_id_get_the_older_word(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    accept(&account, "A", op("A").task("t1").clock(json!({ "A": 2 }))).await;
    let mut body = upload("B", None, &[op("B").task("t1").clock(json!({ "A": 1 }))]);
    body.as_object_mut().expect("an object").remove("requestId");
    refused(&account.post("/api/sync/ops", &body).await, "CONFLICT_STALE", &json!({ "A": 2 }));
}

async fn s22_equal_clocks_pass_only_for_the_same_client(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    accept(&account, "A", op("A").task("t1").clock(json!({ "A": 1 }))).await;
    let reply = account.upload("B", &[op("B").task("t1").clock(json!({ "A": 1, "zero": 0 }))]).await;
    refused(&reply, CONCURRENT, &json!({ "A": 1 }));
    accept(&account, "A", op("A").task("t1").clock(json!({ "A": 1 }))).await;
}

async fn s23_other_entity_types_and_accounts_do_not_conflict(on: Backend) {
    let server = Server::start(on).await;
    let (account, stranger) = (server.account().await, server.account().await);
    accept(&account, "A", op("A").task("x").clock(json!({ "A": 5 }))).await;
    accept(&account, "B", op("B").entity("TAG", "x").clock(json!({ "B": 1 }))).await;
    accept(&stranger, "B", op("B").task("x").clock(json!({ "B": 1 }))).await;
}

async fn s24_every_declared_entity_id_counts(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    accept(&account, "A", op("A").task("t1").entity_ids(&["t1", "t2"]).clock(json!({ "A": 2 }))).await;
    let reply = account.upload("B", &[op("B").task("t2").clock(json!({ "A": 1 }))]).await;
    refused(&reply, SUPERSEDED, &json!({ "A": 2 }));
    // And the other way round: one of the newcomer's ids is enough.
    let reply = account.upload("B", &[op("B").task("new").entity_ids(&["new", "t1"]).clock(json!({ "B": 1 }))]).await;
    refused(&reply, CONCURRENT, &json!({ "A": 2 }));
}

async fn s25_the_scalar_id_counts_also_when_it_is_no_member(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    accept(&account, "A", op("A").task("t0").entity_ids(&["t1"]).clock(json!({ "A": 2 }))).await;
    for task in ["t0", "t1"] {
        let reply = account.upload("B", &[op("B").task(task).clock(json!({ "A": 1 }))]).await;
        refused(&reply, SUPERSEDED, &json!({ "A": 2 }));
    }
}

async fn s26_ops_of_one_request_are_checked_against_each_other(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let ops = [2, 1, 3].map(|n| op("A").task("t1").clock(json!({ "A": n })));
    let reply = account.upload("A", &ops).await;
    assert_eq!(reply.outcomes(), ["#1", SUPERSEDED, "#2"]);
    assert_eq!(reply["results"][1]["existingClock"], json!({ "A": 2 }));
}

async fn s27_concurrent_time_deltas_add_up(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    accept(&account, "A", time_delta("A", "t1").clock(json!({ "A": 1 }))).await;
    accept(&account, "B", time_delta("B", "t1").clock(json!({ "B": 2 }))).await;
    let reply = account.upload("C", &[time_delta("C", "t1").clock(json!({ "B": 1 }))]).await;
    refused(&reply, SUPERSEDED, &json!({ "B": 2 }));
    // Against anything but a delta a concurrent delta loses, and the other way round.
    let reply = account.upload("C", &[op("C").task("t1").clock(json!({ "C": 1 }))]).await;
    refused(&reply, CONCURRENT, &json!({ "B": 2 }));
    accept(&account, "A", op("A").task("t1").clock(json!({ "A": 2, "B": 2 }))).await;
    let reply = account.upload("C", &[time_delta("C", "t1").clock(json!({ "C": 1 }))]).await;
    refused(&reply, CONCURRENT, &json!({ "A": 2, "B": 2 }));
}

fn clock_of(entries: impl IntoIterator<Item = (String, i64)>) -> Value {
    Value::Object(entries.into_iter().map(|(client, n)| (client, json!(n))).collect::<Map<_, _>>())
}

fn numbered(count: usize, counter: i64) -> impl Iterator<Item = (String, i64)> {
    (0..count).map(move |n| (format!("c{n:02}"), counter))
}

async fn s28_a_dominating_clock_of_21_entries_is_stored_with_20(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    accept(&account, "c00", op("c00").task("t1").clock(clock_of(numbered(20, 5)))).await;
    let dominating = clock_of(numbered(20, 5).chain([("A".to_owned(), 1)]));
    accept(&account, "A", op("A").task("t1").clock(dominating)).await;
    let stored = account.op_at(2).await["vectorClock"].clone();
    // All have the same counter: the greatest key goes.
    assert_eq!(stored, clock_of(numbered(19, 5).chain([("A".to_owned(), 1)])));
}

async fn s29_the_author_of_the_newest_import_survives_pruning(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    accept(&account, "importer", import("importer").clock(json!({ "importer": 1 }))).await;
    let clock = clock_of(numbered(25, 100).chain([("A".to_owned(), 1), ("importer".to_owned(), 1)]));
    accept(&account, "A", op("A").clock(clock)).await;
    let stored = account.op_at(2).await["vectorClock"].clone();
    assert_eq!(stored, clock_of(numbered(18, 100).chain([("A".to_owned(), 1), ("importer".to_owned(), 1)])));
}

async fn s30_clocks_are_bounded_and_cleaned(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let odd = json!({
        "A": 1, "much": 100_000_001, "text": "x", "half": 1.5, "negative": -1, "null": null, "": 3, "most": 100_000_000, "zero": 0,
        "k".repeat(256): 1,
    });
    let ops = [
        op("A").clock(clock_of(numbered(51, 1))),
        op("A").clock(odd),
        op("A").clock(json!({ "A": "x" })),
        op("A").clock(clock_of(numbered(50, 1))),
    ];
    assert_eq!(account.upload("A", &ops).await.outcomes(), ["INVALID_VECTOR_CLOCK", "#1", "#2", "#3"]);
    assert_eq!(account.op_at(1).await["vectorClock"], json!({ "A": 1, "most": 100_000_000, "zero": 0 }));
    assert_eq!(account.op_at(2).await["vectorClock"], json!({}));
    assert_eq!(account.op_at(3).await["vectorClock"], clock_of(numbered(20, 1)));
}

async fn s31_settings_that_moved_conflict_across_schema_versions(on: Backend) {
    let server = Server::start(on).await;
    let misc = |client: &str, version: i64| op(client).entity("GLOBAL_CONFIG", "misc").schema(version);
    let tasks = |client: &str, version: i64| op(client).entity("GLOBAL_CONFIG", "tasks").schema(version);

    let account = server.account().await;
    accept(&account, "A", misc("A", 1).clock(json!({ "A": 2 }))).await;
    let reply = account.upload("B", &[tasks("B", 2).clock(json!({ "A": 1 }))]).await;
    refused(&reply, SUPERSEDED, &json!({ "A": 2 }));

    let account = server.account().await;
    accept(&account, "A", misc("A", 3).clock(json!({ "A": 2 }))).await;
    accept(&account, "B", tasks("B", 2).clock(json!({ "A": 1 }))).await;

    // An old `misc` is also checked against `tasks`, a newer one is not.
    let account = server.account().await;
    accept(&account, "A", tasks("A", 2).clock(json!({ "A": 2 }))).await;
    let reply = account.upload("B", &[misc("B", 1).clock(json!({ "A": 1 }))]).await;
    refused(&reply, SUPERSEDED, &json!({ "A": 2 }));
    accept(&account, "B", misc("B", 2).clock(json!({ "A": 1 }))).await;
}

async fn s70_of_two_uploads_from_one_base_one_wins(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    accept(&account, "A", op("A").task("t1").clock(json!({ "A": 1 }))).await;
    for round in 0..5 {
        let base = account.download(round).await["ops"][0]["op"]["vectorClock"].clone();
        let contender = |client: &str| {
            let mut clock = base.clone();
            clock[client] = json!(clock[client].as_i64().unwrap_or(0) + 1);
            op(client).task("t1").clock(clock)
        };
        let (a, b) = ([contender("A")], [contender("B")]);
        let (a, b) = join!(account.upload("A", &a), account.upload("B", &b));
        let (a, b) = (a.outcomes().remove(0), b.outcomes().remove(0));
        let (winner, loser) = if a.starts_with('#') { (a, b) } else { (b, a) };
        assert_eq!(winner, format!("#{}", round + 2));
        assert!([CONCURRENT, "INTERNAL_ERROR"].contains(&loser.as_str()), "{loser}");
    }
}
