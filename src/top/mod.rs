//! `supersync top`: what a running server does, live in the terminal.
//!
//! Asks the metrics listener every second or so and shows what came in between. Needs nothing else: no database, no settings,
//! no token; who may reach that listener may see this. A server that does not answer is asked again until it does.

mod draw;
mod histogram;
mod model;
mod scrape;
#[cfg(test)]
mod tests;
mod text;

use std::io::{self, IsTerminal as _, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::{DefaultTerminal, Terminal};
use tokio::sync::mpsc;

use draw::{Screen, draw};
use model::View;
pub use scrape::ScrapeError;
use scrape::{Scrape, Source};

/// How often a key is waited for before it is asked whether anybody still wants one.
const KEY_PATIENCE: Duration = Duration::from_millis(200);
/// The size of a frame that is printed.
const PRINTED: (u16, u16) = (130, 52);

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
    /// The server can't be asked, or does not answer.
    #[error(transparent)]
    Scrape(#[from] ScrapeError),
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

/// Runs the command until the operator has seen enough.
///
/// # Errors
/// See [`TopError`]; a server that does not answer is one only with `--once`.
pub async fn run(args: TopArgs, output: &mut (dyn Write + Send)) -> Result<(), TopError> {
    let source = Source::new(&args.metrics)?;
    let every = Duration::from_secs_f64(args.interval);
    if args.once {
        let before = source.scrape().await?;
        tokio::time::sleep(every).await;
        let now = source.scrape().await?;
        let view = Some(View::between(&before, &now));
        let screen = Screen { address: source.address().to_owned(), view, ..Screen::default() };
        for line in printed(&screen, PRINTED) {
            writeln!(output, "{line}")?;
        }
        return Ok(());
    }
    if !io::stdout().is_terminal() {
        return Err(TopError::NoTerminal);
    }
    let mut terminal = ratatui::try_init()?;
    let stop = Arc::new(AtomicBool::new(false));
    let keys = read_keys(Arc::clone(&stop));
    let looks = keep_looking(source.clone(), every);
    let screen = Screen { address: source.address().to_owned(), interactive: true, ..Screen::default() };
    let watched = watch(&mut terminal, screen, keys, looks).await;
    stop.store(true, Ordering::Relaxed);
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

/// A thread, because reading keys blocks. It ends when it is told to, or when nobody listens.
fn read_keys(stop: Arc<AtomicBool>) -> mpsc::Receiver<io::Result<Event>> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let read = match event::poll(KEY_PATIENCE) {
                Ok(false) => continue,
                Ok(true) => event::read(),
                Err(error) => Err(error),
            };
            let failed = read.is_err();
            if sender.blocking_send(read).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

/// Asks now and then, until nobody listens.
fn keep_looking(source: Source, every: Duration) -> mpsc::Receiver<Result<Scrape, ScrapeError>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if sender.send(source.scrape().await).await.is_err() {
                return;
            }
        }
    });
    receiver
}

async fn watch(
    terminal: &mut DefaultTerminal,
    mut screen: Screen,
    mut keys: mpsc::Receiver<io::Result<Event>>,
    mut looks: mpsc::Receiver<Result<Scrape, ScrapeError>>,
) -> Result<(), TopError> {
    let mut before = None;
    loop {
        terminal.draw(|frame| draw(frame, &screen))?;
        tokio::select! {
            key = keys.recv() => match key {
                Some(event) => if !act_on(&event?, &mut screen) { return Ok(()) },
                None => return Ok(()),
            },
            look = looks.recv() => match look {
                Some(look) => take_in(look, &mut before, &mut screen),
                None => return Ok(()),
            },
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
            screen.order = screen.order.next();
            let order = screen.order;
            if let Some(view) = &mut screen.view {
                view.order(order);
            }
        }
        _ => {}
    }
    true
}

/// Shows what came since the last look. While it is paused the picture stays, and rates go on from the newest look.
fn take_in(look: Result<Scrape, ScrapeError>, before: &mut Option<Scrape>, screen: &mut Screen) {
    match look {
        Ok(now) => {
            screen.trouble = None;
            if let Some(before) = &*before
                && !screen.paused
            {
                let mut view = View::between(before, &now);
                view.order(screen.order);
                screen.view = Some(view);
            }
            *before = Some(now);
        }
        Err(error) => screen.trouble = Some(error.to_string()),
    }
}
