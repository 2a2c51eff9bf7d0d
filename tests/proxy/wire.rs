//! A network of the tests' own between the server and PostgreSQL: a TCP proxy that goes silent as a cut cable does, without
//! a word to either side.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use url::Url;

use crate::harness::free_port;

/// What becomes of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// They work.
    Up,
    /// New ones are accepted, and nothing passes.
    Silent,
    /// There are none.
    Down,
}

/// A proxy, until it is dropped.
pub struct Wire {
    pub port: u16,
    network: watch::Sender<Network>,
    /// Connections made before the newest cut are silent for ever.
    cuts: watch::Sender<usize>,
    made: Arc<AtomicUsize>,
    _running: JoinSet<()>,
}

impl Wire {
    /// To `host:port`.
    pub fn to(upstream: String, network: Network) -> Self {
        let port = free_port();
        let (network, cuts) = (watch::Sender::new(network), watch::Sender::new(0));
        let made = Arc::new(AtomicUsize::new(0));
        let mut running = JoinSet::new();
        running.spawn(run(port, upstream, network.clone(), cuts.clone(), Arc::clone(&made)));
        Self { port, network, cuts, made, _running: running }
    }

    /// To the server of this address.
    pub fn before(url: &str, network: Network) -> Self {
        let url = Url::parse(url).expect("a URL");
        Self::to(format!("{}:{}", url.host_str().expect("a host"), url.port().unwrap_or(5432)), network)
    }

    /// The same address by way of this.
    pub fn through(&self, url: &str) -> String {
        let mut url = Url::parse(url).expect("a URL");
        url.set_host(Some("127.0.0.1")).expect("a host");
        url.set_port(Some(self.port)).expect("a port");
        url.into()
    }

    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }

    /// From now on nothing passes on the connections that there are; new ones work.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// How many connections have been made.
    pub fn made(&self) -> usize {
        self.made.load(Ordering::SeqCst)
    }
}

async fn run(
    port: u16,
    upstream: String,
    network: watch::Sender<Network>,
    cuts: watch::Sender<usize>,
    made: Arc<AtomicUsize>,
) {
    let mut connections = JoinSet::new();
    let mut watched = network.subscribe();
    loop {
        watched.wait_for(|network| *network != Network::Down).await.expect("the test runs");
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free");
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (client, _) = accepted.expect("a connection");
                    made.fetch_add(1, Ordering::SeqCst);
                    connections.spawn(carry(client, upstream.clone(), network.subscribe(), cuts.subscribe()));
                }
                _ = watched.wait_for(|network| *network == Network::Down) => break,
            }
        }
        connections.abort_all();
    }
}

async fn carry(
    client: TcpStream,
    upstream: String,
    mut network: watch::Receiver<Network>,
    mut cuts: watch::Receiver<usize>,
) {
    let born = *cuts.borrow_and_update();
    let silent = async {
        tokio::select! {
            _ = network.wait_for(|network| *network == Network::Silent) => {}
            _ = cuts.wait_for(|cuts| *cuts > born) => {}
        }
    };
    let passing = async {
        let server = TcpStream::connect(upstream).await?;
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
            (client.into_split(), server.into_split());
        // Whichever side ends, ends both.
        let ended = tokio::select! {
            biased;
            () = silent => {
                // Both stay open; what is sent is lost.
                std::future::pending::<()>().await;
                Ok(())
            }
            ended = pass(&mut from_client, &mut to_server) => ended,
            ended = pass(&mut from_server, &mut to_client) => ended,
        };
        ended
    };
    // What ends is seen by both sides.
    let _: std::io::Result<()> = passing.await;
}

async fn pass(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..length]).await?;
    }
}
