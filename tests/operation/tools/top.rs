//! `supersync top` and what it asks the program for.

use std::process::Output;

use serde_json::{Value, json};

use crate::harness::{Backend, Program, TestDatabase, free_port, http_client, op};

on_both_databases! {
    without_a_server_or_a_terminal_it_says_so,
    it_shows_who_asks_and_what_is_slow,
}

async fn top(database: &TestDatabase, metrics: &str, more: &[&str]) -> Output {
    let address = format!("http://{metrics}");
    let arguments = [&["top", "--metrics", &address], more].concat();
    Program::run(database, &arguments).await
}

async fn get(address: &str, path: &str) -> (u16, String) {
    let answer = http_client().get(format!("http://{address}{path}")).send().await.expect("an answer");
    (answer.status().as_u16(), answer.text().await.expect("text"))
}

async fn without_a_server_or_a_terminal_it_says_so(on: Backend) {
    let database = TestDatabase::create(on).await;
    let nobody = format!("127.0.0.1:{}", free_port());
    let said = |output: &Output| String::from_utf8(output.stderr.clone()).expect("UTF-8");
    let output = top(&database, &nobody, &["--once"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains(&format!("no answer from http://{nobody}/")), "{}", said(&output));
    let output = top(&database, &nobody, &[]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("--once prints one frame"), "{}", said(&output));
    let output = Program::run(&database, &["top", "--metrics", "nonsense", "--once"]).await;
    assert!(said(&output).contains("must be an address"), "{}", said(&output));

    let program = Program::start_watched(&database, &[]).await;
    let port = program.base.strip_prefix("http://").expect("an address").to_owned();
    let output = top(&database, &port, &["--once"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("but not as the metrics of a supersync server"), "{}", said(&output));
    let (status, body) = get(&port, "/top.json").await;
    assert_eq!(status, 404, "nobody but the operator is told: {body}");
    program.kill().await;
}

/// A new account: its number and its token.
async fn account(program: &Program, name: &str) -> (i64, String) {
    let body = json!({ "email": format!("{name}@example.org"), "password": "correct horse battery" });
    let url = format!("{}/api/test/create-user", program.base);
    let answer = http_client().post(url).json(&body).send().await.expect("an answer");
    let answer: Value = answer.json().await.expect("JSON");
    (answer["userId"].as_i64().expect("a number"), answer["token"].as_str().expect("a token").to_owned())
}

async fn it_shows_who_asks_and_what_is_slow(on: Backend) {
    let database = TestDatabase::create(on).await;
    let program = Program::start_watched(&database, &[]).await;
    let metrics = program.metrics.clone().expect("metrics are on");
    let (_, empty) = get(&metrics, "/top.json").await;
    let empty: Value = serde_json::from_str(&empty).expect("JSON");
    assert_eq!((&empty["accounts"], &empty["window_seconds"]), (&json!([]), &60.into()));

    let (busy, busy_token) = account(&program, "busy").await;
    let (heavy, heavy_token) = account(&program, "heavy").await;
    let url = format!("{}/api/sync/ops", program.base);
    for _ in 0..20 {
        let polled = http_client().get(format!("{url}?sinceSeq=0")).bearer_auth(&busy_token).send().await;
        assert_eq!(polled.expect("an answer").status(), 200);
    }
    let ops: Vec<_> = (0..50).map(|_| op("A")).collect();
    let body = crate::harness::upload("A", None, &ops);
    let bytes = u64::try_from(body.to_string().len()).expect("small");
    let uploaded = http_client().post(&url).bearer_auth(&heavy_token).json(&body).send().await.expect("an answer");
    assert_eq!(uploaded.status(), 200);

    let (status, seen) = get(&metrics, "/top.json").await;
    assert_eq!(status, 200);
    assert!(!seen.contains('@') && !seen.contains(&busy_token), "{seen}");
    let seen: Value = serde_json::from_str(&seen).expect("JSON");
    let of = |account: i64| {
        let accounts = seen["accounts"].as_array().expect("a list");
        accounts.iter().find(|hot| hot["account"] == account).unwrap_or_else(|| panic!("{account}: {seen}")).clone()
    };
    // The window may have ended in between; then a part of the one before counts.
    assert!(of(busy)["requests"].as_u64().is_some_and(|n| (15..=20).contains(&n)), "{seen}");
    assert_eq!(of(busy)["operations"], 0);
    assert!(of(heavy)["operations"].as_u64().is_some_and(|n| (40..=50).contains(&n)), "{seen}");
    assert!(of(heavy)["bytes"].as_u64().is_some_and(|n| n > bytes / 2), "{seen}");
    // Hashing the password of a new account takes longer than anything that is not of interest.
    let slow = &seen["slowest"][0];
    assert!(slow["duration_ms"].as_u64().is_some_and(|ms| ms >= 10) && slow["at"].as_i64() > Some(0), "{seen}");

    let output = top(&database, &metrics, &["--once", "--interval", "0.2"]).await;
    let shown = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for part in
        [&format!("http://{metrics}/"), "per second", "Busiest accounts", &busy.to_string(), "/api/test/create-user"]
    {
        assert!(shown.contains(part), "{part} is missing in\n{shown}");
    }
    program.kill().await;
    let output = top(&database, &metrics, &["--once"]).await;
    assert_eq!(output.status.code(), Some(1));
}
