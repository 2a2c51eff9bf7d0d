//! Several processes on one PostgreSQL database: each serves from its own memory what the others commit.
//!
//! Here each process is an engine with a store of its own, which is all that it shares with others in production too.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use supersync::clock::Clock;
use supersync::engine::Handle;
use supersync::protocol::{Seq, UserId};
use supersync::store::postgres::{PostgresOptions, PostgresStore};
use supersync::store::{LogStore as _, MaintenanceStore as _, Store as _};
use tokio::time::{Instant, timeout};

use super::faulty_store::FaultyStore;
use super::postgres::TestDatabase;
use super::setup::{NOW, deadline, done, new_user, op, options, outcomes, since, upload};

/// What another process has done must have arrived by then. Never waited out when all is well.
const PATIENCE: Duration = Duration::from_secs(20);

struct Process {
    store: Arc<FaultyStore>,
    engine: Handle,
}

impl Process {
    async fn start(database: &TestDatabase) -> Self {
        Self::of(connect(database).await).await
    }

    async fn of(store: Arc<FaultyStore>) -> Self {
        let engine = Handle::start(store.clone(), Clock::manual(NOW), options()).await.expect("starting the engine");
        Self { store, engine }
    }

    async fn upload(&self, user: UserId, id: &str) {
        let reply = self.engine.upload(user, upload(vec![op(id)]), deadline()).await.expect("an answer");
        assert!(outcomes(&done(reply))[0].is_ok());
    }

    async fn seqs(&self, user: UserId, after: Seq) -> Vec<Seq> {
        let page = self.engine.download(user, since(after), deadline()).await.expect("an answer");
        (after + 1..=after + Seq::try_from(page.ops.len()).expect("a page")).collect()
    }

    /// How often the database is asked for so many polls.
    async fn asked_for_polls(&self, user: UserId, after: Seq) -> usize {
        let before = self.store.calls.load(Ordering::SeqCst);
        for _ in 0..20 {
            assert!(self.seqs(user, after).await.is_empty());
        }
        self.store.calls.load(Ordering::SeqCst) - before
    }

    async fn becomes(&self, user: UserId, after: Seq, wanted: &[Seq]) {
        let arrived = async {
            while self.seqs(user, after).await != wanted {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, arrived).await.expect("what another process has committed is served");
    }

    async fn trusts_its_memory(&self, user: UserId, after: Seq) {
        let trusts = async { while self.asked_for_polls(user, after).await > 0 {} };
        timeout(PATIENCE, trusts).await.expect("polls are served from memory");
    }

    async fn stop(self) {
        self.engine.shutdown().await;
        supersync::store::Store::close(self.store.as_ref()).await;
    }
}

async fn connect(database: &TestDatabase) -> Arc<FaultyStore> {
    connect_for(database, Duration::from_mins(20)).await
}

async fn connect_for(database: &TestDatabase, lifetime: Duration) -> Arc<FaultyStore> {
    let options = PostgresOptions {
        url: database.url().into(),
        direct_url: None,
        pgbouncer: false,
        max_connections: 4,
        acquire_timeout: Duration::from_secs(10),
        statement_timeout: Duration::from_secs(10),
        schema: None,
        lifetime,
        waits: false,
    };
    FaultyStore::new(Arc::new(PostgresStore::connect(options).await.expect("connecting")))
}

async fn two() -> (TestDatabase, Process, Process, UserId) {
    let database = TestDatabase::create().await;
    let first = Process::start(&database).await;
    let second = Process::start(&database).await;
    let user = new_user(first.store.as_ref(), "first@example.com", 100 << 20).await;
    (database, first, second, user)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_a_process_that_does_not_answer_is_never_trusted() {
    let (database, first, second, user) = two().await;
    let mute = connect(&database).await;
    mute.mute.store(true, Ordering::SeqCst);
    let mute = Process::of(mute).await;
    // It started later than it can say, so the others must have seen that it is there.
    let seen =
        async { while first.asked_for_polls(user, 0).await < 20 || second.asked_for_polls(user, 0).await < 20 {} };
    timeout(PATIENCE, seen).await.expect("whoever is silent is noticed");
    for n in 1..=20 {
        mute.upload(user, &n.to_string()).await;
        assert_eq!(first.seqs(user, n - 1).await, [n], "at once: nobody was told");
        assert_eq!(second.seqs(user, n - 1).await, [n]);
    }
    mute.store.mute.store(false, Ordering::SeqCst);
    first.trusts_its_memory(user, 20).await;
    second.trusts_its_memory(user, 20).await;
    mute.trusts_its_memory(user, 20).await;
    for process in [first, second, mute] {
        process.stop().await;
    }
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_a_process_that_falls_silent_is_trusted_for_three_seconds() {
    let (database, first, second, user) = two().await;
    first.trusts_its_memory(user, 0).await;
    second.trusts_its_memory(user, 0).await;
    second.store.mute.store(true, Ordering::SeqCst);
    second.upload(user, "1").await;
    let acknowledged = Instant::now();
    // Its lock says that it is there, so nothing but its silence tells.
    let shown = async { while first.seqs(user, 0).await.is_empty() {} };
    timeout(PATIENCE, shown).await.expect("memory is not served for ever");
    assert!(acknowledged.elapsed() < Duration::from_secs(4), "{:?}", acknowledged.elapsed());
    for n in 2..=20 {
        second.upload(user, &n.to_string()).await;
        assert_eq!(first.seqs(user, n - 1).await, [n], "at once");
        assert_eq!(second.seqs(user, n).await, [] as [Seq; 0]);
    }
    let noticed = async { while second.asked_for_polls(user, 20).await < 20 {} };
    timeout(PATIENCE, noticed).await.expect("it does not hear itself either");
    second.store.mute.store(false, Ordering::SeqCst);
    first.trusts_its_memory(user, 20).await;
    second.trusts_its_memory(user, 20).await;
    first.stop().await;
    second.stop().await;
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_what_a_process_could_not_tell_before_it_died_is_found() {
    let (database, first, second, user) = two().await;
    first.upload(user, "1").await;
    second.becomes(user, 0, &[1]).await;
    first.trusts_its_memory(user, 1).await;
    second.store.mute.store(true, Ordering::SeqCst);
    second.upload(user, "2").await;
    // Its sessions end with it.
    let mut session = database.session().await;
    second.stop().await;
    first.becomes(user, 1, &[2]).await;
    first.trusts_its_memory(user, 2).await;
    // And when the line breaks, it is joined again.
    let third = Process::start(&database).await;
    let broken = "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 \
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let broken: i64 = sqlx::query_scalar(broken).fetch_one(&mut session).await.expect("an answer");
    assert_eq!(broken, 2, "each has one line");
    third.upload(user, "3").await;
    first.becomes(user, 2, &[3]).await;
    first.trusts_its_memory(user, 3).await;
    first.upload(user, "4").await;
    third.becomes(user, 3, &[4]).await;
    third.trusts_its_memory(user, 4).await;
    first.stop().await;
    third.stop().await;
    sqlx::Connection::close(session).await.expect("closed");
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_each_process_serves_what_the_other_commits() {
    let (database, first, second, user) = two().await;
    first.trusts_its_memory(user, 0).await;
    second.trusts_its_memory(user, 0).await;
    for n in 1..=20 {
        let (writer, reader) = if n % 2 == 0 { (&first, &second) } else { (&second, &first) };
        writer.upload(user, &n.to_string()).await;
        reader.becomes(user, n - 1, &[n]).await;
    }
    first.trusts_its_memory(user, 20).await;
    second.trusts_its_memory(user, 20).await;
    // A new data set has fewer operations, and an id of the old one is new in it.
    first.engine.wipe(user, deadline()).await.expect("wiped");
    let wiped =
        async { while !second.engine.status(user, deadline()).await.is_ok_and(|status| status.latest_seq == 0) {} };
    timeout(PATIENCE, wiped).await.expect("the other process hears of it");
    second.upload(user, "1").await;
    first.stop().await;
    second.stop().await;
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_no_connection_is_used_for_ever() {
    let database = TestDatabase::create().await;
    let process = Process::of(connect_for(&database, Duration::from_secs(1)).await).await;
    let user = new_user(process.store.as_ref(), "first@example.com", 100 << 20).await;
    let mut session = database.session().await;
    let mut pids = async || -> Vec<i32> {
        let sessions =
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'supersync'";
        sqlx::query_scalar(sessions).fetch_all(&mut session).await.expect("it works")
    };
    process.upload(user, "0").await;
    let before = pids().await;
    assert!(before.len() > 2, "commits, reads, the line: {before:?}");
    let mut n = 0;
    let renewed = async {
        while pids().await.iter().any(|pid| before.contains(pid)) {
            n += 1;
            process.upload(user, &n.to_string()).await;
            process.store.ping().await.expect("it answers");
            process.store.load_account(user).await.expect("it works");
            process.store.try_lead("me", 0, Duration::from_secs(1)).await.expect("it works");
        }
    };
    timeout(PATIENCE, renewed).await.expect("every connection is renewed");
    process.trusts_its_memory(user, n + 1).await;
    process.stop().await;
    database.remove().await;
}
