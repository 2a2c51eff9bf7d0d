//! Signing in while a crowd does so: every part of the network has its turn, and an owner is let in.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use futures_util::future::{join, join_all};
use secrecy::SecretString;
use supersync::accounts::{AccountError, Accounts, Address, HashError, HashParams, Passwords, Session, SessionOrigin};
use supersync::clock::Clock;
use supersync::config::Config;
use supersync::mail::Mailer;
use supersync::store::{self, SessionMethod};

use crate::harness::{Backend, TestDatabase};

on_both_databases! {
    a_crowd_of_networks_does_not_keep_an_owner_out,
    a_network_that_asks_for_much_leaves_others_their_turn,
}

/// Computed at once; seventeen times as many have a place then.
const AT_ONCE: usize = 1;
/// Of a crowd of 200 at least so many are refused. A place that is free again may go to one that comes late.
const MOST_REFUSED: usize = 150;

struct World {
    accounts: Accounts,
    _database: TestDatabase,
}

impl World {
    async fn on(backend: Backend) -> Self {
        let database = TestDatabase::create(backend).await;
        let variables = [
            ("DATA_DIR", database.data_dir().to_string_lossy().into_owned()),
            ("JWT_SECRET", "a secret of at least 32 characters".to_owned()),
        ];
        let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let mut config = Config::parse(&variables).expect("valid");
        config.database = database.settings();
        let store = store::open(&config.database, config.timeouts.statement).await.expect("the store opens");
        let passwords = Passwords::new(HashParams { memory_kib: 1024, passes: 1 }, AT_ONCE);
        let mailer = Mailer::unavailable();
        let accounts = Accounts::with_passwords(Arc::clone(&store), &config, Clock::System, mailer, passwords);
        let owner = Address::parse(OWNER).expect("an address");
        accounts.create_verified(&owner, &password()).await.expect("the account is new");
        Self { accounts, _database: database }
    }

    async fn login(&self, email: &str, from: IpAddr) -> Result<Session, AccountError> {
        let origin = SessionOrigin { method: SessionMethod::Password, user_agent: None, address: Some(from) };
        let address = Address::parse(email).expect("an address");
        self.accounts.login(&address, &password(), &origin).await
    }

    /// Everybody of the crowd asks before `then` does; how many were refused as the server was busy, and what came of it.
    async fn crowded<T>(&self, crowd: impl Iterator<Item = IpAddr>, then: impl Future<Output = T>) -> (usize, T) {
        let crowd = join_all(crowd.map(|from| self.login("nobody@example.org", from)));
        let (crowd, outcome) = join(crowd, then).await;
        (crowd.iter().filter(|outcome| is_busy(outcome.as_ref().err())).count(), outcome)
    }
}

const OWNER: &str = "owner@example.org";

fn password() -> SecretString {
    "a password of the owner".to_owned().into()
}

fn is_busy(error: Option<&AccountError>) -> bool {
    matches!(error, Some(AccountError::Hash(HashError::Busy)))
}

/// An address in a network of its own.
fn elsewhere(n: usize) -> IpAddr {
    let [.., high, low] = n.to_be_bytes();
    Ipv4Addr::new(10, high, low, 1).into()
}

async fn a_crowd_of_networks_does_not_keep_an_owner_out(on: Backend) {
    let world = World::on(on).await;
    let home = IpAddr::from([192, 0, 2, 7]);
    world.login(OWNER, home).await.expect("nobody else asks");
    let crowd = || (0..200).map(elsewhere);
    let next_door = IpAddr::from([192, 0, 2, 8]);
    let (busy, owner) = world.crowded(crowd(), world.login(OWNER, next_door)).await;
    owner.expect("somebody with a session has signed in from there");
    assert!(busy >= MOST_REFUSED, "{busy}");
    let (_, stranger) = world.crowded(crowd(), world.login(OWNER, IpAddr::from([198, 51, 100, 7]))).await;
    assert!(is_busy(stranger.err().as_ref()), "a right password does not help somebody from elsewhere");
    let (_, unknown) = world.crowded(crowd(), world.login("nobody@example.org", home)).await;
    assert!(is_busy(unknown.err().as_ref()), "nor the owner's network somebody else");
    world.login(OWNER, elsewhere(0)).await.expect("the crowd is gone");
}

async fn a_network_that_asks_for_much_leaves_others_their_turn(on: Backend) {
    let world = World::on(on).await;
    for crowd in ["198.51.100", "2001:db8:1:2::"] {
        let crowd = (1..=200).map(|n| {
            let text = if crowd.contains(':') { format!("{crowd}{n:x}") } else { format!("{crowd}.{n}") };
            text.parse().expect("an address")
        });
        let (busy, stranger) = world.crowded(crowd, world.login(OWNER, IpAddr::from([192, 0, 2, 7]))).await;
        stranger.expect("its network has asked for nothing yet");
        assert!(busy >= MOST_REFUSED, "{busy}");
    }
}
