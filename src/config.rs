//! Settings: the environment (and a `.env` file) to typed values. The only place that reads environment variables.
//!
//! Each is declared once, in [`settings`]. Everything that is wrong is reported at once ([`ConfigErrors`]).

use std::collections::HashMap;
use std::env;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::webauthn::RelyingParty;
use secrecy::SecretString;
use url::Url;

mod address;
mod build;
mod database;
#[cfg(test)]
pub(crate) mod documents;
mod dotenv;
mod given;
#[cfg(test)]
mod golden;
mod key;
mod kinds;
mod legal;
mod mail;
mod mask;
mod proxies;
pub mod rates;
mod reader;
pub mod retired;
mod secret;
pub mod settings;
#[cfg(test)]
mod tests;

pub use address::{UNENCODED, is_unencoded, postgres_address, postgres_hosts};
use build::MissingSecret;
pub use mask::masked;
pub use proxies::{Network, TrustedProxies, network_of};
pub use rates::{RateLimit, RateLimits};
use reader::Given;
pub use secret::{private_folder, secrets_of};
pub use settings::{Limits, Retention, Timeouts};

/// The target of log lines that an operator must see whatever `LOG_LEVEL` says.
pub const OPERATOR: &str = "operator";

/// Where the server runs, as far as it matters for safety.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Environment {
    /// Convenience first: nothing is required.
    Development,
    /// Safety first: a secret and an https address are required, validation details are hidden, test mode is refused.
    Production,
}

/// Which database.
#[derive(Clone, Debug)]
pub enum Database {
    /// The embedded one.
    Sqlite {
        /// The file.
        path: PathBuf,
    },
    /// A server.
    Postgres {
        /// `postgres://…` without Prisma's own parameters; of one host or, separated by commas, several.
        url: SecretString,
        /// The address of PostgreSQL itself, if the other one leads through a pooler.
        direct_url: Option<SecretString>,
        /// Whether that pooler hands sessions round (`PgBouncer` in transaction mode); otherwise that is found out.
        pgbouncer: bool,
        /// Most connections for requests.
        max_connections: u32,
        /// How long a request may wait for a connection.
        acquire_timeout: Duration,
        /// The schema (search path), when not the default.
        schema: Option<String>,
    },
}

/// Who may write to an account without end-to-end encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncryptionPolicy {
    /// Plaintext and encrypted operations are both accepted.
    Optional,
    /// Only encrypted operations are accepted (contract, section 5.3).
    Required,
}

/// Who may register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistrationMode {
    /// Everybody, within `ALLOWED_EMAILS`.
    Open,
    /// Who has an invitation.
    Invite,
    /// Nobody; the operator makes accounts.
    Closed,
}

impl RegistrationMode {
    /// As in `REGISTRATION`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Invite => "invite",
            Self::Closed => "closed",
        }
    }
}

/// What becomes of mails.
#[derive(Clone, Debug)]
pub enum MailDelivery {
    /// They go to a mail server.
    Smtp(Smtp),
    /// They become files; for development and tests.
    Files {
        /// Where; made when needed.
        folder: PathBuf,
        /// The sender.
        from: String,
    },
    /// Their links are printed to the log; never in production.
    Log,
    /// There are none: what needs them is refused.
    Off,
}

/// A mail server.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Smtp {
    pub host: String,
    pub port: u16,
    /// TLS from the first byte; otherwise STARTTLS when offered.
    pub implicit_tls: bool,
    pub user: Option<String>,
    pub password: Option<SecretString>,
    pub from: String,
    /// The host of `PUBLIC_URL` if that can be a public name: how this server introduces itself.
    pub public_host: Option<String>,
    /// Certificates of authorities in PEM that are trusted besides the public ones (`SMTP_CA_FILE`).
    pub authorities: Option<Vec<u8>>,
}

/// Who answers for the server, as a privacy policy names them (contract, operations section 2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Controller {
    pub name: String,
    pub street: String,
    pub city: String,
    pub country: String,
    pub email: String,
}

/// What the operator wants published on legal pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Legal {
    /// With it there is a privacy policy.
    pub controller: Option<Controller>,
    /// Who runs the machines, when somebody else does.
    pub hosting_provider: Option<String>,
    /// Where users can complain.
    pub supervisory_authority: Option<String>,
    /// Where the data is; `EU` and `EEA` show a badge.
    pub data_region: Option<String>,
    /// The operator's own terms of service (`DATA_DIR/legal/terms.html`), a whole HTML document.
    pub terms: Option<String>,
}

impl Legal {
    /// Whether somebody who registers must agree to something.
    #[must_use]
    pub const fn requires_consent(&self) -> bool {
        self.controller.is_some() || self.terms.is_some()
    }

    /// Whether the operator says that data stays in the European Union or the European Economic Area.
    #[must_use]
    pub fn is_in_europe(&self) -> bool {
        self.data_region
            .as_deref()
            .is_some_and(|region| region.eq_ignore_ascii_case("EU") || region.eq_ignore_ascii_case("EEA"))
    }
}

/// Which web origins may call the API.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Cors {
    pub enabled: bool,
    /// Exact origins, `https://*.example.com` patterns, or `*`.
    pub origins: Vec<String>,
}

/// A collector of spans.
#[derive(Clone, Debug)]
pub struct TraceExport {
    /// Where spans are posted, the path included.
    pub endpoint: Url,
    /// Sent along.
    pub headers: Vec<(String, SecretString)>,
    /// What this server is called there.
    pub service: String,
    /// Which part of all requests is traced, 0 to 1.
    pub share: f64,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum LogFormat {
    Text,
    Json,
}

/// All settings.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Config {
    pub environment: Environment,
    pub host: IpAddr,
    pub port: u16,
    /// As browsers write it, without a trailing slash.
    pub public_url: String,
    pub data_dir: PathBuf,
    pub database: Database,
    pub jwt_secret: SecretString,
    pub cors: Cors,
    /// Lower-cased addresses or `*@domain`; empty = everybody may register.
    pub allowed_emails: Vec<String>,
    pub mail: MailDelivery,
    pub legal: Legal,
    /// Who may register (`REGISTRATION`).
    pub registration: RegistrationMode,
    /// Whom passkeys are made for (`WEBAUTHN_*`).
    pub relying_party: RelyingParty,
    pub encryption_policy: EncryptionPolicy,
    pub test_mode: bool,
    /// Which reverse proxies are believed about a client's address (`TRUSTED_PROXIES`, those on this machine).
    pub trusted_proxies: TrustedProxies,
    /// The metrics listener; `None` = off.
    pub metrics_addr: Option<SocketAddr>,
    /// Where backups lie, if metrics are to tell how old the newest is.
    pub backup_dir: Option<PathBuf>,
    /// Where spans are sent, if anywhere.
    pub traces: Option<TraceExport>,
    pub log_format: LogFormat,
    /// A `tracing` filter with a level for everything.
    pub log_filter: String,
    pub rate_limits: RateLimits,
    pub timeouts: Timeouts,
    pub limits: Limits,
    pub retention: Retention,
}

/// Settings with what an operator wants to know about them.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// Every setting with its value in force, secrets masked, in the order of [`settings`].
    pub settings: Vec<Setting>,
    /// What works but is probably not meant, one line each.
    pub warnings: Vec<String>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The setting or file.
    pub name: String,
    /// Where it was set, unless in the environment.
    pub place: Option<String>,
    /// Its text, unless it was not set or is secret.
    pub was: Option<String>,
    /// What would be right.
    pub expected: String,
}

impl Problem {
    pub(super) fn new(name: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { name: name.into(), place: None, was: None, expected: expected.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(place) = &self.place {
            write!(f, " ({place})")?;
        }
        match &self.was {
            Some(was) => write!(f, ": is {was:?}; {}", self.expected),
            None => write!(f, ": {}", self.expected),
        }
    }
}

/// Everything that is wrong with the configuration, in the order of the settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the configuration has {} problem(s):{}", .0.len(), lines(.0))]
pub struct ConfigErrors(pub Vec<Problem>);

fn lines(problems: &[Problem]) -> String {
    problems.iter().fold(String::new(), |all, problem| format!("{all}\n  {problem}"))
}

/// A setting's value in force, as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The setting.
    pub name: &'static str,
    /// Its value; secrets are masked, in addresses too. `None` = not set.
    pub value: Option<String>,
    /// Whether the environment or the `.env` file gave it.
    pub given: bool,
}

impl Config {
    /// The path of `PUBLIC_URL` such as `/sync`, without a trailing slash; empty if the server has a host to itself.
    #[must_use]
    pub fn base_path(&self) -> String {
        Url::parse(&self.public_url).map_or_else(|_| String::new(), |url| url.path().trim_end_matches('/').to_owned())
    }

    /// The settings in the given variables.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn parse(variables: &HashMap<String, String>) -> Result<Self, ConfigErrors> {
        Ok(Loaded::parse(variables)?.config)
    }
}

impl Loaded {
    /// The settings in this process's environment and the `.env` file of its working directory; a variable of the
    /// environment wins over the same one in the file.
    ///
    /// # Errors
    /// Everything that is wrong with them, an unreadable `.env` file included.
    pub fn from_env() -> Result<Self, ConfigErrors> {
        build::load(&Given::of_process(), MissingSecret::Make)
    }

    /// The same for commands that only look: makes no secret. Without `JWT_SECRET` the configuration has an empty one,
    /// so it must not be used to sign or check tokens.
    ///
    /// # Errors
    /// Like [`Loaded::from_env`].
    pub fn from_env_without_secret() -> Result<Self, ConfigErrors> {
        build::load(&Given::of_process(), MissingSecret::Leave)
    }

    /// The settings in the given variables. Touches the file system only for secrets: to read those in files, and to keep
    /// or find the generated one, which needs no `JWT_SECRET` and no production.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn parse(variables: &HashMap<String, String>) -> Result<Self, ConfigErrors> {
        build::load(&Given::of(variables), MissingSecret::Make)
    }
}

/// Whether whoever looks at a terminal wants colours there (`NO_COLOR`, as other programs have it). No setting of the
/// server, so not in its list.
#[must_use]
pub fn wants_colours() -> bool {
    env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Settings as the text of a `.env` file. What was not given is a comment.
#[must_use]
pub fn as_env_file(settings: &[Setting]) -> String {
    settings.iter().fold(String::new(), |text, Setting { name, value, given }| {
        text + if *given { "" } else { "# " } + name + "=" + &quoted(value.as_deref().unwrap_or_default()) + "\n"
    })
}

/// A value as it is written in a `.env` file.
fn quoted(value: &str) -> String {
    if value.chars().all(|c| c.is_ascii_alphanumeric() || "-_.,:/@*".contains(c)) {
        return value.to_owned();
    }
    // Quotes can't be escaped in such a file.
    let quote = ['\'', '`', '"'].into_iter().find(|quote| !value.contains(*quote)).unwrap_or('\'');
    format!("{quote}{value}{quote}")
}
