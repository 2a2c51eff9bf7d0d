//! The program itself, started as an operator starts it, to be killed as an operator would rather not.

use std::hash::{BuildHasher as _, RandomState};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use supersync::config::Database;
use supersync_client::{Client, Ladder};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::database::TestDatabase;
use super::server::JWT_SECRET;

/// Longest wait for what must happen. Never waited out when all is well.
pub const LONG_PATIENCE: Duration = Duration::from_mins(1);

/// The program under test: what was built with the tests, or what `SUPERSYNC_TEST_PROGRAM` names.
fn program() -> PathBuf {
    std::env::var_os("SUPERSYNC_TEST_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_supersync").into()).into()
}

/// The program under test, in a process of its own.
pub struct Program {
    child: Child,
    pub base: String,
    /// `host:port` of the metrics.
    pub metrics: Option<String>,
}

impl Program {
    /// Starts on this database and waits until it serves.
    pub async fn start(database: &TestDatabase) -> Self {
        Self::start_with(database, None, &[]).await
    }

    /// The same with metrics and further settings.
    pub async fn start_watched(database: &TestDatabase, settings: &[(&str, &str)]) -> Self {
        Self::start_with(database, Some(format!("127.0.0.1:{}", free_port())), settings).await
    }

    /// In test mode, with metrics, on this port.
    pub async fn start_again(database: &TestDatabase, port: u16, settings: &[(&str, &str)]) -> Self {
        Self::start_on(database, port, Some(format!("127.0.0.1:{}", free_port())), settings).await
    }

    /// As in production, at least as far as test mode goes, on this port.
    pub async fn start_at(database: &TestDatabase, port: u16, settings: &[(&str, &str)]) -> Self {
        let settings = [settings, &[("TEST_MODE", "false"), ("TEST_MODE_CONFIRM", "")]].concat();
        Self::start_on(database, port, Some(format!("127.0.0.1:{}", free_port())), &settings).await
    }

    /// With production's limits and these settings, under limits of the operating system (arguments of `prlimit`).
    pub async fn start_limited(database: &TestDatabase, limits: &[&str], settings: &[(&str, &str)]) -> Self {
        let production = [
            ("TEST_MODE", "false"),
            ("TEST_MODE_CONFIRM", ""),
            ("RATE_LIMITS", "on"),
            ("UPLOADS_PER_USER_PER_MINUTE", "100"),
        ];
        let mut command = Command::new("prlimit");
        command.args(limits).arg("--").arg(program());
        let (port, metrics) = (free_port(), format!("127.0.0.1:{}", free_port()));
        let settings = [&production, settings].concat();
        Self::start_by(Self::configure(command, database), port, Some(metrics), &settings).await
    }

    async fn start_with(database: &TestDatabase, metrics: Option<String>, settings: &[(&str, &str)]) -> Self {
        Self::start_on(database, free_port(), metrics, settings).await
    }

    /// With metrics, further settings, and no more than so many files and sockets that it may have open.
    pub async fn start_with_files(database: &TestDatabase, files: usize, settings: &[(&str, &str)]) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n \"$1\" && exec \"$0\""]).arg(program()).arg(files.to_string());
        let (port, metrics) = (free_port(), format!("127.0.0.1:{}", free_port()));
        Self::start_by(Self::configure(command, database), port, Some(metrics), settings).await
    }

    async fn start_on(database: &TestDatabase, port: u16, metrics: Option<String>, settings: &[(&str, &str)]) -> Self {
        Self::start_by(Self::command(database), port, metrics, settings).await
    }

    async fn start_by(mut command: Command, port: u16, metrics: Option<String>, settings: &[(&str, &str)]) -> Self {
        let base = format!("http://127.0.0.1:{port}");
        command
            .env("HOST", "127.0.0.1")
            .env("PORT", port.to_string())
            .env("PUBLIC_URL", &base)
            .env("METRICS_ADDR", metrics.as_deref().unwrap_or("off"))
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true);
        let mut child = command.spawn().expect("the program starts");
        let stdout = child.stdout.take().expect("its output is captured");
        let mut lines = BufReader::new(stdout).lines();
        let ready = async {
            while let Some(line) = lines.next_line().await.expect("its output is text") {
                if line.contains("is ready") {
                    return true;
                }
            }
            false
        };
        assert!(timeout(LONG_PATIENCE, ready).await.expect("the program is ready in time"), "the program ended");
        // Whatever it still prints must not block it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { child, base, metrics }
    }

    /// Runs a command on this database to its end.
    pub async fn run(database: &TestDatabase, arguments: &[&str]) -> Output {
        let mut command = Self::command(database);
        command.args(arguments).stdin(Stdio::null()).output().await.expect("the program runs")
    }

    /// The same with further settings.
    pub async fn run_with(database: &TestDatabase, settings: &[(&str, &str)], arguments: &[&str]) -> Output {
        let mut command = Self::command(database);
        command.envs(settings.iter().copied());
        command.args(arguments).stdin(Stdio::null()).output().await.expect("the program runs")
    }

    /// Runs a command until this has happened, and then kills it. Says whether it had not ended before.
    pub async fn run_until(database: &TestDatabase, arguments: &[&str], happened: impl Future<Output = ()>) -> bool {
        let mut command = Self::command(database);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().expect("the program starts");
        timeout(LONG_PATIENCE, happened).await.expect("it happens in time");
        let was_running = child.try_wait().expect("it is a child").is_none();
        child.kill().await.expect("it can be killed");
        was_running
    }

    fn command(database: &TestDatabase) -> Command {
        Self::configure(Command::new(program()), database)
    }

    fn configure(mut command: Command, database: &TestDatabase) -> Command {
        command
            .env_clear()
            .current_dir(database.data_dir())
            .env("DATA_DIR", database.data_dir())
            .env("JWT_SECRET", JWT_SECRET)
            .env("METRICS_ADDR", "off")
            .env("LOG_LEVEL", "error")
            .env("RATE_LIMITS", "off")
            .env("UPLOADS_PER_USER_PER_MINUTE", "0")
            .env("TEST_MODE", "true")
            .env("TEST_MODE_CONFIRM", "yes-i-understand-the-risks");
        if let Database::Postgres { url, .. } = database.settings() {
            use secrecy::ExposeSecret as _;
            command.env("DATABASE_URL", url.expose_secret());
        }
        command
    }

    /// The number of the process.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("the program is still running")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        send_signal(self.pid(), signal);
    }

    /// The sum of a metric's series.
    pub async fn metric(&self, name: &str) -> f64 {
        let url = format!("http://{}/metrics", self.metrics.as_deref().expect("metrics are on"));
        let text = super::server::http_client().get(url).send().await.expect("metrics").text().await.expect("whole");
        let of_name =
            |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{'));
        let value = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
        text.lines().filter(of_name).map(|line| value(line).expect("a number")).sum()
    }

    /// Waits until a metric has this value.
    pub async fn metric_becomes(&self, name: &str, wanted: f64) {
        let becomes = async {
            while (self.metric(name).await - wanted).abs() > f64::EPSILON {
                // To make the page of metrics takes the server some time.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LONG_PATIENCE, becomes).await.unwrap_or_else(|_| panic!("{name} never was {wanted}"));
    }

    /// Waits until it trusts its memory, and knows so many others.
    pub async fn settles(&self, others: f64) {
        self.metric_becomes("supersync_peers", others).await;
        self.metric_becomes("supersync_memory_trusted", 1.0).await;
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it is a child").is_some()
    }

    /// SIGKILL: no handler runs, nothing is flushed.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("the program was still running");
    }

    /// SIGTERM: it stops in an orderly way, and says whether it could.
    pub async fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        timeout(LONG_PATIENCE, self.child.wait()).await.expect("it stops in time").expect("it can be waited for")
    }

    pub fn client(&self) -> Client {
        Client::new(&self.base, &ladder()).expect("an address")
    }
}

/// Sends a process a signal.
pub fn send_signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a process");
    rustix::process::kill_process(pid, signal).expect("it runs");
}

/// Waits long enough for a busy machine.
pub fn ladder() -> Ladder {
    Ladder { request: LONG_PATIENCE, sync_wait: LONG_PATIENCE, ..Ladder::default() }
}

/// A port on which nobody listens. Not one of those that the system gives to connections: such a one may be taken again
/// before it is used.
pub fn free_port() -> u16 {
    let random = || RandomState::new().hash_one(());
    let ports = std::iter::repeat_with(|| u16::try_from(10_000 + random() % 20_000).expect("below 30,000"));
    ports.take(1000).find(|port| TcpListener::bind(("0.0.0.0", *port)).is_ok()).expect("a free port")
}
