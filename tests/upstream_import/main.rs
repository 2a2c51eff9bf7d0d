//! Taking over from the old server: what is refused first, databases of every age, what can be wrong in them, and devices
//! that go on.

#[path = "../harness/mod.rs"]
mod harness;
#[allow(dead_code, reason = "the way back uses more of it")]
#[path = "../upstream_export/old.rs"]
mod old;

/// Makes a test for each database that is filled.
macro_rules! into_both_databases {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::harness::Backend::Sqlite).await; })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::harness::Backend::Postgres).await; })+
        }
    };
}

mod ages;
mod data;
mod devices;
mod faults;
mod refusal;

use std::process::Output;

use harness::{Program, TestDatabase};
use old::Old;
use serde_json::Value;

/// Runs the import to its end.
async fn import(database: &TestDatabase, old: &Old, further: &[&str]) -> Output {
    let mut arguments = vec!["import", "--from", old.url()];
    arguments.extend(further);
    Program::run(database, &arguments).await
}

/// What an import says that does what it is told to.
async fn imported(database: &TestDatabase, old: &Old, further: &[&str]) -> Value {
    let mut arguments = vec!["--json"];
    arguments.extend(further);
    let output = import(database, old, &arguments).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&said).expect("one JSON object")
}

/// What an import says that ends with this code before it changes anything.
#[track_caller]
fn refused(output: &Output, code: i32) -> String {
    let said = [&output.stdout[..], &output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

/// How many accounts this server's database holds.
async fn accounts(database: &TestDatabase) -> usize {
    let listed = Program::run(database, &["user", "list", "--json"]).await;
    let said = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.status.success(), "{said}{}", String::from_utf8_lossy(&listed.stderr));
    let listed: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("JSON: {said}"));
    listed.as_array().or_else(|| listed["users"].as_array()).expect("a list").len()
}
