//! Limits hold for all processes together: exactly for what is expensive; of the rest each allows its share.

use futures_util::future::join_all;
use reqwest::{Client, Method, StatusCode};
use serde_json::json;

use crate::harness::{Backend, Program, TestDatabase, http_client};

/// How many of so many requests, spread over all, were not refused.
async fn allowed(programs: &[Program], requests: usize, send: impl AsyncFn(&Client, &str) -> StatusCode) -> usize {
    let http = http_client();
    let statuses = (0..requests).map(|n| send(&http, &programs[n % programs.len()].base));
    join_all(statuses).await.into_iter().filter(|status| *status != StatusCode::TOO_MANY_REQUESTS).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_limits_do_not_grow_with_the_number_of_processes() {
    let database = TestDatabase::create(Backend::Postgres).await;
    let settings = [("TEST_MODE", "false"), ("TEST_MODE_CONFIRM", ""), ("RATE_LIMITS", "on")];
    let start = || Program::start_watched(&database, &settings);
    let programs = [start().await, start().await, start().await];
    for program in &programs {
        program.settles(2.0).await;
    }
    let cheap = async |http: &Client, base: &str| {
        http.get(format!("{base}/api/sync/status")).send().await.expect("an answer").status()
    };
    assert_eq!(allowed(&programs, 150, cheap).await, 60);
    let expensive = async |http: &Client, base: &str| {
        let body = json!({"email": "nobody@example.org"}).to_string();
        let request = http.request(Method::POST, format!("{base}/api/forgot-password"));
        request.header("content-type", "application/json").body(body).send().await.expect("an answer").status()
    };
    // Not a multiple of their number.
    assert_eq!(allowed(&programs[..2], 20, expensive).await, 5);
    assert_eq!(allowed(&programs, 15, expensive).await, 0, "the third one knows of it");
    for program in programs {
        program.kill().await;
    }
}
