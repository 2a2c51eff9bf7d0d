//! Pages of a log that was written by thousands of users at once, read when nothing of it is in memory: sealed as the
//! server keeps them, and one row per operation in the order in which they were written. Two orders: everybody writes one
//! operation in turn, so that no two of a page are neighbours; and everybody uploads [`BATCH`] at once, as the load did.

use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::layout::{self, BATCH, Raw, write_in_rounds};
use crate::bench::Bench;
use crate::bench::case::{Case, float};
use crate::bench::check::{Check, compare_logs};
use crate::bench::device::Device;
use crate::bench::error::{BenchError, Result};
use crate::bench::latency::Histogram;
use crate::bench::page::Page;
use crate::bench::place::Place;
use crate::bench::random::Random;
use crate::bench::scenario::Scenario;
use crate::bench::session::Session;
use crate::protocol::Seq;

pub struct ColdPages;

/// Operations per page.
const PAGE: usize = 500;
/// How often each user has written when everything is written.
const ROUNDS: usize = 5;
/// Pages that are read before it counts: programs, catalogues and the first parts of indexes are warm in real life too.
const WARM: usize = 3;

/// A table with one row per operation.
struct Plain {
    /// The case, as the report names it.
    case: &'static str,
    table: &'static str,
    page: &'static str,
    /// In which order operations come into it; `None`: as they came into the server's table.
    order: Option<&'static str>,
}

/// What the ratio is to.
const ONE_BY_ONE: Plain = Plain {
    case: "plain rows",
    table: "plain_operations",
    page: "SELECT * FROM plain_operations WHERE user_id = $1 AND server_seq > 0 ORDER BY server_seq LIMIT $2",
    order: Some("server_seq, user_id"),
};
const IN_UPLOADS: Plain = Plain {
    case: "plain rows, uploads of 20",
    table: "plain_uploads",
    page: "SELECT * FROM plain_uploads WHERE user_id = $1 AND server_seq > 0 ORDER BY server_seq LIMIT $2",
    order: None,
};

#[async_trait(?Send)]
impl Scenario for ColdPages {
    fn name(&self) -> &'static str {
        "cold-pages"
    }

    fn about(&self) -> &'static str {
        "pages of 500 operations of 5,000,000 that 10,000 users wrote, nothing in memory: sealed, and as plain rows"
    }

    fn needs_own_server(&self) -> bool {
        true
    }

    async fn run(&self, bench: &Bench) -> Result<Vec<Case>> {
        let options = &bench.options;
        let users = options.accounts.unwrap_or(options.size(10_000, 20)).max(1);
        let per_user = PAGE;
        let pages = options.size(300, 10);
        let session = bench.session(users).await?;
        let (session, ()) = session.paused(create_plain).await?;
        let (session, group) = write_in_rounds(bench, session, ROUNDS, per_user, copy_to_plain).await?;
        let case = |name: &str| {
            Case::new("cold-pages", name)
                .with("operations", users * per_user)
                .with("accounts", users)
                .with("pages", pages)
                .with("batch", BATCH)
        };
        let (_, mut devices) = group.finish(case("writing"));
        let mut order: Vec<usize> = (0..devices.len()).collect();
        shuffle(&mut order, &mut Random::new(5));
        order.truncate(pages + WARM);

        let mut cases = Vec::new();
        let mut session = session;
        for plain in [&ONE_BY_ONE, &IN_UPLOADS] {
            bench.progress(&format!("cold-pages: {}", plain.case));
            let read;
            (session, read) =
                session.paused(async |place: &Place| plain_pages(place, plain, &order, case(plain.case)).await).await?;
            cases.push(read);
        }
        bench.progress("cold-pages: sealed");
        let (session, cold) = session.paused(layout::make_cold).await?;
        let mut sealed = server_pages(&session, &mut devices, &order, case("sealed")).await?;
        sealed.parameters.insert("page_cache", described(&cold).into());
        for (plain, figure) in cases.iter().zip(["ratio_to_plain_rows", "ratio_to_plain_uploads"]) {
            let is_cold = cold.is_ok() && plain.parameters["page_cache"] == described(&Ok(()));
            let both = sealed.value("requests_per_second").zip(plain.value("requests_per_second"));
            sealed.figure(figure, "", both.filter(|_| is_cold).map(|(ours, plain)| ours / plain));
        }
        sealed.check(compare_logs(&session, devices).await?);
        cases.push(sealed);
        session.close().await?;
        Ok(cases)
    }
}

fn described(dropped: &Result<(), String>) -> String {
    match dropped {
        Ok(()) => "dropped".to_owned(),
        Err(reason) => format!("not dropped, so nothing is cold: {reason}"),
    }
}

/// Fisher and Yates.
fn shuffle(order: &mut [usize], random: &mut Random) {
    for n in (1..order.len()).rev() {
        order.swap(n, random.below(n + 1));
    }
}

/// Tables of the same shape with the same indexes.
async fn create_plain(place: &Place) -> Result<()> {
    let mut connection = Raw::open(place).await?;
    for Plain { table, .. } in [&ONE_BY_ONE, &IN_UPLOADS] {
        if matches!(connection, Raw::Postgres(_)) {
            connection.execute(format!("CREATE TABLE {table} (LIKE operations INCLUDING ALL)")).await?;
        } else {
            let made =
                "SELECT sql FROM sqlite_master WHERE tbl_name = 'operations' AND sql IS NOT NULL ORDER BY type DESC";
            for sql in connection.texts(made).await? {
                connection.execute(sql.replace("operations", table)).await?;
            }
        }
    }
    connection.close().await
}

async fn copy_to_plain(place: &Place, above: Seq) -> Result<()> {
    let mut connection = Raw::open(place).await?;
    let written = if matches!(connection, Raw::Postgres(_)) { "ctid" } else { "rowid" };
    for Plain { table, order, .. } in [&ONE_BY_ONE, &IN_UPLOADS] {
        let order = order.unwrap_or(written);
        connection
            .execute(format!(
                "INSERT INTO {table} SELECT * FROM operations WHERE server_seq > {above} ORDER BY {order}"
            ))
            .await?;
    }
    connection.close().await
}

/// One user after the other, one statement each.
async fn plain_pages(place: &Place, plain: &Plain, order: &[usize], mut case: Case) -> Result<Case> {
    let mut connection = Raw::open(place).await?;
    let first = connection.number("SELECT min(id) FROM users").await?;
    connection.close().await?;
    let dropped = layout::make_cold(place).await?;
    case.parameters.insert("page_cache", described(&dropped).into());
    let mut connection = Raw::open(place).await?;
    let limit = i64::try_from(PAGE).unwrap_or(i64::MAX);
    let mut reading = Reading::default();
    for which in order {
        let user = first + i64::try_from(*which).unwrap_or(i64::MAX);
        let sent = Instant::now();
        let payloads = connection.page(plain.page, user, limit).await?;
        let is_whole = payloads.len() == PAGE && payloads.iter().all(|payload| !payload.is_empty());
        reading.record(sent.elapsed(), is_whole);
    }
    connection.close().await?;
    reading.finish(&mut case);
    Ok(case)
}

/// One user after the other, as a device that joins asks for it.
async fn server_pages(session: &Session, devices: &mut [Device], order: &[usize], mut case: Case) -> Result<Case> {
    let mut connection = session.connect().await?;
    let mut request = Vec::new();
    let mut reading = Reading::default();
    for which in order {
        let device = devices
            .iter_mut()
            .find(|device| device.account() == *which)
            .ok_or_else(|| BenchError::Answer(format!("account {which} has no device")))?;
        device.retarget(session.target());
        let cursor = device.cursor();
        device.set_cursor(0);
        request.clear();
        // As another device of the account: nothing is left out.
        device.write_get(&mut request, &format!("/api/sync/ops?sinceSeq=0&limit={PAGE}"));
        device.set_cursor(cursor);
        let sent = Instant::now();
        let page = Page::read(connection.send(&request).await?.ok()?)?;
        reading.record(sent.elapsed(), page.ops == PAGE as u64);
    }
    reading.finish(&mut case);
    Ok(case)
}

/// What is counted while pages are read.
#[derive(Default)]
struct Reading {
    read: usize,
    whole: usize,
    pages: Histogram,
    lasted: Duration,
    /// Bytes read from disks when counting began.
    bytes_before: Option<u64>,
}

impl Reading {
    fn record(&mut self, took: Duration, is_whole: bool) {
        self.read += 1;
        self.whole += usize::from(is_whole);
        if self.read == WARM {
            self.bytes_before = layout::bytes_read();
        }
        if self.read > WARM {
            self.pages.record(took);
            self.lasted += took;
        }
    }

    fn finish(self, case: &mut Case) {
        let count = self.pages.count();
        let read = layout::bytes_read().zip(self.bytes_before).map(|(after, before)| after.saturating_sub(before));
        let seconds = self.lasted.as_secs_f64();
        case.figure("requests_per_second", "1/s", (seconds > 0.0).then(|| float(count) / seconds));
        for (name, share) in [("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99), ("max_ms", 1.0)] {
            case.figure(name, "ms", self.pages.quantile_ms(share));
        }
        case.figure("disk_read_bytes_per_page", "B", read.map(|read| float(read) / float(count.max(1))));
        let name = "every page is whole";
        case.check(Check::new(name, self.whole == self.read, format!("{} of {}", self.whole, self.read)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_has_everybody_once_and_is_the_same_every_time() {
        let shuffled = || {
            let mut order: Vec<usize> = (0..100).collect();
            shuffle(&mut order, &mut Random::new(5));
            order
        };
        let mut order = shuffled();
        assert_eq!(order, shuffled());
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}
