//! Where and what was measured: a figure without its machine and its commit is worth nothing.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

/// The machine.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Cores that this process may use.
    pub cores: usize,
    /// The processor's name.
    pub processor: Option<String>,
    /// Memory, bytes.
    pub memory_bytes: Option<u64>,
    /// The kernel's release.
    pub kernel: Option<String>,
    /// The system's name.
    pub system: Option<String>,
    /// The file system of the scratch directory.
    pub file_system: Option<String>,
}

impl Machine {
    /// This machine, with its scratch directory.
    #[must_use]
    pub fn this(directory: &Path) -> Self {
        let line = |path: &str, name: &str, separator: char| {
            let text = fs::read_to_string(path).ok()?;
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(separator))?;
            Some(value.trim().trim_matches('"').to_owned())
        };
        let memory_kib = line("/proc/meminfo", "MemTotal", ':').and_then(|text| text.strip_suffix(" kB")?.parse().ok());
        Self {
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            processor: line("/proc/cpuinfo", "model name", ':'),
            memory_bytes: memory_kib.map(|kib: u64| kib * 1024),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|text| text.trim().to_owned()),
            system: line("/etc/os-release", "PRETTY_NAME", '='),
            file_system: file_system_of(directory),
        }
    }
}

/// The type of the file system with the longest mount point that the path begins with.
fn file_system_of(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .filter(|(point, _)| path.starts_with(point))
        // The last one mounted on a point hides those before it, and `max_by_key` prefers the last.
        .max_by_key(|(point, _)| point.len())
        .map(|(_, kind)| kind.to_owned())
}

/// The commit of the working copy in the current directory, with `+` when it has changes; `None` outside of one.
#[must_use]
pub fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|changes| !changes.is_empty());
    Some(if changed { commit + "+" } else { commit })
}
