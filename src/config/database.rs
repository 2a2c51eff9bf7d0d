//! `DATABASE_URL`, as operators have it: with the query parameters of the Node server's database layer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use super::address::{DRIVER_PARAMETERS, UNENCODED, is_unencoded, masked, postgres_hosts, with_parameters};
use super::kinds::{CONNECTIONS, SECONDS, boolean, number, seconds};
use super::reader::Reader;
use super::{Database, retired, settings};

const EXPECTED: &str = "expected postgres://user:password@host:port/name or sqlite://path (value not shown)";

/// Most connections, and the longest wait for one, if the address does not say.
const MAX_CONNECTIONS: u32 = 20;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads the database's variables.
pub(super) fn read(reader: &mut Reader<'_>, data_dir: &Path) -> Database {
    let max_connections = retired::read(reader, "DATABASE_MAX_CONNECTIONS", &CONNECTIONS).unwrap_or(MAX_CONNECTIONS);
    let acquire_timeout =
        retired::read(reader, "DATABASE_ACQUIRE_TIMEOUT_SECONDS", &SECONDS).unwrap_or(ACQUIRE_TIMEOUT);
    let key = &settings::DATABASE_URL;
    let default_path = data_dir.join("supersync.db");
    let Some(text) = reader.text(key) else {
        reader.show(key, format!("sqlite://{}", default_path.display()));
        return Database::Sqlite { path: default_path };
    };
    if let Some(rest) = text.strip_prefix("sqlite:") {
        let path = rest.strip_prefix("//").unwrap_or(rest);
        if path.is_empty() || path.contains('?') || path.contains(":memory:") {
            reader.problem(key, "expected sqlite://path with a file's path and no parameters");
        } else {
            reader.show(key, text);
        }
        return Database::Sqlite { path: PathBuf::from(path) };
    }
    if is_unencoded(text) {
        reader.problem(key, UNENCODED);
        return Database::Sqlite { path: default_path };
    }
    let Some(hosts) = postgres_hosts(text) else {
        reader.problem(key, EXPECTED);
        return Database::Sqlite { path: default_path };
    };
    postgres(reader, text, &hosts[0], max_connections, acquire_timeout)
}

fn postgres(
    reader: &mut Reader<'_>,
    text: &str,
    url: &Url,
    mut max_connections: u32,
    mut acquire_timeout: Duration,
) -> Database {
    let key = &settings::DATABASE_URL;
    if url.path().trim_matches('/').is_empty() {
        reader.problem(key, "names no database; expected postgres://user:password@host:port/name");
    }
    let (mut schema, mut pgbouncer) = (None, false);
    let mut kept = Vec::new();
    let parameters: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    for (name, value) in parameters {
        match name.as_str() {
            "connection_limit" => match number(&value, 1..=10_000) {
                Some(limit) => max_connections = limit,
                None => reader.problem(key, "connection_limit must be a number from 1 to 10000"),
            },
            "pool_timeout" => match seconds(&value) {
                Some(timeout) => acquire_timeout = timeout,
                None => reader.problem(key, "pool_timeout must be a number of seconds above 0"),
            },
            "schema" => {
                if !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                    schema = Some(value);
                } else {
                    reader.problem(key, "schema must consist of letters, digits and underscores");
                }
            }
            "pgbouncer" => match boolean(&value) {
                Some(is) => pgbouncer = is,
                None => reader.problem(key, "pgbouncer must be true or false"),
            },
            // The server writes, so it looks for a host that takes writes whatever is said here.
            "target_session_attrs" if matches!(value.as_str(), "any" | "read-write" | "primary") => {}
            "target_session_attrs" => {
                reader.problem(key, "target_session_attrs must be read-write, primary or any: the server writes");
            }
            "host" if value.contains(',') => reader
                .problem(key, "several hosts stand before the name: postgres://user:password@one:5432,two:5432/name"),
            known if DRIVER_PARAMETERS.contains(&known) => kept.push((name, value)),
            // Its value may be a secret; the name is enough.
            _ => reader.warn(format!("DATABASE_URL: the parameter {name:?} means nothing here and is ignored")),
        }
    }
    let direct_url = reader.optional(&settings::DATABASE_DIRECT_URL);
    if pgbouncer && reader.text(&settings::DATABASE_DIRECT_URL).is_none() {
        reader.problem(&settings::DATABASE_DIRECT_URL,
            "is needed beside pgbouncer=true in DATABASE_URL: the address of PostgreSQL itself, for what needs a session; \
             with pool_mode=session leave pgbouncer=true out instead",
        );
    }
    reader.show(key, masked(text));
    let url = with_parameters(text, &kept);
    Database::Postgres { url, direct_url, pgbouncer, max_connections, acquire_timeout, schema }
}
