//! How old a picture may be that a process shows (ADR 14): never older than three seconds, whichever process fails.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::time::{sleep, sleep_until, timeout};

use crate::cluster::account;
use crate::harness::{Account, Backend, LONG_PATIENCE, Mode, Program, Reply, TestDatabase, Wire, http_client, op};

/// What was acknowledged before a request by so much is in its answer, or there is none.
const BOUND: Duration = Duration::from_secs(3);
/// An answer "at once", on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(1);

fn on(program: &Program, token: &str) -> Account {
    let (email, token, base) = (String::new(), token.to_owned(), program.base.clone());
    Account { id: 0, email, token, base, http: http_client() }
}

/// Uploads one operation, and says at which sequence it is.
async fn upload(account: &Account) -> i64 {
    let outcomes = account.upload_one("A", &op("A")).await.outcomes();
    outcomes[0].strip_prefix('#').unwrap_or_else(|| panic!("{outcomes:?}")).parse().expect("a number")
}

/// Polls until it is answered like this, and hands each answer on with the time of its question.
async fn poll_until(account: &Account, since: i64, mut is_enough: impl FnMut(Instant, Reply) -> bool) {
    let polling = async {
        loop {
            let asked = Instant::now();
            if is_enough(asked, account.get(&format!("/api/sync/ops?sinceSeq={since}")).await) {
                return;
            }
            // Other tests run beside this one.
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG_PATIENCE, polling).await.expect("it comes to an end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_what_a_frozen_process_could_not_tell_is_served_within_three_seconds() {
    let database = TestDatabase::create(Backend::Postgres).await;
    let a = Program::start_watched(&database, &[]).await;
    let b = Program::start_watched(&database, &[]).await;
    let token = account(&a, "frozen").await;
    let (on_a, on_b) = (on(&a, &token), on(&b, &token));
    let mut latest = upload(&on_a).await;
    for _ in 0..2 {
        a.settles(1.0).await;
        b.settles(1.0).await;
        on_a.download(latest).await.ok();
        let seq = upload(&on_b).await;
        let acknowledged = Instant::now();
        // Within the ten milliseconds in which commits are gathered.
        b.signal(Signal::STOP);
        poll_until(&on_a, latest, |asked, reply| {
            let shown = reply.ok()["latestSeq"].as_i64().expect("a number");
            assert!(shown == seq || asked < acknowledged + BOUND, "old after {:?}", asked - acknowledged);
            shown == seq
        })
        .await;
        // Nothing from memory while it is frozen, and the metric and thereby the alert say so.
        a.metric_becomes("supersync_memory_trusted", 0.0).await;
        latest = upload(&on_a).await;
        assert_eq!(on_a.download(seq).await.ok().seqs(), [latest]);
        b.signal(Signal::CONT);
    }
    a.settles(1.0).await;
    // What happened while a process was frozen it shows as soon as it goes on.
    on_b.download(latest).await.ok();
    b.signal(Signal::STOP);
    let seq = upload(&on_a).await;
    let acknowledged = Instant::now();
    let waiting = tokio::spawn({
        let (on_b, latest) = (on_b.clone(), latest);
        async move { on_b.download(latest).await.ok().seqs() }
    });
    sleep_until((acknowledged + BOUND).into()).await;
    b.signal(Signal::CONT);
    assert_eq!(waiting.await.expect("no panic"), [seq]);
    a.kill().await;
    b.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_a_process_that_is_cut_off_serves_no_memory_and_answers_at_once() {
    let database = TestDatabase::create(Backend::Postgres).await;
    let wire = Wire::to_database(&database).await;
    let a = Program::start_watched(&database, &[("DATABASE_URL", &wire.url())]).await;
    let b = Program::start_watched(&database, &[]).await;
    let token = account(&a, "cut-off").await;
    let (on_a, on_b) = (on(&a, &token), on(&b, &token));
    let mut latest = upload(&on_a).await;
    for mode in [Mode::Silent, Mode::Closed] {
        a.settles(1.0).await;
        b.settles(1.0).await;
        on_a.download(latest).await.ok();
        let cut = Instant::now();
        wire.set(mode);
        let seq = upload(&on_b).await;
        let acknowledged = Instant::now();
        let mut refused = 0;
        poll_until(&on_a, latest, |asked, reply| {
            match reply.status {
                200 => {
                    let age = asked.saturating_duration_since(acknowledged);
                    assert!(reply["latestSeq"] == seq || age < BOUND, "{mode:?}: old after {age:?}");
                }
                503 => refused += 1,
                other => panic!("{mode:?}: {other} {}", reply.text),
            }
            if asked > cut + BOUND {
                assert_eq!(reply.status, 503, "{mode:?}: {}", reply.text);
                assert!(asked.elapsed() < AT_ONCE, "{mode:?}: after {:?}", asked.elapsed());
            }
            refused >= 20 && asked > cut + BOUND
        })
        .await;
        let asked = Instant::now();
        assert_eq!(on_a.upload_one("A", &op("A")).await.status, 503);
        assert!(asked.elapsed() < AT_ONCE, "{mode:?}: after {:?}", asked.elapsed());
        assert_eq!(on_b.download(latest).await.ok().seqs(), [seq], "the other one has nobody to wait for");
        wire.set(Mode::Open);
        poll_until(&on_a, latest, |_, reply| reply.status == 200 && reply["latestSeq"] == seq).await;
        latest = seq;
    }
    a.kill().await;
    b.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_alone_without_a_database_memory_is_served_and_when_cut_off_it_is_not() {
    let database = TestDatabase::create(Backend::Postgres).await;
    let wire = Wire::to_database(&database).await;
    let program = Program::start_watched(&database, &[("DATABASE_URL", &wire.url())]).await;
    let account = on(&program, &account(&program, "alone").await);
    let latest = upload(&account).await;
    program.settles(0.0).await;
    account.download(latest).await.ok();
    // It refuses everybody: nobody can have changed anything.
    let down = Instant::now();
    wire.set(Mode::Closed);
    poll_until(&account, latest, |asked, reply| {
        assert_eq!(reply.ok()["latestSeq"], latest);
        asked > down + 2 * BOUND
    })
    .await;
    // It may be there for others.
    let silent = Instant::now();
    wire.set(Mode::Silent);
    poll_until(&account, latest, |asked, reply| {
        // What a refusal proved lasts.
        if asked > silent + 2 * BOUND {
            assert_eq!(reply.status, 503, "{}", reply.text);
        }
        asked > silent + 2 * BOUND && asked.elapsed() < AT_ONCE
    })
    .await;
    wire.set(Mode::Open);
    poll_until(&account, latest, |_, reply| reply.status == 200).await;
    assert_eq!(upload(&account).await, latest + 1);
    program.kill().await;
}
