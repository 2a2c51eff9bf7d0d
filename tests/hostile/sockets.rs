//! Sockets that talk too much, and too many upgrades.

use std::time::Duration;

use futures_util::future::join_all;

use crate::arena::Arena;
use crate::foe::{Foe, Stage};
use crate::harness::Backend;
use crate::line::Line;

/// An upgrade of this client; `None` when there was no connection.
async fn upgrade(foe: &Foe, client: &str, line: Option<Line>) -> Option<Line> {
    let head = format!(
        "GET /api/sync/ws?token={}&clientId={client} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        foe.account.token
    );
    let mut line = line?;
    line.send(head.as_bytes()).await?;
    foe.stage.tally.note(line.status(foe.stage.until()).await);
    Some(line)
}

/// Ten sockets of one account that send this as fast as it is taken.
async fn flood(stage: &Stage, frames: &[u8]) {
    let foe = stage.foe().await;
    let one = async |n: usize| {
        let Some(mut line) = upgrade(&foe, &format!("B_flood{n}"), stage.line().await).await else { return };
        line.trickle(frames, Duration::from_micros(500), stage.until()).await;
    };
    join_all((0..10).map(one)).await;
}

/// `count` frames of this kind with this text, masked with zeros.
fn frames(count: usize, opcode: u8, text: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match u8::try_from(text.len()) {
        Ok(length) if length < 126 => frame.push(0x80 | length),
        _ => {
            frame.push(0xFE);
            frame.extend_from_slice(&u16::try_from(text.len()).expect("a short text").to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(text);
    frame.repeat(count)
}

async fn floods(backend: Backend) {
    let mut arena = Arena::open(backend).await;
    arena.attack("sockets: ten that flood empty frames", async |stage| flood(stage, &frames(2000, 1, b"")).await).await;
    arena.attack("sockets: ten that flood pings", async |stage| flood(stage, &frames(500, 9, b"12345678")).await).await;
    arena.attack("sockets: ten that flood pongs", async |stage| flood(stage, &frames(2000, 10, b"")).await).await;
    let text = format!("{{\"type\":\"pong\",\"more\":\"{}\"}}", "[".repeat(900));
    arena
        .attack("sockets: ten that flood long texts", async |stage| flood(stage, &frames(50, 1, text.as_bytes())).await)
        .await;
    arena.close().await;
}

async fn upgrades(backend: Backend) {
    // An address has ten times what a device has.
    let mut arena = Arena::open_with(backend, &[], &[("RATE_LIMITS", "sockets=0.1")]).await;
    let statuses = crate::foe::Tally::default();
    arena
        .attack("sockets: upgrades of cycling clients from one address", async |stage| {
            let foe = stage.foe().await;
            let here = crate::foe::address(77, 1);
            let one = async |n: usize| {
                let line = Line::open(&stage.base, here).await;
                _ = upgrade(&foe, &format!("B_cycle{n}"), line).await;
            };
            stage.again(10, one).await;
            let seen = stage.tally.take();
            for (status, count) in &seen {
                (0..*count).for_each(|_| {
                    stage.tally.note(*status);
                    statuses.note(*status);
                });
            }
        })
        .await;
    let statuses = statuses.take();
    let admitted = statuses.get(&101).copied().unwrap_or(0);
    let total: usize = statuses.values().sum();
    arena.demand(admitted <= 125 || total < 200, || {
        format!("{admitted} of {total} upgrades from one address were admitted")
    });
    arena
        .attack("sockets: upgrades of nobody from everywhere", async |stage| {
            let mut foe = stage.foe().await;
            "nobody".clone_into(&mut foe.account.token);
            stage.again(10, async |n| _ = upgrade(&foe, &format!("B_cycle{n}"), stage.line().await).await).await;
        })
        .await;
    arena.close().await;
}

on_both_databases!(floods, upgrades);
