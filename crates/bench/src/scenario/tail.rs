//! A few new operations per download: one device writes, another one of the account reads on from its cursor.

use async_trait::async_trait;

use super::Scenario;
use crate::bench::Bench;
use crate::bench::case::Case;
use crate::bench::check::compare_logs;
use crate::bench::connection::Answer;
use crate::bench::device::Device;
use crate::bench::error::{BenchError, Result};
use crate::bench::fleet::{deal, fill};
use crate::bench::load::{self, Work};

pub struct Tail;

/// New operations per download.
const NEW: usize = 5;
const ADD: usize = 0;
const READ: usize = 1;

/// An account's two devices.
struct Pair {
    writer: Device,
    reader: Device,
}

/// Pairs of devices that take turns on one connection.
struct Tails {
    pairs: Vec<Pair>,
    turn: usize,
    /// Whether the writer adds before the reader reads; otherwise the reader reads the same again.
    adds: bool,
    added: bool,
}

impl Work for Tails {
    fn next(&mut self, request: &mut Vec<u8>) -> Option<usize> {
        if self.adds && !self.added {
            self.added = true;
            self.pairs[self.turn].writer.write_upload(request, NEW);
            return Some(ADD);
        }
        self.added = false;
        let pair = &mut self.pairs[self.turn];
        pair.reader.set_cursor(pair.writer.cursor() - 5);
        pair.reader.write_download(request, None);
        Some(READ)
    }

    fn answer(&mut self, kind: usize, answer: Answer<'_>) -> Result<u64> {
        let pair = &mut self.pairs[self.turn];
        if kind == ADD {
            return pair.writer.read_upload(answer);
        }
        let page = pair.reader.read_page(answer)?;
        if page.ops != NEW as u64 || pair.reader.cursor() != pair.writer.cursor() {
            return Err(BenchError::answer("not what was written", answer.body));
        }
        self.turn = (self.turn + 1) % self.pairs.len();
        Ok(page.ops)
    }
}

#[async_trait(?Send)]
impl Scenario for Tail {
    fn name(&self) -> &'static str {
        "tail"
    }

    fn about(&self) -> &'static str {
        "downloads that bring 5 new operations of another device: just written, and written before"
    }

    async fn run(&self, bench: &Bench) -> Result<Vec<Case>> {
        let options = &bench.options;
        let connections = options.connections();
        let session = bench.session(options.accounts()).await?;
        let writers = fill(&session, session.devices(0, options.payload_bytes()).await?, 20, connections).await?;
        let readers = session.devices(1, options.payload_bytes()).await?;
        // Filling gave them back in another order.
        let mut writers = writers;
        writers.sort_by_key(Device::account);
        let mut pairs: Vec<Pair> =
            writers.into_iter().zip(readers).map(|(writer, reader)| Pair { writer, reader }).collect();
        let mut cases = Vec::new();
        for (name, adds) in [("5 just written", true), ("5 written before", false)] {
            bench.progress(&format!("tail: {name}"));
            let tails = deal(pairs, connections);
            let tails = tails.into_iter().map(|pairs| Tails { pairs, turn: 0, adds, added: false }).collect();
            let (outcome, tails) = load::run(&session, tails, options.pace()).await?;
            let mut case =
                Case::new("tail", name).with("accounts", session.accounts().len()).with("connections", tails.len());
            case.load(&outcome);
            if adds {
                case.kind("add", &outcome.kind(ADD), outcome.lasted);
                case.kind("read", &outcome.kind(READ), outcome.lasted);
            }
            case.memory(&session);
            pairs = tails.into_iter().flat_map(|tails| tails.pairs).collect();
            cases.push(case);
        }
        let check = compare_logs(&session, pairs.into_iter().map(|pair| pair.writer)).await?;
        for case in &mut cases {
            case.check(check.clone());
        }
        session.close().await?;
        Ok(cases)
    }
}
