//! From a view to the screen, and what keys do to it.

use ratatui::crossterm::event::KeyEvent;

use super::*;
use crate::telemetry::recent::SlowRequest;
use crate::telemetry::view::{Latency, Route};

fn view() -> View {
    let hot = |account, requests, operations, bytes| HotAccount { account, requests, operations, bytes };
    let slow = SlowRequest {
        at: 1_700_000_000_000,
        method: "POST".into(),
        route: "/api/sync/snapshot".to_owned(),
        account: Some(9),
        status: 0,
        duration_ms: 61_500,
        phase: "engine".into(),
    };
    let latency = Latency { p50: Some(0.005), p95: Some(0.0095), p99: Some(0.0099) };
    View {
        version: "1.2.3".to_owned(),
        seconds: 2.0,
        requests: 10.0,
        failed: 1.0,
        latency,
        routes: vec![Route { name: "GET /api/sync/ops".to_owned(), per_second: 7.0, latency }],
        operations: 4.0,
        rejections: vec![("CONFLICT_STALE".to_owned(), 1.0)],
        commit: Latency { p50: Some(0.375), p95: Some(0.488), p99: Some(0.498) },
        sockets: 12.0,
        resident_bytes: Some(104_857_600.0),
        cores: Some(1.0),
        accounts: vec![hot(501, 90, 1, 20), hot(502, 10, 70, 30), hot(503, 20, 2, 4_000_000)],
        slowest: vec![slow],
        ..View::default()
    }
}

fn screen_after(looks: Vec<Result<View, TopError>>) -> Screen {
    let mut screen = Screen { address: "http://127.0.0.1:9464/".to_owned(), interactive: true, ..Screen::default() };
    for look in looks {
        take_in(look, &mut screen);
    }
    screen
}

fn text(screen: &Screen) -> String {
    printed(screen, (130, 40)).join("\n")
}

#[track_caller]
fn shows(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

fn press(screen: &mut Screen, key: char) -> bool {
    act_on(&Event::Key(KeyEvent::from(KeyCode::Char(key))), screen)
}

fn dead() -> TopError {
    TopError::NoAnswer("http://127.0.0.1:9464/".to_owned(), "Connection refused".to_owned())
}

#[test]
fn a_dead_server_is_said_to_be_and_comes_back() {
    let nothing = text(&screen_after(vec![Err(dead())]));
    shows(&nothing, &["trying again: no answer from http://127.0.0.1:9464/: Connection refused", "q quit"]);
    let older = text(&screen_after(vec![Ok(view()), Err(dead())]));
    shows(&older, &["older figures, trying again: no answer", "/api/sync/ops"]);
    let back = text(&screen_after(vec![Err(dead()), Ok(view())]));
    assert!(!back.contains("trying again"), "{back}");
    shows(&back, &["of the last 2.0 s"]);
}

#[test]
fn rates_latencies_accounts_and_slow_requests_are_shown() {
    let shown = text(&screen_after(vec![Ok(view())]));
    shows(
        &shown,
        &[
            "supersync 1.2.3  http://127.0.0.1:9464/",
            "per second     10.0",
            "p50 p95 p99    5.0ms 9.5ms 9.9ms",
            "operations per s 4.00",
            "p50 p95 p99     375ms 488ms 498ms",
            "sockets        12",
            "processors 1.00",
            "memory     100.00 MiB",
            "CONFLICT_STALE",
            "22:13:20",
            "gone",
            "POST /api/sync/snapshot",
        ],
    );
    let find = |what: &str| shown.find(what).unwrap_or_else(|| panic!("{what} is missing in\n{shown}"));
    assert!(find("501 ") < find("503 ") && find("503 ") < find("502 "));
}

#[test]
fn keys_order_pause_and_quit() {
    let mut screen = screen_after(vec![Ok(view())]);
    let first = |screen: &Screen| screen.view.as_ref().expect("a view").accounts[0].account;
    for (order, account) in [(1, 502), (2, 503), (0, 501)] {
        assert!(press(&mut screen, 's'));
        assert_eq!((screen.order, first(&screen)), (order, account));
    }
    assert!(press(&mut screen, 'p') && press(&mut screen, 'x'));
    let paused = screen.view.clone();
    take_in(Ok(View::default()), &mut screen);
    assert_eq!(screen.view, paused);
    shows(&text(&screen), &["paused"]);
    assert!(press(&mut screen, 'p'));
    take_in(Ok(View::default()), &mut screen);
    assert_eq!(screen.view, Some(View::default()));
    assert!(act_on(&Event::Resize(10, 10), &mut screen));
    let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert!(!act_on(&Event::Key(control_c), &mut screen) && !press(&mut screen, 'q'));
    assert!(press(&mut screen, 'c'), "without Control it is no key");
}

#[test]
fn figures_are_short() {
    assert_eq!([0.0, 0.123, 12.34, 12_345.6].map(draw::rate), ["0", "0.12", "12.3", "12346"]);
    let times = [None, Some(0.000_25), Some(0.0123), Some(0.25), Some(12.0)].map(draw::time);
    assert_eq!(times, ["-", "250us", "12.3ms", "250ms", "12.0s"]);
}

#[test]
fn every_size_can_be_drawn() {
    let screen = screen_after(vec![Ok(view())]);
    for size in [(1, 1), (10, 3), (40, 12), (80, 24), (300, 100)] {
        assert_eq!(printed(&screen, size).len(), usize::from(size.1));
    }
    shows(&printed(&screen, (80, 24)).join("\n"), &["supersync 1.2.3", "Requests by route", "Busiest accounts"]);
}

#[test]
fn addresses_and_intervals_are_checked() {
    for wrong in ["", "9464", "127.0.0.1:9464", "ftp://127.0.0.1", "http://"] {
        assert!(matches!(Source::new(wrong), Err(TopError::Address)), "{wrong}");
    }
    assert!(Source::new("http://[::1]:9464").is_ok());
    for wrong in ["", "x", "0", "-1", "NaN", "inf", "3601"] {
        assert!(interval(wrong).is_err(), "{wrong}");
    }
    assert_eq!(interval("0.5"), Ok(0.5));
}
