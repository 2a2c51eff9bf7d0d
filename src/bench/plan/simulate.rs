//! A small discrete-event simulation of one primary and its servers, to check the formulas: requests arrive at random
//! over a day with a busy and a quiet half, wait for a core, and uploads wait for their group commit.
//!
//! Deterministic: the same shape and seed give the same figures. A window of each hour is simulated at the full rate,
//! because queueing does not scale: a tenth of the load on a tenth of the machine would wait longer.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use serde::Serialize;

use super::capacity::{Cell, upload_db_us};
use super::demand::{Demand, When};
use super::shape::{Limits, Prices, Shape};
use crate::bench::random::Random;

/// Hours of the day, each with a load of its own.
const HOURS: u8 = 24;
/// The hour with the most load.
const BUSIEST: u8 = 20;
/// The shortest and the longest window that is simulated of each hour.
const WINDOW_S: (f64, f64) = (1.0, 120.0);

/// What happened in one hour.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hour {
    /// Hour of the day.
    pub hour: u8,
    /// Requests that arrived per second.
    pub requests_per_s: f64,
    /// Uploads among them that were committed, per second.
    pub uploads_per_s: f64,
    /// Share of the server's cores that was busy.
    pub server_busy: f64,
    /// How long 99 of 100 requests waited for a core at most, ms.
    pub core_wait_p99_ms: f64,
    /// Share of the time in which a commit lane was busy.
    pub lane_busy: f64,
    /// Uploads in a commit, mean.
    pub uploads_per_commit: f64,
    /// How long 99 of 100 uploads took at most from the core to the disk, ms.
    pub commit_wait_p99_ms: f64,
}

/// A simulated day.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Day {
    /// Seed of its random numbers.
    pub seed: u64,
    /// Seconds simulated of each hour.
    pub window_s: f64,
    /// What was simulated in all.
    pub requests: u64,
    /// Hour by hour.
    pub hours: Vec<Hour>,
}

impl Day {
    /// The hour with the most requests.
    #[must_use]
    pub fn busiest(&self) -> Option<&Hour> {
        self.hours.iter().max_by(|a, b| a.requests_per_s.total_cmp(&b.requests_per_s))
    }
}

/// From 0 (never) to 1.
fn share(random: &mut Random) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "53 bits are exactly what fits")]
    let bits = ((random.bits() >> 11) + 1) as f64;
    bits / 9_007_199_254_740_992.0
}

/// The time to the next arrival when so many arrive per second.
fn gap_s(random: &mut Random, per_s: f64) -> f64 {
    -share(random).ln() / per_s
}

/// The load of each hour as a factor of the mean: a smooth curve whose mean is 1 and whose top is `peak` (a von Mises
/// curve, `exp(k cos t)`; `k` is found by bisection).
#[must_use]
pub fn diurnal(peak: f64) -> Vec<f64> {
    let curve = |k: f64| {
        let raw: Vec<f64> = (0..HOURS)
            .map(|hour| {
                let angle = f64::from(hour.abs_diff(BUSIEST)) / f64::from(HOURS) * std::f64::consts::TAU;
                (k * (angle.cos() - 1.0)).exp()
            })
            .collect();
        let mean = raw.iter().sum::<f64>() / f64::from(HOURS);
        raw.into_iter().map(|one| one / mean).collect::<Vec<_>>()
    };
    let top = |k: f64| curve(k)[usize::from(BUSIEST)];
    let (mut low, mut high) = (0.0, 500.0);
    for _ in 0..100 {
        let middle = f64::midpoint(low, high);
        if top(middle) < peak { low = middle } else { high = middle }
    }
    curve(low)
}

/// A server whose cores take requests in the order of their arrival.
struct Cores {
    /// When each of them is free again, in nanoseconds: integers have an order.
    free_at_ns: BinaryHeap<Reverse<u64>>,
    busy_s: f64,
}

impl Cores {
    fn new(count: u32) -> Self {
        Self { free_at_ns: (0..count.max(1)).map(|_| Reverse(0)).collect(), busy_s: 0.0 }
    }

    /// When a request that arrives now starts.
    fn take(&mut self, at_s: f64, work_s: f64) -> f64 {
        let free_s = self.free_at_ns.pop().map_or(0.0, |Reverse(ns)| ns_to_s(ns));
        let start = at_s.max(free_s);
        self.free_at_ns.push(Reverse(s_to_ns(start + work_s)));
        self.busy_s += work_s;
        start
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a simulated minute in nanoseconds fits")]
fn s_to_ns(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a minute are far below 2^53")]
fn ns_to_s(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// A lane: while it commits, what comes gathers.
#[derive(Default)]
struct Lane {
    waiting: VecDeque<f64>,
    free_at_s: f64,
    busy_s: f64,
    commits: u64,
    took_s: Vec<f64>,
}

/// What a commit costs.
#[derive(Clone, Copy)]
struct CommitPrice {
    fixed_s: f64,
    each_s: f64,
    cap: usize,
}

impl Lane {
    /// Starts every commit that starts before `now_s`.
    fn advance(&mut self, now_s: f64, price: CommitPrice) {
        while let Some(&first) = self.waiting.front() {
            let start = self.free_at_s.max(first);
            if start >= now_s {
                break;
            }
            let group = self.waiting.iter().take(price.cap).take_while(|arrived| **arrived <= start).count();
            let size = f64::from(u32::try_from(group).unwrap_or(u32::MAX));
            let work = price.fixed_s + size * price.each_s;
            self.free_at_s = start + work;
            self.busy_s += work;
            self.commits += 1;
            self.took_s.extend(self.waiting.drain(..group).map(|arrived| start + work - arrived));
        }
    }
}

/// The value below which 99 of 100 lie; 0 of nothing.
fn p99(values: &mut [f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let at = (values.len() * 99 / 100).min(values.len() - 1);
    *values.select_nth_unstable_by(at, f64::total_cmp).1
}

/// What a request of each kind costs the server, and how often it comes.
fn kinds(prices: &Prices, demand: &Demand) -> [(f64, f64); 5] {
    let per = |total: f64, count: f64| if count > 0.0 { total / count } else { 0.0 };
    let upload_us = per(
        demand.uploads * prices.upload_server_us
            + demand.ops * prices.upload_op_server_us
            + demand.notices * prices.notice_server_us,
        demand.uploads,
    );
    let tail_us =
        per(demand.tails * prices.tail_server_us + demand.delivered_ops * prices.tail_op_server_us, demand.tails);
    [
        (demand.uploads, upload_us / 1e6),
        (demand.polls, prices.poll_server_us / 1e6),
        (demand.tails, tail_us / 1e6),
        (demand.starts, (prices.poll_server_us + prices.activation_server_us) / 1e6),
        (demand.pages, prices.page_server_us / 1e6),
    ]
}

/// Simulates a day of one primary on the machines that the plan gives it, with about `requests` requests in all.
#[must_use]
pub fn simulate(shape: &Shape, prices: &Prices, limits: &Limits, cell: &Cell, requests: f64, seed: u64) -> Day {
    let mean = Demand::of(shape, cell.accounts, When::Mean);
    let window_s = (requests / f64::from(HOURS) / mean.requests().max(1e-9)).clamp(WINDOW_S.0, WINDOW_S.1);
    let price = CommitPrice {
        fixed_s: prices.commit_ms / 1e3,
        each_s: upload_db_us(shape, prices) / 1e6,
        cap: whole(limits.group_cap(shape)),
    };
    let lanes = whole(limits.lanes * cell.instances);
    let mut random = Random::new(seed);
    let mut total = 0;
    let hours = (0..HOURS)
        .zip(diurnal(shape.peak_to_mean))
        .map(|(hour, factor)| {
            let shape = Shape { peak_to_mean: factor, ..shape.clone() };
            let demand = Demand::of(&shape, cell.accounts, When::Peak);
            let window = Window {
                lasts_s: window_s,
                cores: u32::try_from(whole(cell.server_cores)).unwrap_or(u32::MAX),
                lanes,
                price,
            };
            let (requests, hour) = window.run(hour, kinds(prices, &demand), &mut random);
            total += requests;
            hour
        })
        .collect();
    Day { seed, window_s, requests: total, hours }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small positive numbers")]
fn whole(number: f64) -> usize {
    number.round().max(1.0) as usize
}

struct Window {
    lasts_s: f64,
    cores: u32,
    lanes: usize,
    price: CommitPrice,
}

impl Window {
    fn run(&self, hour: u8, kinds: [(f64, f64); 5], random: &mut Random) -> (u64, Hour) {
        let rate: f64 = kinds.iter().map(|(per_s, _)| per_s).sum();
        let mut cores = Cores::new(self.cores);
        let mut lanes: Vec<Lane> = (0..self.lanes).map(|_| Lane::default()).collect();
        let mut waits = Vec::new();
        let mut now = gap_s(random, rate);
        while now < self.lasts_s {
            // Which kind: the first one is an upload.
            let mut point = share(random) * rate;
            let kind = kinds.iter().position(|(per_s, _)| {
                point -= per_s;
                point <= 0.0
            });
            let kind = kind.unwrap_or(1);
            let work = kinds[kind].1;
            let start = cores.take(now, work);
            waits.push(start - now);
            if kind == 0 {
                let lane = &mut lanes[random.below(self.lanes)];
                let arrives = start + work;
                lane.advance(arrives, self.price);
                lane.waiting.push_back(arrives);
            }
            now += gap_s(random, rate);
        }
        for lane in &mut lanes {
            lane.advance(f64::INFINITY, self.price);
        }
        let requests = waits.len();
        let count = |n: usize| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
        let commits: u64 = lanes.iter().map(|lane| lane.commits).sum();
        let lanes_busy_s: f64 = lanes.iter().map(|lane| lane.busy_s).sum();
        let mut took: Vec<f64> = lanes.into_iter().flat_map(|lane| lane.took_s).collect();
        let uploads = count(took.len());
        let hour = Hour {
            hour,
            requests_per_s: count(requests) / self.lasts_s,
            uploads_per_s: uploads / self.lasts_s,
            server_busy: cores.busy_s / self.lasts_s / f64::from(self.cores.max(1)),
            core_wait_p99_ms: p99(&mut waits) * 1e3,
            lane_busy: lanes_busy_s / self.lasts_s / count(self.lanes),
            uploads_per_commit: if commits == 0 {
                0.0
            } else {
                uploads / f64::from(u32::try_from(commits).unwrap_or(u32::MAX))
            },
            commit_wait_p99_ms: p99(&mut took) * 1e3,
        };
        (u64::try_from(requests).unwrap_or(u64::MAX), hour)
    }
}
