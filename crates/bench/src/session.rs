//! A server to put load on, with accounts: one that was started for the purpose, or a foreign one.

use std::time::Duration;

use super::connection::Connection;
use super::device::{Device, now_ms};
use super::error::{BenchError, Result};
use super::page::Page;
use super::place::Place;
use super::random::Random;
use super::server::Server;
use super::target::{Account, Target};
use super::usage::Meter;

/// A server with accounts.
#[derive(Debug)]
pub struct Session {
    target: Target,
    accounts: Vec<Account>,
    own: Option<Own>,
    postmaster: Option<u32>,
    /// Mixed into the seeds of devices: the accounts of a foreign server may know what an earlier run wrote.
    salt: u64,
}

#[derive(Debug)]
struct Own {
    place: Place,
    server: Server,
    empty_bytes: u64,
}

impl Session {
    /// Starts a server in a scratch place with so many accounts.
    ///
    /// # Errors
    /// When the database or the server fails.
    pub(super) async fn start(place: Place, accounts: usize, postmaster: Option<u32>) -> Result<Self> {
        let accounts = place.create_accounts(accounts).await?;
        let empty_bytes = place.disk_bytes().await?;
        let server = Server::start(&place).await?;
        let target = server.target().clone();
        Ok(Self { target, accounts, own: Some(Own { place, server, empty_bytes }), postmaster, salt: 0 })
    }

    /// A server that somebody else runs.
    pub(super) fn foreign(target: Target, accounts: Vec<Account>) -> Self {
        Self { target, accounts, own: None, postmaster: None, salt: Random::new(now_ms()).bits() }
    }

    /// Where it listens.
    #[must_use]
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// Its accounts.
    #[must_use]
    pub fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    /// The scratch place; `None` for a foreign server.
    #[must_use]
    pub fn place(&self) -> Option<&Place> {
        self.own.as_ref().map(|own| &own.place)
    }

    /// Measures the server, its database and this process.
    #[must_use]
    pub fn meter(&self) -> Meter {
        Meter { server: self.own.as_ref().map(|own| own.server.pid()), postmaster: self.postmaster }
    }

    /// A connection.
    ///
    /// # Errors
    /// [`BenchError::Io`].
    pub async fn connect(&self) -> Result<Connection> {
        Connection::open(&self.target).await
    }

    /// One device for each account that goes on where the account's log ends. Other devices of the same accounts need
    /// another `seed`.
    ///
    /// # Errors
    /// When a foreign server does not say where the logs end.
    pub async fn devices(&self, seed: u64, payload_bytes: usize) -> Result<Vec<Device>> {
        let mut devices: Vec<Device> = (0..)
            .zip(&self.accounts)
            .map(|(n, account)| {
                let own = seed.wrapping_mul(0x1_0000_0000).wrapping_add(n as u64 + 1);
                Device::new(&self.target, n, account, own ^ self.salt, payload_bytes)
            })
            .collect();
        if self.own.is_none() {
            let mut connection = self.connect().await?;
            let mut request = Vec::new();
            for device in &mut devices {
                request.clear();
                device.write_download(&mut request, Some(1));
                let page = Page::read(connection.send(&request).await?.ok()?)?;
                device.start_at(page.latest_seq);
            }
        }
        Ok(devices)
    }

    /// Ends the server and starts it again on the same data, so that nothing is in its memory.
    ///
    /// # Errors
    /// When it is a foreign one, or does not stop or start. It takes the data along.
    pub async fn restart(mut self) -> Result<(Self, Duration)> {
        let Some(own) = self.own else {
            return Err(BenchError::Options("a foreign server can't be restarted".to_owned()));
        };
        own.server.stop().await?;
        let started = std::time::Instant::now();
        let server = Server::start(&own.place).await?;
        let took = started.elapsed();
        self.target = server.target().clone();
        self.own = Some(Own { server, ..own });
        Ok((self, took))
    }

    /// Ends the server, lets `work` have the data, and starts the server again.
    ///
    /// # Errors
    /// When it is a foreign one, does not stop or start, or the work fails. It takes the data along.
    pub async fn paused<T>(mut self, work: impl AsyncFnOnce(&Place) -> Result<T>) -> Result<(Self, T)> {
        let Some(own) = self.own else {
            return Err(BenchError::Options("a foreign server can't be stopped".to_owned()));
        };
        own.server.stop().await?;
        let done = work(&own.place).await?;
        let server = Server::start(&own.place).await?;
        self.target = server.target().clone();
        self.own = Some(Own { server, ..own });
        Ok((self, done))
    }

    /// Stops the server, measures how much its database has grown, bytes, and removes it. `None`: a foreign server,
    /// which is left as it is.
    ///
    /// # Errors
    /// When the server ends badly or the database fails.
    pub async fn close(self) -> Result<Option<u64>> {
        let Some(Own { place, server, empty_bytes }) = self.own else { return Ok(None) };
        server.stop().await?;
        let grown = place.disk_bytes().await?.saturating_sub(empty_bytes);
        place.remove().await?;
        Ok(Some(grown))
    }
}
