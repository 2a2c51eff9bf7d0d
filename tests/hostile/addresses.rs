//! Addresses that clients claim, and floods of log-ins.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::Method;
use secrecy::SecretString;
use serde_json::json;
use supersync::accounts::Address;
use tokio::time::Instant;

use crate::arena::Arena;
use crate::foe::{Stage, Tally, address, plain};
use crate::harness::Backend;
use crate::line::Line;

/// How long somebody waits for a log-in.
const PATIENCE: Duration = Duration::from_secs(20);

const PASSWORD: &str = "a long passphrase of the owner";

/// A log-in from an address of its own; the status.
async fn log_in(stage: &Stage, email: &str, password: &str) -> u16 {
    let body = json!({ "email": email, "password": password }).to_string();
    let request = format!(
        "POST /api/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    ask(stage.line().await, &request).await
}

/// Sends this and returns the answer's status; 0: there was none.
async fn ask(line: Option<Line>, request: &str) -> u16 {
    let Some(mut line) = line else { return 0 };
    match line.send(request.as_bytes()).await {
        Some(()) => line.status(Instant::now() + PATIENCE).await,
        None => 0,
    }
}

/// Requests to a route that answers 30 a minute of an address, each with another `X-Forwarded-For`; how many were answered.
async fn claim(stage: &Stage, from: IpAddr, claimed: impl Fn(usize) -> String) -> usize {
    let answered = AtomicUsize::new(0);
    let one = async |n: usize| {
        let claimed = claimed(n);
        let request = format!("GET /api/sync/devices HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {claimed}\r\n\r\n");
        match ask(Line::open(&stage.base, from).await, &request).await {
            // That there is no token.
            401 => _ = answered.fetch_add(1, Ordering::Relaxed),
            status => stage.tally.note(status),
        }
    };
    stage.again(8, one).await;
    answered.into_inner()
}

async fn claimed(backend: Backend) {
    let proxy = address(79, 2);
    let mut arena = Arena::open_with(backend, &[], &[("TRUSTED_PROXIES", &proxy.to_string())]).await;
    let mut answered = [0; 3];
    arena
        .attack("addresses: a client that is no proxy claims another for each request", async |stage| {
            answered[0] = claim(stage, address(79, 1), |n| format!("198.51.{}.{}", n / 250 % 250, n % 250)).await;
        })
        .await;
    arena
        .attack("addresses: a client behind a proxy claims another for each request", async |stage| {
            answered[1] = claim(stage, proxy, |n| format!("203.0.113.{}, 198.51.100.7", n % 250)).await;
        })
        .await;
    arena
        .attack("addresses: a client behind a proxy has a /48 of its own", async |stage| {
            answered[2] = claim(stage, proxy, |n| format!("2001:db8:7:{n:x}::1")).await;
        })
        .await;
    // A minute may end meanwhile.
    for (most, answered) in [60, 60, 8 * 60].into_iter().zip(answered) {
        arena.demand(answered <= most, || format!("{answered} requests of one client were answered, not {most}"));
    }
    arena.close().await;
}

async fn log_ins(backend: Backend) {
    let mut arena = Arena::open(backend).await;
    let owner = Address::parse("owner@example.org").expect("an address");
    let password = SecretString::from(PASSWORD);
    arena.stage.accounts.create_verified(&owner, &password).await.expect("a new account");
    let own = Tally::default();
    arena
        .attack("addresses: log-ins of invented accounts from everywhere", async |stage| {
            let flood = stage.again(8, async |n| {
                let status = log_in(stage, &format!("nobody-{n}@example.org"), "wrong password").await;
                // Of a password that is wrong the attacker may be told.
                stage.tally.note(if status == 401 { 200 } else { status });
            });
            let owner = stage.again(1, async |_| own.note(log_in(stage, owner.as_str(), PASSWORD).await));
            tokio::join!(flood, owner);
        })
        .await;
    let own = own.take();
    arena.demand(own.keys().eq([&200]), || format!("the owner's own log-ins were answered {own:?}"));
    arena
        .attack("addresses: passwords of invented registrations from everywhere", async |stage| {
            let register = async |n: usize| {
                let email = format!("invented-{n}@example.org");
                let body = plain(&json!({ "email": email, "password": PASSWORD, "termsAccepted": true }));
                stage.send(Method::POST, "/api/register", Some(&body)).await;
            };
            stage.again(4, register).await;
        })
        .await;
    arena.close().await;
}

on_both_databases!(claimed, log_ins);
