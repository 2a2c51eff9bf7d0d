//! `DATABASE_URL`, as operators have it: with the query parameters of the Node server's database layer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use url::{Position, Url, form_urlencoded};

use super::Database;
use super::kinds::{CONNECTIONS, Kind, SECONDS, boolean, number, seconds};
use super::reader::Reader;
use super::settings;

/// Parameters that the PostgreSQL driver understands; they stay in the URL.
const DRIVER_PARAMETERS: [&str; 10] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "application_name",
    "options",
    "host",
    "hostaddr",
    "user",
    "password",
];

/// Said of an address in which a password is probably not percent-encoded.
pub const UNENCODED: &str = "holds a character in user or password that has to be percent-encoded: % as %25, @ as %40, / as %2F, : as %3A, ? as \
                             %3F, # as %23 (value not shown)";

const EXPECTED: &str = "expected postgres://user:password@host:port/name or sqlite://path (value not shown)";

pub(super) const DIRECT: Kind<SecretString> =
    Kind::secret("URL, secret", "expected postgres://user:password@host:port/name (value not shown)", |text| {
        Some(postgres_address(text)?.0)
    });
/// Most connections, and the longest wait for one, if the address does not say.
const MAX_CONNECTIONS: u32 = 20;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads the database's variables.
pub(super) fn read(reader: &mut Reader<'_>, data_dir: &Path) -> Database {
    let max_connections = reader.retired("DATABASE_MAX_CONNECTIONS", &CONNECTIONS).unwrap_or(MAX_CONNECTIONS);
    let acquire_timeout = reader.retired("DATABASE_ACQUIRE_TIMEOUT_SECONDS", &SECONDS).unwrap_or(ACQUIRE_TIMEOUT);
    let key = &settings::DATABASE_URL;
    let default_path = data_dir.join("supersync.db");
    let Some(text) = reader.text(key) else {
        reader.show(key, format!("sqlite://{}", default_path.display()));
        return Database::Sqlite { path: default_path };
    };
    if let Some(rest) = text.strip_prefix("sqlite:") {
        let path = rest.strip_prefix("//").unwrap_or(rest);
        if path.is_empty() || path.contains('?') || path.contains(":memory:") {
            reader.problem(key.name(), "expected sqlite://path with a file's path and no parameters");
        } else {
            reader.show(key, text);
        }
        return Database::Sqlite { path: PathBuf::from(path) };
    }
    if is_unencoded(text) {
        reader.problem(key.name(), UNENCODED);
        return Database::Sqlite { path: default_path };
    }
    let Some(hosts) = postgres_hosts(text) else {
        reader.problem(key.name(), EXPECTED);
        return Database::Sqlite { path: default_path };
    };
    postgres(reader, text, &hosts[0], max_connections, acquire_timeout)
}

/// An address's scheme, user with password, hosts, and the rest.
fn parts(text: &str) -> Option<(&str, &str, &str, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (user, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
    matches!(scheme.to_ascii_lowercase().as_str(), "postgres" | "postgresql").then_some((scheme, user, hosts, tail))
}

/// The addresses in one of several hosts (`postgres://user:password@one:5432,two:5432/name`). `None`: it is none.
#[must_use]
pub fn postgres_hosts(text: &str) -> Option<Vec<Url>> {
    let (scheme, user, hosts, tail) = parts(text)?;
    let several = hosts.contains(',');
    let one = |host: &str| {
        Url::parse(&format!("{scheme}://{user}{host}{tail}")).ok().filter(|_| !several || !host.is_empty())
    };
    hosts.split(',').map(one).collect()
}

/// The same address with other parameters.
fn with_parameters(text: &str, parameters: &[(String, String)]) -> SecretString {
    let Some((scheme, user, hosts, tail)) = parts(text) else { return SecretString::from(text.to_owned()) };
    let path = tail.split(['?', '#']).next().unwrap_or_default();
    let mut address = format!("{scheme}://{user}{hosts}{path}");
    if !parameters.is_empty() {
        address.push('?');
        address.push_str(&form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish());
    }
    SecretString::from(address)
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
        reader.problem(key.name(), "names no database; expected postgres://user:password@host:port/name");
    }
    let (mut schema, mut pgbouncer) = (None, false);
    let mut kept = Vec::new();
    let parameters: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    for (name, value) in parameters {
        match name.as_str() {
            "connection_limit" => match number(&value, 1..=10_000) {
                Some(limit) => max_connections = limit,
                None => reader.problem(key.name(), "connection_limit must be a number from 1 to 10000"),
            },
            "pool_timeout" => match seconds(&value) {
                Some(timeout) => acquire_timeout = timeout,
                None => reader.problem(key.name(), "pool_timeout must be a number of seconds above 0"),
            },
            "schema" => {
                if !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                    schema = Some(value);
                } else {
                    reader.problem(key.name(), "schema must consist of letters, digits and underscores");
                }
            }
            "pgbouncer" => match boolean(&value) {
                Some(is) => pgbouncer = is,
                None => reader.problem(key.name(), "pgbouncer must be true or false"),
            },
            // The server writes, so it looks for a host that takes writes whatever is said here.
            "target_session_attrs" if matches!(value.as_str(), "any" | "read-write" | "primary") => {}
            "target_session_attrs" => {
                reader
                    .problem(key.name(), "target_session_attrs must be read-write, primary or any: the server writes");
            }
            "host" if value.contains(',') => reader.problem(
                key.name(),
                "several hosts stand before the name: postgres://user:password@one:5432,two:5432/name",
            ),
            known if DRIVER_PARAMETERS.contains(&known) => kept.push((name, value)),
            // Its value may be a secret; the name is enough.
            _ => reader.warn(format!("DATABASE_URL: the parameter {name:?} means nothing here and is ignored")),
        }
    }
    let direct_url = reader.optional(&settings::DATABASE_DIRECT_URL);
    if pgbouncer && reader.text(&settings::DATABASE_DIRECT_URL).is_none() {
        reader.problem(
            settings::DATABASE_DIRECT_URL.name(),
            "is needed beside pgbouncer=true in DATABASE_URL: the address of PostgreSQL itself, for what needs a session; \
             with pool_mode=session leave pgbouncer=true out instead",
        );
    }
    reader.show(key, masked(text));
    let url = with_parameters(text, &kept);
    Database::Postgres { url, direct_url, pgbouncer, max_connections, acquire_timeout, schema }
}

/// Whether a PostgreSQL address can't be read as it was meant, because a character of its user or password separates the
/// parts of addresses.
#[must_use]
pub fn is_unencoded(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    if !matches!(scheme.to_ascii_lowercase().as_str(), "postgres" | "postgresql") || !rest.contains('@') {
        return false;
    }
    let Some(hosts) = postgres_hosts(text) else { return true };
    let is_broken = |part: &str| {
        let is_code = |code: &str| code.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
        part.split('%').skip(1).any(|code| !is_code(code))
    };
    // What separates has ended the host early: the sign that ends user and password is in the path or behind it.
    let is_misread = |url: &Url| {
        let early = url.username().is_empty() && url.password().is_none() && url[Position::BeforePath..].contains('@');
        early || url.fragment().is_some() || is_broken(url.username()) || url.password().is_some_and(is_broken)
    };
    hosts.iter().any(is_misread)
}

/// Where another database is: an address as the Node server has it, taken apart into what the driver understands and the
/// schema. `None`: it is none.
#[must_use]
pub fn postgres_address(text: &str) -> Option<(SecretString, Option<String>)> {
    let hosts = postgres_hosts(text).filter(|_| !is_unencoded(text))?;
    let url = hosts.first().filter(|url| !url.path().trim_matches('/').is_empty())?;
    let parameters: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let schema = parameters.iter().find(|(name, _)| name == "schema").map(|(_, value)| value.clone());
    let is_known = |name: &str| name != "application_name" && DRIVER_PARAMETERS.contains(&name);
    let kept: Vec<_> = parameters.into_iter().filter(|(name, _)| is_known(name)).collect();
    Some((with_parameters(text, &kept), schema))
}

/// Server and database, which an operator needs to see, without the password and the parameters.
fn masked(text: &str) -> String {
    let Some((scheme, user, hosts, tail)) = parts(text) else { return "********".to_owned() };
    let user = user.split_once(':').map_or_else(|| user.to_owned(), |(name, _)| format!("{name}:********@"));
    format!("{scheme}://{user}{hosts}{}", tail.split(['?', '#']).next().unwrap_or_default())
}
