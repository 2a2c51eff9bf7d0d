//! The way back: what this server holds, in the old server's database. From either of our databases; what is refused first.

mod accounts;
mod cursors;
mod faults;
mod old;
mod refusal;
mod way_back;

use std::process::Output;

use crate::harness::{Program, TestDatabase};
use crate::old_schema::OldDatabase;
use serde_json::Value;

/// Runs the export to its end.
async fn export(database: &TestDatabase, old: &OldDatabase, further: &[&str]) -> Output {
    let to = old.url();
    let mut arguments = vec!["export", "--upstream", "--to", &to];
    arguments.extend(further);
    Program::run(database, &arguments).await
}

/// What an export says that does all that it is told to.
async fn exported(database: &TestDatabase, old: &OldDatabase, further: &[&str]) -> Value {
    let mut arguments = vec!["--json"];
    arguments.extend(further);
    let output = export(database, old, &arguments).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&said).expect("one JSON object")
}

/// What an export says, as report and as error, that leaves some accounts out.
#[track_caller]
fn partly(output: &Output) -> (Value, String) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no report: {said}"));
    (report, said)
}

/// What an export says that ends with this code before it does anything.
#[track_caller]
fn refused(output: &Output, code: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}
