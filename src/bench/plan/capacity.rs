//! From rates and prices to machines: cores, memory, disk, log, disk operations, network, and how many primaries.

use serde::Serialize;

use super::demand::{Demand, PAGE_OPS, When};
use super::shape::{Limits, Prices, Shape};

/// PostgreSQL's page.
const PAGE_BYTES: f64 = 8_192.0;
/// PostgreSQL's default time between checkpoints, seconds.
const CHECKPOINT_S: f64 = 300.0;
/// Pages read to take up an account that nobody has asked for in a while.
const ACTIVATION_PAGES: f64 = 4.0;
/// Heads written per operation: they are written every few hundred operations, each entity's newest only, and about half
/// of the operations change an entity that others changed too.
const HEADS_PER_OP: f64 = 0.6;
const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
/// Connections of an instance beside its lanes: requests, large commits, patient commits, housekeeping, health.
const OTHER_CONNECTIONS: f64 = 24.0;

/// An account keeps its actor for so long after an upload, s (`ACTOR_IDLE_SECONDS`).
const WRITING_S: f64 = 600.0;
/// An account with more entities keeps about so many heads in memory.
const LOADED_HEADS: f64 = 2_600.0;
/// What the allocator takes for a byte that is kept.
const ALLOCATOR: f64 = 1.3;

/// What one primary and the servers in front of it need in the busiest hour.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cell {
    /// Accounts on it.
    pub accounts: f64,
    /// What they ask for.
    pub peak: Demand,
    /// Requests per second.
    pub requests_per_s: f64,
    /// Cores kept busy in the server.
    pub server_busy_cores: f64,
    /// Cores to buy for the server, with headroom.
    pub server_cores: f64,
    /// Processes of the server.
    pub instances: f64,
    /// Cores kept busy in the database.
    pub db_busy_cores: f64,
    /// Cores to buy for the database, with headroom.
    pub db_cores: f64,
    /// Memory of the servers, GiB.
    pub server_gib: f64,
    /// … of which is kept for accounts between their requests, GiB.
    pub kept_gib: f64,
    /// What the database should hold in memory, GiB: state and heads of the live accounts, a day of new rows.
    pub db_working_set_gib: f64,
    /// Disk for accounts, state and devices, GiB.
    pub accounts_gib: f64,
    /// Disk for heads, GiB.
    pub heads_gib: f64,
    /// Disk for operations that are rows, GiB.
    pub rows_gib: f64,
    /// Disk for sealed operations, GiB.
    pub sealed_gib: f64,
    /// All of the disk, GiB.
    pub disk_gib: f64,
    /// Write-ahead log in the busiest hour, MB/s.
    pub wal_mb_per_s: f64,
    /// Write-ahead log of a day, GiB.
    pub wal_gib_per_day: f64,
    /// Group commits per second.
    pub commits_per_s: f64,
    /// Uploads in a group commit, mean.
    pub uploads_per_commit: f64,
    /// How long a group commit takes, ms.
    pub commit_ms: f64,
    /// Share of the time in which a lane commits.
    pub lane_busy: f64,
    /// Disk operations per second: flushes of the log, pages of checkpoints, pages read.
    pub iops: f64,
    /// From the devices, Mbit/s.
    pub in_mbit_per_s: f64,
    /// To the devices, Mbit/s.
    pub out_mbit_per_s: f64,
    /// Open sockets.
    pub sockets: f64,
    /// Connections to the database.
    pub db_connections: f64,
}

/// How uploads share commits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Grouping {
    pub(super) commits_per_s: f64,
    pub(super) uploads_per_commit: f64,
    pub(super) commit_s: f64,
    pub(super) lane_busy: f64,
}

/// Natural batching: while a lane commits, the next group gathers. A commit of g uploads takes `fixed + g·each`; a lane
/// that is never idle has g = rate·time, so g = rate·fixed / (1 − rate·each). Below one upload per commit time each
/// upload goes alone.
pub(super) fn grouping(uploads_per_lane: f64, fixed_s: f64, each_s: f64, cap: f64) -> Grouping {
    let busy_with_rows = uploads_per_lane * each_s;
    let group = if busy_with_rows < 1.0 {
        (uploads_per_lane * fixed_s / (1.0 - busy_with_rows)).clamp(1.0, cap.max(1.0))
    } else {
        cap.max(1.0)
    };
    let commit_s = fixed_s + group * each_s;
    let commits_per_s = uploads_per_lane / group;
    Grouping { commits_per_s, uploads_per_commit: group, commit_s, lane_busy: commits_per_s * commit_s }
}

/// Pages that so many writes change at least once, when they fall on `pages` pages at random.
pub(super) fn distinct_pages(writes: f64, pages: f64) -> f64 {
    if pages <= 0.0 { 0.0 } else { pages * -(-writes / pages).exp_m1() }
}

impl Cell {
    /// What a primary with so many accounts needs.
    #[must_use]
    pub fn of(shape: &Shape, prices: &Prices, limits: &Limits, accounts: f64) -> Self {
        let peak = Demand::of(shape, accounts, When::Peak);
        let mean = Demand::of(shape, accounts, When::Mean);
        let free = 1.0 - shape.headroom;

        let server_busy_cores = server_us(prices, &peak) / 1e6;
        let server_cores = (server_busy_cores / free).ceil().max(1.0);
        // Who has uploaded lately keeps an actor with the heads of its entities; the others only a view.
        let writing = (peak.uploads * WRITING_S).min(peak.live_accounts);
        let of_writer = prices.writer_bytes + shape.entities_per_account.min(LOADED_HEADS) * prices.head_memory_bytes;
        let kept_gib = (peak.live_accounts * prices.live_account_bytes + writing * of_writer) / GIB;
        let held_gib = peak.sockets * prices.socket_bytes / GIB + kept_gib * ALLOCATOR;
        let by_memory = held_gib / free / limits.instance_gib;
        let instances = (server_cores / limits.instance_cores).max(by_memory).ceil().max(1.0);
        let db_busy_cores = db_us(prices, &peak) / 1e6;
        let db_cores = (db_busy_cores / free).ceil().max(1.0);

        let lanes = limits.lanes * instances;
        let each_s = upload_db_us(shape, prices) / 1e6;
        let cap = limits.group_cap(shape);
        let grouping = grouping(peak.uploads / lanes, prices.commit_ms / 1e3, each_s, cap);
        let commits_per_s = grouping.commits_per_s * lanes;

        let accounts_bytes = accounts * prices.account_bytes;
        let heads_bytes = accounts * shape.entities_per_account * prices.head_bytes;
        let hot = shape.hot_ops_per_account.min(shape.ops_per_account);
        let rows_bytes = accounts * hot * prices.row_bytes;
        let sealed_bytes = accounts * (shape.ops_per_account - hot) * prices.sealed_bytes;
        let live_share = if accounts > 0.0 { peak.live_accounts / accounts } else { 0.0 };
        let working_set = live_share * (accounts_bytes + heads_bytes) + mean.ops * 86_400.0 * prices.row_bytes;

        let wal = |demand: &Demand| demand.uploads * prices.wal_upload_bytes + demand.ops * prices.wal_op_bytes;
        // An upload changes its account's state and device; each operation a leaf of each of two indexes, some a head.
        let writes = (peak.uploads * 2.0 + peak.ops * (2.0 + HEADS_PER_OP)) * CHECKPOINT_S;
        let appended = peak.ops * prices.row_bytes / PAGE_BYTES;
        let written = distinct_pages(writes, (accounts_bytes + heads_bytes + rows_bytes) / PAGE_BYTES) / CHECKPOINT_S;
        let page_pages = PAGE_OPS * prices.sealed_bytes / PAGE_BYTES;
        let read = peak.starts * ACTIVATION_PAGES + peak.pages * page_pages;

        let requests = peak.requests();
        let half = requests * prices.request_wire_bytes / 2.0;
        let sent_ops = (peak.delivered_ops + peak.pages * PAGE_OPS) * shape.op_wire_bytes * prices.wire_compression;
        let mbit = |bytes: f64| bytes * 8.0 / 1e6;
        Self {
            accounts,
            requests_per_s: requests,
            server_busy_cores,
            server_cores,
            instances,
            db_busy_cores,
            db_cores,
            server_gib: instances * prices.rest_bytes / GIB + held_gib,
            kept_gib,
            db_working_set_gib: working_set / GIB,
            accounts_gib: accounts_bytes / GIB,
            heads_gib: heads_bytes / GIB,
            rows_gib: rows_bytes / GIB,
            sealed_gib: sealed_bytes / GIB,
            disk_gib: (accounts_bytes + heads_bytes + rows_bytes + sealed_bytes) / GIB,
            wal_mb_per_s: wal(&peak) / 1e6,
            wal_gib_per_day: wal(&mean) * 86_400.0 / GIB,
            commits_per_s,
            uploads_per_commit: grouping.uploads_per_commit,
            commit_ms: grouping.commit_s * 1e3,
            lane_busy: grouping.lane_busy,
            iops: commits_per_s + appended + written + read,
            in_mbit_per_s: mbit(half + peak.ops * shape.op_wire_bytes),
            out_mbit_per_s: mbit(half + sent_ops),
            sockets: peak.sockets,
            db_connections: instances * (limits.lanes + OTHER_CONNECTIONS),
            peak,
        }
    }

    /// How much of each limit of one primary is used; the largest first decides.
    #[must_use]
    pub fn tightest(&self, shape: &Shape, limits: &Limits) -> (&'static str, f64) {
        let free = 1.0 - shape.headroom;
        let used = [
            ("database cores", self.db_busy_cores / free / limits.primary_cores),
            ("memory", self.db_working_set_gib / free / limits.primary_memory_gib),
            ("disk", self.disk_gib / limits.primary_disk_gib),
            ("write-ahead log", self.wal_mb_per_s / free / limits.primary_wal_mb_per_s),
            ("disk operations", self.iops / free / limits.primary_iops),
        ];
        used.into_iter().fold(("nothing", 0.0), |most, one| if one.1 > most.1 { one } else { most })
    }
}

impl Limits {
    /// Uploads of this shape in one commit at most.
    pub(super) fn group_cap(&self, shape: &Shape) -> f64 {
        (self.group_ops / shape.ops_per_upload.max(1.0)).min(self.group_uploads).max(1.0)
    }
}

/// Server CPU for a second of this demand, µs.
fn server_us(prices: &Prices, demand: &Demand) -> f64 {
    demand.polls * prices.poll_server_us
        + demand.uploads * prices.upload_server_us
        + demand.ops * prices.upload_op_server_us
        + demand.tails * prices.tail_server_us
        + demand.delivered_ops * prices.tail_op_server_us
        + demand.notices * prices.notice_server_us
        + demand.starts * (prices.poll_server_us + prices.activation_server_us)
        + demand.pages * prices.page_server_us
}

/// Database CPU for a second of this demand, µs.
fn db_us(prices: &Prices, demand: &Demand) -> f64 {
    demand.uploads * prices.upload_db_us
        + demand.ops * prices.upload_op_db_us
        + demand.starts * prices.activation_db_us
        + demand.pages * prices.page_db_us
}

/// Database CPU for one upload, µs.
pub(super) fn upload_db_us(shape: &Shape, prices: &Prices) -> f64 {
    prices.upload_db_us + shape.ops_per_upload * prices.upload_op_db_us
}

/// The plan for one number of accounts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Capacity {
    /// All accounts.
    pub accounts: f64,
    /// Primaries that they are divided among.
    pub cells: u32,
    /// What each of them needs.
    pub cell: Cell,
    /// What would be exhausted first on one primary with all accounts.
    pub bound_by: &'static str,
    /// How much of that limit all accounts would use of one primary: above 1 there must be several.
    pub of_one_primary: f64,
    /// Accounts that fit on one primary.
    pub accounts_per_primary: f64,
    /// Accounts per core, servers and databases together, in the busiest hour with headroom.
    pub accounts_per_core: f64,
}

impl Capacity {
    /// Plans for so many accounts.
    #[must_use]
    pub fn of(shape: &Shape, prices: &Prices, limits: &Limits, accounts: f64) -> Self {
        let used = |accounts: f64| Cell::of(shape, prices, limits, accounts).tightest(shape, limits);
        let (bound_by, of_one_primary) = used(accounts);
        let fits = |cells: u32| used(accounts / f64::from(cells)).1 <= 1.0;
        // What a primary needs grows with its accounts, so the smallest number of cells that fits can be searched for.
        let (mut too_few, mut enough) = (0, 1);
        while !fits(enough) && enough < u32::MAX / 2 {
            (too_few, enough) = (enough, enough * 2);
        }
        while enough - too_few > 1 {
            let middle = too_few + (enough - too_few) / 2;
            if fits(middle) { enough = middle } else { too_few = middle }
        }
        let cell = Cell::of(shape, prices, limits, accounts / f64::from(enough));
        let busy = (cell.server_busy_cores + cell.db_busy_cores) / (1.0 - shape.headroom);
        Self {
            accounts,
            cells: enough,
            bound_by,
            of_one_primary,
            accounts_per_primary: largest(|accounts| used(accounts).1 <= 1.0),
            accounts_per_core: if busy > 0.0 { cell.accounts / busy } else { f64::INFINITY },
            cell,
        }
    }
}

/// The largest number of accounts (to within a thousandth) that fits.
fn largest(fits: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    while fits(high) && high < 1e12 {
        (low, high) = (high, high * 2.0);
    }
    while high - low > high / 1_000.0 {
        let middle = f64::midpoint(low, high);
        if fits(middle) { low = middle } else { high = middle }
    }
    low
}
