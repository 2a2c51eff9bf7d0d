//! A server to put load on, with accounts: one that was started for the purpose, or a foreign one.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use supersync_client::raw::Encoding;
use supersync_client::{Client, Ladder};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::connection::Connection;
use crate::device::{Device, now_ms};
use crate::place::Place;
use crate::usage::Meter;

/// How long a server may take to start and to stop.
const PATIENCE: Duration = Duration::from_mins(1);

/// A server with accounts.
pub struct Session {
    address: SocketAddr,
    /// The server's name and port, as requests say it.
    host: String,
    pub tokens: Vec<String>,
    /// The server's data and process; `None` for a foreign one.
    own: Option<(Place, Child)>,
    postmaster: Option<u32>,
    empty_bytes: u64,
    /// Mixed into the seeds of devices: the accounts of a foreign server may know what an earlier run wrote.
    salt: u64,
}

impl Session {
    /// Starts a server in a scratch place with so many accounts.
    pub async fn start(place: Place, accounts: usize, postmaster: Option<u32>) -> Result<Self> {
        let tokens = place.create_accounts(accounts).await?;
        let empty_bytes = place.disk_bytes().await?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr())?;
        let process = serve(&place, address).await?;
        let own = Some((place, process));
        Ok(Self { address, host: address.to_string(), tokens, own, postmaster, empty_bytes, salt: 0 })
    }

    /// A server that somebody else runs.
    pub fn foreign(address: SocketAddr, host: String, tokens: Vec<String>) -> Self {
        let salt = now_ms().wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Self { address, host, tokens, own: None, postmaster: None, empty_bytes: 0, salt }
    }

    /// The reference client without an account; its large bodies are not compressed.
    pub fn client(&self) -> Result<Client> {
        let client = Client::new(&format!("http://{}", self.address), &Ladder::default())?;
        Ok(client.with_encoding(Encoding::Plain))
    }

    /// Measures the server, its database and this process.
    pub fn meter(&self) -> Meter {
        Meter { server: self.own.as_ref().and_then(|(_, process)| process.id()), postmaster: self.postmaster }
    }

    pub async fn connect(&self) -> Result<Connection> {
        Connection::open(self.address).await
    }

    /// One device for each account, whose cursor is where the account's log ends. Other devices of the same accounts
    /// need another `seed`.
    pub async fn devices(&self, seed: u64, payload_bytes: usize) -> Result<Vec<Device>> {
        let device = |(n, token): (usize, &String)| {
            let headers = format!("Host: {}\r\nAuthorization: Bearer {token}\r\n", self.host);
            Device::new(n, headers.into_bytes(), ((seed << 32) + n as u64 + 1) ^ self.salt, payload_bytes)
        };
        let mut devices: Vec<Device> = self.tokens.iter().enumerate().map(device).collect();
        if self.own.is_none() {
            let client = self.client()?;
            for device in &mut devices {
                let client = client.with_token(&self.tokens[device.account])?;
                device.start = client.download(0, None, 1).await?.latest_seq;
                device.cursor = device.start;
            }
        }
        Ok(devices)
    }

    /// Ends the server, lets `work` have the data, and starts the server again, so that nothing is in its memory.
    pub async fn paused(self, work: impl AsyncFnOnce(&Place) -> Result<()>) -> Result<Self> {
        let (place, process) = self.own.context("a foreign server can't be stopped")?;
        stop(process).await?;
        work(&place).await?;
        let process = serve(&place, self.address).await?;
        Ok(Self { own: Some((place, process)), ..self })
    }

    /// Stops the server and gives its data.
    pub async fn into_place(self) -> Result<Place> {
        let (place, process) = self.own.context("a foreign server has no scratch database")?;
        stop(process).await?;
        Ok(place)
    }

    /// Stops the server, measures how much its database has grown, bytes, and removes it. `None`: a foreign server,
    /// which is left as it is.
    pub async fn close(self) -> Result<Option<u64>> {
        if self.own.is_none() {
            return Ok(None);
        }
        let empty_bytes = self.empty_bytes;
        let place = self.into_place().await?;
        let grown = place.disk_bytes().await?.saturating_sub(empty_bytes);
        place.remove().await?;
        Ok(Some(grown))
    }
}

async fn serve(place: &Place, address: SocketAddr) -> Result<Child> {
    let mut command = place.command(&["serve"]);
    command.env("HOST", address.ip().to_string()).env("PORT", address.port().to_string()).stdout(Stdio::null());
    let mut process = command.spawn().context("starting the server")?;
    let answers = async {
        loop {
            if let Some(status) = process.try_wait()? {
                bail!("the server ended at once: {status}");
            }
            if let Ok(mut connection) = Connection::open(address).await {
                let ready = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\n\r\n");
                connection.send(ready.as_bytes()).await?.ok()?;
                return Ok(());
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, answers).await.context("the server does not answer in time")??;
    Ok(process)
}

async fn stop(mut process: Child) -> Result<()> {
    // The standard library sends no signal but the deadly one.
    let pid = process.id().context("the server ended")?;
    ensure!(Command::new("kill").args(["-TERM", &pid.to_string()]).status().await?.success(), "kill failed");
    let status = timeout(PATIENCE, process.wait()).await.context("the server does not stop in time")??;
    ensure!(status.success(), "the server ended with {status}");
    Ok(())
}

pub async fn timed<T>(work: impl Future<Output = Result<T>>) -> Result<(T, Duration)> {
    let began = Instant::now();
    let done = work.await?;
    Ok((done, began.elapsed()))
}
