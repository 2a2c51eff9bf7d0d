//! Everything odd at once, in a database of every age.

use serde_json::{Value, json};

use super::{complained, in_order, said};
use crate::harness::{Backend, Program, TestDatabase};
use crate::old_schema::{OldDatabase, State, account};

on_both_databases! {
    the_newest,
    pushed_in_january,
    migrated_until_may,
    of_december,
    with_broken_indexes,
}

async fn the_newest(target: Backend) {
    let report = is_taken_over(target, State::Head).await;
    let counts = ["passkeys", "passkeys_repaired", "passkeys_dropped", "pending_passkeys", "links", "links_dropped"];
    assert_eq!(counts.map(|name| report[name].as_u64().expect("a number")), [2, 1, 1, 1, 5, 1], "{report}");
    assert_eq!(report["missing_columns"], json!([]));
}

async fn pushed_in_january(target: Backend) {
    let report = is_taken_over(target, State::Push).await;
    let counts = ["passkeys", "passkeys_repaired", "passkeys_dropped", "pending_passkeys", "links", "links_dropped"];
    assert_eq!(counts.map(|name| report[name].as_u64().expect("a number")), [2, 1, 1, 0, 5, 1], "{report}");
}

async fn migrated_until_may(target: Backend) {
    let report = is_taken_over(target, State::MigratedMay).await;
    assert_eq!((&report["links"], &report["links_dropped"]), (&json!(4), &json!(1)), "{report}");
}

async fn of_december(target: Backend) {
    let report = is_taken_over(target, State::December).await;
    let missing = report["missing_columns"].as_array().expect("a list");
    assert!(missing.contains(&json!("passkeys")) && missing.contains(&json!("users.login_token")), "{report}");
    assert_eq!((&report["passkeys"], &report["links"]), (&json!(0), &json!(2)), "{report}");
}

async fn with_broken_indexes(target: Backend) {
    is_taken_over(target, State::Interrupted).await;
}

async fn import(old: &OldDatabase, target: &TestDatabase, code: i32, more: &[&str]) -> Value {
    let url = old.url();
    let output = Program::run(target, &[&["import", "--from", &url, "--yes", "--json"], more].concat()).await;
    assert_eq!(output.status.code(), Some(code), "{}{}", said(&output), complained(&output));
    serde_json::from_slice(&output.stdout).expect("a report")
}

/// First what is not damaged, then the rest. Gives back the first report.
async fn is_taken_over(target: Backend, state: State) -> Value {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::create(state).await;
    old.fill_special().await;
    let first = import(&old, &target, 1, &[]).await;
    assert_eq!(first["accounts"], account::COUNT);
    let left_out: Vec<i64> = first["left_out"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|noted| noted["user"].as_i64().expect("a number"))
        .collect();
    assert_eq!(left_out, account::DAMAGED, "{first}");
    let twice = json!([{ "kept": account::TWICE, "left_out": account::TWICE_UPPER, "operations": 0 }]);
    assert_eq!((&first["duplicates"], &first["snapshots_dropped"]), (&twice, &json!(1)), "{first}");
    // But for the damaged one, which has 12 operations, and the one that is there twice.
    assert_eq!((&first["taken"], &first["operations"]), (&json!(23), &json!(account::OPERATIONS - 12)), "{first}");
    assert_eq!((&first["unused_numbers"], &first["with_unused_numbers"]), (&json!(7), &json!(3)), "{first}");
    let rest = import(&old, &target, 0, &["--repair"]).await;
    assert_eq!((&rest["taken"], &rest["unchanged"]), (&json!(1), &json!(23)), "{rest}");
    assert_eq!((&rest["operations"], rest["repaired"].as_array().map(Vec::len)), (&json!(12), Some(1)), "{rest}");
    let compared = import(&old, &target, 0, &["--verify-only"]).await;
    assert_eq!((&compared["verified"], &compared["differences"]), (&json!(24), &json!([])));
    in_order(&target).await;
    first
}
