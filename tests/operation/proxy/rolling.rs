//! An update without a gap: new processes take over from old ones on the same database, behind the shipped Caddyfile,
//! while devices sync. No request fails, nothing acknowledged is lost, and whoever holds a socket hears of everything,
//! at the latest from the one poll that follows its reconnecting.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::harness::{Account, Backend, LONG_PATIENCE, Program, TestDatabase, free_port, http_client, op};
use crate::proxy::front::{Front, Kind, Waits};

/// Few enough for a small machine, and enough that the proxy spreads them over its servers.
const ACCOUNTS: usize = 12;
/// Uploads of each account between two steps.
const ROUNDS: i64 = 10;

/// What is known of an account from the outside.
#[derive(Default)]
struct Known {
    /// The last sequence that a device was given.
    acknowledged: AtomicI64,
    /// How far the device with the socket has been told.
    heard: AtomicI64,
    /// How often that device had to connect again.
    reconnected: AtomicU64,
}

/// A device that uploads and downloads all the time. Whatever is not answered as it should be is a panic.
async fn write(account: Account, device: &'static str, known: Arc<Known>, stop: CancellationToken) {
    let mut cursor = 0;
    while !stop.is_cancelled() {
        let outcomes = account.upload_from(device, cursor, &[op(device)]).await.outcomes();
        let seq = outcomes[0].strip_prefix('#').unwrap_or_else(|| panic!("{outcomes:?}"));
        let own: i64 = seq.parse().expect("a number");
        known.acknowledged.fetch_max(own, Ordering::SeqCst);
        let catch_up = async {
            // The first server asked may be another one than that which has just taken the upload, and hear of it in a moment.
            while cursor < own {
                let seqs = account.download(cursor).await.ok().seqs();
                assert_eq!(seqs, (cursor + 1..).take(seqs.len()).collect::<Vec<_>>(), "no hole after {cursor}");
                cursor += i64::try_from(seqs.len()).expect("a page");
            }
        };
        timeout(LONG_PATIENCE, catch_up).await.expect("what was acknowledged is there, whichever server is asked");
    }
}

/// A device that holds a socket, and polls only after it has connected again.
async fn listen(front: Arc<Front>, account: Account, known: Arc<Known>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let mut socket = front.socket(&account, "C").await;
        loop {
            let Some(frame) = stop.run_until_cancelled(socket.next()).await else { return };
            match frame.expect("the end is announced").expect("the end is announced") {
                Frame::Text(text) => {
                    let message: Value = serde_json::from_str(&text).expect("JSON");
                    match message["type"].as_str() {
                        Some("connected") => {
                            let latest = account.status().await["latestSeq"].as_i64().expect("a number");
                            known.heard.fetch_max(latest, Ordering::SeqCst);
                        }
                        Some("new_ops") => {
                            let latest = message["latestSeq"].as_i64().expect("a number");
                            known.heard.fetch_max(latest, Ordering::SeqCst);
                        }
                        _ => {}
                    }
                }
                Frame::Close(frame) => {
                    assert_eq!(frame.map(|frame| u16::from(frame.code)), Some(1001));
                    known.reconnected.fetch_add(1, Ordering::SeqCst);
                    break;
                }
                _ => {}
            }
        }
    }
}

async fn account(database: &TestDatabase, number: usize, front: &Front) -> Account {
    let email = format!("device{number}@example.org");
    let made = Program::run(database, &["user", "add", &email]).await;
    let printed = String::from_utf8(made.stdout).expect("UTF-8");
    let token = printed.split_whitespace().find(|word| word.matches('.').count() == 2 && word.len() > 100);
    let token = token.unwrap_or_else(|| panic!("no token in {printed}")).to_owned();
    front.account(&Account { id: 0, email, token, base: String::new(), http: http_client() })
}

/// Waits until each account has so many more uploads behind it.
async fn more(all: &[Arc<Known>], writers: &mut JoinSet<()>) {
    let goal: Vec<i64> = all.iter().map(|known| known.acknowledged.load(Ordering::SeqCst) + ROUNDS).collect();
    let progress = async {
        while all.iter().zip(&goal).any(|(known, goal)| known.acknowledged.load(Ordering::SeqCst) < *goal) {
            if let Some(ended) = writers.try_join_next() {
                ended.expect("no request fails");
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG_PATIENCE, progress).await.expect("everybody goes on");
}

/// Waits until the process has answered uploads.
async fn serves(program: &Program) {
    let url = format!("http://{}/metrics", program.metrics.as_deref().expect("metrics are on"));
    let http = http_client();
    let serving = async {
        loop {
            let metrics = http.get(&url).send().await.expect("metrics").text().await.expect("whole");
            let uploads = |line: &str| line.contains("route=\"/api/sync/ops\"") && line.contains("method=\"POST\"");
            if metrics.lines().any(|line| line.starts_with("supersync_http_requests_total") && uploads(line)) {
                return;
            }
        }
    };
    timeout(LONG_PATIENCE, serving).await.expect("the proxy sends it requests");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_processes_take_over_from_each_other_and_no_request_fails() {
    let database = TestDatabase::create(Backend::Postgres).await;
    let (one, two) = (free_port(), free_port());
    let mut url = Url::parse(&database.postgres().url()).expect("an address");
    url.query_pairs_mut().append_pair("connection_limit", "4");
    // The delay is longer than the proxy takes to notice, which asks every second.
    let settings = [("SHUTDOWN_DELAY_SECONDS", "3"), ("DATABASE_URL", url.as_str())];
    let old = Program::start_at(&database, one, &settings).await;
    let upstream = format!("127.0.0.1:{one} 127.0.0.1:{two}");
    let front = Arc::new(Front::before(Kind::Caddy, &upstream, Waits { connection: 10, answer: 30, head: 5 }).await);

    let (stop, stop_listening) = (CancellationToken::new(), CancellationToken::new());
    let (mut writers, mut listeners) = (JoinSet::new(), JoinSet::new());
    let mut all = Vec::new();
    for number in 0..ACCOUNTS {
        let (account, known) = (account(&database, number, &front).await, Arc::new(Known::default()));
        for device in ["A", "B"] {
            writers.spawn(write(account.clone(), device, Arc::clone(&known), stop.clone()));
        }
        listeners.spawn(listen(Arc::clone(&front), account, Arc::clone(&known), stop_listening.clone()));
        all.push(known);
    }
    more(&all, &mut writers).await;

    let new = Program::start_at(&database, two, &settings).await;
    serves(&new).await;
    more(&all, &mut writers).await;
    assert!(old.terminate().await.success());
    more(&all, &mut writers).await;
    let newer = Program::start_at(&database, one, &settings).await;
    serves(&newer).await;
    assert!(new.terminate().await.success());
    more(&all, &mut writers).await;

    stop.cancel();
    while let Some(ended) = writers.join_next().await {
        ended.expect("no request fails");
    }
    let told = async {
        let behind =
            |known: &Arc<Known>| known.heard.load(Ordering::SeqCst) < known.acknowledged.load(Ordering::SeqCst);
        while all.iter().any(behind) {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG_PATIENCE, told).await.expect("every device with a socket has been told of everything");
    stop_listening.cancel();
    while let Some(ended) = listeners.join_next().await {
        ended.expect("sockets end with 1001 and open again");
    }
    assert!(all.iter().all(|known| known.reconnected.load(Ordering::SeqCst) > 0), "every socket had to move");
    assert!(newer.terminate().await.success());
}
