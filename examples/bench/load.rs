//! Kinds of load, and what they measure.

use std::fmt;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};

use super::Result;
use super::connection::Connection;
use super::server::BenchAccount;

/// Bytes of an operation's payload.
const PAYLOAD_BYTES: usize = 500;

/// A kind of load.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// Uploads of so many new operations each.
    Uploads {
        /// How many.
        ops: usize,
    },
    /// Downloads of a device that has everything already.
    Polls,
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uploads { ops } => write!(f, "uploads of {ops}"),
            Self::Polls => f.write_str("polls"),
        }
    }
}

/// What a load achieved.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figures {
    /// Requests, all answered as expected.
    pub requests: usize,
    /// Requests per second.
    pub per_second: f64,
    /// Half of the requests took no longer, milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 requests took no longer, milliseconds.
    pub p99_ms: f64,
}

/// Asks once for every account, so that the server knows them all.
pub async fn touch(address: SocketAddr, accounts: &[BenchAccount], connections: usize) -> Result<()> {
    let shares = accounts.chunks(accounts.len().div_ceil(connections).max(1));
    try_join_all(shares.map(|share| async move {
        let mut connection = Connection::open(address).await?;
        for account in share {
            connection.send(&poll(account, 0)).await?;
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    }))
    .await?;
    Ok(())
}

/// Lets every connection work for so long, each on accounts of its own.
pub async fn run(
    address: SocketAddr,
    accounts: &[BenchAccount],
    connections: usize,
    work: Work,
    lasts: Duration,
) -> Result<Figures> {
    let started = Instant::now();
    let workers = (0..connections).map(|number| {
        let mine: Vec<BenchAccount> = accounts.iter().skip(number).step_by(connections).cloned().collect();
        tokio::spawn(worker(address, mine, number, work, started + lasts))
    });
    let mut latencies = Vec::new();
    for done in try_join_all(workers).await? {
        latencies.extend(done?);
    }
    let seconds = started.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let at = |part: usize| latencies.get((latencies.len() * part / 100).min(latencies.len().saturating_sub(1)));
    let ms = |latency: Option<&Duration>| latency.map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3);
    Ok(Figures {
        requests: latencies.len(),
        per_second: f64::from(u32::try_from(latencies.len())?) / seconds,
        p50_ms: ms(at(50)),
        p99_ms: ms(at(99)),
    })
}

async fn worker(
    address: SocketAddr,
    accounts: Vec<BenchAccount>,
    number: usize,
    work: Work,
    until: Instant,
) -> Result<Vec<Duration>> {
    if accounts.is_empty() {
        return Err("fewer accounts than connections".into());
    }
    let mut connection = Connection::open(address).await?;
    let mut latencies = Vec::new();
    let mut cursors = vec![0; accounts.len()];
    let run = std::process::id();
    for turn in 0_usize.. {
        if Instant::now() >= until {
            break;
        }
        let which = turn % accounts.len();
        let (account, cursor) = (&accounts[which], &mut cursors[which]);
        let request = match work {
            Work::Uploads { ops } => upload(account, &format!("{run}-{ops}-{number}-{turn}"), ops),
            Work::Polls => poll(account, *cursor),
        };
        let sent = Instant::now();
        let answer = connection.send(&request).await?;
        latencies.push(sent.elapsed());
        match work {
            Work::Uploads { ops } => check_upload(answer, ops)?,
            // The first poll of an account finds out where it stands; the others are the ones to measure.
            Work::Polls => *cursor = latest_seq(answer)?,
        }
    }
    Ok(latencies)
}

fn check_upload(answer: &[u8], ops: usize) -> Result<()> {
    let accepted = answer.windows(15).filter(|window| window == b"\"accepted\":true").count();
    if accepted == ops {
        return Ok(());
    }
    Err(format!("not everything was accepted: {}", String::from_utf8_lossy(answer)).into())
}

fn latest_seq(answer: &[u8]) -> Result<i64> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Page {
        latest_seq: i64,
    }
    Ok(serde_json::from_slice::<Page>(answer)?.latest_seq)
}

fn poll(account: &BenchAccount, cursor: i64) -> Vec<u8> {
    let token = &account.token;
    format!(
        "GET /api/sync/ops?sinceSeq={cursor}&excludeClient=bench HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\r\n"
    )
    .into_bytes()
}

/// New operations on entities of their own, with ids that no other request has.
fn upload(account: &BenchAccount, unique: &str, ops: usize) -> Vec<u8> {
    let mut body = String::with_capacity(ops * (PAYLOAD_BYTES + 400) + 200);
    body.push_str("{\"ops\":[");
    let filler = "x".repeat(PAYLOAD_BYTES - "{\"title\":\"\"}".len());
    for n in 0..ops {
        let comma = if n == 0 { "" } else { "," };
        let written = write!(
            body,
            "{comma}{{\"id\":\"{unique}-{n}\",\"clientId\":\"bench\",\"actionType\":\"[Task] Update\",\"opType\":\"UPD\",\
             \"entityType\":\"TASK\",\"entityId\":\"{unique}-{n}\",\"payload\":{{\"title\":\"{filler}\"}},\
             \"vectorClock\":{{\"bench\":1,\"other\":2}},\"timestamp\":1700000000000,\"schemaVersion\":4}}"
        );
        debug_assert!(written.is_ok(), "writing to a string can't fail");
    }
    let written = write!(body, "],\"clientId\":\"bench\",\"requestId\":\"{unique}\"}}");
    debug_assert!(written.is_ok(), "writing to a string can't fail");
    format!(
        "POST /api/sync/ops HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        account.token,
        body.len()
    )
    .into_bytes()
}
