//! A primary with a synchronous standby under `Patroni`, switched over and then killed under load: what was acknowledged is there,
//! writes are back within half a minute, and nobody starts the server again.
//!
//! Two servers: one reaches the database through `HAProxy`, one finds the primary among both addresses by itself.

use std::process::Stdio;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

use crate::crash::witness::{Witness, check_all, create_account};
use crate::harness::{Backend, LONG_PATIENCE, Program, TestDatabase, free_port, http_client, send_signal};

const ACCOUNTS: usize = 6;
const DEVICES: usize = 2;
/// Longest time until every account's operations are accepted again.
const WRITES_BACK: Duration = Duration::from_secs(30);
/// How often a device syncs.
const PACE: Duration = Duration::from_millis(50);

/// `scripts/patroni-pair`.
struct Pair {
    child: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    port: u16,
}

impl Pair {
    async fn start() -> Self {
        let port = free_port();
        let mut child = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/patroni-pair"))
            .arg(port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the script starts");
        let commands = child.stdin.take().expect("its input is ours");
        let answers = BufReader::new(child.stdout.take().expect("its output is ours")).lines();
        let mut pair = Self { child, commands, answers, port };
        assert_eq!(pair.answer(3 * LONG_PATIENCE).await, "ready");
        pair
    }

    async fn answer(&mut self, patience: Duration) -> String {
        let line = timeout(patience, self.answers.next_line()).await.expect("it answers in time");
        line.expect("text").expect("it goes on")
    }

    fn through_haproxy(&self) -> String {
        format!("postgres://supersync@127.0.0.1:{}/postgres", self.port)
    }

    fn both(&self) -> String {
        let (first, second) = (self.port + 1, self.port + 2);
        format!("postgres://supersync@127.0.0.1:{first},127.0.0.1:{second}/postgres?target_session_attrs=read-write")
    }

    /// The number of the node that is the primary.
    async fn primary(&self) -> u16 {
        for node in [1, 2] {
            let url = format!("http://127.0.0.1:{}/primary", self.port + 2 + node);
            if http_client().get(url).send().await.is_ok_and(|answer| answer.status() == StatusCode::OK) {
                return node;
            }
        }
        panic!("there is no primary");
    }

    /// Waits until one node is the primary and the other its synchronous standby.
    async fn settled(&self) {
        let mut looks = interval(Duration::from_millis(200));
        let both = async {
            loop {
                looks.tick().await;
                for (primary, standby) in [(1, 2), (2, 1)] {
                    let is = async |node: u16, role: &str| {
                        let url = format!("http://127.0.0.1:{}/{role}", self.port + 2 + node);
                        http_client().get(url).send().await.is_ok_and(|answer| answer.status() == StatusCode::OK)
                    };
                    if is(primary, "primary").await && is(standby, "synchronous").await {
                        return;
                    }
                }
            }
        };
        timeout(2 * LONG_PATIENCE, both).await.expect("the pair settles");
    }

    async fn switch_over(&self) {
        let primary = self.primary().await;
        let body = json!({ "leader": format!("node{primary}"), "candidate": format!("node{}", 3 - primary) });
        let url = format!("http://127.0.0.1:{}/switchover", self.port + 2 + primary);
        let answer = http_client().post(url).json(&body).timeout(LONG_PATIENCE).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK, "{:?}", answer.text().await);
    }

    async fn kill_primary(&mut self) {
        let command = format!("pid {}\n", self.primary().await);
        self.commands.write_all(command.as_bytes()).await.expect("it listens");
        let pid = self.answer(LONG_PATIENCE).await.parse().expect("a process");
        send_signal(pid, rustix::process::Signal::KILL);
    }

    async fn stop(mut self) {
        drop(self.commands);
        timeout(LONG_PATIENCE, self.child.wait()).await.expect("it ends in time").expect("it can be waited for");
    }
}

/// Syncs until told to stop, whatever the answers, and says when something was accepted last.
async fn work(mut witness: Witness, stop: watch::Receiver<bool>, accepted: watch::Sender<Instant>) -> Witness {
    let mut pace = interval(PACE);
    while !*stop.borrow() {
        pace.tick().await;
        if witness.device.pending() == 0 {
            witness.make(3);
        }
        if witness.sync().await.is_ok_and(|count| count > 0) {
            accepted.send_replace(Instant::now());
        }
    }
    witness
}

/// Waits until each device has had something accepted that it sent after `since`.
async fn writes_are_back(devices: &mut [watch::Receiver<Instant>], since: Instant) -> Duration {
    let all = async {
        for device in devices {
            device.wait_for(|at| *at > since).await.expect("it works");
        }
    };
    timeout(2 * LONG_PATIENCE, all).await.expect("writes come back");
    since.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_is_switched_over_and_killed_under_load() {
    let mut pair = Pair::start().await;
    // Only its folder is used.
    let folders = [TestDatabase::create(Backend::Sqlite).await, TestDatabase::create(Backend::Sqlite).await];
    let mut programs = Vec::new();
    for (folder, url) in folders.iter().zip([pair.through_haproxy(), pair.both()]) {
        programs.push(Program::start_watched(folder, &[("DATABASE_URL", &url)]).await);
    }
    let mut clients = Vec::new();
    let mut witnesses = Vec::new();
    for account in 0..ACCOUNTS {
        let token = create_account(&programs[0].client(), account).await;
        for device in 0..DEVICES {
            let program = &programs[(account + device) % programs.len()];
            let client = program.client().with_token(&token).expect("a token");
            witnesses.push(Witness::new(account, client.clone(), &format!("D_{device}")));
            if device == 0 {
                clients.push(client);
            }
        }
    }
    let (stop, stopped) = watch::channel(false);
    let mut devices = Vec::new();
    let mut running = JoinSet::new();
    for witness in witnesses {
        let (accepted, device) = watch::channel(Instant::now());
        devices.push(device);
        running.spawn(work(witness, stopped.clone(), accepted));
    }
    writes_are_back(&mut devices, Instant::now()).await;

    let since = Instant::now();
    pair.switch_over().await;
    // Answered once another node is the primary: what is accepted from now on, the new one has.
    let after = writes_are_back(&mut devices, Instant::now()).await;
    let switched = since.elapsed();
    eprintln!("switchover: writes of every device {switched:?} after it began, {after:?} after it was done");
    assert!(switched <= WRITES_BACK, "writes were back {switched:?} after a switchover");

    pair.settled().await;
    let since = Instant::now();
    pair.kill_primary().await;
    let killed = writes_are_back(&mut devices, since + PACE).await;
    eprintln!("primary killed: writes of every device after {killed:?}");
    assert!(killed <= WRITES_BACK, "writes were back {killed:?} after the primary was killed");

    stop.send_replace(true);
    let mut witnesses = running.join_all().await;
    for witness in &mut witnesses {
        while witness.device.pending() > 0 {
            witness.sync().await.expect("the server is up");
        }
    }
    check_all(&clients, &witnesses).await;
    for program in &mut programs {
        assert!(!program.has_ended(), "the server ended");
        let ready = http_client().get(format!("{}/readyz", program.base)).send().await.expect("an answer");
        assert_eq!(ready.status(), StatusCode::OK);
    }
    for program in programs {
        program.kill().await;
    }
    pair.stop().await;
}
