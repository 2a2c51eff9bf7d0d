//! The server under load, as a process of its own: this very program, so that what is measured is what is shipped.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::connection::Connection;
use super::error::{BenchError, Result};
use super::place::Place;
use super::target::Target;

/// How long the server may take to start or to stop.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running server process. Dropping it kills it.
#[derive(Debug)]
pub struct Server {
    target: Target,
    process: Child,
    pid: u32,
}

impl Server {
    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn start(place: &Place) -> Result<Self> {
        let failed = BenchError::io("starting the server");
        let program = std::env::current_exe().map_err(BenchError::io("finding this program"))?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(BenchError::io("finding a free port"))?;
        let address: SocketAddr = listener.local_addr().map_err(BenchError::io("finding a free port"))?;
        drop(listener);
        let target = Target::local(address);
        let mut process = Command::new(program)
            .arg("serve")
            .current_dir(place.directory())
            // The settings of whoever runs the benchmark are none of this server's.
            .env_clear()
            .envs(place.environment())
            .env("HOST", address.ip().to_string())
            .env("PORT", address.port().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let answers = async {
            loop {
                if let Some(status) = process.try_wait().map_err(BenchError::io("starting the server"))? {
                    return Err(BenchError::Answer(format!("the server ended at once: {status}")));
                }
                if let Ok(mut connection) = Connection::open(&target).await {
                    let request = format!("GET /readyz HTTP/1.1\r\nHost: {}\r\n\r\n", target.host);
                    connection.send(request.as_bytes()).await?.ok()?;
                    return Ok(());
                }
                sleep(Duration::from_millis(1)).await;
            }
        };
        let slow = |_| BenchError::Answer(format!("the server does not answer within {PATIENCE:?}"));
        timeout(PATIENCE, answers).await.map_err(slow)??;
        let pid = process.id().ok_or_else(|| BenchError::Answer("the server ended".to_owned()))?;
        Ok(Self { target, process, pid })
    }

    /// Where it listens.
    #[must_use]
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// Its process.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Lets it finish what it is doing and waits for its end.
    ///
    /// # Errors
    /// When it has to be killed, or ends with a failure.
    pub async fn stop(mut self) -> Result<()> {
        // The standard library sends no signal but the deadly one.
        let asked = Command::new("kill").args(["-TERM", &self.pid.to_string()]).status().await;
        if !asked.is_ok_and(|status| status.success()) {
            self.process.kill().await.map_err(BenchError::io("stopping the server"))?;
            return Ok(());
        }
        match timeout(PATIENCE, self.process.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(BenchError::Answer(format!("the server ended with {status}"))),
            Ok(Err(error)) => Err(BenchError::io("stopping the server")(error)),
            Err(_) => Err(BenchError::Answer(format!("the server does not stop within {PATIENCE:?}"))),
        }
    }
}
