//! Several processes on one PostgreSQL database, each as an operator starts it: what they show of each other's commits,
//! how they count together, and what becomes of commits of which the database's answer is lost. `load` is everything at
//! once.

mod ambiguous;
mod clean_up;
mod limits;
mod load;
mod stale;

use crate::harness::Program;
use reqwest::Method;
use serde_json::{Value, json};
use supersync_client::raw::{Body, Encoding};

/// The token of a new account, made by the routes of test mode.
async fn account(program: &Program, name: &str) -> String {
    let credentials = json!({"email": format!("{name}@example.org"), "password": "a long passphrase"});
    let body = Body::new(credentials.to_string().as_bytes(), Encoding::Plain);
    let answer = program.client().send(Method::POST, "/api/test/create-user", Some(&body)).await.expect("an answer");
    let answer: Value = serde_json::from_slice(&answer.body).expect("JSON");
    answer["token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}
