//! A server to put load on, with accounts: one that was started for the purpose, or a foreign one.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::connection::Connection;
use crate::device::{Device, now_ms};
use crate::place::Place;
use crate::usage::Meter;

/// How long a server may take to start and to stop.
const PATIENCE: Duration = Duration::from_mins(1);

/// An account that takes part in the load.
#[derive(Clone)]
pub struct Account {
    /// Its access token.
    pub token: String,
    /// The server's name and port.
    pub host: String,
}

impl Account {
    /// `Host` and `Authorization`, as they are sent.
    pub fn headers(&self) -> Vec<u8> {
        format!("Host: {}\r\nAuthorization: Bearer {}\r\n", self.host, self.token).into_bytes()
    }
}

/// Without the token.
impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an account on {}", self.host)
    }
}

/// A server with accounts.
#[derive(Debug)]
pub struct Session {
    address: SocketAddr,
    accounts: Vec<Account>,
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
        let (address, process) = serve(&place).await?;
        let account = |token| Account { token, host: address.to_string() };
        let accounts = tokens.into_iter().map(account).collect();
        Ok(Self { address, accounts, own: Some((place, process)), postmaster, empty_bytes, salt: 0 })
    }

    /// A server that somebody else runs.
    pub fn foreign(address: SocketAddr, accounts: Vec<Account>) -> Self {
        let salt = now_ms().wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Self { address, accounts, own: None, postmaster: None, empty_bytes: 0, salt }
    }

    /// `http://HOST:PORT`.
    pub fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its accounts.
    pub fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    /// Measures the server, its database and this process.
    pub fn meter(&self) -> Meter {
        Meter { server: self.own.as_ref().and_then(|(_, process)| process.id()), postmaster: self.postmaster }
    }

    /// A connection.
    pub async fn connect(&self) -> Result<Connection> {
        Connection::open(self.address).await
    }

    /// One device for each account, whose cursor is where the account's log ends. Other devices of the same accounts
    /// need another `seed`.
    pub async fn devices(&self, seed: u64, payload_bytes: usize) -> Result<Vec<Device>> {
        let mut devices: Vec<Device> = (0..)
            .zip(&self.accounts)
            .map(|(n, account)| {
                let own = (seed << 32) + n as u64 + 1;
                Device::new(n, account, own ^ self.salt, payload_bytes)
            })
            .collect();
        if self.own.is_none() {
            let mut connection = self.connect().await?;
            for device in &mut devices {
                let mut request = Vec::new();
                device.write_download(&mut request, Some(1));
                let body = connection.send(&request).await?.ok()?;
                let page: serde_json::Value = serde_json::from_slice(body)?;
                device.start = page["latestSeq"].as_i64().context("no latestSeq")?;
                device.cursor = device.start;
            }
        }
        Ok(devices)
    }

    /// Ends the server, lets `work` have the data, and starts the server again, so that nothing is in its memory.
    pub async fn paused(
        mut self,
        devices: &mut [Device],
        work: impl AsyncFnOnce(&Place) -> Result<()>,
    ) -> Result<Self> {
        let (place, process) = self.own.context("a foreign server can't be stopped")?;
        stop(process).await?;
        work(&place).await?;
        let (address, process) = serve(&place).await?;
        for account in &mut self.accounts {
            account.host = address.to_string();
        }
        for device in devices {
            device.move_to(&self.accounts[device.account]);
        }
        Ok(Self { address, own: Some((place, process)), ..self })
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

async fn serve(place: &Place) -> Result<(SocketAddr, Child)> {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr())?;
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
    Ok((address, process))
}

async fn stop(mut process: Child) -> Result<()> {
    // The standard library sends no signal but the deadly one.
    let pid = process.id().context("the server ended")?;
    ensure!(Command::new("kill").args(["-TERM", &pid.to_string()]).status().await?.success(), "kill failed");
    let status = timeout(PATIENCE, process.wait()).await.context("the server does not stop in time")??;
    ensure!(status.success(), "the server ended with {status}");
    Ok(())
}

/// How long something takes.
pub async fn timed<T>(work: impl Future<Output = Result<T>>) -> Result<(T, Duration)> {
    let began = Instant::now();
    let done = work.await?;
    Ok((done, began.elapsed()))
}
