//! From two scrapes to the screen, and what keys do to it.

use std::time::Instant;

use ratatui::crossterm::event::KeyEvent;

use super::model::Order;
use super::scrape::{HotAccount, Recent, SlowRequest};
use super::text::Samples;
use super::*;

/// A scrape after `n` seconds of ten requests, four uploaded operations and two commits per second.
fn scrape(began: Instant, n: u32) -> Scrape {
    let (requests, errors, uploads, accepted, conflicts, commits) = (7 * n, n, 2 * n, 4 * n, n, 2 * n);
    let text = format!(
        "supersync_build_info{{version=\"1.2.3\"}} 1
supersync_http_requests_total{{method=\"GET\",route=\"/api/sync/ops\",status=\"200\"}} {requests}
supersync_http_requests_total{{method=\"POST\",route=\"/api/sync/ops\",status=\"200\"}} {uploads}
supersync_http_requests_total{{method=\"GET\",route=\"/api/sync/status\",status=\"503\"}} {errors}
supersync_http_request_seconds_bucket{{method=\"GET\",route=\"/api/sync/ops\",status=\"200\",le=\"0.01\"}} {requests}
supersync_http_request_seconds_bucket{{method=\"GET\",route=\"/api/sync/ops\",status=\"200\",le=\"+Inf\"}} {requests}
supersync_operations_total{{outcome=\"accepted\"}} {accepted}
supersync_operations_total{{outcome=\"CONFLICT_STALE\"}} {conflicts}
supersync_operations_total{{outcome=\"INTERNAL_ERROR\"}} 0
supersync_commit_seconds_bucket{{lane=\"ordinary\",le=\"0.25\"}} 0
supersync_commit_seconds_bucket{{lane=\"ordinary\",le=\"0.5\"}} {commits}
supersync_commit_seconds_bucket{{lane=\"ordinary\",le=\"+Inf\"}} {commits}
supersync_commit_plans_bucket{{le=\"+Inf\"}} {commits}
supersync_commit_plans_sum {}
supersync_sockets 12
supersync_actors_live 34
supersync_store_connections_busy{{pool=\"requests\"}} 3
supersync_store_connections_max{{pool=\"requests\"}} 8
supersync_process_resident_memory_bytes 104857600
supersync_process_cpu_seconds {n}
",
        3 * commits
    );
    let hot = |account, requests, operations, bytes| HotAccount { account, requests, operations, bytes };
    let slow = SlowRequest {
        at: 1_700_000_000_000,
        method: "POST".to_owned(),
        route: "/api/sync/snapshot".to_owned(),
        account: Some(9),
        status: 0,
        duration_ms: 61_500,
        phase: "engine".to_owned(),
    };
    Scrape {
        at: began + Duration::from_secs(u64::from(n)),
        samples: Samples::parse(&text).expect("metrics"),
        recent: Recent {
            accounts: vec![hot(501, 90, 1, 20), hot(502, 10, 70, 30), hot(503, 20, 2, 4_000_000)],
            slowest: vec![slow],
        },
    }
}

fn screen_after(looks: Vec<Result<Scrape, ScrapeError>>) -> Screen {
    let mut screen = Screen { address: "http://127.0.0.1:9464/".to_owned(), interactive: true, ..Screen::default() };
    let mut before = None;
    for look in looks {
        take_in(look, &mut before, &mut screen);
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

fn dead() -> ScrapeError {
    ScrapeError::NoAnswer("http://127.0.0.1:9464/".to_owned(), "Connection refused".to_owned())
}

#[test]
fn a_dead_server_is_said_to_be_and_comes_back() {
    let began = Instant::now();
    let nothing = text(&screen_after(vec![Err(dead())]));
    shows(&nothing, &["trying again: no answer from http://127.0.0.1:9464/: Connection refused", "q quit"]);
    let looks = || vec![Ok(scrape(began, 1)), Ok(scrape(began, 2)), Err(dead())];
    shows(&text(&screen_after(looks())), &["older figures, trying again: no answer", "/api/sync/ops"]);
    let mut looks = looks();
    looks.push(Ok(scrape(began, 4)));
    let back = text(&screen_after(looks));
    assert!(!back.contains("trying again"), "{back}");
    shows(&back, &["of the last 2.0 s"]);
}

#[test]
fn rates_latencies_accounts_and_slow_requests_are_shown() {
    let began = Instant::now();
    assert!(screen_after(vec![Ok(scrape(began, 1))]).view.is_none(), "one look gives no rate");
    let shown = text(&screen_after(vec![Ok(scrape(began, 1)), Ok(scrape(began, 3))]));
    shows(
        &shown,
        &[
            "supersync 1.2.3  http://127.0.0.1:9464/",
            "per second     10.0",
            "5xx per second 1.00",
            "p50 p95 p99    5.0ms 9.5ms 9.9ms",
            "operations per s 4.00",
            "rejected per s   1.00",
            "p50 p95 p99     375ms 488ms 498ms",
            "accounts each   3.00",
            "running        0",
            "sockets        12",
            "actors           34",
            "processors 1.00",
            "memory     100.0 MiB",
            "CONFLICT_STALE",
            "by requests",
            "22:13:20",
            "61.5s",
            "gone",
            "POST /api/sync/snapshot",
        ],
    );
    assert!(!shown.contains("INTERNAL_ERROR"), "{shown}");
    let find = |what: &str| shown.find(what).unwrap_or_else(|| panic!("{what} is missing in\n{shown}"));
    assert!(find("501 ") < find("503 ") && find("503 ") < find("502 "));
    assert!(find("GET /api/sync/ops") < find("POST /api/sync/ops"), "busiest first");
}

#[test]
fn keys_order_pause_and_quit() {
    let began = Instant::now();
    let mut screen = screen_after(vec![Ok(scrape(began, 1)), Ok(scrape(began, 2))]);
    let first = |screen: &Screen| screen.view.as_ref().expect("a view").accounts[0].account;
    for (order, account) in [(Order::Operations, 502), (Order::Bytes, 503), (Order::Requests, 501)] {
        assert!(press(&mut screen, 's'));
        assert_eq!((screen.order, first(&screen)), (order, account));
    }
    assert!(press(&mut screen, 'p') && press(&mut screen, 'x'));
    let paused = screen.view.clone();
    let mut before = Some(scrape(began, 2));
    take_in(Ok(scrape(began, 9)), &mut before, &mut screen);
    assert_eq!(screen.view, paused);
    shows(&text(&screen), &["paused"]);
    assert!(press(&mut screen, 'p'));
    take_in(Ok(scrape(began, 11)), &mut before, &mut screen);
    assert_eq!(screen.view.as_ref().map(|view| view.seconds), Some(2.0), "it goes on from the newest look");
    assert!(act_on(&Event::Resize(10, 10), &mut screen));
    let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert!(!act_on(&Event::Key(control_c), &mut screen) && !press(&mut screen, 'q'));
    assert!(press(&mut screen, 'c'), "without Control it is no key");
}

#[test]
fn every_size_can_be_drawn() {
    let began = Instant::now();
    let screen = screen_after(vec![Ok(scrape(began, 1)), Ok(scrape(began, 2))]);
    for size in [(1, 1), (10, 3), (40, 12), (80, 24), (300, 100)] {
        assert_eq!(printed(&screen, size).len(), usize::from(size.1));
    }
    shows(&printed(&screen, (80, 24)).join("\n"), &["supersync 1.2.3", "Requests by route", "Busiest accounts"]);
}

#[test]
fn addresses_and_intervals_are_checked() {
    for wrong in ["", "9464", "127.0.0.1:9464", "ftp://127.0.0.1", "http://"] {
        assert!(matches!(Source::new(wrong), Err(ScrapeError::Address)), "{wrong}");
    }
    assert!(Source::new("http://[::1]:9464").is_ok());
    for wrong in ["", "x", "0", "-1", "NaN", "inf", "3601"] {
        assert!(interval(wrong).is_err(), "{wrong}");
    }
    assert_eq!(interval("0.5"), Ok(0.5));
}
