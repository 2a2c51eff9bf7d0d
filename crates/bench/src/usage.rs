//! What processes of this machine use: processor time and memory, from `/proc`. Where that is not to be had, figures
//! are unknown, never guessed.

use std::collections::HashMap;
use std::time::Duration;

use procfs::process::{LimitValue, Process, Stat, all_processes};
use procfs::{CurrentSI as _, KernelStats};

/// The processes to measure.
#[derive(Clone, Copy)]
pub struct Meter {
    /// The server under load.
    pub server: Option<u32>,
    /// PostgreSQL's first process, the parent of all others.
    pub postmaster: Option<u32>,
}

/// Processor time up to a moment, or between two: of the `server`, in which the embedded database works; of all of
/// PostgreSQL's processes (`database`); of the load `generator`; of the whole `machine`, with others on the same host that
/// took its processors. What is missing is unknown.
pub type Cpu = HashMap<&'static str, Duration>;

/// What was used since an earlier moment.
pub fn since(now: &Cpu, earlier: &Cpu) -> Cpu {
    let used = |(who, time): (&&'static str, &Duration)| Some((*who, time.saturating_sub(*earlier.get(who)?)));
    now.iter().filter_map(used).collect()
}

/// What others used: figures of a machine on which others work mean little.
pub fn others(cpu: &Cpu) -> Option<Duration> {
    let known = *cpu.get("server")? + *cpu.get("generator")? + cpu.get("database").copied().unwrap_or_default();
    Some(cpu.get("machine")?.saturating_sub(known))
}

impl Meter {
    pub fn cpu(&self) -> Cpu {
        let database = self.postmaster.and_then(|postmaster| {
            // Backends come and go; the time of those that ended is in their parent's account of its children.
            let all = family(postmaster).into_iter();
            all.map(|member| Some(own(&member) + ticks(member.cutime.checked_add(member.cstime)?))).sum()
        });
        let machine = KernelStats::current().ok().map(|all| {
            // Interrupts are left out: the network's are the load's own, and no process is charged with them.
            let used = all.total.user + all.total.nice + all.total.system + all.total.steal.unwrap_or_default();
            ticks(i64::try_from(used).unwrap_or(i64::MAX))
        });
        let of = |pid: u32| stat(pid).map(|stat| own(&stat));
        let known = [
            ("server", self.server.and_then(of)),
            ("database", database),
            ("generator", of(std::process::id())),
            ("machine", machine),
        ];
        known.into_iter().filter_map(|(who, time)| Some((who, time?))).collect()
    }

    /// Memory of the server that is in RAM, bytes.
    pub fn server_memory(&self) -> Option<u64> {
        let status = Process::new(self.server?.try_into().ok()?).ok()?.status().ok()?;
        Some(status.vmrss? * 1024)
    }

    /// Memory of all of PostgreSQL's processes, bytes, shared pages once (PSS).
    pub fn database_memory(&self) -> Option<u64> {
        let pss = |member: Stat| {
            let rollup = Process::new(member.pid).ok()?.smaps_rollup().ok()?.memory_map_rollup;
            rollup.0.first()?.extension.map.get("Pss").copied()
        };
        family(self.postmaster?).into_iter().map(pss).sum()
    }
}

/// The process that started this PostgreSQL backend, if both run on this machine.
pub fn postmaster_of(backend: u32) -> Option<u32> {
    let backend = stat(backend)?;
    let parent = stat(u32::try_from(backend.ppid).ok()?)?;
    // A process of the same number may be something else: the database may run on another machine.
    let are_ours = backend.comm.starts_with("postgres") && parent.comm.starts_with("postgres");
    are_ours.then(|| u32::try_from(parent.pid).ok()).flatten()
}

/// How many files this process may have open.
pub fn open_files_limit() -> usize {
    match Process::myself().and_then(|process| process.limits()).map(|limits| limits.max_open_files.soft_limit) {
        Ok(LimitValue::Value(limit)) => usize::try_from(limit).unwrap_or(usize::MAX),
        _ => usize::MAX,
    }
}

fn stat(pid: u32) -> Option<Stat> {
    Process::new(pid.try_into().ok()?).ok()?.stat().ok()
}

fn family(parent: u32) -> Vec<Stat> {
    let Ok(all) = all_processes() else { return Vec::new() };
    let stats = all.filter_map(|process| process.ok()?.stat().ok());
    stats.filter(|stat| [stat.ppid, stat.pid].into_iter().any(|pid| u32::try_from(pid) == Ok(parent))).collect()
}

fn own(stat: &Stat) -> Duration {
    ticks(i64::try_from(stat.utime + stat.stime).unwrap_or(i64::MAX))
}

fn ticks(count: i64) -> Duration {
    Duration::from_millis(u64::try_from(count).unwrap_or_default() * 1000 / procfs::ticks_per_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_unknown() {
        assert_eq!(postmaster_of(std::process::id()), None);
        let nobody = Meter { server: Some(u32::MAX), postmaster: None };
        assert_eq!(
            (nobody.server_memory(), nobody.cpu().get("server"), nobody.cpu().get("database")),
            (None, None, None)
        );
    }
}
