//! Names of settings that are none any more: figures that nobody needed to change, and second ways to say the same. In
//! this release each still takes effect, with a warning; the next one forgets them.

use super::key::Kind;
use super::kinds::{BYTES, COUNT, DAYS, HOURS, REQUESTS, SECONDS};
use super::reader::Reader;
use super::{Config, rates};

/// A name that goes.
#[derive(Clone, Copy, Debug)]
pub struct Retired {
    /// The name.
    pub name: &'static str,
    /// The rule from the next release on, in Markdown.
    pub instead: &'static str,
}

/// Declares the names: kind, the place of the value, and the rule from then on.
macro_rules! retired {
    (
        $($name:literal: $kind:ident => $($field:ident).+, $instead:literal;)+
        elsewhere $($other:literal: $advice:literal;)+
    ) => {
        const FIGURES: &[Retired] = &[$(Retired { name: $name, instead: $instead },)+ $(Retired { name: $other, instead: $advice },)+];

        /// Gives their values to the configuration.
        pub(super) fn apply(r: &mut Reader<'_>, config: &mut Config) {
            for (name, limit) in rates::RETIRED {
                if let Some(max) = read(r, name, &REQUESTS) {
                    limit(&mut config.rate_limits).max = max;
                }
            }
            $(if let Some(value) = read(r, $name, &$kind) {
                config.$($field).+ = value;
            })+
        }
    };
}

retired! {
    "STATEMENT_TIMEOUT_SECONDS": SECONDS => timeouts.statement, "`REQUEST_TIMEOUT_SECONDS` scales the whole ladder";
    "SOCKET_TIMEOUT_SECONDS": SECONDS => timeouts.socket, "`REQUEST_TIMEOUT_SECONDS` scales the whole ladder";
    "SLOW_REQUEST_SECONDS": SECONDS => timeouts.slow_request, "always 30 seconds";
    "UPLOAD_BODY_BYTES": BYTES => limits.upload_body_bytes, "always 10 MiB";
    "UPLOAD_INFLATED_BYTES": BYTES => limits.upload_inflated_bytes, "always 30 MiB";
    "SNAPSHOT_INFLATED_BYTES": BYTES => limits.snapshot_inflated_bytes, "always twice `SNAPSHOT_BODY_BYTES`";
    "PAGE_BYTES": BYTES => limits.page_bytes, "always 8 MiB";
    "ACTOR_IDLE_SECONDS": SECONDS => limits.actor_idle, "always 10 minutes; `ACCOUNT_MEMORY_BYTES` bounds the memory";
    "MAX_QUEUED_REQUESTS": COUNT => limits.max_queued_requests, "always 4,096; `MAX_QUEUED_BYTES` bounds the memory";
    "MAX_QUEUED_REQUESTS_PER_USER": COUNT => limits.max_queued_requests_per_user, "always 64";
    "MAX_SOCKETS_PER_USER": COUNT => limits.max_sockets_per_user, "always 10";
    "MAX_REPLAY_OPS": COUNT => limits.max_replay_ops, "always 100,000";
    "MAX_REPLAY_STATE_BYTES": BYTES => limits.max_replay_state_bytes, "always 100 MiB";
    "MAX_SNAPSHOT_BLOB_BYTES": BYTES => limits.max_snapshot_blob_bytes, "always 50 MiB";
    "SUPERSEDED_OPS_RETENTION_DAYS": DAYS => retention.superseded, "always 45 days, as in the Node server";
    "SEAL_AFTER_HOURS": HOURS => retention.seal_after, "always 24 hours";
    "FIRST_SWEEP_SECONDS": SECONDS => retention.first_sweep, "always 10 seconds, or `SWEEP_INTERVAL_SECONDS` if that is less";
    elsewhere
    "DATABASE_MAX_CONNECTIONS": "use `connection_limit` in `DATABASE_URL`";
    "DATABASE_ACQUIRE_TIMEOUT_SECONDS": "use `pool_timeout` in `DATABASE_URL`";
    "MAIL_FOLDER": "always `DATA_DIR/mails`";
}

/// Every such name.
pub fn all() -> impl Iterator<Item = Retired> {
    let limit = |(name, _): &(&'static str, _)| Retired { name, instead: "use a factor in `RATE_LIMITS`" };
    FIGURES.iter().copied().chain(rates::RETIRED.iter().map(limit))
}

/// The value of such a name, with a warning.
pub(super) fn read<T>(r: &mut Reader<'_>, name: &str, kind: &Kind<T>) -> Option<T> {
    let value = r.parsed(name, kind)?;
    let instead = all().find(|retired| retired.name == name).map_or("", |retired| retired.instead);
    r.warn(format!("{name} will have no effect from the next release on: {}", instead.replace('`', "")));
    Some(value)
}
