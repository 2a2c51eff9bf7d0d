//! `supersync top`: what a running server does, live in the terminal.
//!
//! Asks the metrics listener for `/top.json`, which holds everything, again and again. Needs nothing else: no database, no
//! settings, no token; who may reach that listener may see this. A server that does not answer is asked again until it does.

mod draw;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use clap::Args;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::{DefaultTerminal, Terminal};
use reqwest::Url;
use tokio::sync::mpsc;

use crate::telemetry::metrics::TOP_PATH;
use crate::telemetry::recent::HotAccount;
use crate::telemetry::view::View;
use draw::{Screen, draw};

/// How long a key is waited for before the next look is drawn.
const KEY_PATIENCE: Duration = Duration::from_millis(100);
/// Longer than that the server does not look; rates and latencies are then of the last part of the interval.
const MAX_LOOK: Duration = Duration::from_secs(10);
/// How long an answer may take beyond the time that the server looks.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The size of a frame that is printed.
const PRINTED: (u16, u16) = (130, 52);

/// By what the busiest accounts are ordered.
const ORDERS: [&str; 3] = ["requests", "operations", "bytes"];

fn sort(accounts: &mut [HotAccount], order: usize) {
    accounts
        .sort_by_key(|hot| (Reverse(([hot.requests, hot.operations, hot.bytes][order], hot.requests)), hot.account));
}

/// Watch a running server: rates, latencies, the busiest accounts, the slowest requests.
///
/// Asks the server's metrics listener (`METRICS_ADDR`). Keys: q quits, p pauses, s orders the accounts by requests, operations
/// or bytes. Accounts appear as numbers only.
#[derive(Clone, Debug, Args)]
pub struct TopArgs {
    /// The metrics listener.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9464")]
    pub metrics: String,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = interval)]
    pub interval: f64,
    /// Print one frame as text and end.
    #[arg(long)]
    pub once: bool,
}

/// Why there is nothing to see.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// The address is none.
    #[error("--metrics must be an address such as http://127.0.0.1:9464")]
    Address,
    /// Nobody answers.
    #[error("no answer from {0}: {1}")]
    NoAnswer(String, String),
    /// Somebody else answers.
    #[error("{0} answers, but not as the metrics of a supersync server: {1}")]
    Stranger(String, String),
    /// There is no screen.
    #[error("standard output is no terminal; --once prints one frame")]
    NoTerminal,
    /// The terminal, or writing to it, failed.
    #[error("terminal: {0}")]
    Io(#[from] io::Error),
}

fn interval(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "must be a number".to_owned())?;
    if (0.1..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("must be from 0.1 to 3600".to_owned()) }
}

/// The listener to ask.
#[derive(Clone, Debug)]
struct Source {
    base: Url,
    http: reqwest::Client,
}

impl Source {
    fn new(address: &str) -> Result<Self, TopError> {
        let base = Url::parse(address).map_err(|_| TopError::Address)?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(TopError::Address);
        }
        // There is one if it was done before, which is as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build();
        let http = http.map_err(|error| TopError::NoAnswer(base.to_string(), cause(&error)))?;
        Ok(Self { base, http })
    }

    /// What happens within the next so many seconds.
    async fn look(&self, time: Duration) -> Result<View, TopError> {
        let mut url = self.base.clone();
        url.set_path(TOP_PATH);
        url.set_query(Some(&format!("seconds={}", time.as_secs_f64())));
        let asked = self.http.get(url).timeout(time + TIMEOUT);
        let view = async { asked.send().await?.error_for_status()?.json().await };
        view.await.map_err(|error: reqwest::Error| {
            let is_answer = error.is_status() || error.is_decode();
            let tell = if is_answer { TopError::Stranger } else { TopError::NoAnswer };
            tell(self.base.to_string(), cause(&error.without_url()))
        })
    }
}

/// The innermost reason, which is what an operator can do something about.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Runs the command until the operator has seen enough.
///
/// # Errors
/// See [`TopError`]; a server that does not answer is one only with `--once`.
pub async fn run(args: TopArgs, output: &mut (dyn Write + Send)) -> Result<(), TopError> {
    let source = Source::new(&args.metrics)?;
    let every = Duration::from_secs_f64(args.interval);
    if args.once {
        let view = Some(source.look(every.min(MAX_LOOK)).await?);
        let screen = Screen { address: source.base.to_string(), view, ..Screen::default() };
        for line in printed(&screen, PRINTED) {
            writeln!(output, "{line}")?;
        }
        return Ok(());
    }
    if !io::stdout().is_terminal() {
        return Err(TopError::NoTerminal);
    }
    let looks = keep_looking(source.clone(), every);
    let screen = Screen { address: source.base.to_string(), interactive: true, ..Screen::default() };
    let mut terminal = ratatui::try_init()?;
    // Reading keys blocks.
    let watched = tokio::task::block_in_place(|| watch(&mut terminal, screen, looks));
    ratatui::try_restore()?;
    watched
}

/// The screen as lines of text.
fn printed(screen: &Screen, (width, height): (u16, u16)) -> Vec<String> {
    let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
    let Ok(_) = terminal.draw(|frame| draw(frame, screen));
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect()
}

/// Asks now and then, until nobody listens.
fn keep_looking(source: Source, every: Duration) -> mpsc::Receiver<Result<View, TopError>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let look = every.min(MAX_LOOK);
        let mut pause = Duration::ZERO;
        loop {
            tokio::time::sleep(pause).await;
            let seen = source.look(look).await;
            // One that does not answer says so at once.
            pause = if seen.is_ok() { every.saturating_sub(look) } else { every };
            if sender.send(seen).await.is_err() {
                return;
            }
        }
    });
    receiver
}

fn watch(
    terminal: &mut DefaultTerminal,
    mut screen: Screen,
    mut looks: mpsc::Receiver<Result<View, TopError>>,
) -> Result<(), TopError> {
    loop {
        terminal.draw(|frame| draw(frame, &screen))?;
        if event::poll(KEY_PATIENCE)? && !act_on(&event::read()?, &mut screen) {
            return Ok(());
        }
        if let Ok(look) = looks.try_recv() {
            take_in(look, &mut screen);
        }
    }
}

/// Does what a key says. `false`: it is enough.
fn act_on(event: &Event, screen: &mut Screen) -> bool {
    // A new size is drawn like everything else.
    let Event::Key(key) = event else { return true };
    if key.kind == KeyEventKind::Release {
        return true;
    }
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return false,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
        KeyCode::Char('p') => screen.paused = !screen.paused,
        KeyCode::Char('s') => {
            screen.order = (screen.order + 1) % ORDERS.len();
            if let Some(view) = &mut screen.view {
                sort(&mut view.accounts, screen.order);
            }
        }
        _ => {}
    }
    true
}

/// Shows what was seen last. While it is paused the picture stays.
fn take_in(look: Result<View, TopError>, screen: &mut Screen) {
    match look {
        Ok(_) if screen.paused => screen.trouble = None,
        Ok(mut view) => {
            screen.trouble = None;
            sort(&mut view.accounts, screen.order);
            screen.view = Some(view);
        }
        Err(error) => screen.trouble = Some(error.to_string()),
    }
}
