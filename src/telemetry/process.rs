//! What the process itself uses, read from `/proc`. Elsewhere than on Linux these metrics are absent, not zero.

use std::fs;

use metrics::gauge;
use rustix::process::{Resource, getrlimit};
use tokio::runtime::Handle;

/// Clock ticks per second in `/proc/self/stat`: the kernel converts to this fixed rate for user space on every platform
/// that this program is built for.
const USER_HZ: f64 = 100.0;

/// Brings the process metrics up to date. Must be called within a tokio runtime.
pub(super) fn record() {
    if let Some(kib) = resident_kib() {
        gauge!("supersync_process_resident_memory_bytes").set(f64::from(kib) * 1024.0);
    }
    if let Some(seconds) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(cpu_seconds) {
        gauge!("supersync_process_cpu_seconds").set(seconds);
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        // Listing them opens one more.
        gauge!("supersync_process_open_fds").set(number(entries.count().saturating_sub(1)));
    }
    gauge!("supersync_process_max_fds").set(getrlimit(Resource::Nofile).current.map_or(f64::INFINITY, number));
    if let Ok(entries) = fs::read_dir("/proc/self/task") {
        gauge!("supersync_process_threads").set(number(entries.count()));
    }
    let runtime = Handle::current().metrics();
    gauge!("supersync_runtime_tasks").set(number(runtime.num_alive_tasks()));
    gauge!("supersync_runtime_queued_tasks").set(number(runtime.global_queue_depth()));
}

/// Memory in use, in bytes; `None` elsewhere than on Linux.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    Some(u64::from(resident_kib()?) * 1024)
}

fn number(n: impl TryInto<u32>) -> f64 {
    n.try_into().map_or(f64::INFINITY, f64::from)
}

fn resident_kib() -> Option<u32> {
    kib_of(&fs::read_to_string("/proc/self/status").ok()?)
}

/// `VmRSS:     1234 kB` of `/proc/self/status`.
fn kib_of(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// The 14th and 15th field of `/proc/self/stat`. The second is the program's name, in brackets, and may hold anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / USER_HZ)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_gives_nothing() {
        for text in ["", "VmRSS:", "VmRSS: x kB", "VmRSS: 12 MB", "1 (a) R 1"] {
            assert_eq!(kib_of(text), None, "{text}");
            assert_eq!(cpu_seconds(text), None, "{text}");
        }
    }

    #[test]
    fn figures_are_found() {
        assert_eq!(kib_of("Name:\tx\nVmRSS:\t  2048 kB\nThreads:\t1\n"), Some(2048));
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194304 99 0 0 0 250 50 0 0 20 0 1 0 100 0 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
    }
}
