//! Addresses of PostgreSQL, as operators have them: with the query parameters of the Node server's database layer.

use secrecy::SecretString;
use url::{Position, Url, form_urlencoded};

/// Parameters that the PostgreSQL driver understands; they stay in the URL.
pub(super) const DRIVER_PARAMETERS: [&str; 10] = [
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
pub(super) fn with_parameters(text: &str, parameters: &[(String, String)]) -> SecretString {
    let Some((scheme, user, hosts, tail)) = parts(text) else { return SecretString::from(text.to_owned()) };
    let path = tail.split(['?', '#']).next().unwrap_or_default();
    let mut address = format!("{scheme}://{user}{hosts}{path}");
    if !parameters.is_empty() {
        address.push('?');
        address.push_str(&form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish());
    }
    SecretString::from(address)
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
pub(super) fn masked(text: &str) -> String {
    let Some((scheme, user, hosts, tail)) = parts(text) else { return "********".to_owned() };
    let user = user.split_once(':').map_or_else(|| user.to_owned(), |(name, _)| format!("{name}:********@"));
    format!("{scheme}://{user}{hosts}{}", tail.split(['?', '#']).next().unwrap_or_default())
}
