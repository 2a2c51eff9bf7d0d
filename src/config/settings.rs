//! Every variable that the server reads, in one table: the parser takes names and defaults from it, `--print-config`
//! its order and what to mask, and a test holds `docs/configuration.md` to it.

/// What a variable is when it is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    /// This text, parsed like a given one.
    Value(&'static str),
    /// Worked out from other settings; the text says how.
    Computed(&'static str),
    /// Nothing.
    Unset,
}

/// One variable.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// Its name in the environment.
    pub name: &'static str,
    /// Its value when unset.
    pub default: Default,
    /// Whether its value must never be shown.
    pub secret: bool,
    /// What it does, for the documentation. One line.
    pub doc: &'static str,
}

/// Variables that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// The heading.
    pub title: &'static str,
    /// Its variables.
    pub variables: &'static [Variable],
}

const fn value(name: &'static str, default: &'static str, doc: &'static str) -> Variable {
    Variable { name, default: Default::Value(default), secret: false, doc }
}

const fn computed(name: &'static str, default: &'static str, doc: &'static str) -> Variable {
    Variable { name, default: Default::Computed(default), secret: false, doc }
}

const fn unset(name: &'static str, doc: &'static str) -> Variable {
    Variable { name, default: Default::Unset, secret: false, doc }
}

const fn secret(variable: Variable) -> Variable {
    Variable { secret: true, ..variable }
}

/// The table.
pub const GROUPS: &[Group] = &[
    Group {
        title: "Server",
        variables: &[
            computed(
                "SUPERSYNC_ENV",
                "production if NODE_ENV=production, else development",
                "`production` or `development`. Production requires `JWT_SECRET` and an https `PUBLIC_URL`, refuses test mode and `CORS_ORIGINS=*`, and hides validation details.",
            ),
            unset(
                "NODE_ENV",
                "The Node server's name for the same; only `production` has an effect, and only while `SUPERSYNC_ENV` is unset.",
            ),
            computed(
                "HOST",
                "0.0.0.0, in test mode 127.0.0.1",
                "Address to listen on: an IP address (`::` for IPv6) or `localhost`.",
            ),
            value("PORT", "1900", "Port to listen on."),
            computed(
                "PUBLIC_URL",
                "http://localhost:PORT",
                "Address under which users reach the server, with a path if it has no host to itself (`https://example.com/sync`); links in mails start with it.",
            ),
            value(
                "DATA_DIR",
                "data",
                "Directory of the embedded database and the generated secret; relative to the working directory.",
            ),
            value(
                "TRUSTED_PROXIES",
                "127.0.0.1, ::1",
                "Addresses and networks of the reverse proxies in front of the server, such as `10.0.0.0/8`; or `loopback`, `private`, `none`. The client's address is taken from `X-Forwarded-For` only when the request comes from one of them: its rightmost entry that is not itself a proxy. A number, as in the old server, trusts that many entries from any peer, exempts every peer from the limit of connections per address, and logs a warning.",
            ),
            value(
                "CORS_ENABLED",
                "true",
                "Cross-origin requests of web apps; anything but `true` (even nothing) switches them off.",
            ),
            value(
                "CORS_ORIGINS",
                "https://app.super-productivity.com",
                "Comma-separated origins of web apps: exact, `https://*.example.com` (one label), or `*` (not in production). Case, a port that the scheme implies and a trailing slash make no difference.",
            ),
            value(
                "ENCRYPTION_POLICY",
                "optional",
                "`optional` or `required`: whether accounts must use end-to-end encryption. Accounts whose newest full state is encrypted must in any case.",
            ),
            unset(
                "TEST_MODE",
                "`true` opens unauthenticated test routes that can delete everything. Needs `TEST_MODE_CONFIRM`; refused in production.",
            ),
            unset("TEST_MODE_CONFIRM", "Must be `yes-i-understand-the-risks` for `TEST_MODE`."),
        ],
    },
    Group {
        title: "Database",
        variables: &[
            secret(computed(
                "DATABASE_URL",
                "sqlite://DATA_DIR/supersync.db",
                "`postgres://user:password@host:port/name`, of several hosts `…@one:5432,two:5432/name`, or `sqlite://path`. The Node server's query parameters are understood (see below).",
            )),
            secret(unset(
                "DATABASE_DIRECT_URL",
                "The address of PostgreSQL itself, if `DATABASE_URL` leads through PgBouncer with `pool_mode=transaction`; for what needs a session.",
            )),
            value(
                "DATABASE_MAX_CONNECTIONS",
                "20",
                "Most connections to PostgreSQL; `connection_limit` in the URL wins.",
            ),
            value(
                "DATABASE_ACQUIRE_TIMEOUT_SECONDS",
                "10",
                "Longest wait for a free connection; `pool_timeout` in the URL wins.",
            ),
        ],
    },
    Group {
        title: "Accounts and mail",
        variables: &[
            secret(computed(
                "JWT_SECRET",
                "generated once, kept in DATA_DIR/jwt-secret",
                "Signs session tokens; at least 32 characters. Several, separated by spaces: the first signs, all verify. Required in production.",
            )),
            value(
                "REGISTRATION",
                "open",
                "`open`: everybody may register; `invite`: who has an invitation; `closed`: nobody, the operator makes accounts.",
            ),
            unset("ALLOWED_EMAILS", "Who may register: comma-separated addresses or `*@domain`. Unset: everybody."),
            computed(
                "WEBAUTHN_RP_ID",
                "host of PUBLIC_URL",
                "Domain that passkeys are bound to, for ever: when it changes, all are lost. Keep the old server's.",
            ),
            computed("WEBAUTHN_RP_NAME", "WEBAUTHN_RP_ID", "What authenticators show as the server's name."),
            computed(
                "WEBAUTHN_ORIGIN",
                "origin of PUBLIC_URL",
                "The one origin from which passkeys are accepted, such as `https://sync.example.com`.",
            ),
            value(
                "PASSWORD_HASH_PARALLELISM",
                "1",
                "Password hashes computed at once; each takes one core for about 50 ms. Leave syncing at least one core.",
            ),
            computed(
                "MAIL_TRANSPORT",
                "smtp if SMTP_HOST is set, else log; in production off",
                "What becomes of mails: `smtp`, `file` (written to `MAIL_FOLDER`), `log` (their links are printed to the log; not in production) or `off` (what needs mail is refused).",
            ),
            computed("MAIL_FOLDER", "DATA_DIR/mails", "Where `MAIL_TRANSPORT=file` writes mails, one `.eml` each."),
            unset("SMTP_HOST", "Mail server."),
            value("SMTP_PORT", "587", "Its port."),
            computed(
                "SMTP_SECURE",
                "true if SMTP_PORT is 465, else false",
                "`true`: TLS from the first byte; `false`: STARTTLS if offered.",
            ),
            unset("SMTP_USER", "User name; unset: no authentication."),
            secret(unset("SMTP_PASS", "Password.")),
            unset(
                "SMTP_CA_FILE",
                "File with certificates (PEM) of authorities that are trusted besides the public ones, for a mail server of one's own.",
            ),
            value("SMTP_FROM", "\"SuperSync\" <noreply@example.com>", "Sender of the mails."),
        ],
    },
    Group {
        title: "Legal pages",
        variables: &[
            unset(
                "PRIVACY_CONTACT_NAME",
                "Who answers for the server. With this and the next four a privacy policy is published and registration asks for consent; all five or none.",
            ),
            unset("PRIVACY_ADDRESS_STREET", "Their street and number."),
            unset("PRIVACY_ADDRESS_CITY", "Their postal code and city."),
            unset("PRIVACY_ADDRESS_COUNTRY", "Their country."),
            unset("PRIVACY_CONTACT_EMAIL", "Their e-mail address."),
            unset("PRIVACY_HOSTING_PROVIDER", "Who runs the machines, when somebody else does; named in the policy."),
            unset("PRIVACY_SUPERVISORY_AUTHORITY", "Where users can complain; named in the policy."),
            unset("PRIVACY_DATA_REGION", "Where the data is; `EU` and `EEA` show a badge on the front page."),
        ],
    },
    Group {
        title: "Logs, metrics and traces",
        variables: &[
            value("LOG_FORMAT", "text", "`text` or `json`."),
            value(
                "LOG_LEVEL",
                "info",
                "`error`, `warn`, `info`, `debug`, `trace`, `off`, or a filter such as `info,supersync::engine=debug`. Links that the operator has to open are logged at any level.",
            ),
            value("METRICS_ADDR", "127.0.0.1:9464", "Address and port of `/metrics`, or `off`."),
            unset("BACKUP_DIR", "Folder of the backups; metrics tell how old its newest file is."),
            unset(
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                "Collector for traces, OTLP over HTTP, such as `http://localhost:4318`; without it there are none.",
            ),
            secret(unset("OTEL_EXPORTER_OTLP_HEADERS", "Headers for the collector, as `name=value,name=value`.")),
            value("OTEL_SERVICE_NAME", "supersync", "What this server is called in traces."),
            value("OTEL_TRACES_SAMPLER_ARG", "1", "The part of all requests that is traced, from 0 to 1."),
        ],
    },
    Group {
        title: "Rate limits",
        variables: &[
            value("RATE_LIMITS", "on", "`off` switches all limits per address off (not the one per user)."),
            value(
                "UPLOADS_PER_USER_PER_MINUTE",
                "100",
                "Uploads of one user in a minute. 0 switches a limit off, here and below.",
            ),
            value("RATE_LIMIT_UPLOADS_PER_MINUTE", "100", "`POST /api/sync/ops`, per address like all that follow."),
            value("RATE_LIMIT_DOWNLOADS_PER_MINUTE", "200", "`GET /api/sync/ops`."),
            value("RATE_LIMIT_SNAPSHOTS_PER_15_MINUTES", "10", "`POST` and `GET /api/sync/snapshot`."),
            value("RATE_LIMIT_STATUS_PER_MINUTE", "60", "`GET /api/sync/status`."),
            value("RATE_LIMIT_DEVICES_PER_MINUTE", "30", "`GET /api/sync/devices`."),
            value(
                "RATE_LIMIT_WIPES_PER_15_MINUTES",
                "3",
                "`DELETE /api/sync/data`; bringing archived data back, with a counter of its own.",
            ),
            value(
                "RATE_LIMIT_RESTORE_POINTS_PER_MINUTE",
                "30",
                "`GET /api/sync/restore-points`; `GET /api/sync/archives`, with a counter of its own.",
            ),
            value(
                "RATE_LIMIT_RESTORES_PER_5_MINUTES",
                "10",
                "`GET /api/sync/restore/:serverSeq`; downloads of archived data and of everything, with a counter of their own.",
            ),
            value("RATE_LIMIT_WS_PER_MINUTE", "120", "`GET /api/sync/ws`, per address and client."),
            value("RATE_LIMIT_REGISTER_PER_15_MINUTES", "5", "`POST /api/register`."),
            value("RATE_LIMIT_LOGIN_PER_15_MINUTES", "10", "`POST /api/login`."),
            value("RATE_LIMIT_VERIFY_EMAIL_PER_15_MINUTES", "20", "`/api/verify-email`."),
            value(
                "RATE_LIMIT_SIGN_IN_PER_15_MINUTES",
                "50",
                "Each of the routes below `/api/register/`, `/api/login/` and `/api/recover/`.",
            ),
            value("RATE_LIMIT_FORGOT_PASSWORD_PER_15_MINUTES", "5", "`POST /api/forgot-password`."),
            value("RATE_LIMIT_RESET_PASSWORD_PER_15_MINUTES", "10", "`POST /api/reset-password`."),
            value(
                "RATE_LIMIT_CREDENTIALS_PER_15_MINUTES",
                "20",
                "Each of `POST /api/account/password`, `/api/account/email`, `/api/account/email/verify` and `/undo`, `/api/account/step-up` and `/options`; `/api/passkeys` and `/api/invites` with all routes below them.",
            ),
            value("RATE_LIMIT_REPLACE_TOKEN_PER_15_MINUTES", "5", "`POST /api/replace-token`."),
            value("RATE_LIMIT_DELETE_ACCOUNT_PER_15_MINUTES", "3", "`DELETE /api/account`."),
            value("RATE_LIMIT_SESSIONS_PER_15_MINUTES", "100", "`/api/sessions`, with what is below it."),
            value("RATE_LIMIT_WS_TICKETS_PER_MINUTE", "60", "`POST /api/sync/ws-ticket`."),
            value("RATE_LIMIT_ADMIN_PER_15_MINUTES", "500", "`/api/admin`, what is below it."),
            value("RATE_LIMIT_OTHER_PER_15_MINUTES", "500", "Everything else, one counter."),
        ],
    },
    Group {
        title: "Time-outs",
        variables: &[
            value(
                "STATEMENT_TIMEOUT_SECONDS",
                "60",
                "One database statement. Seconds may have a fraction, here and below.",
            ),
            value("REQUEST_TIMEOUT_SECONDS", "80", "One request in the server."),
            value("SOCKET_TIMEOUT_SECONDS", "90", "A connection on which nothing moves."),
            value("SLOW_REQUEST_SECONDS", "30", "From here on a request is logged and counted as slow."),
            value(
                "SHUTDOWN_DELAY_SECONDS",
                "0",
                "How long to go on serving after the signal to stop, with `/readyz` saying no, until a balancer has noticed. For several servers behind one: longer than it takes the balancer.",
            ),
            value("SHUTDOWN_TIMEOUT_SECONDS", "25", "How long running requests may take to finish at shutdown."),
        ],
    },
    Group {
        title: "Limits",
        variables: &[
            value(
                "UPLOAD_BODY_BYTES",
                "10MiB",
                "Body of an upload on the wire. Bytes, or with `KiB`, `MiB`, `GiB`, here and below.",
            ),
            value("UPLOAD_INFLATED_BYTES", "30MiB", "The same after decompression."),
            value("SNAPSHOT_BODY_BYTES", "30MiB", "Body of a snapshot on the wire."),
            value("SNAPSHOT_INFLATED_BYTES", "60MiB", "The same after decompression."),
            value(
                "PAGE_BYTES",
                "8MiB",
                "Bytes of one page of a download or of an upload's answer, as sent; a page holds at least one operation.",
            ),
            value(
                "SUPERSYNC_DEFAULT_STORAGE_QUOTA_BYTES",
                "104857600",
                "Quota of new accounts; digits only. An invalid value is a warning.",
            ),
            value(
                "MIN_FREE_DISK_BYTES",
                "256MiB",
                "With less room on the disk of the embedded database uploads are answered 503; 0: never.",
            ),
            value(
                "ACCOUNT_MEMORY_BYTES",
                "128MiB",
                "Memory for what is kept of accounts between their requests; the least recently used ones go first.",
            ),
            value("ACTOR_IDLE_SECONDS", "600", "When an idle account leaves memory."),
            value("MAX_QUEUED_REQUESTS", "4096", "Requests that may wait or run in the engine; more are answered 503."),
            value("MAX_QUEUED_REQUESTS_PER_USER", "64", "The same for one account."),
            value(
                "MAX_QUEUED_BYTES",
                "256MiB",
                "Request bytes held at once: of bodies being received or worked on, and again of what waits in the engine. Answers that wait to be read may hold half as much. One account gets an eighth, or one request at a time.",
            ),
            value("MAX_SOCKETS_PER_USER", "10", "Open WebSockets of one account."),
            value("MAX_SOCKETS", "20000", "Open WebSockets of the process."),
            value("MAX_REPLAY_OPS", "100000", "Operations that one restore may replay."),
            value(
                "MAX_REPLAY_STATE_BYTES",
                "100MiB",
                "State that a replay may build. All replays together take at most one and a half times as much memory, and 12 MiB.",
            ),
            value("MAX_SNAPSHOT_BLOB_BYTES", "50MiB", "Compressed size of a cached state."),
        ],
    },
    Group {
        title: "Retention",
        variables: &[
            value(
                "SUPERSEDED_OPS_RETENTION_DAYS",
                "45",
                "How long operations before the newest full state, and unseen devices, are kept.",
            ),
            value("ARCHIVE_DAYS", "30", "How long replaced or wiped data sets are kept."),
            value(
                "ARCHIVE_QUOTA_PERCENT",
                "100",
                "How much of them is kept, in hundredths of the account's quota: beyond it the oldest are deleted first. 0: nothing.",
            ),
            value(
                "SEAL_AFTER_HOURS",
                "24",
                "Operations older than this are packed into compressed segments by the clean-up; 0: never.",
            ),
            value("FIRST_SWEEP_SECONDS", "10", "First clean-up after the start."),
            value("SWEEP_INTERVAL_SECONDS", "86400", "Time between clean-ups."),
            value(
                "OLD_OPS_CLEANUP_DELETE_BATCH_SIZE",
                "5000",
                "Rows per delete, at most 50000. An invalid value is a warning.",
            ),
            value(
                "OLD_OPS_CLEANUP_MAX_DELETED_PER_RUN",
                "25000",
                "After so many deletions, at most 1000000, a run starts no further account. An invalid value is a warning.",
            ),
        ],
    },
];

/// Names that are no settings of this version but belong in an operator's environment, with the reason. A name that
/// ends in `*` stands for all that begin so.
pub const TOLERATED: &[(&str, &str)] = &[
    ("SUPERSYNC_BATCH_UPLOAD", "uploads are always batched"),
    ("SUPERSYNC_PAYLOAD_BYTES_BACKFILL_COMPLETE", "there is nothing to backfill"),
    ("RUN_MIGRATIONS_ON_STARTUP", "migrations always run at start"),
    ("MAX_LIVE_ACTORS", "ACCOUNT_MEMORY_BYTES bounds what is kept of accounts, however many they are"),
    ("LOG_TO_FILE", "logs go to standard error; redirect them"),
    ("SUPERSYNC_IMAGE", "used by compose"),
    ("SUPERSYNC_SKIP_IMAGE_REVISION_CHECK", "used by the Node server's deploy script"),
    ("SUPERSYNC_INSTALL_REPO_TERMS", "used by the Node server's deploy script"),
    ("SUPERSYNC_CONTAINER", "used by the Node server's monitor script"),
    ("SUPERSYNC_E2E_URL", "used by the app's end-to-end tests"),
    ("SUPERSYNC_TEST_*", "used by this project's tests"),
    ("SUPERSYNC_SERVICE_*", "set by Kubernetes for a service called supersync"),
    ("SUPERSYNC_PORT*", "set by Kubernetes for a service called supersync"),
];

/// All variables in the table's order.
pub fn variables() -> impl Iterator<Item = &'static Variable> {
    GROUPS.iter().flat_map(|group| group.variables)
}

/// The reason why a name is tolerated, if it is.
#[must_use]
pub fn tolerated(name: &str) -> Option<&'static str> {
    TOLERATED
        .iter()
        .find(|(pattern, _)| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == *pattern,
        })
        .map(|(_, reason)| *reason)
}
