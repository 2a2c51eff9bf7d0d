//! The server under load: its database, its accounts, its process.

use std::collections::HashMap;
use std::env::consts::EXE_SUFFIX;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use supersync::accounts::Accounts;
use supersync::clock::Clock;
use supersync::config::Config;
use supersync::mail::Mailer;
use supersync::store::{self, NewUser};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::connection::Connection;
use super::postgres::TestDatabase;
use super::{Result, postgres};

/// How long the server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// An account with a token.
#[derive(Clone, Debug)]
pub struct BenchAccount {
    /// What it signs in with.
    pub token: String,
}

/// An empty database and a data directory.
pub struct Place {
    directory: TempDir,
    postgres: Option<TestDatabase>,
}

impl Place {
    /// On the embedded database.
    pub fn sqlite() -> Result<Self> {
        Ok(Self { directory: tempfile::tempdir()?, postgres: None })
    }

    /// On the PostgreSQL server that the environment names.
    pub async fn postgres() -> Result<Self> {
        Ok(Self { directory: tempfile::tempdir()?, postgres: Some(postgres::TestDatabase::create().await) })
    }

    /// Removes the database. A run that fails leaves one of PostgreSQL behind.
    pub async fn remove(self) {
        if let Some(database) = self.postgres {
            database.remove().await;
        }
    }

    /// The database's name for people.
    pub fn name(&self) -> &'static str {
        if self.postgres.is_some() { "PostgreSQL" } else { "SQLite" }
    }

    /// The server's environment: limits that a load from one address would hit are off, and the quota is out of the
    /// way.
    fn environment(&self) -> HashMap<String, String> {
        let mut variables = vec![
            ("DATA_DIR", self.directory.path().to_string_lossy().into_owned()),
            ("JWT_SECRET", "the secret of a server that lives for a minute".to_owned()),
            ("RATE_LIMITS", "off".to_owned()),
            ("UPLOADS_PER_USER_PER_MINUTE", "0".to_owned()),
            ("SUPERSYNC_DEFAULT_STORAGE_QUOTA_BYTES", (1_u64 << 40).to_string()),
            ("METRICS_ADDR", "off".to_owned()),
            ("LOG_LEVEL", "warn".to_owned()),
        ];
        if let Some(database) = &self.postgres {
            variables.push(("DATABASE_URL", database.url()));
        }
        variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Creates accounts while no server runs: the embedded database lets one process in at a time.
    pub async fn create_accounts(&self, count: usize) -> Result<Vec<BenchAccount>> {
        let config = Config::parse(&self.environment())?;
        let store = store::open(&config.database, config.timeouts.statement).await?;
        let accounts = Accounts::new(Arc::clone(&store), &config, Clock::System, Mailer::unavailable());
        let mut created = Vec::with_capacity(count);
        for n in 0..count {
            let new = NewUser {
                email: format!("bench-{n}@example.org"),
                password_hash: None,
                is_verified: true,
                created_at: Clock::System.now_ms(),
                terms_accepted_at: None,
                storage_quota_bytes: config.limits.default_quota_bytes,
            };
            let id = store.create_user(&new).await?.ok_or("the database is not empty")?;
            let session = accounts.session_for(id).await?;
            created.push(BenchAccount { token: session.token.expose_secret().to_owned() });
        }
        store.close().await;
        Ok(created)
    }
}

/// A running server process.
pub struct BenchServer {
    /// Where it listens.
    pub address: SocketAddr,
    process: Child,
}

impl BenchServer {
    /// Starts it and waits until it answers.
    pub async fn start(place: &Place, program: Option<&Path>) -> Result<Self> {
        let program = program.map_or_else(neighbour, |path| Ok(path.to_owned()))?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut process = Command::new(&program)
            .arg("serve")
            .current_dir(place.directory.path())
            .envs(place.environment())
            .env("HOST", address.ip().to_string())
            .env("PORT", port.to_string())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{} does not start: {error}", program.display()))?;
        let answers = async {
            loop {
                if let Some(status) = process.try_wait()? {
                    return Err(format!("the server ended at once: {status}").into());
                }
                if let Ok(mut connection) = Connection::open(address).await {
                    connection.send(b"GET /health HTTP/1.1\r\nHost: bench\r\n\r\n").await?;
                    return Ok(());
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        let started: Result<()> = timeout(PATIENCE, answers).await.map_err(|_| "the server does not answer")?;
        started?;
        Ok(Self { address, process })
    }

    /// The memory that it holds; `None` where the system does not tell.
    pub fn resident_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()?)).ok()?;
        let kib: u64 =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib * 1024)
    }

    /// Stops it.
    pub async fn stop(mut self) -> Result<()> {
        self.process.kill().await?;
        Ok(())
    }
}

/// The server's program in the same profile's directory.
fn neighbour() -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    let directory = this.parent().and_then(Path::parent).ok_or("this program has no directory")?;
    let program = directory.join(format!("supersync{EXE_SUFFIX}"));
    if program.exists() {
        return Ok(program);
    }
    Err(format!("{} is missing: build it, or name another with --server", program.display()).into())
}
