use super::capacity::{Capacity, Cell, distinct_pages, grouping};
use super::demand::{Demand, When};
use super::shape::{Limits, Prices, Shape};
use super::simulate::{diurnal, simulate};
use super::*;

/// Numbers that can be followed with a pencil.
fn simple() -> Shape {
    Shape {
        ops_per_account: 1_000.0,
        hot_ops_per_account: 100.0,
        entities_per_account: 50.0,
        devices_per_account: 3.0,
        awake_share: 0.25,
        socket_share: 0.5,
        poll_s: 100.0,
        poll_with_socket_s: 200.0,
        uploads_per_device_day: 8.64,
        ops_per_upload: 5.0,
        starts_per_device_day: 0.0,
        fresh_devices_per_account_month: 0.0,
        op_wire_bytes: 1_000.0,
        peak_to_mean: 2.0,
        headroom: 0.5,
    }
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0)
}

#[test]
fn numbers_that_make_no_sense_are_named() {
    let refused = |shape: Shape| shape.check().unwrap_err().to_string();
    assert_eq!(refused(Shape { headroom: 1.0, ..simple() }), "headroom is 1, but must be from 0 to less than 1");
    assert!(refused(Shape { awake_share: 1.1, ..simple() }).starts_with("awake-share"));
    assert!(refused(Shape { poll_s: 0.0, ..simple() }).starts_with("poll-s"));
    assert!(refused(Shape { peak_to_mean: 0.9, ..simple() }).starts_with("peak-to-mean"));
    assert!(refused(Shape { ops_per_upload: -1.0, ..simple() }).starts_with("ops-per-upload"));
    assert!(refused(Shape { devices_per_account: f64::NAN, ..simple() }).starts_with("devices-per-account"));
    assert!(Prices { poll_server_us: f64::INFINITY, ..Prices::default() }.check().is_err());
    assert!(Limits { lanes: 0.0, ..Limits::default() }.check().is_err());
    assert!(Shape::default().check().is_ok() && Prices::default().check().is_ok() && Limits::default().check().is_ok());
}

#[test]
fn a_file_of_prices_must_be_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prices.json");
    let command = |path: &std::path::Path| {
        use clap::{Args as _, FromArgMatches as _};
        let arguments =
            ["plan", "--simulate", "0", "--accounts", "1000", "--json", "--figures", path.to_str().unwrap()];
        let matches = PlanCommand::augment_args(clap::Command::new("plan")).get_matches_from(arguments);
        PlanCommand::from_arg_matches(&matches).unwrap()
    };
    assert!(matches!(run(&command(&path), &mut Vec::new()), Err(PlanError::Read { .. })));
    std::fs::write(&path, r#"{"poll_server_us": 7, "pol_server_us": 7}"#).unwrap();
    assert!(matches!(run(&command(&path), &mut Vec::new()), Err(PlanError::Parse { .. })));
    std::fs::write(&path, r#"{"poll_server_us": -7}"#).unwrap();
    assert!(matches!(run(&command(&path), &mut Vec::new()), Err(PlanError::Input(..))));
    std::fs::write(&path, r#"{"poll_server_us": 7}"#).unwrap();
    let mut out = Vec::new();
    run(&command(&path), &mut out).unwrap();
    let plan: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(plan["prices"]["poll_server_us"], 7.0);
    assert_eq!(plan["prices"]["commit_ms"], Prices::default().commit_ms, "what the file leaves out is built in");
}

#[test]
fn demand_by_hand() {
    // 1,000 accounts, 3,000 devices; a quarter runs, half at the peak.
    let mean = Demand::of(&simple(), 1_000.0, When::Mean);
    assert!(close(mean.running_devices, 750.0) && close(mean.sockets, 375.0));
    // 375 / 200 + 375 / 100
    assert!(close(mean.polls, 5.625));
    // 3,000 · 8.64 / 86,400
    assert!(close(mean.uploads, 0.3) && close(mean.ops, 1.5));
    assert!(close(mean.tails, 0.6) && close(mean.delivered_ops, 3.0));
    // Two others, a quarter runs, half of these has a socket.
    assert!(close(mean.notices, 0.3 * 2.0 * 0.25 * 0.5));
    assert!(close(mean.live_accounts, 1_000.0 * (1.0 - 0.75_f64.powi(3))));
    let peak = Demand::of(&simple(), 1_000.0, When::Peak);
    assert!(close(peak.polls, 11.25) && close(peak.uploads, 0.6));
    assert!(close(peak.requests(), 11.25 + 0.6 + 1.2));
}

#[test]
fn there_are_never_more_running_devices_than_devices() {
    let shape = Shape { awake_share: 0.6, peak_to_mean: 10.0, ..simple() };
    let peak = Demand::of(&shape, 100.0, When::Peak);
    assert!(close(peak.running_devices, 300.0) && close(peak.live_accounts, 100.0));
}

#[test]
fn a_cell_by_hand() {
    let prices = Prices {
        poll_server_us: 100.0,
        upload_server_us: 200.0,
        upload_op_server_us: 10.0,
        upload_db_us: 300.0,
        upload_op_db_us: 20.0,
        tail_server_us: 50.0,
        tail_op_server_us: 1.0,
        notice_server_us: 0.0,
        row_bytes: 1_000.0,
        sealed_bytes: 100.0,
        head_bytes: 200.0,
        account_bytes: 5_000.0,
        wal_upload_bytes: 1_000.0,
        wal_op_bytes: 2_000.0,
        ..Prices::default()
    };
    let cell = Cell::of(&simple(), &prices, &Limits::default(), 1_000.0);
    // 11.25 polls, 0.6 uploads with 3 operations, 1.2 tails with 6.
    let server_us = 11.25 * 100.0 + 0.6 * 200.0 + 3.0 * 10.0 + 1.2 * 50.0 + 6.0 * 1.0;
    assert!(close(cell.server_busy_cores, server_us / 1e6));
    assert!(close(cell.db_busy_cores, (0.6 * 300.0 + 3.0 * 20.0) / 1e6));
    assert!(close(cell.wal_mb_per_s, (0.6 * 1_000.0 + 3.0 * 2_000.0) / 1e6));
    let bytes = 1_000.0 * (5_000.0 + 50.0 * 200.0 + 100.0 * 1_000.0 + 900.0 * 100.0);
    assert!(close(cell.disk_gib * 1024.0_f64.powi(3), bytes));
    assert!(close(cell.disk_gib, cell.accounts_gib + cell.heads_gib + cell.rows_gib + cell.sealed_gib));
    assert!(close(cell.server_cores, 1.0) && close(cell.db_cores, 1.0) && close(cell.instances, 1.0));
}

#[test]
fn groups_form_by_themselves() {
    // Far below one upload per commit: each alone, the lane is busy for rate · (fixed + each).
    let quiet = grouping(10.0, 0.001, 0.0001, 256.0);
    assert!(close(quiet.uploads_per_commit, 1.0) && close(quiet.commits_per_s, 10.0) && close(quiet.lane_busy, 0.011));
    // 5,000/s: half of the time goes to rows, so g = 5000 · 0.001 / 0.5 = 10 and a commit takes 2 ms.
    let busy = grouping(5_000.0, 0.001, 0.0001, 256.0);
    assert!(close(busy.uploads_per_commit, 10.0) && close(busy.commit_s, 0.002) && close(busy.commits_per_s, 500.0));
    assert!(close(busy.lane_busy, 1.0));
    // More than a lane can write: the largest group, and more than all of the time.
    let over = grouping(20_000.0, 0.001, 0.0001, 256.0);
    assert!(close(over.uploads_per_commit, 256.0) && over.lane_busy > 1.0);
}

#[test]
fn pages_written_twice_count_once() {
    assert!(close(distinct_pages(5.0, 0.0), 0.0));
    assert!((distinct_pages(10.0, 1e9) - 10.0).abs() < 1e-6);
    assert!((distinct_pages(1e9, 1_000.0) - 1_000.0).abs() < 1e-6);
    assert!(distinct_pages(1_000.0, 1_000.0) < 633.0);
}

#[test]
fn more_users_never_need_less() {
    let (shape, prices, limits) = (Shape::default(), Prices::default(), Limits::default());
    let mut before: Option<Capacity> = None;
    for accounts in [0.0, 1.0, 100.0, 12_000.0, 1e5, 1e6, 1e7, 1e8] {
        let now = Capacity::of(&shape, &prices, &limits, accounts);
        let cells = f64::from(now.cells);
        assert!(close(now.cell.accounts * cells, accounts), "every account is somewhere, once");
        assert!(now.cell.tightest(&shape, &limits).1 <= 1.0, "no primary is beyond its limits");
        if now.cells > 1 {
            let fewer = Cell::of(&shape, &prices, &limits, accounts / (cells - 1.0));
            assert!(fewer.tightest(&shape, &limits).1 > 1.0, "one primary less would not do");
            assert!(now.of_one_primary > 1.0);
        }
        if let Some(before) = &before {
            let all = |plan: &Capacity, of: fn(&Cell) -> f64| of(&plan.cell) * f64::from(plan.cells);
            let needs: [fn(&Cell) -> f64; 8] = [
                |c| c.requests_per_s,
                |c| c.server_cores,
                |c| c.db_cores,
                |c| c.server_gib,
                |c| c.disk_gib,
                |c| c.wal_mb_per_s,
                |c| c.out_mbit_per_s,
                |c| c.db_connections,
            ];
            for (n, need) in needs.into_iter().enumerate() {
                assert!(all(&now, need) >= all(before, need) * (1.0 - 1e-9), "need {n} shrank at {accounts}");
            }
            assert!(now.cells >= before.cells);
        }
        before = Some(now);
    }
}

#[test]
fn dearer_work_never_needs_less() {
    let (shape, limits) = (Shape::default(), Limits::default());
    let prices = Prices::default();
    let cheap = Capacity::of(&shape, &prices, &limits, 1e6);
    let dear = Prices { upload_db_us: prices.upload_db_us * 3.0, poll_server_us: 90.0, ..prices.clone() };
    let dear = Capacity::of(&shape, &dear, &limits, 1e6);
    assert!(dear.accounts_per_core < cheap.accounts_per_core);
    assert!(dear.accounts_per_primary <= cheap.accounts_per_primary);
    let chatty = Shape { uploads_per_device_day: 40.0, ..shape };
    assert!(Capacity::of(&chatty, &prices, &limits, 1e6).accounts_per_core < cheap.accounts_per_core);
}

#[test]
fn a_day_has_its_mean_and_its_peak() {
    for peak in [1.0, 1.5, 2.5, 6.0, 20.0] {
        let day = diurnal(peak);
        assert_eq!(day.len(), 24);
        assert!((day.iter().sum::<f64>() / 24.0 - 1.0).abs() < 1e-9);
        let top = day.iter().copied().fold(0.0, f64::max);
        assert!((top - peak).abs() < 1e-6, "{top} for {peak}");
    }
}

#[test]
fn the_simulation_agrees_with_the_formulas() {
    let (shape, prices, limits) = (Shape::default(), Prices::default(), Limits::default());
    let capacity = Capacity::of(&shape, &prices, &limits, 1e6);
    let day = simulate(&shape, &prices, &limits, &capacity.cell, 1e6, 7);
    let busiest = day.busiest().unwrap();
    let near = |simulated: f64, formula: f64| (simulated / formula - 1.0).abs() < 0.05;
    assert!(near(busiest.requests_per_s, capacity.cell.requests_per_s), "{busiest:?}");
    assert!(near(busiest.server_busy, capacity.cell.server_busy_cores / capacity.cell.server_cores), "{busiest:?}");
    assert!(near(busiest.uploads_per_s, capacity.cell.peak.uploads), "{busiest:?}");
    assert_eq!(day, simulate(&shape, &prices, &limits, &capacity.cell, 1e6, 7), "the same seed, the same day");
    assert_ne!(day, simulate(&shape, &prices, &limits, &capacity.cell, 1e6, 8));
}

#[test]
fn nothing_waits_on_an_idle_server_and_everything_on_one_too_small() {
    let (shape, prices) = (Shape::default(), Prices::default());
    let idle = Cell::of(&shape, &prices, &Limits::default(), 100.0);
    let day = simulate(&shape, &prices, &Limits::default(), &idle, 10_000.0, 1);
    assert!(day.hours.iter().all(|hour| hour.core_wait_p99_ms < 0.1), "{day:?}");
    let limits = Limits { lanes: 1.0, group_uploads: 1.0, ..Limits::default() };
    let slow = Prices { commit_ms: 50.0, ..prices };
    let cell = Cell::of(&shape, &slow, &limits, 2e5);
    let busiest = simulate(&shape, &slow, &limits, &cell, 500_000.0, 1).busiest().unwrap().clone();
    assert!(cell.lane_busy > 1.0 && busiest.lane_busy > 1.0 && busiest.commit_wait_p99_ms > 1_000.0, "{busiest:?}");
}

#[test]
fn tables_have_a_column_per_scale() {
    let plan =
        Plan::make(&[1_000, 10_000_000], Shape::default(), Prices::default(), Limits::default(), 10_000, 1).unwrap();
    let text = plan.to_markdown();
    assert!(text.contains("| accounts | 1,000 | 10,000,000 |"), "{text}");
    assert!(text.lines().filter(|line| line.starts_with('|')).all(|line| line.matches('|').count() == 4), "{text}");
}
