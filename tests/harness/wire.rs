//! A TCP connection between a server and its database that fails as networks do: it goes silent, refuses, or breaks in
//! the middle of a commit.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use supersync::config::Database;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use super::database::TestDatabase;
use super::program::free_port;

/// How the wire is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It carries.
    Open,
    /// Connections stay, and new ones come about, but nothing moves: as when packets are dropped.
    Silent,
    /// Connections are reset, and new ones refused.
    Closed,
}

/// Where the connection of a commit is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Before the database has received it.
    Before,
    /// When the database has received it, and works on it.
    Within,
    /// When the database has answered.
    After,
}

/// A wire to a PostgreSQL server, until it is dropped.
pub struct Wire {
    pub port: u16,
    url: String,
    shared: Arc<Shared>,
    _accepting: AbortOnDropHandle<()>,
}

struct Shared {
    /// `host:port`.
    upstream: String,
    mode: watch::Sender<Mode>,
    /// Where the next commit is cut.
    cut: Mutex<Option<Cut>>,
    /// Of the connections that there are, silent for ever.
    losses: watch::Sender<()>,
    /// Of the connections that there are, after new ones are refused.
    resets: watch::Sender<()>,
    made: AtomicUsize,
}

impl Wire {
    /// To the server of this address.
    pub async fn to(url: &str, mode: Mode) -> Self {
        let server = Url::parse(url).expect("an address");
        let shared = Arc::new(Shared {
            upstream: format!("{}:{}", server.host_str().expect("a host"), server.port().unwrap_or(5432)),
            mode: watch::Sender::new(mode),
            cut: Mutex::new(None),
            losses: watch::Sender::new(()),
            resets: watch::Sender::new(()),
            made: AtomicUsize::new(0),
        });
        let port = free_port();
        let listener = if mode == Mode::Closed { None } else { Some(listen(port).await) };
        let accepting = tokio::spawn(accept(listener, port, Arc::clone(&shared)));
        Self { port, url: url.to_owned(), shared, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// To a test's database.
    pub async fn to_database(database: &TestDatabase) -> Self {
        use secrecy::ExposeSecret as _;
        let Database::Postgres { url, .. } = database.settings() else { panic!("there is a wire to PostgreSQL only") };
        Self::to(url.expose_secret(), Mode::Open).await
    }

    /// The address of a database, by way of this wire.
    pub fn through(&self, url: &str) -> String {
        let mut url = Url::parse(url).expect("an address");
        url.set_host(Some("127.0.0.1")).expect("a host");
        url.set_port(Some(self.port)).expect("a port");
        url.into()
    }

    /// The server's address, by way of this wire.
    pub fn url(&self) -> String {
        self.through(&self.url)
    }

    /// Changes the mode.
    pub fn set(&self, mode: Mode) {
        self.shared.mode.send_replace(mode);
    }

    /// Silences all existing connections for good; neither side is notified. New connections work.
    pub fn lose_connections(&self) {
        self.shared.losses.send_replace(());
    }

    /// The next commit's connection is reset there.
    pub fn cut_next(&self, cut: Cut) {
        *self.shared.cut() = Some(cut);
    }

    /// Whether that is still to come.
    pub fn is_cut_pending(&self) -> bool {
        self.shared.cut().is_some()
    }

    /// The number of connections so far.
    pub fn made(&self) -> usize {
        self.shared.made.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn cut(&self) -> std::sync::MutexGuard<'_, Option<Cut>> {
        self.cut.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn listen(port: u16) -> TcpListener {
    loop {
        // The port of the listener before may be in use for a moment.
        match TcpListener::bind(("127.0.0.1", port)).await {
            Ok(listener) => return listener,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn accept(mut listener: Option<TcpListener>, port: u16, shared: Arc<Shared>) {
    let mut mode = shared.mode.subscribe();
    // Until the wire is dropped, and this with it.
    while mode.wait_for(|mode| *mode != Mode::Closed).await.is_ok() {
        let open = if let Some(open) = listener.take() { open } else { listen(port).await };
        loop {
            tokio::select! {
                accepted = open.accept() => {
                    let Ok((client, _)) = accepted else { continue };
                    shared.made.fetch_add(1, Ordering::SeqCst);
                    let (losses, resets) = (shared.losses.subscribe(), shared.resets.subscribe());
                    tokio::spawn(carry(client, Arc::clone(&shared), losses, resets));
                }
                _ = mode.wait_for(|mode| *mode == Mode::Closed) => break,
            }
        }
        drop(open);
        shared.resets.send_replace(());
    }
}

fn reset(stream: &TcpStream) {
    // It may have gone by itself.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Both directions of a connection, until one end closes it.
async fn carry(
    mut client: TcpStream,
    shared: Arc<Shared>,
    mut losses: watch::Receiver<()>,
    mut resets: watch::Receiver<()>,
) {
    let mut mode = shared.mode.subscribe();
    let Ok(mut server) = TcpStream::connect(&*shared.upstream).await else { return reset(&client) };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut asked, mut answered) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut commits = false;
    loop {
        if mode.wait_for(|mode| *mode != Mode::Silent).await.is_err() {
            return;
        }
        tokio::select! {
            biased;
            // Both ends stay open.
            _ = losses.changed() => return std::future::pending().await,
            _ = resets.changed() => return reset(&client),
            _ = mode.changed() => {}
            read = client.read(&mut asked) => {
                let Ok(bytes @ 1..) = read else { return };
                let asked = &asked[..bytes];
                if mode.wait_for(|mode| *mode != Mode::Silent).await.is_err() {
                    return;
                }
                if [&losses, &resets].iter().any(|end| end.has_changed().unwrap_or(true)) {
                    continue;
                }
                // The statement is prepared once on each connection, and then bound.
                commits |= asked.windows(22).any(|text| text == b"INSERT INTO operations");
                let cut = if commits && asked[0] == b'B' { shared.cut().take() } else { None };
                if cut == Some(Cut::Before) {
                    return reset(&client);
                }
                if server.write_all(asked).await.is_err() {
                    return;
                }
                if let Some(cut) = cut {
                    reset(&client);
                    let client = (cut == Cut::After).then_some(client);
                    // It must not see the end before it has done what it was asked.
                    while matches!(server.read(&mut answered).await, Ok(bytes) if !is_ready(&answered[..bytes])) {}
                    return drop(client);
                }
            }
            read = server.read(&mut answered) => {
                let Ok(bytes @ 1..) = read else { return };
                if mode.wait_for(|mode| *mode != Mode::Silent).await.is_err() {
                    return;
                }
                if [&losses, &resets].iter().any(|end| end.has_changed().unwrap_or(true)) {
                    continue;
                }
                if client.write_all(&answered[..bytes]).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Whether the server is ready for the next statement, or gone.
fn is_ready(answer: &[u8]) -> bool {
    answer.is_empty() || matches!(answer.last_chunk(), Some([b'Z', 0, 0, 0, 5, _]))
}
