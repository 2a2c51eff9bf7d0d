//! Every metric, in one table: its description at `/metrics` comes from here, and tests hold the code and
//! `docs/observability.md` to it.

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name; the unit comes last.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// Its labels; each has few values.
    pub labels: &'static [&'static str],
    /// What it tells. One line.
    pub doc: &'static str,
}

const fn counter(name: &'static str, labels: &'static [&'static str], doc: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, labels, doc }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], doc: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, labels, doc }
}

const fn histogram(name: &'static str, labels: &'static [&'static str], doc: &'static str) -> Metric {
    Metric { name, kind: Kind::Histogram, labels, doc }
}

/// The table.
pub const METRICS: &[Metric] = &[
    // Requests.
    counter("supersync_http_requests_total", &["method", "route", "status"], "Requests answered."),
    histogram(
        "supersync_http_request_seconds",
        &["method", "route", "status"],
        "Time from a request's head to its answer.",
    ),
    counter(
        "supersync_slow_requests_total",
        &["route"],
        "Requests that took longer than SLOW_REQUEST_SECONDS, answered or given up by the client.",
    ),
    gauge("supersync_sockets", &[], "Open WebSockets."),
    counter("supersync_notices_total", &[], "Notices of new operations sent to WebSockets."),
    // Engine.
    counter(
        "supersync_operations_total",
        &["outcome"],
        "Uploaded operations: accepted, or the code they were rejected with.",
    ),
    counter("supersync_quota_rejections_total", &[], "Uploads refused because the quota is used up."),
    counter(
        "supersync_requests_deduplicated_total",
        &[],
        "Uploads answered from the memory of an earlier one with the same request id.",
    ),
    counter(
        "supersync_engine_refused_total",
        &["bound"],
        "Requests refused because a bound of the engine was reached, by bound.",
    ),
    counter(
        "supersync_engine_dropped_total",
        &[],
        "Requests dropped before they began because their time was up or their caller gone.",
    ),
    gauge("supersync_actors_live", &[], "Accounts in memory."),
    counter("supersync_actor_activations_total", &[], "Accounts brought into memory."),
    histogram("supersync_actor_activation_seconds", &[], "Time to bring an account into memory."),
    counter(
        "supersync_actor_passivations_total",
        &[],
        "Accounts dropped from memory because they were idle or others needed the room.",
    ),
    counter("supersync_actor_failures_total", &[], "Actors that died of a defect; the next request starts a new one."),
    counter("supersync_quarantines_total", &[], "Accounts refused for a while because their actor kept dying."),
    histogram("supersync_mailbox_wait_seconds", &[], "Time a request waited for its account's actor."),
    counter("supersync_replans_total", &[], "Plans made anew because another instance had written to the account."),
    counter(
        "supersync_invariant_violations_total",
        &[],
        "Plans not committed because they would break a guarantee: a defect.",
    ),
    counter(
        "supersync_device_touches_total",
        &["outcome"],
        "Devices whose last sign of life was written, failed to be written and is tried again, or was dropped.",
    ),
    // Commits and storage.
    counter("supersync_commits_total", &["outcome"], "Group commits, by outcome."),
    histogram("supersync_commit_seconds", &["lane"], "Time of a group commit."),
    histogram("supersync_commit_plans", &[], "Accounts written by one group commit."),
    histogram("supersync_commit_operations", &[], "Operations written by one group commit."),
    histogram("supersync_store_statement_seconds", &["statement", "outcome"], "Time of a database call."),
    gauge("supersync_sqlite_wal_pages", &[], "Pages in the embedded database's write-ahead log after a checkpoint."),
    // Restores and housekeeping.
    histogram("supersync_restore_seconds", &[], "Time to rebuild a state."),
    counter("supersync_restores_shared_total", &[], "Restores answered with the result of one that was under way."),
    counter("supersync_sweeps_total", &["outcome"], "Clean-ups, by outcome."),
    histogram("supersync_sweep_seconds", &[], "Time of a clean-up."),
    gauge("supersync_sweep_last_success_timestamp_seconds", &[], "When the last clean-up succeeded, Unix time."),
    counter("supersync_sweep_operations_deleted_total", &[], "Operations deleted by clean-ups."),
    counter("supersync_sweep_account_failures_total", &[], "Accounts that a clean-up could not finish."),
    counter("supersync_seal_operations_total", &[], "Operations packed into segments."),
    counter("supersync_seal_segments_total", &[], "Segments made."),
    counter("supersync_seal_operation_bytes_total", &[], "Bytes of payloads and clocks that were packed."),
    counter("supersync_seal_segment_bytes_total", &[], "Bytes of the segments that they became."),
    counter("supersync_seal_account_failures_total", &[], "Accounts whose old operations could not be packed."),
    histogram("supersync_seal_seconds", &[], "Time of packing old operations in a clean-up."),
    counter(
        "supersync_bring_backs_total",
        &["outcome"],
        "Archived data sets asked to be brought back: done, refused, error.",
    ),
    counter("supersync_bring_back_operations_total", &[], "Operations of archived data sets that were brought back."),
    histogram("supersync_bring_back_seconds", &[], "Time to bring an archived data set back."),
    counter(
        "supersync_exports_total",
        &["kind"],
        "Downloads begun: an archived data set, or everything of an account.",
    ),
    // Accounts and mail.
    counter("supersync_logins_total", &["outcome"], "Log-ins, by outcome."),
    counter("supersync_registrations_total", &["outcome"], "Registrations, by outcome."),
    counter("supersync_registrations_capped_total", &[], "Repeated registrations that sent no further mail."),
    counter(
        "supersync_link_requests_total",
        &["purpose", "outcome"],
        "Requests for a mailed link (the answer is the same whether one was sent), by what for.",
    ),
    counter(
        "supersync_credential_changes_total",
        &["kind"],
        "Passwords, passkeys and addresses that were set, added, replaced or removed.",
    ),
    counter("supersync_verifications_total", &[], "E-mail addresses verified."),
    counter("supersync_session_checks_total", &["source"], "Tokens checked, by where the account's state came from."),
    counter("supersync_sessions_opened_total", &["method"], "Sessions opened, by how somebody signed in."),
    counter(
        "supersync_session_touches_total",
        &["outcome"],
        "Sessions whose last sign of life was written, failed to be written and is tried again, or was dropped.",
    ),
    counter(
        "supersync_account_events_total",
        &["kind"],
        "Changes of accounts, made by this process or another one, that were acted on.",
    ),
    histogram("supersync_account_event_lag_seconds", &[], "Time from such a change until this process acted on it."),
    counter(
        "supersync_account_event_polls_failed_total",
        &[],
        "Questions for changes of accounts that the database did not answer.",
    ),
    counter("supersync_password_hashes_total", &["algorithm"], "Password hashes computed."),
    counter("supersync_password_hashes_refused_total", &[], "Password hashes refused because too many were waiting."),
    counter("supersync_mails_total", &["outcome"], "Mails, by outcome."),
    // Process.
    gauge("supersync_build_info", &["version"], "Always 1; the label is the program's version."),
    gauge("supersync_process_start_timestamp_seconds", &[], "When the process started, Unix time."),
    gauge("supersync_process_resident_memory_bytes", &[], "Memory in use (Linux)."),
    gauge("supersync_process_cpu_seconds", &[], "Processor time used since the start (Linux); only grows."),
    gauge("supersync_process_open_fds", &[], "Open file descriptors (Linux)."),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write as _;
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Every string literal of the sources that looks like a metric's name.
    fn named_in(directory: &Path, names: &mut BTreeSet<String>) {
        for entry in fs::read_dir(directory).expect("sources").map(|entry| entry.expect("entry").path()) {
            if entry.is_dir() {
                named_in(&entry, names);
            } else if entry.extension().is_some_and(|extension| extension == "rs") && !entry.ends_with("catalogue.rs") {
                let text = fs::read_to_string(&entry).expect("UTF-8");
                for macro_name in ["counter!(", "gauge!(", "histogram!("] {
                    for (_, after) in text.match_indices(macro_name).map(|(at, found)| text.split_at(at + found.len()))
                    {
                        if let Some(name) = after.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next())
                        {
                            names.insert(name.to_owned());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_catalogue_lists_exactly_what_the_code_records() {
        let mut recorded = BTreeSet::new();
        named_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut recorded);
        assert!(recorded.contains("supersync_process_open_fds"), "the search itself works");
        let listed: BTreeSet<String> = METRICS.iter().map(|metric| metric.name.to_owned()).collect();
        let missing: Vec<_> = recorded.difference(&listed).collect();
        assert!(missing.is_empty(), "add to the catalogue: {missing:?}");
        let gone: Vec<_> = listed.difference(&recorded).collect();
        assert!(gone.is_empty(), "nothing records these, so remove them from the catalogue: {gone:?}");
    }

    #[test]
    fn names_are_unique_and_end_in_their_unit() {
        let names: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), METRICS.len());
        for metric in METRICS {
            assert!(metric.name.starts_with("supersync_"), "{}", metric.name);
            assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{}", metric.name);
        }
    }

    #[test]
    fn the_documentation_lists_exactly_these_metrics() {
        let documented = include_str!("../../docs/observability.md");
        let (_, after) = documented.split_once("<!-- metrics -->\n").expect("start mark");
        let (listed, _) = after.split_once("<!-- /metrics -->").expect("end mark");
        let mut expected = "| Metric | Kind | Labels | Meaning |\n| --- | --- | --- | --- |\n".to_owned();
        for metric in METRICS {
            let kind = format!("{:?}", metric.kind).to_lowercase();
            let labels = metric.labels.join(", ");
            writeln!(expected, "| `{}` | {kind} | {labels} | {} |", metric.name, metric.doc).expect("a string");
        }
        assert_eq!(listed.trim(), expected.trim(), "paste this into docs/observability.md:\n{expected}");
    }
}
