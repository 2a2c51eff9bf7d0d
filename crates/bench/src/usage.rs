//! What processes of this machine use: processor time and memory, from `/proc`. Where that is not to be had, figures
//! are unknown, never guessed.

use std::fs;
use std::time::Duration;

/// The kernel's clock ticks per second in `/proc/PID/stat`; 100 on every Linux that user space sees.
const TICKS_PER_SECOND: u64 = 100;

/// Whom to measure.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    /// The server under load.
    pub server: Option<u32>,
    /// PostgreSQL's first process, the parent of all others.
    pub postmaster: Option<u32>,
}

/// Processor time that was used up to a moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuReading {
    server: Option<Duration>,
    database: Option<Duration>,
    generator: Option<Duration>,
    machine: Option<Duration>,
}

/// Processor time that was used between two moments. `None`: unknown.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuUsed {
    /// By the server.
    pub server: Option<Duration>,
    /// By all of PostgreSQL's processes, whoever's work they did. The embedded database works in the server's process.
    pub database: Option<Duration>,
    /// By the load generator.
    pub generator: Option<Duration>,
    /// By everything on this machine, and by others on the same host that took its processors.
    pub machine: Option<Duration>,
}

impl CpuReading {
    /// What was used from an earlier moment to this one.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> CpuUsed {
        let difference = |now: Option<Duration>, before: Option<Duration>| {
            now.zip(before).map(|(now, before)| now.saturating_sub(before))
        };
        CpuUsed {
            server: difference(self.server, earlier.server),
            database: difference(self.database, earlier.database),
            generator: difference(self.generator, earlier.generator),
            machine: difference(self.machine, earlier.machine),
        }
    }
}

impl CpuUsed {
    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let sum = |a: Option<Duration>, b: Option<Duration>| a.zip(b).map(|(a, b)| a + b);
        Self {
            server: sum(self.server, other.server),
            database: sum(self.database, other.database),
            generator: sum(self.generator, other.generator),
            machine: sum(self.machine, other.machine),
        }
    }

    /// By strangers: figures of a machine on which others work mean little. `None` if a part is not known.
    #[must_use]
    pub fn strangers(&self) -> Option<Duration> {
        let known = self.server? + self.generator? + self.database.unwrap_or_default();
        Some(self.machine?.saturating_sub(known))
    }
}

impl Meter {
    /// Processor time so far.
    #[must_use]
    pub fn cpu(&self) -> CpuReading {
        CpuReading {
            server: self.server.and_then(Stat::of).map(|stat| stat.own),
            database: self.postmaster.and_then(database_cpu),
            generator: Stat::of(std::process::id()).map(|stat| stat.own),
            machine: fs::read_to_string("/proc/stat").ok().as_deref().and_then(machine_cpu),
        }
    }

    /// Memory of the server that is in RAM, bytes.
    #[must_use]
    pub fn server_memory(&self) -> Option<u64> {
        self.server.and_then(resident_bytes)
    }

    /// Memory of all of PostgreSQL's processes, bytes: shared pages once if the system tells (PSS), otherwise only what
    /// each process has for itself.
    #[must_use]
    pub fn database_memory(&self) -> Option<u64> {
        let postmaster = self.postmaster?;
        let pids: Vec<u32> = children_of(postmaster).into_iter().chain([postmaster]).collect();
        let proportional: Option<u64> =
            pids.iter().map(|pid| kib_line(&format!("/proc/{pid}/smaps_rollup"), "Pss:")).sum();
        proportional.or_else(|| pids.iter().map(|pid| kib_line(&format!("/proc/{pid}/status"), "RssAnon:")).sum())
    }
}

/// Memory of a process that is in RAM, bytes.
#[must_use]
pub fn resident_bytes(pid: u32) -> Option<u64> {
    kib_line(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// The process that started this PostgreSQL backend, if both run on this machine.
#[must_use]
pub fn postmaster_of(backend: u32) -> Option<u32> {
    let stat = Stat::of(backend)?;
    let parent = Stat::of(stat.parent)?;
    // A process of the same number may be something else: the database may run on another machine.
    (stat.name.starts_with("postgres") && parent.name.starts_with("postgres")).then_some(stat.parent)
}

/// How many files this process may have open.
#[must_use]
pub fn open_files_limit() -> Option<usize> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let soft = line.split_whitespace().next()?;
    if soft == "unlimited" { Some(usize::MAX) } else { soft.parse().ok() }
}

/// All processors' user, nice, system and stolen time. Interrupts are left out: the network's are the load's own, and
/// no process is charged with them.
fn machine_cpu(stat: &str) -> Option<Duration> {
    let fields: Vec<&str> = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().collect();
    let ticks: Option<u64> = [0, 1, 2, 7].into_iter().map(|n: usize| fields.get(n)?.parse::<u64>().ok()).sum();
    Some(Duration::from_millis(ticks? * 1000 / TICKS_PER_SECOND))
}

fn kib_line(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let kib: u64 = text.lines().find_map(|line| line.strip_prefix(name))?.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// Backends come and go; what those that ended have used is in their parent's account of its children.
fn database_cpu(postmaster: u32) -> Option<Duration> {
    let stat = Stat::of(postmaster)?;
    let living: Duration =
        children_of(postmaster).into_iter().filter_map(Stat::of).map(|child| child.own + child.children).sum();
    Some(stat.own + stat.children + living)
}

fn children_of(parent: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| Stat::of(*pid).is_some_and(|stat| stat.parent == parent))
        .collect()
}

/// A line of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    parent: u32,
    /// Used by the process.
    own: Duration,
    /// Used by children that ended.
    children: Duration,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The name stands in parentheses and may hold any character, also these.
        let (head, rest) = text.rsplit_once(") ")?;
        let name = head.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |n: usize| fields.get(n)?.parse::<u64>().ok();
        let time = |a: usize| Some(Duration::from_millis((ticks(a)? + ticks(a + 1)?) * 1000 / TICKS_PER_SECOND));
        // Of the fields after the name: 1 parent, 11 and 12 own user and system time, 13 and 14 the children's.
        Some(Self { name, parent: fields.get(1)?.parse().ok()?, own: time(11)?, children: time(13)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_name() {
        let line = "42 (a) (b) S 7 42 42 0 -1 4194560 1 2 3 4 150 50 30 20 20 0 1 0 100 200 300";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.name.as_str(), stat.parent), ("a) (b", 7));
        assert_eq!((stat.own, stat.children), (Duration::from_secs(2), Duration::from_millis(500)));
        assert_eq!(Stat::parse("42 (a) S"), None);
    }

    #[test]
    fn strangers_are_what_remains() {
        let used = machine_cpu("cpu  100 10 50 900 5 1 2 40 0 0\ncpu0 1 1 1 1\n");
        assert_eq!(used, Some(Duration::from_secs(2)));
        assert_eq!(machine_cpu("cpu  100 10"), None);
        let second = Some(Duration::from_secs(1));
        let mut cpu =
            CpuUsed { server: second, database: None, generator: second, machine: Some(Duration::from_secs(5)) };
        assert_eq!(cpu.strangers(), Some(Duration::from_secs(3)));
        cpu.database = second;
        assert_eq!(cpu.strangers(), Some(Duration::from_secs(2)));
        cpu.server = None;
        assert_eq!(cpu.strangers(), None);
    }

    #[test]
    fn this_process_uses_memory_and_time() {
        let meter = Meter { server: Some(std::process::id()), postmaster: None };
        let Some(memory) = meter.server_memory() else { return };
        assert!(memory > 100_000);
        let before = meter.cpu();
        let mut n = 0_u64;
        // Until the clock that counts in ticks has moved.
        while meter.cpu().since(&before).generator == Some(Duration::ZERO) {
            n = std::hint::black_box(n + 1);
        }
        assert_eq!(meter.cpu().since(&before).database, None);
        assert_eq!(postmaster_of(std::process::id()), None);
    }

    #[test]
    fn a_process_that_is_not_there_is_unknown() {
        assert_eq!(resident_bytes(u32::MAX), None);
        assert_eq!(Meter { server: Some(u32::MAX), postmaster: Some(u32::MAX) }.database_memory(), None);
    }
}
