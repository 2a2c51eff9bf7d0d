//! Puts a view on the screen, whatever its size.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Row, Table};

use super::ORDERS;
use crate::telemetry::view::{Latency, View};

/// Everything that is on the screen.
#[derive(Clone, Debug, Default)]
pub(super) struct Screen {
    /// Which server.
    pub(super) address: String,
    /// What was seen last; nothing until the first answer.
    pub(super) view: Option<View>,
    /// Why there is nothing newer.
    pub(super) trouble: Option<String>,
    pub(super) paused: bool,
    /// Which of [`ORDERS`].
    pub(super) order: usize,
    /// Whether somebody sits before it who has keys to press.
    pub(super) interactive: bool,
}

const DIM: Style = Style::new().fg(Color::DarkGray);
const BAD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
const HEAD: Style = Style::new().add_modifier(Modifier::BOLD);
/// Rows of the boxes with figures, frames included.
const BOX_ROWS: u16 = 9;

/// What it is, how much, and whether that is bad.
type Figure = (&'static str, String, bool);

/// Draws it.
pub(super) fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let [head, boxes, middle, bottom, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(BOX_ROWS),
        Constraint::Fill(1),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(header(screen), head);
    if screen.interactive {
        let keys = format!("q quit   p pause   s order of the accounts: {}", ORDERS[screen.order]);
        frame.render_widget(Paragraph::new(keys).style(DIM), foot);
    }
    let Some(view) = &screen.view else { return };
    figures(frame, boxes, view);
    tables(frame, middle, bottom, view, ORDERS[screen.order]);
}

fn header(screen: &Screen) -> Paragraph<'_> {
    let version = screen.view.as_ref().map_or_else(String::new, |view| format!(" {}", view.version));
    let mut first = vec![Span::styled(format!("supersync{version}"), HEAD), Span::raw(format!("  {}", screen.address))];
    if screen.paused {
        first.push(Span::styled("  paused", HEAD));
    }
    // What matters first: a narrow screen cuts the rest off.
    let second = match (&screen.trouble, &screen.view) {
        (Some(trouble), Some(_)) => Line::styled(format!("older figures, trying again: {trouble}"), BAD),
        (Some(trouble), None) => Line::styled(format!("trying again: {trouble}"), BAD),
        (None, Some(view)) => Line::styled(format!("rates and latencies of the last {:.1} s", view.seconds), DIM),
        (None, None) => Line::styled("looking", DIM),
    };
    Paragraph::new(vec![Line::from(first), second])
}

fn figures(frame: &mut Frame<'_>, area: Rect, view: &View) {
    // Those with three latencies in a line need more room.
    let areas: [Rect; 4] = Layout::horizontal([5, 4, 5, 4].map(Constraint::Fill)).areas(area);
    let latencies = |of: &Latency| format!("{} {} {}", time(of.p50), time(of.p95), time(of.p99));
    let boxes: [(&str, Vec<Figure>); 4] = [
        (
            "Requests",
            vec![
                ("per second", rate(view.requests), false),
                ("running", whole(view.running), false),
                ("p50 p95 p99", latencies(&view.latency), view.latency.p99.is_some_and(|p99| p99 > 1.0)),
                ("5xx per second", rate(view.failed), view.failed > 0.0),
                ("4xx per second", rate(view.refused), false),
                ("sockets", whole(view.sockets), false),
                ("notices per s", rate(view.notices), false),
            ],
        ),
        (
            "Uploads",
            vec![
                ("per second", rate(view.uploads), false),
                ("operations per s", rate(view.operations), false),
                ("rejected per s", rate(view.rejected), false),
                ("actors", whole(view.actors), false),
                ("writing", whole(view.writing), false),
                ("queued", whole(view.queued), false),
                ("mailbox p99", time(view.mailbox.p99), view.mailbox.p99.is_some_and(|p99| p99 > 0.25)),
            ],
        ),
        (
            "Commits",
            vec![
                ("per second", rate(view.commits), false),
                ("p50 p95 p99", latencies(&view.commit), view.commit.p99.is_some_and(|p99| p99 > 0.25)),
                ("accounts each", some(view.plans_per_commit, rate), false),
                ("operations each", some(view.operations_per_commit, rate), false),
                ("database", some(view.database_bytes, bytes), false),
            ],
        ),
        (
            "Process",
            vec![
                ("processors", some(view.cores, rate), false),
                ("memory", some(view.resident_bytes, bytes), false),
                ("open files", some(view.open_fds, whole), false),
                ("threads", some(view.threads, whole), false),
            ],
        ),
    ];
    for ((title, lines), area) in boxes.into_iter().zip(areas) {
        let width = lines.iter().map(|(name, ..)| name.len()).max().unwrap_or(0) + 1;
        let lines = lines.into_iter().map(|(name, figure, is_bad)| {
            let style = if is_bad { BAD } else { Style::new() };
            Line::from(vec![Span::styled(format!("{name:<width$}"), DIM), Span::styled(figure, style)])
        });
        frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()).block(Block::bordered().title(title)), area);
    }
}

/// A table with these columns, each with its width; 0: what is left.
fn table(frame: &mut Frame<'_>, area: Rect, title: &str, columns: &[(&str, u16)], rows: Vec<Vec<String>>) {
    let width = |width: u16| if width == 0 { Constraint::Fill(1) } else { Constraint::Length(width) };
    let widths = columns.iter().map(|column| width(column.1));
    let head = Row::new(columns.iter().map(|(name, _)| *name)).style(DIM);
    let table = Table::new(rows.into_iter().map(Row::new), widths).header(head);
    frame.render_widget(table.block(Block::bordered().title(title)), area);
}

fn tables(frame: &mut Frame<'_>, middle: Rect, bottom: Rect, view: &View, order: &str) {
    let [left, right] = Layout::horizontal([Constraint::Fill(3), Constraint::Fill(2)]).areas(middle);
    let rows = view.routes.iter().map(|route| {
        let Latency { p50, p95, p99 } = route.latency;
        vec![route.name.clone(), rate(route.per_second), time(p50), time(p95), time(p99)]
    });
    let columns = [("request", 0), ("per s", 9), ("p50", 9), ("p95", 9), ("p99", 9)];
    table(frame, left, "Requests by route", &columns, rows.collect());

    let [upper, lower] = Layout::vertical([Constraint::Fill(1), Constraint::Fill(1)]).areas(right);
    let rows = view.rejections.iter().map(|(code, per_second)| vec![code.clone(), rate(*per_second)]);
    table(frame, upper, "Rejected operations", &[("code", 0), ("per s", 9)], rows.collect());
    let rows = view.pools.iter().map(|pool| vec![pool.name.clone(), whole(pool.busy), whole(pool.most)]);
    table(frame, lower, "Connections", &[("pool", 0), ("busy", 6), ("most", 6)], rows.collect());

    let [left, right] = Layout::horizontal([Constraint::Fill(2), Constraint::Fill(3)]).areas(bottom);
    let rows = view.accounts.iter().map(|hot| {
        vec![hot.account.to_string(), hot.requests.to_string(), hot.operations.to_string(), bytes(float(hot.bytes))]
    });
    let columns = [("account", 0), ("requests", 11), ("operations", 11), ("bytes", 11)];
    table(frame, left, &format!("Busiest accounts of the last minute, by {order}"), &columns, rows.collect());
    let rows = view.slowest.iter().map(|slow| {
        vec![
            clock_time(slow.at),
            time(Some(float(slow.duration_ms) / 1000.0)),
            if slow.status == 0 { "gone".to_owned() } else { slow.status.to_string() },
            slow.account.map_or_else(|| "-".to_owned(), |account| account.to_string()),
            slow.phase.to_string(),
            format!("{} {}", slow.method, slow.route),
        ]
    });
    let columns = [("at (UTC)", 9), ("took", 9), ("", 4), ("account", 9), ("phase", 7), ("request", 0)];
    table(frame, right, "Slowest requests of the last five minutes", &columns, rows.collect());
}

fn clock_time(at_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(at_ms).map_or_else(|_| "?".to_owned(), |at| at.strftime("%H:%M:%S").to_string())
}

#[expect(clippy::cast_precision_loss, reason = "to be read by people")]
const fn float(n: u64) -> f64 {
    n as f64
}

fn some(figure: Option<f64>, text: fn(f64) -> String) -> String {
    figure.map_or_else(|| "-".to_owned(), text)
}

fn whole(figure: f64) -> String {
    format!("{figure:.0}")
}

pub(super) fn rate(figure: f64) -> String {
    match figure {
        n if n <= 0.0 => "0".to_owned(),
        n if n < 10.0 => format!("{n:.2}"),
        n if n < 1_000.0 => format!("{n:.1}"),
        n => format!("{n:.0}"),
    }
}

/// Of seconds.
pub(super) fn time(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(s) if s < 0.000_95 => format!("{:.0}us", s * 1e6),
        Some(s) if s < 0.0995 => format!("{:.1}ms", s * 1e3),
        Some(s) if s < 0.9995 => format!("{:.0}ms", s * 1e3),
        Some(s) => format!("{s:.1}s"),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "sizes are whole and not negative")]
fn bytes(bytes: f64) -> String {
    indicatif::HumanBytes(bytes as u64).to_string()
}
