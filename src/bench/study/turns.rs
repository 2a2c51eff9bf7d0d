//! A fixed number of uploads, so that two measurements do the same work.

use std::time::{Duration, Instant};

use crate::bench::case::Case;
use crate::bench::connection::Answer;
use crate::bench::device::Device;
use crate::bench::error::Result;
use crate::bench::fleet::deal;
use crate::bench::load::{self, KindOutcome, Outcome, Pace, Work};
use crate::bench::session::Session;
use crate::bench::usage::CpuUsed;

/// As long as it takes.
const WITHOUT_END: Pace = Pace { warmup: Duration::ZERO, lasts: Duration::from_hours(6), every: None };

/// Devices of one connection that upload in turn.
pub struct Turns {
    devices: Vec<Device>,
    /// Operations per upload.
    batch: usize,
    /// Uploads of one device before the next one's turn.
    run: usize,
    done: usize,
    uploads: usize,
}

impl Turns {
    fn current(&mut self) -> &mut Device {
        let which = (self.done / self.run) % self.devices.len();
        &mut self.devices[which]
    }
}

impl Work for Turns {
    fn next(&mut self, request: &mut Vec<u8>) -> Option<usize> {
        if self.done == self.uploads {
            return None;
        }
        let batch = self.batch;
        self.current().write_upload(request, batch);
        Some(0)
    }

    fn answer(&mut self, _: usize, answer: Answer<'_>) -> Result<u64> {
        let stored = self.current().read_upload(answer)?;
        self.done += 1;
        Ok(stored)
    }
}

/// Devices that have to upload.
pub struct Group {
    devices: Vec<Device>,
    counted: KindOutcome,
    cpu: Option<CpuUsed>,
    lasted: Duration,
}

impl Group {
    pub fn new(devices: Vec<Device>) -> Self {
        Self { devices, counted: KindOutcome::default(), cpu: None, lasted: Duration::ZERO }
    }

    /// Goes on with a server that was started again.
    pub fn retarget(&mut self, session: &Session) {
        for device in &mut self.devices {
            device.retarget(session.target());
        }
    }

    /// Every device uploads `times` times `batch` operations, one after the other on so many connections, and again.
    pub async fn upload_each(
        &mut self,
        session: &Session,
        connections: usize,
        times: usize,
        batch: usize,
    ) -> Result<()> {
        let hands = deal(std::mem::take(&mut self.devices), connections);
        let workers = hands.into_iter().map(|devices| {
            let uploads = devices.len() * times;
            Turns { devices, batch, run: 1, done: 0, uploads }
        });
        let workers = self.count(session, workers.collect()).await?;
        // As they were dealt, so that everybody keeps the place in the row.
        let mut hands: Vec<_> = workers.into_iter().map(|worker| worker.devices.into_iter()).collect();
        while let Some(device) = next_of(&mut hands, self.devices.len()) {
            self.devices.push(device);
        }
        Ok(())
    }

    /// The first `count` devices upload `run` times `batch` operations each, on one connection, one device after the
    /// other; then they go to the end of the row.
    pub async fn upload_first(&mut self, session: &Session, count: usize, run: usize, batch: usize) -> Result<()> {
        let devices = std::mem::take(&mut self.devices);
        let count = count.min(devices.len());
        let workers = self.count(session, vec![Turns { devices, batch, run, done: 0, uploads: count * run }]).await?;
        self.devices = workers.into_iter().flat_map(|worker| worker.devices).collect();
        self.devices.rotate_left(count);
        Ok(())
    }

    async fn count(&mut self, session: &Session, workers: Vec<Turns>) -> Result<Vec<Turns>> {
        let before = session.meter().cpu();
        let started = Instant::now();
        let (Outcome { kinds, .. }, workers) = load::run(session, workers, WITHOUT_END).await?;
        self.lasted += started.elapsed();
        let cpu = session.meter().cpu().since(&before);
        self.cpu = Some(self.cpu.map_or(cpu, |sum| sum.plus(&cpu)));
        for kind in &kinds {
            self.counted.merge(kind);
        }
        Ok(workers)
    }

    /// What was counted, and the devices for the check.
    pub fn finish(self, mut case: Case) -> (Case, Vec<Device>) {
        let kinds = vec![self.counted];
        case.load(&Outcome { lasted: self.lasted, kinds, cpu: self.cpu.unwrap_or_default() });
        case.per_second.clear();
        (case, self.devices)
    }
}

/// The next one when so many have been taken back.
fn next_of<T>(hands: &mut [std::vec::IntoIter<T>], taken: usize) -> Option<T> {
    let count = hands.len().max(1);
    hands.get_mut(taken % count)?.next()
}

/// How a figure of one case compares to the same of another; the figure is named after it. `time_per_request_ratio` is of
/// the wall-clock time that the same number of requests took.
pub fn ratios(of: &Case, to: &Case, into: &mut Case) {
    for name in ["server_cpu_us_per_request", "database_cpu_us_per_request", "p50_ms"] {
        let ratio = of.value(name).zip(to.value(name)).filter(|(_, to)| *to > 0.0).map(|(of, to)| of / to);
        into.figure(format!("{name}_ratio"), "", ratio);
    }
    let rates = to.value("requests_per_second").zip(of.value("requests_per_second"));
    into.figure("time_per_request_ratio", "", rates.filter(|(_, of)| *of > 0.0).map(|(to, of)| to / of));
    let both = |case: &Case| {
        let server = case.value("server_cpu_us_per_request")?;
        Some(server + case.value("database_cpu_us_per_request").unwrap_or(0.0))
    };
    let ratio = both(of).zip(both(to)).filter(|(_, to)| *to > 0.0).map(|(of, to)| of / to);
    into.figure("cpu_us_per_request_ratio", "", ratio);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::target::{Account, Target};

    #[test]
    fn devices_take_turns_and_then_it_is_over() {
        let target = Target::local(([127, 0, 0, 1], 1).into());
        let device = |n: usize| Device::new(&target, n, &Account { token: "t".to_owned() }, n as u64, 300);
        let mut turns = Turns { devices: (0..3).map(device).collect(), batch: 1, run: 2, done: 0, uploads: 7 };
        let mut whose = Vec::new();
        while turns.next(&mut Vec::new()).is_some() {
            whose.push(turns.current().account());
            turns.done += 1;
        }
        assert_eq!(whose, [0, 0, 1, 1, 2, 2, 0]);
    }

    #[test]
    fn what_was_dealt_comes_back_in_order() {
        for (things, connections) in [(0, 3), (2, 3), (3, 3), (10, 4), (7, 1)] {
            let mut hands: Vec<_> =
                deal((0..things).collect(), connections).into_iter().map(IntoIterator::into_iter).collect();
            let mut back = Vec::new();
            while let Some(one) = next_of(&mut hands, back.len()) {
                back.push(one);
            }
            assert_eq!(back, (0..things).collect::<Vec<_>>());
        }
    }

    #[test]
    fn ratios_are_of_what_both_measured() {
        let case = |server: f64, p50: Option<f64>| {
            let mut case = Case::new("s", "c");
            case.figure("server_cpu_us_per_request", "us", server);
            case.figure("p50_ms", "ms", p50);
            case.figure("requests_per_second", "1/s", 1000.0 / server);
            case
        };
        let mut into = Case::new("s", "growth");
        ratios(&case(30.0, Some(1.0)), &case(20.0, None), &mut into);
        assert_eq!(into.value("server_cpu_us_per_request_ratio"), Some(1.5));
        assert_eq!(into.value("cpu_us_per_request_ratio"), Some(1.5));
        assert_eq!(into.value("time_per_request_ratio"), Some(1.5));
        assert_eq!(into.value("p50_ms_ratio"), None);
    }
}
