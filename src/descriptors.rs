//! The limit of open files (and sockets), and how it is divided.
//!
//! A process without free descriptors can't accept connections, open its database's files or answer a probe. So the
//! limit on client connections is derived from it, and the rest is reserved for everything else.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::{Config, Database};

/// More than this is never needed.
const PLENTY: usize = 1 << 20;
/// Connections other than sockets: busy or idle.
const HTTP_CONNECTIONS: usize = 4096;
/// Connections beyond [`Room::connections`], reserved for probes.
pub const SPARE_CONNECTIONS: usize = 32;
/// Connections to the metrics listener.
pub const METRICS_CONNECTIONS: usize = 16;
/// Its spare ones.
pub const METRICS_SPARE: usize = 4;
/// The embedded database: four readers, one writer, one probe, each with two or three files; and a backup.
const SQLITE_FILES: usize = 28;
/// Connections to PostgreSQL besides those for requests: commits, housekeeping, probe, notices, a backup.
const OTHER_DATABASE_CONNECTIONS: usize = 12;
/// Listeners, timers, mail, traces, exports, temporary files.
const OTHER_FILES: usize = 40;
/// The part of all connections that one address may have.
const ADDRESS_SHARE: usize = 8;
/// Even if that is less.
const FEW: usize = 32;

/// Raises the soft limit of open files to the hard limit. On failure the limit stays as it was.
///
/// # Errors
/// When the system refuses.
pub fn raise() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none() || limit.current == limit.maximum {
        return Ok(());
    }
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}

/// The soft limit of open files.
#[must_use]
pub fn limit() -> usize {
    known(getrlimit(Resource::Nofile).current)
}

/// The limit after [`raise`].
#[must_use]
pub fn limit_after_raise() -> usize {
    known(getrlimit(Resource::Nofile).maximum)
}

fn known(limit: Option<u64>) -> usize {
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(PLENTY).min(PLENTY)
}

/// Limits on clients' connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Connections, sockets among them.
    pub connections: usize,
    /// Connections from one address.
    pub connections_per_address: usize,
    /// Sockets; the other connections are left to requests.
    pub sockets: usize,
    /// Sockets of clients at one address.
    pub sockets_per_address: usize,
}

impl Room {
    /// The configured limits, or lower ones if the limit of open files, `files`, is too low for them.
    #[must_use]
    pub fn within(config: &Config, files: usize) -> Self {
        let wanted = config.limits.max_sockets.saturating_add(HTTP_CONNECTIONS);
        let left = files.saturating_sub(set_aside(config));
        // Even a tiny limit leaves a few.
        let connections = wanted.min(left.max(files / 4).max(4));
        let sockets = config.limits.max_sockets.min(connections - connections.div_ceil(4).min(HTTP_CONNECTIONS));
        let share = |all: usize| (all / ADDRESS_SHARE).max(FEW).min(all);
        Self { connections, connections_per_address: share(connections), sockets, sockets_per_address: share(sockets) }
    }
}

/// Files reserved for everything but clients' connections.
fn set_aside(config: &Config) -> usize {
    let database = match &config.database {
        Database::Postgres { max_connections, .. } => {
            usize::try_from(*max_connections).unwrap_or(usize::MAX).saturating_add(OTHER_DATABASE_CONNECTIONS)
        }
        Database::Sqlite { .. } => SQLITE_FILES,
    };
    database.saturating_add(OTHER_FILES + METRICS_CONNECTIONS + METRICS_SPARE + SPARE_CONNECTIONS)
}

/// The limit of open files needed for the configured limits.
#[must_use]
pub fn needed(config: &Config) -> usize {
    config.limits.max_sockets.saturating_add(HTTP_CONNECTIONS).saturating_add(set_aside(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let variables = [("DATA_DIR", "/nonexistent"), ("JWT_SECRET", "0123456789abcdef0123456789abcdef")];
        Config::parse(&variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into()).expect("valid")
    }

    #[test]
    fn everything_fits_into_what_may_be_open() {
        let config = config();
        for files in [300, 400, 1024, 4096, 65_535, PLENTY] {
            let room = Room::within(&config, files);
            assert!(room.connections + set_aside(&config) <= files, "{files}: {room:?}");
            assert!(room.sockets < room.connections && room.sockets_per_address <= room.sockets, "{files}: {room:?}");
            assert!(room.connections_per_address < room.connections, "{files}: {room:?}");
        }
        let plenty = Room::within(&config, needed(&config));
        assert_eq!((plenty.sockets, plenty.connections), (20_000, 24_096));
        assert_eq!(Room::within(&config, PLENTY), plenty, "no more than is configured");
    }

    #[test]
    fn with_next_to_nothing_there_is_something() {
        for files in [0, 10, 64, 128] {
            let room = Room::within(&config(), files);
            assert!(room.connections >= 4 && room.sockets >= 1 && room.sockets_per_address >= 1, "{files}: {room:?}");
        }
    }
}
