//! The server as the program runs it, in this process, on a port of its own.

use std::collections::HashMap;
use std::sync::Arc;

use supersync::accounts::Accounts;
use supersync::clock::Clock;
use supersync::config::Config;
use supersync::engine::forecast::Forecast;
use supersync::engine::sealer::{self, Scope, SealReport};
use supersync::engine::sweeper::Sweeper;
use supersync::engine::{Handle, Options};
use supersync::mail::Mailer;
use supersync::protocol::{Seq, UserId};
use supersync::server::{self as app, Parts, Running, Upkeep};
use supersync::store::{
    self, Authentication, Commit, CommitOutcome, LogRange, NewUser, OpenMode, SessionMethod, SnapshotChange, Store,
    SyncState,
};
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use super::account::Account;
use super::database::{Backend, TestDatabase};
use super::op::fresh;

pub(super) const JWT_SECRET: &str = "a secret of the tests, long enough to be one";

/// What a test may change before the server starts.
#[derive(Clone)]
pub struct Setup {
    pub config: Config,
    pub options: Options,
    pub clock: Clock,
}

/// A running server. Its clock stands still until the test moves it.
pub struct Server {
    pub base: String,
    pub clock: Clock,
    pub store: Arc<dyn Store>,
    pub engine: Handle,
    pub accounts: Accounts,
    pub database: TestDatabase,
    setup: Setup,
    http: reqwest::Client,
    /// Stops with this value.
    running: Mutex<Running>,
}

impl Server {
    /// A server on an empty database, as configured when nothing is configured, but without limits per address.
    pub async fn start(backend: Backend) -> Self {
        Self::start_setup(backend, |_| {}).await
    }

    /// The same with changed settings.
    pub async fn start_with(backend: Backend, change: impl FnOnce(&mut Config)) -> Self {
        let database = TestDatabase::create(backend).await;
        // Boxed: what a test awaits would be too large for the stack of some.
        Box::pin(Self::start_on(database, change)).await
    }

    /// The same with changed settings, of the engine too.
    pub async fn start_setup(backend: Backend, change: impl FnOnce(&mut Setup)) -> Self {
        let database = TestDatabase::create(backend).await;
        let config = settings(&database);
        let mut setup = Setup { options: Options::from(&config), config, clock: stopped_clock() };
        change(&mut setup);
        Box::pin(Self::run(database, setup)).await
    }

    /// The same on a database that the test has prepared.
    pub async fn start_on(database: TestDatabase, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = settings(&database);
        change(&mut config);
        let setup = Setup { options: Options::from(&config), config, clock: stopped_clock() };
        Self::run(database, setup).await
    }

    async fn run(database: TestDatabase, setup: Setup) -> Self {
        let Setup { config, options, clock } = setup.clone();
        let store = store::open(&config.database, config.timeouts.statement).await.expect("the store opens");
        let parts = Parts { options, ..Parts::of(&config, clock, Mailer::unavailable()) };
        let server = app::Server::assemble(Arc::new(config), store, parts).await.expect("the server starts");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let running = server.start(listener, Upkeep::ByHand);
        Self {
            base,
            clock: running.clock.clone(),
            store: Arc::clone(&running.store),
            engine: running.engine.clone(),
            accounts: running.accounts.clone(),
            database,
            setup,
            http: http_client(),
            running: Mutex::new(running),
        }
    }

    /// What it was started with.
    pub fn config(&self) -> &Config {
        &self.setup.config
    }

    /// Stops in an orderly way and starts again on the same database.
    pub async fn restart(self) -> Self {
        let (database, setup) = self.stop().await;
        Box::pin(Self::run(database, setup)).await
    }

    /// The same with changed settings.
    pub async fn restart_with(self, change: impl FnOnce(&mut Config)) -> Self {
        let (database, mut setup) = self.stop().await;
        change(&mut setup.config);
        setup.options = Options::from(&setup.config);
        Box::pin(Self::run(database, setup)).await
    }

    /// Tells it to stop; requests that run may finish.
    pub async fn drain(&self) {
        self.running.lock().await.drain();
    }

    /// Stops in an orderly way.
    pub async fn stop(self) -> (TestDatabase, Setup) {
        let mut running = self.running.into_inner();
        running.drain();
        running.ended().await.expect("the server stops without an error");
        running.stop().await;
        (self.database, self.setup)
    }

    /// A new verified account with a token.
    pub async fn account(&self) -> Account {
        let quota = self.setup.config.limits.default_quota_bytes;
        let (id, email, token) = register(&*self.store, &self.accounts, self.clock.now_ms(), quota).await;
        Account { id, email, token, base: self.base.clone(), http: self.http.clone() }
    }

    /// An account from before a restart.
    pub fn known(&self, account: &Account) -> Account {
        Account { base: self.base.clone(), http: self.http.clone(), ..account.clone() }
    }

    /// The account's state row.
    pub async fn state(&self, account: &Account) -> SyncState {
        self.store.load_account(account.id).await.expect("the store works").expect("the account exists").sync
    }

    /// Changes the account's state row behind the server's back.
    pub async fn change_state(&self, account: &Account, change: impl FnOnce(&mut SyncState)) {
        let change = |state: &mut SyncState| {
            change(state);
            SnapshotChange::Keep
        };
        self.change_state_with(account, change).await;
    }

    /// The same, with what becomes of the cached state.
    pub async fn change_state_with(&self, account: &Account, change: impl FnOnce(&mut SyncState) -> SnapshotChange) {
        let mut state = self.state(account).await;
        let expected_revision = state.revision;
        let snapshot = change(&mut state);
        state.revision = expected_revision + 1;
        let commit = Commit {
            user: account.id,
            expected_revision,
            state,
            ops: Vec::new(),
            heads: Vec::new(),
            absent: Vec::new(),
            clear_devices: false,
            devices: Vec::new(),
            archived: Vec::new(),
            snapshot,
            seal: Vec::new(),
            adoption: None,
        };
        let outcomes = self.store.commit([commit].into()).await.expect("the store works");
        assert_eq!(outcomes, [CommitOutcome::Committed]);
        self.engine.forget(account.id);
    }

    /// Deletes the account's operations up to `seq`, as an older server may have done without a full state.
    pub async fn prune(&self, account: &Account, seq: Seq) {
        self.store.delete_ops(account.id, 0, seq, 1_000).await.expect("the store works");
        self.change_state(account, |state| state.pruned_seq = seq).await;
    }

    /// The sequence numbers of the account's data set.
    pub async fn stored_seqs(&self, account: &Account) -> Vec<Seq> {
        let pruned = self.state(account).await.pruned_seq;
        self.rows_after(account, pruned).await
    }

    /// The sequence numbers of all rows of the account's log, archived ones included.
    pub async fn rows(&self, account: &Account) -> Vec<Seq> {
        self.rows_after(account, 0).await
    }

    async fn rows_after(&self, account: &Account, after: Seq) -> Vec<Seq> {
        let range = LogRange {
            user: account.id,
            after,
            up_to: Seq::MAX,
            exclude_client: None,
            limit: 10_000,
            max_bytes: 1 << 30,
        };
        let page = self.store.read_log(range).await.expect("the store works");
        page.ops.iter().map(|op| op.server_seq).collect()
    }

    /// Packs every operation of every account that may be packed, however young.
    pub async fn seal(&self) -> SealReport {
        self.seal_in(None).await
    }

    /// The same for one account.
    pub async fn seal_account(&self, account: &Account) -> SealReport {
        self.seal_in(Some(account.id)).await
    }

    async fn seal_in(&self, only: Option<UserId>) -> SealReport {
        let scope = Scope { before_ms: i64::MAX, only, min_run: 1, max_ops: u64::MAX, concurrency: 2 };
        let report = sealer::seal(&self.store, &self.engine, scope).await.expect("the accounts can be listed");
        assert_eq!(report.accounts_failed, 0, "{report:?}");
        report
    }

    fn sweeper(&self) -> Sweeper {
        let retention = self.setup.config.retention;
        let owner = "test".to_owned();
        Sweeper::new(Arc::clone(&self.store), self.engine.clone(), self.clock.clone(), retention, owner)
    }

    /// What a run of the housekeeping would do.
    pub async fn forecast(&self) -> Forecast {
        self.sweeper().forecast().await.expect("the store works")
    }

    /// One run of the housekeeping.
    pub async fn sweep(&self) {
        let report = self.sweeper().sweep().await.expect("the sweep runs");
        assert!(report.led && report.accounts_failed == 0 && report.steps_failed == 0, "{report:?}");
    }

    /// Acts on what was done to accounts elsewhere, as happens twice a second by itself. Returns how many events there
    /// were.
    pub async fn follow(&self) -> usize {
        let mut running = self.running.lock().await;
        running.follower.as_mut().expect("no other follows").poll().await.expect("events can be read")
    }

    /// The accounts of another process on the same database, as the command line has them.
    pub async fn beside(&self) -> Accounts {
        let config = &self.setup.config;
        let store = store::open_with(OpenMode::Shared, &config.database, config.timeouts.statement)
            .await
            .expect("the store opens");
        Accounts::new(store, config, self.clock.clone(), Mailer::unavailable())
    }

    /// A further session of the account, as the command line opens one.
    pub async fn signed_in_again(&self, account: &Account) -> Account {
        Account { token: token_of(&self.accounts, account.id).await, ..account.clone() }
    }

    /// From now on the account's owner has just given the password in each of its sessions.
    pub async fn prove(&self, account: &Account) {
        let now_ms = self.clock.now_ms();
        let now = Authentication { at_ms: now_ms, how: SessionMethod::Password, user_verified: false };
        for session in self.store.sessions(account.id, now_ms).await.expect("the store works") {
            let noted = self.store.authenticate_session(account.id, session.id, &now).await.expect("the store works");
            assert!(noted, "the session is there");
        }
    }

    /// Makes every token of the account void, as the account's owner can.
    pub async fn revoke(&self, account: &Account) {
        self.accounts.revoke(account.id).await.expect("the account exists");
        self.engine.notifier().close_user(account.id, 4003, "Token revoked");
    }
}

/// A new verified account without a password: its number, address and token.
pub async fn register(store: &dyn Store, accounts: &Accounts, now_ms: i64, quota: i64) -> (UserId, String, String) {
    let email = format!("user-{}@example.org", fresh());
    let new = NewUser {
        email: email.clone(),
        password_hash: None,
        is_verified: true,
        created_at: now_ms,
        terms_accepted_at: None,
        storage_quota_bytes: quota,
    };
    let id = store.create_user(&new).await.expect("the store works").expect("a new address");
    let token = token_of(accounts, id).await;
    (id, email, token)
}

async fn token_of(accounts: &Accounts, user: UserId) -> String {
    use secrecy::ExposeSecret as _;
    let session = accounts.session_for(user).await.expect("a session");
    session.token.expose_secret().to_owned()
}

fn stopped_clock() -> Clock {
    Clock::manual(Clock::System.now_ms())
}

/// The settings of tests, on this database.
pub fn settings(database: &TestDatabase) -> Config {
    let variables = [
        ("DATA_DIR", database.data_dir().to_string_lossy().into_owned()),
        ("JWT_SECRET", JWT_SECRET.to_owned()),
        ("RATE_LIMITS", "off".to_owned()),
    ];
    let variables: HashMap<String, String> =
        variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let mut config = Config::parse(&variables).expect("the settings are right");
    config.database = database.settings();
    config
}

/// An HTTP client for plain connections to this machine.
pub fn http_client() -> reqwest::Client {
    // The client wants a TLS provider even where it speaks none.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().expect("a client")
}
