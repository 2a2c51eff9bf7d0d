//! `DATABASE_URL`, as operators have it: with the query parameters of the Node server's database layer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use url::{Position, Url};

use super::Database;
use super::reader::{Reader, number, seconds};

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

/// Reads the database's variables.
pub(super) fn read(reader: &mut Reader<'_>, data_dir: &Path) -> Database {
    let max_connections =
        reader.value("DATABASE_MAX_CONNECTIONS", "expected a number from 1 to 10000", number(1..=10_000));
    let acquire_timeout =
        reader.value("DATABASE_ACQUIRE_TIMEOUT_SECONDS", "expected a number of seconds above 0", seconds);
    let default_path = data_dir.join("supersync.db");
    let Some(text) = reader.text("DATABASE_URL") else {
        reader.show("DATABASE_URL", format!("sqlite://{}", default_path.display()));
        return Database::Sqlite { path: default_path };
    };
    if let Some(rest) = text.strip_prefix("sqlite:") {
        let path = rest.strip_prefix("//").unwrap_or(rest);
        if path.is_empty() || path.contains('?') || path.contains(":memory:") {
            reader.problem("DATABASE_URL", "expected sqlite://path with a file's path and no parameters");
        } else {
            reader.show("DATABASE_URL", text);
        }
        return Database::Sqlite { path: PathBuf::from(path) };
    }
    match Url::parse(text) {
        _ if is_unencoded(text) => {
            reader.problem("DATABASE_URL", UNENCODED);
            Database::Sqlite { path: default_path }
        }
        Ok(url) if matches!(url.scheme(), "postgres" | "postgresql") => {
            postgres(reader, url, max_connections, acquire_timeout)
        }
        _ => {
            reader.problem("DATABASE_URL", EXPECTED);
            Database::Sqlite { path: default_path }
        }
    }
}

fn postgres(
    reader: &mut Reader<'_>,
    mut url: Url,
    mut max_connections: u32,
    mut acquire_timeout: Duration,
) -> Database {
    if url.path().trim_matches('/').is_empty() {
        reader.problem("DATABASE_URL", "names no database; expected postgres://user:password@host:port/name");
    }
    let mut schema = None;
    let mut kept = Vec::new();
    let parameters: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    for (name, value) in parameters {
        match name.as_str() {
            "connection_limit" => match number(1..=10_000)(&value) {
                Some(limit) => max_connections = limit,
                None => reader.problem("DATABASE_URL", "connection_limit must be a number from 1 to 10000"),
            },
            "pool_timeout" => match seconds(&value) {
                Some(timeout) => acquire_timeout = timeout,
                None => reader.problem("DATABASE_URL", "pool_timeout must be a number of seconds above 0"),
            },
            "schema" => {
                if !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                    schema = Some(value);
                } else {
                    reader.problem("DATABASE_URL", "schema must consist of letters, digits and underscores");
                }
            }
            known if DRIVER_PARAMETERS.contains(&known) => kept.push((name, value)),
            // Its value may be a secret; the name is enough.
            _ => reader.warn(format!("DATABASE_URL: the parameter {name:?} means nothing here and is ignored")),
        }
    }
    url.set_query(None);
    if !kept.is_empty() {
        url.query_pairs_mut().extend_pairs(&kept);
    }
    reader.show("DATABASE_URL", masked(&url));
    Database::Postgres { url: SecretString::from(String::from(url)), max_connections, acquire_timeout, schema }
}

/// Whether a PostgreSQL address can't be read as it was meant, because a character of its user or password separates the
/// parts of addresses.
#[must_use]
pub fn is_unencoded(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    if !matches!(scheme.to_ascii_lowercase().as_str(), "postgres" | "postgresql") || !rest.contains('@') {
        return false;
    }
    let Ok(url) = Url::parse(text) else { return true };
    let is_broken = |part: &str| {
        let is_code = |code: &str| code.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
        part.split('%').skip(1).any(|code| !is_code(code))
    };
    // What separates has ended the host early: the sign that ends user and password is in the path or behind it.
    let early = url.username().is_empty() && url.password().is_none() && url[Position::BeforePath..].contains('@');
    early || url.fragment().is_some() || is_broken(url.username()) || url.password().is_some_and(is_broken)
}

/// Where another database is: an address as the Node server has it, taken apart into what the driver understands and the
/// schema. `None`: it is none.
#[must_use]
pub fn postgres_address(text: &str) -> Option<(SecretString, Option<String>)> {
    let mut url = Url::parse(text).ok().filter(|_| !is_unencoded(text))?;
    if !matches!(url.scheme(), "postgres" | "postgresql") || url.path().trim_matches('/').is_empty() {
        return None;
    }
    let parameters: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let schema = parameters.iter().find(|(name, _)| name == "schema").map(|(_, value)| value.clone());
    let is_known = |name: &str| name != "application_name" && DRIVER_PARAMETERS.contains(&name);
    let kept: Vec<_> = parameters.into_iter().filter(|(name, _)| is_known(name)).collect();
    url.set_query(None);
    if !kept.is_empty() {
        url.query_pairs_mut().extend_pairs(&kept);
    }
    Some((SecretString::from(String::from(url)), schema))
}

/// Server and database, which an operator needs to see, without the password and the parameters.
fn masked(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    // Fails only for URLs without a host, which have no password either.
    if shown.password().is_some() && shown.set_password(Some("********")).is_err() {
        return "********".to_owned();
    }
    shown.into()
}
