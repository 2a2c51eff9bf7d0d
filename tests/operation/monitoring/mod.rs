//! What an operator sees: dashboards and alerts against the catalogue of metrics, the rules against their own unit
//! tests, and all of it against a real Prometheus that scrapes a real server under load.

mod dashboards;
mod live;
mod load;
mod names;
mod prometheus;
mod rules;

use std::path::{Path, PathBuf};

/// `monitoring/…` of the repository.
fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("monitoring").join(path)
}

/// A Prometheus program; Debian's package `prometheus` has both.
fn program(name: &str) -> std::process::Command {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(name).is_file()));
    assert!(
        found,
        "{name} is missing: install it (Debian, Ubuntu: sudo apt-get install prometheus), or run `make test-all`"
    );
    std::process::Command::new(name)
}
