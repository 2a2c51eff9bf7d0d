//! Taking over the old server's database: what can't be taken is refused and changes nothing; what can is all there, and
//! devices go on; a second run takes what has changed.

mod again;
mod back;
mod cached;
mod dump;
mod faults;
mod old;
mod refusal;
mod round_trip;
mod special;
mod unused;
mod whole;

use std::process::Output;

use serde_json::Value;

use crate::harness::{Program, TestDatabase};
use crate::old_schema::OldDatabase;

/// Runs the import with further arguments, and `--yes`.
async fn run(old: &OldDatabase, target: &TestDatabase, more: &[&str]) -> Output {
    let url = old.url();
    let arguments = [&["import", "--from", &url, "--yes"], more].concat();
    Program::run(target, &arguments).await
}

/// Runs it so that it succeeds, and gives back its report.
async fn imported(old: &OldDatabase, target: &TestDatabase, more: &[&str]) -> Value {
    let output = run(old, target, &[&["--json"], more].concat()).await;
    assert!(output.status.success(), "{}{}", said(&output), complained(&output));
    serde_json::from_slice(&output.stdout).expect("a report")
}

/// Runs it so that it ends with this code, and gives back its report.
async fn failed(code: i32, old: &OldDatabase, target: &TestDatabase, more: &[&str]) -> Value {
    let output = run(old, target, &[&["--json"], more].concat()).await;
    assert_eq!(output.status.code(), Some(code), "{}{}", said(&output), complained(&output));
    serde_json::from_slice(&output.stdout).expect("a report")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn complained(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A backup of the target holds what every database holds, and so does the target.
async fn in_order(target: &TestDatabase) -> String {
    let file = target.data_dir().join("check.supersync");
    let output = Program::run(target, &["backup", "--overwrite", file.to_str().expect("text")]).await;
    assert!(output.status.success(), "{}{}", said(&output), complained(&output));
    assert!(said(&output).contains("what it holds is in order"), "{}", said(&output));
    said(&output)
}
