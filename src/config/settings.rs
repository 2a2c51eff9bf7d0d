//! Every setting, declared once. The parser, `--print-config`, the structures of simple settings, `docs/configuration.md`,
//! `.env.example` and the names in `docker-compose.yml` come from these declarations.
//!
//! A new setting is one entry: its documentation, name, type, kind of values (`super::kinds`) and default, and if its
//! group is a structure the name of the field. `UPDATE_GENERATED=1 cargo test --lib config::` then writes the documents.
//! What depends on other settings is put together in `super::build`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use super::key::Key;
pub use super::key::{Default, Variable};
use super::kinds::{
    self, ADDRESS, BOOLEAN, BYTES, BYTES_OR_NONE, CORES, COUNT, DAYS, DELAY, DIRECT, EMAILS, ENCRYPTION, ENDPOINT,
    ENVIRONMENT, FACTORS, HEADERS, LEVELS, LISTENER, ORIGIN, ORIGINS, PATH, PERCENT, PROXIES, QUOTA, REQUESTS,
    ROWS_PER_DELETE, ROWS_PER_RUN, RP_ID, SECONDS, SECRET, SENDER, SHARE, TEXT, TRANSPORT, URL,
};
use super::proxies::TrustedProxies;
use super::rates::Factors;
use super::reader::Reader;
use super::{EncryptionPolicy, Environment, LogFormat, RegistrationMode};

use self::Default::{Computed, Unset, Value};

/// Settings that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// The heading.
    pub title: &'static str,
    /// Its settings.
    pub variables: &'static [Variable],
}

/// Declares a group: a typed key for each setting, and the group for documents.
///
/// ```text
/// GROUP "Title";
/// /// Documentation.
/// NAME: Type = KIND, default;
/// ```
macro_rules! settings {
    (
        $group:ident $title:literal;
        $($(#[doc = $doc:literal])+ $name:ident: $type:ty = $kind:expr, $default:expr;)+
    ) => {
        $($(#[doc = $doc])+
        pub(super) const $name: Key<$type> = Key {
            variable: Variable {
                name: stringify!($name),
                values: $kind.values,
                default: $default,
                secret: $kind.secret,
                doc: concat!($($doc),+),
            },
            kind: $kind,
        };)+

        const $group: Group = Group { title: $title, variables: &[$($name.variable),+] };
    };
}

/// Declares a group whose settings are fields of a structure. Further fields are constants or derived from those before.
macro_rules! structure {
    (
        $(#[$about:meta])* $structure:ident, $group:ident $title:literal;
        $($(#[doc = $doc:literal])+ $name:ident => $field:ident: $type:ty = $kind:expr, $default:expr;)+
        derived;
        $($(#[doc = $more:literal])+ $derived:ident: $derived_type:ty = $value:expr;)*
    ) => {
        settings! {
            $group $title;
            $($(#[doc = $doc])+ $name: $type = $kind, $default;)+
        }

        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $structure {
            $($(#[doc = $doc])+ pub $field: $type,)+
            $($(#[doc = $more])+ pub $derived: $derived_type,)*
        }

        impl $structure {
            pub(super) fn read(r: &mut Reader<'_>) -> Self {
                $(let $field = r.get(&$name);)+
                $(let $derived = $value;)*
                Self { $($field,)+ $($derived,)* }
            }
        }
    };
}

settings! {
    SERVER "Server";
    /// Production requires `JWT_SECRET` and an https `PUBLIC_URL`, refuses test mode and `CORS_ORIGINS=*`, and hides
    /// validation details. If it is not set, `NODE_ENV=production`, the Node server's name for it, counts.
    SUPERSYNC_ENV: Environment = ENVIRONMENT, Value("development");
    /// Address to listen on: an IP address (`::` for IPv6) or `localhost`.
    HOST: IpAddr = ADDRESS, Computed("0.0.0.0, in test mode 127.0.0.1");
    /// Port to listen on.
    PORT: u16 = kinds::PORT, Value("1900");
    /// Address under which users reach the server, with a path if it has no host to itself (`https://example.com/sync`);
    /// links in mails start with it.
    PUBLIC_URL: String = URL, Computed("http://localhost:PORT");
    /// Directory of the embedded database and the generated secret; relative to the working directory.
    DATA_DIR: PathBuf = PATH, Value("data");
    /// Addresses and networks of the reverse proxies in front of the server, such as `10.0.0.0/8`; or `loopback`, `private`,
    /// `none`. The client's address is taken from `X-Forwarded-For` only when the request comes from one of them: its
    /// rightmost entry that is not itself a proxy. A number, as in the old server, trusts that many entries from any peer,
    /// exempts every peer from the limit of connections per address, and logs a warning.
    TRUSTED_PROXIES: TrustedProxies = PROXIES, Value("127.0.0.1, ::1");
    /// Cross-origin requests of web apps; anything but `true` (even nothing) switches them off.
    CORS_ENABLED: bool = BOOLEAN, Value("true");
    /// Comma-separated origins of web apps: exact, `https://*.example.com` (one label), or `*` (not in production). Case, a
    /// port that the scheme implies and a trailing slash make no difference.
    CORS_ORIGINS: Vec<String> = ORIGINS, Value("https://app.super-productivity.com");
    /// Whether accounts must use end-to-end encryption. Accounts whose newest full state is encrypted must in any case.
    ENCRYPTION_POLICY: EncryptionPolicy = ENCRYPTION, Value("optional");
    /// `true` opens unauthenticated test routes that can delete everything. Needs `TEST_MODE_CONFIRM`; refused in production.
    TEST_MODE: String = TEXT, Unset;
    /// Must be `yes-i-understand-the-risks` for `TEST_MODE`.
    TEST_MODE_CONFIRM: String = TEXT, Unset;
}

settings! {
    DATABASE "Database";
    /// `postgres://user:password@host:port/name`, of several hosts `…@one:5432,two:5432/name`, or `sqlite://path`.
    /// Connections and the wait for one are parameters, as in the Node server (see below).
    DATABASE_URL: SecretString = SECRET, Computed("sqlite://DATA_DIR/supersync.db");
    /// The address of PostgreSQL itself, if `DATABASE_URL` leads through `PgBouncer` with `pool_mode=transaction`; for what
    /// needs a session.
    DATABASE_DIRECT_URL: SecretString = DIRECT, Unset;
}

settings! {
    ACCOUNTS "Accounts and mail";
    /// Signs session tokens; at least 32 characters. Several, separated by spaces: the first signs, all verify. Required in
    /// production.
    JWT_SECRET: SecretString = SECRET, Computed("generated once, kept in DATA_DIR/jwt-secret");
    /// `open`: everybody may register; `invite`: invited people may; `closed`: nobody may, the operator makes accounts.
    REGISTRATION: RegistrationMode = kinds::REGISTRATION, Value("open");
    /// Addresses that may register: comma-separated, or `*@domain`. Unset: everybody's.
    ALLOWED_EMAILS: Vec<String> = EMAILS, Unset;
    /// Domain that passkeys are bound to, for ever: when it changes, all are lost. Keep the old server's.
    WEBAUTHN_RP_ID: String = RP_ID, Computed("host of PUBLIC_URL");
    /// The server's name as authenticators show it.
    WEBAUTHN_RP_NAME: String = TEXT, Computed("WEBAUTHN_RP_ID");
    /// The one origin from which passkeys are accepted, such as `https://sync.example.com`.
    WEBAUTHN_ORIGIN: String = ORIGIN, Computed("origin of PUBLIC_URL");
    /// `smtp` sends mails, `file` writes them to `DATA_DIR/mails`, `log` prints their links to the log (not in production);
    /// with `off`, requests that need mail are refused.
    MAIL_TRANSPORT: &'static str = TRANSPORT, Computed("smtp if SMTP_HOST is set, else log; in production off");
    /// Mail server.
    SMTP_HOST: String = TEXT, Unset;
    /// Its port.
    SMTP_PORT: u16 = kinds::PORT, Value("587");
    /// `true`: TLS from the first byte; `false`: STARTTLS if offered.
    SMTP_SECURE: bool = BOOLEAN, Computed("true if SMTP_PORT is 465, else false");
    /// User name; unset: no authentication.
    SMTP_USER: String = TEXT, Unset;
    /// Password.
    SMTP_PASS: SecretString = SECRET, Unset;
    /// File with certificates (PEM) of authorities that are trusted besides the public ones, for a mail server of one's own.
    SMTP_CA_FILE: PathBuf = PATH, Unset;
    /// Sender of the mails.
    SMTP_FROM: String = SENDER, Value("\"SuperSync\" <noreply@example.com>");
}

settings! {
    LEGAL "Legal pages";
    /// Name of the person or company responsible for the server. With this and the next four a privacy policy is published
    /// and registration asks for consent; all five or none.
    PRIVACY_CONTACT_NAME: String = TEXT, Unset;
    /// Their street and number.
    PRIVACY_ADDRESS_STREET: String = TEXT, Unset;
    /// Their postal code and city.
    PRIVACY_ADDRESS_CITY: String = TEXT, Unset;
    /// Their country.
    PRIVACY_ADDRESS_COUNTRY: String = TEXT, Unset;
    /// Their e-mail address.
    PRIVACY_CONTACT_EMAIL: String = TEXT, Unset;
    /// The company that runs the machines, if it is another one; named in the policy.
    PRIVACY_HOSTING_PROVIDER: String = TEXT, Unset;
    /// The authority to which users can complain; named in the policy.
    PRIVACY_SUPERVISORY_AUTHORITY: String = TEXT, Unset;
    /// Where the data is; `EU` and `EEA` show a badge on the front page.
    PRIVACY_DATA_REGION: String = TEXT, Unset;
}

settings! {
    LOGS "Logs, metrics and traces";
    /// Format of log lines.
    LOG_FORMAT: LogFormat = kinds::LOG_FORMAT, Value("text");
    /// `error`, `warn`, `info`, `debug`, `trace`, `off`, or a filter such as `info,supersync::engine=debug`. Links that the
    /// operator has to open are logged at any level.
    LOG_LEVEL: String = LEVELS, Value("info");
    /// Address and port of `/metrics`.
    METRICS_ADDR: Option<SocketAddr> = LISTENER, Value("127.0.0.1:9464");
    /// Folder of the backups; metrics tell how old its newest file is.
    BACKUP_DIR: PathBuf = PATH, Unset;
    /// Collector for traces, OTLP over HTTP, such as `http://localhost:4318`; without it there are none.
    OTEL_EXPORTER_OTLP_ENDPOINT: Url = ENDPOINT, Unset;
    /// Headers for the collector, as `name=value,name=value`.
    OTEL_EXPORTER_OTLP_HEADERS: Vec<(String, SecretString)> = HEADERS, Unset;
    /// The server's name in traces.
    OTEL_SERVICE_NAME: String = TEXT, Value("supersync");
    /// The part of all requests that is traced.
    OTEL_TRACES_SAMPLER_ARG: f64 = SHARE, Value("1");
}

settings! {
    RATES "Rate limits";
    /// Limits per address. `off` switches them off (not the one per account). A factor such as `2` or `0.5` multiplies all of
    /// them; `sign-in=4, reads=2` multiplies those of a group (see below).
    RATE_LIMITS: Factors = FACTORS, Value("on");
    /// Uploads of one account in a minute; 0: no limit.
    UPLOADS_PER_USER_PER_MINUTE: u32 = REQUESTS, Value("100");
}

structure! {
    /// The ladder of time-outs (operations.md, section 3), inner to outer.
    Timeouts, TIMEOUTS "Time-outs";
    /// One request in the server. The other time-outs follow (see below). Seconds may have a fraction, here and below.
    REQUEST_TIMEOUT_SECONDS => handler: Duration = SECONDS, Value("80");
    /// How long the server keeps serving after the signal to stop, with `/readyz` saying no, until a balancer has noticed. For
    /// several servers behind one: longer than it takes the balancer.
    SHUTDOWN_DELAY_SECONDS => linger: Duration = DELAY, Value("0");
    /// How long running requests may take to finish at shutdown.
    SHUTDOWN_TIMEOUT_SECONDS => drain: Duration = SECONDS, Value("25");
    derived;
    /// One database statement: 60 s, within a request.
    statement: Duration = handler * 3 / 4;
    /// A silent connection: 90 s, longer than a request.
    socket: Duration = handler * 9 / 8;
    /// From when a request is logged and counted as slow.
    slow_request: Duration = Duration::from_secs(30);
}

structure! {
    /// Sizes and counts (contract, section 15).
    Limits, LIMITS "Limits";
    /// Body of a full state on the wire; inflated it may be twice as large. Bytes, or with `KiB`, `MiB`, `GiB`, here and below.
    SNAPSHOT_BODY_BYTES => snapshot_body_bytes: usize = BYTES, Value("30MiB");
    /// Quota of new accounts. An invalid value is a warning.
    SUPERSYNC_DEFAULT_STORAGE_QUOTA_BYTES => default_quota_bytes: i64 = QUOTA, Value("104857600");
    /// With less room on the disk of the embedded database uploads are answered 503; 0: never.
    MIN_FREE_DISK_BYTES => min_free_disk_bytes: u64 = BYTES_OR_NONE, Value("256MiB");
    /// Memory for what is kept of accounts between their requests; the least recently used ones go first.
    ACCOUNT_MEMORY_BYTES => account_memory_bytes: usize = BYTES, Value("128MiB");
    /// Request bytes held at once: of bodies being received or worked on, and again of what waits in the engine. Answers that
    /// wait to be read may hold half as much. One account gets an eighth, or one request at a time.
    MAX_QUEUED_BYTES => max_queued_bytes: usize = BYTES, Value("256MiB");
    /// Open WebSockets of the process.
    MAX_SOCKETS => max_sockets: usize = COUNT, Value("20000");
    /// Password hashes computed at once; each takes one core for about 50 ms. Leave syncing at least one core.
    PASSWORD_HASH_PARALLELISM => password_hash_parallelism: usize = CORES, Value("1");
    derived;
    /// Body of an upload on the wire, plain or gzip.
    upload_body_bytes: usize = 10 << 20;
    /// The same, inflated.
    upload_inflated_bytes: usize = 30 << 20;
    /// Body of a full state, inflated.
    snapshot_inflated_bytes: usize = snapshot_body_bytes.saturating_mul(2);
    /// Payload bytes of one page or of an upload's answer; a page holds at least one operation.
    page_bytes: usize = 8 << 20;
    /// An idle actor leaves memory after this time.
    actor_idle: Duration = Duration::from_mins(10);
    /// Requests that may wait or run in the engine.
    max_queued_requests: usize = 4096;
    /// The same of one account.
    max_queued_requests_per_user: usize = 64;
    /// Open WebSockets of one account.
    max_sockets_per_user: usize = 10;
    /// Operations that one restore may replay.
    max_replay_ops: usize = 100_000;
    /// State that a replay may build, in bytes.
    max_replay_state_bytes: usize = 100 << 20;
    /// Compressed bytes of a cached state.
    max_snapshot_blob_bytes: usize = 50 << 20;
}

structure! {
    /// Retention of data, and the clean-up.
    Retention, RETENTION "Retention";
    /// How long replaced or wiped data sets are kept.
    ARCHIVE_DAYS => archive: Duration = DAYS, Value("30");
    /// How much of them is kept, in percent of the account's quota: beyond it the oldest are deleted first. 0: nothing.
    ARCHIVE_QUOTA_PERCENT => archive_percent: u32 = PERCENT, Value("100");
    /// Time between clean-ups.
    SWEEP_INTERVAL_SECONDS => sweep_every: Duration = SECONDS, Value("86400");
    /// Rows per delete. An invalid value is a warning.
    OLD_OPS_CLEANUP_DELETE_BATCH_SIZE => delete_batch: usize = ROWS_PER_DELETE, Value("5000");
    /// After so many deletions a run starts no further account. An invalid value is a warning.
    OLD_OPS_CLEANUP_MAX_DELETED_PER_RUN => max_deleted_per_run: usize = ROWS_PER_RUN, Value("25000");
    derived;
    /// Superseded operations and unseen devices: 45 days, as in the Node server.
    superseded: Duration = Duration::from_hours(45 * 24);
    /// Operations that are older are packed into segments; zero: never.
    seal_after: Duration = Duration::from_hours(24);
    /// First clean-up after the start.
    first_sweep: Duration = Duration::from_secs(10).min(sweep_every);
}

impl Retention {
    /// How far a clock may be from what else is known of the time before nothing is deleted by it: a week, or a quarter
    /// of the shortest retention, but never less than two sweeps.
    #[must_use]
    pub fn leap(&self) -> Duration {
        const MOST: Duration = Duration::from_hours(7 * 24);
        let least = (self.sweep_every * 2).min(MOST);
        (self.superseded.min(self.archive) / 4).clamp(least, MOST)
    }
}

/// Every group, in the order of documents and of `--print-config`.
pub const GROUPS: &[Group] = &[SERVER, DATABASE, ACCOUNTS, LEGAL, LOGS, RATES, TIMEOUTS, LIMITS, RETENTION];

/// Names of the Node server and of earlier versions that have no effect, with the reason.
pub const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("SUPERSYNC_BATCH_UPLOAD", "uploads are always batched"),
    ("SUPERSYNC_PAYLOAD_BYTES_BACKFILL_COMPLETE", "there is nothing to backfill"),
    ("RUN_MIGRATIONS_ON_STARTUP", "migrations always run at start"),
    ("MAX_LIVE_ACTORS", "ACCOUNT_MEMORY_BYTES bounds what is kept of accounts, however many they are"),
    ("LOG_TO_FILE", "logs go to standard error; redirect them"),
];

/// Names with our prefix that are not the server's, with their user. A name that ends in `*` stands for all that begin so.
pub const OF_OTHERS: &[(&str, &str)] = &[
    ("SUPERSYNC_IMAGE", "compose"),
    ("SUPERSYNC_SKIP_IMAGE_REVISION_CHECK", "the Node server's deploy script"),
    ("SUPERSYNC_INSTALL_REPO_TERMS", "the Node server's deploy script"),
    ("SUPERSYNC_PURGE_DATA", "the Debian package"),
    ("SUPERSYNC_CONTAINER", "the Node server's monitor script"),
    ("SUPERSYNC_E2E_URL", "the app's end-to-end tests"),
    ("SUPERSYNC_TEST_*", "this project's tests"),
    ("SUPERSYNC_SERVICE_*", "Kubernetes, for a service called supersync"),
    ("SUPERSYNC_PORT*", "Kubernetes, for a service called supersync"),
];

/// All settings, in the order of documents and of `--print-config`.
pub fn variables() -> impl Iterator<Item = &'static Variable> {
    GROUPS.iter().flat_map(|group| group.variables)
}

/// The setting with this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Variable> {
    variables().find(|variable| variable.name == name)
}

/// Whether a name is another program's, although it begins like the server's.
#[must_use]
pub fn is_of_others(name: &str) -> bool {
    OF_OTHERS.iter().any(|(pattern, _)| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == *pattern,
    })
}
