//! What can be wrong in an old database is named, and costs nobody else anything.

use serde_json::Value;

use super::data::{account, counter, old, operations, user};
use super::{accounts, import, imported, refused};
use crate::harness::{Backend, TestDatabase};

into_both_databases! {
    an_account_that_cant_be_served_is_named_and_left_out_when_asked,
    addresses_that_differ_in_case_are_one,
}

async fn an_account_that_cant_be_served_is_named_and_left_out_when_asked(on: Backend) {
    let all = [
        account(1, 10),
        account(2, 10),
        "DELETE FROM operations WHERE user_id = 2 AND server_seq IN (4, 5);".to_owned(),
        account(3, 10),
        "UPDATE user_sync_state SET last_seq = 8 WHERE user_id = 3;".to_owned(),
        account(4, 10),
        "UPDATE operations SET entity_type = 'SPACESHIP' WHERE user_id = 4 AND server_seq = 3;".to_owned(),
        account(5, 10),
        "UPDATE operations SET vector_clock = '{\"A\": \"many\"}' WHERE user_id = 5 AND server_seq = 3;".to_owned(),
        account(6, 10),
        "UPDATE user_sync_state SET last_seq = 12 WHERE user_id = 6;".to_owned(),
        account(7, 10),
        "UPDATE operations SET op_type = 'WISH' WHERE user_id = 7 AND server_seq = 10;".to_owned(),
    ];
    let old = old(&all).await;
    let database = TestDatabase::create(on).await;
    let text = refused(&import(&database, &old, &[]).await, 4);
    for part in [
        "account 2: operations 4 to 5 are missing",
        "account 3: its counter stands at 8, below its last operation 10",
        "account 4: operation 3: its entity type",
        "account 5: operation 3: its vector clock",
        "account 6: operations 11 to 12 are missing",
        "account 7: operation 10: its type",
        "6 account(s) can't be taken over",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(accounts(&database).await, 0);
    let said = imported(&database, &old, &["--leave-out", "--repair"]).await;
    assert_eq!((&said["accounts"], &said["operations"]), (&2.into(), &20.into()));
    let left: Vec<_> = said["leftOut"].as_array().expect("a list").iter().map(|left| &left["user"]).collect();
    assert_eq!(left, [2, 4, 5, 6, 7]);
    assert_eq!(accounts(&database).await, 2);
}

async fn addresses_that_differ_in_case_are_one(on: Backend) {
    // The newest of those without operations, or the one with them.
    let all = [
        user(1, "Anna@example.org"),
        user(2, "anna@example.org"),
        operations(1, 1, 3),
        counter(1, 3),
        user(3, "Ben@example.org"),
        user(4, "BEN@example.org"),
        "UPDATE users SET created_at = '2026-01-01' WHERE id = 3;".to_owned(),
    ];
    let old = old(&all).await;
    let database = TestDatabase::create(on).await;
    let said = imported(&database, &old, &[]).await;
    let left: Vec<(&Value, &Value)> =
        said["leftOut"].as_array().expect("a list").iter().map(|left| (&left["user"], &left["isFault"])).collect();
    assert_eq!(left, [(&2.into(), &false.into()), (&4.into(), &false.into())]);
    old.run(&[operations(2, 1, 1), counter(2, 1)].concat()).await;
    let database = TestDatabase::create(on).await;
    let text = refused(&import(&database, &old, &[]).await, 4);
    assert!(text.contains("that of account"), "data is never left behind unasked: {text}");
    assert_eq!(imported(&database, &old, &["--leave-out"]).await["accounts"], 2);
}
