//! The table.
//!
//! A metric: name, unit, labels; what it tells; which values are bad.

use super::{Group, counter, gauge, histogram};

/// Every metric.
pub const GROUPS: &[Group] = &[
    Group {
        title: "Requests and sockets",
        metrics: &[
            counter("supersync_http_requests_total", "requests", &["method", "route", "status"])
                .tells("Requests answered.")
                .bad("More than a few in ten thousand with a status of 500 or above: users get errors. Many 429: a client loops, or limits are too tight. Many 401 at once: sessions were revoked, or a proxy drops headers."),
            histogram("supersync_http_request_seconds", "seconds", &["method", "route", "status"])
                .tells("Time from a request's head to its answer.")
                .bad("Less than 99 % of the answers within 1 s, or anything beyond 30 s: the app seems to hang."),
            gauge("supersync_http_requests_running", "requests", &[])
                .tells("Requests under way.")
                .bad("Grows and does not fall: something waits, mostly for the database."),
            counter("supersync_http_requests_abandoned_total", "requests", &["route"])
                .tells("Requests given up by the client before the answer.")
                .bad("A steady rate: clients or the proxy lose patience, or the network is bad."),
            counter("supersync_slow_connections_total", "connections", &["because"])
                .tells("Connections cut because the other side sent its body, or read its answer, too slowly.")
                .bad("A steady rate: somebody occupies connections on purpose, or a network is very bad."),
            counter("supersync_slow_requests_total", "requests", &["route"])
                .tells("Requests that took longer than 30 seconds, answered or given up by the client.")
                .bad("Anything above 0: the log names route and phase."),
            counter("supersync_refusals_total", "answers", &["code"])
                .tells("Answers that refuse a whole request with a code that the app reads.")
                .bad("A jump: many clients do the same wrong thing, mostly after a release of the app."),
            counter("supersync_rate_limited_total", "requests", &["tier"])
                .tells("Requests refused because there were too many: of an address (`own`; for sockets of one device there), of all devices of an address (`address`), of an IPv6 network (`network`), or upgrades after many from the address that led to nothing (`failed`).")
                .bad("A jump of `own`: a client loops. `network` or `address`: somebody goes round among addresses or device ids, or very many share one. `failed`: somebody tries tokens."),
            gauge("supersync_connections", "connections", &["listener"])
                .tells("Open connections, WebSockets among them, by listener (`http`, `metrics`).")
                .bad("At supersync_connections_max: who waits between requests is sent away for others."),
            gauge("supersync_connections_max", "connections", &["listener"])
                .tells("Connections that there may be; derived from MAX_SOCKETS and the limit of open files.")
                .bad("Below MAX_SOCKETS: raise `ulimit -n`."),
            counter("supersync_connections_refused_total", "connections", &["listener", "reason"])
                .tells("Connections turned away: the address had its share (`address`), all places were taken (`full`, or `busy` when there still was an answer that said so), or no file descriptor was left (`files`).")
                .bad("`files`: something else holds descriptors; see `supersync_process_open_fds`. `full` or `busy`: more requests at once than there are connections. `address`: one client opens very many, or the reverse proxy is not in TRUSTED_PROXIES."),
            counter("supersync_connections_cut_total", "connections", &["listener", "reason"])
                .tells("Connections ended because a request's head did not arrive in time (`head`), or to make room for others (`room`).")
                .bad("A jump of `head`: somebody holds connections open. `room`: too few connections, or the same."),
            gauge("supersync_sockets", "sockets", &[])
                .tells("Open WebSockets.")
                .bad("Falls at once: a restart, or the proxy cuts connections. Near MAX_SOCKETS: new ones are refused."),
            counter("supersync_sockets_opened_total", "sockets", &[])
                .tells("WebSockets that were admitted.")
                .bad("Many times the number of open ones per hour: clients are cut off and come back."),
            counter("supersync_sockets_refused_total", "sockets", &["reason"])
                .tells("WebSockets closed instead of admitted, by why.")
                .bad("`too_many` or `not_accepted` all the time: clients reconnect in a loop. `full`: MAX_SOCKETS is reached. `address`: very many at one address, or the reverse proxy is not in TRUSTED_PROXIES."),
            counter("supersync_sockets_closed_total", "sockets", &["reason"])
                .tells("Admitted WebSockets that ended; `client`: it went or stopped answering.")
                .bad("`replaced` all the time: two devices share a client id. `error`: see the log. `flooded`: a client sends far more than the app does."),
            counter("supersync_notices_total", "notices", &[])
                .tells("Notices of new operations sent to WebSockets.")
                .bad("None while accounts with several devices upload: their other devices get no notices."),
        ],
    },
    Group {
        title: "Engine",
        metrics: &[
            counter("supersync_operations_total", "operations", &["outcome"])
                .tells("Uploaded operations: accepted, or the code they were rejected with.")
                .bad("`INTERNAL_ERROR`: a database failure or a defect. `CONFLICT_…` above one in twenty: devices fight. `INVALID_…`: a broken client."),
            counter("supersync_snapshots_total", "snapshots", &["outcome"])
                .tells("Uploaded snapshots: accepted, or the code they were rejected with.")
                .bad("`INTERNAL_ERROR`: as above. `SYNC_IMPORT_EXISTS` again and again: a client does not take the existing one."),
            counter("supersync_uploads_fenced_total", "uploads", &[])
                .tells("Uploads refused because the data set was replaced since the device last looked.")
                .bad("A steady rate: some device uploads without ever downloading."),
            counter("supersync_quota_rejections_total", "uploads", &[])
                .tells("Uploads refused because the quota is used up.")
                .bad("Any steady rate: those accounts no longer sync."),
            counter("supersync_requests_deduplicated_total", "uploads", &[])
                .tells("Uploads answered from the memory of an earlier one with the same request id.")
                .bad("Many: answers are lost on the way, so clients send again."),
            gauge("supersync_engine_requests", "requests", &[])
                .tells("Requests in the engine, waiting or at work.")
                .bad("Near 4096: overload; further ones are refused."),
            counter("supersync_engine_refused_total", "requests", &["bound"])
                .tells("Requests refused because a bound of the engine was reached, by bound.")
                .bad("Anything steady: overload, or one account that floods (`user`)."),
            counter("supersync_engine_dropped_total", "requests", &[])
                .tells("Requests dropped before they began because their time was up or their caller gone.")
                .bad("Anything steady: they wait too long."),
            gauge("supersync_actors_live", "accounts", &[])
                .tells("Accounts in memory.")
                .bad("Falls while requests do not: ACCOUNT_MEMORY_BYTES is used up, and accounts are dropped and loaded again."),
            gauge("supersync_actors_writing", "actors", &[])
                .tells("Accounts in memory whose actor runs because something was written lately.")
                .bad("Rises without more uploads: actors do not end."),
            counter("supersync_actor_activations_total", "accounts", &[])
                .tells("Accounts brought into memory.")
                .bad("As many as requests: there is too little room for accounts."),
            histogram("supersync_actor_activation_seconds", "seconds", &[])
                .tells("Time to bring an account into memory.")
                .bad("More than 0.25 s for one in a hundred: the database is slow to read."),
            counter("supersync_actor_passivations_total", "accounts", &[])
                .tells("Accounts dropped from memory because they were idle or others needed the room.")
                .bad("As many as activations within ten minutes: too little room."),
            counter("supersync_actor_failures_total", "actors", &[])
                .tells("Actors that died of a defect; the next request starts a new one.")
                .bad("Anything above 0: a defect; the log has the place."),
            counter("supersync_quarantines_total", "accounts", &[])
                .tells("Accounts refused for a while because their actor kept dying.")
                .bad("Anything above 0: that account does not sync."),
            histogram("supersync_mailbox_wait_seconds", "seconds", &[])
                .tells("Time a request waited for its account's actor.")
                .bad("More than 1 s for one in a hundred: commits are slow, or one account floods."),
            gauge("supersync_peers", "processes", &[])
                .tells("Other processes that serve the same database.")
                .bad("Not the number of the others that should run."),
            gauge("supersync_memory_trusted", "0 or 1", &[])
                .tells("1: what is in memory is served; 0: every request asks the database first, because another process on it does not answer.")
                .bad("0 for more than seconds: much slower; see the runbook."),
            counter("supersync_peer_news_total", "accounts", &[])
                .tells("Accounts of which another process has told that they changed.")
                .bad("None by itself."),
            counter("supersync_replans_total", "plans", &[])
                .tells("Plans repeated because another instance had written to the account.")
                .bad("Many with several instances: the balancer does not keep an account on one. Any with one instance: something else writes."),
            counter("supersync_invariant_violations_total", "plans", &[])
                .tells("Plans not committed because they would break a guarantee: a defect.")
                .bad("Anything above 0."),
            counter("supersync_device_touches_total", "devices", &["outcome"])
                .tells("Devices whose last sign of life was written, failed to be written and is tried again, or was dropped.")
                .bad("`dropped`: the database did not take them for long."),
            gauge("supersync_budget_held", "bytes, or pieces of work", &["resource"])
                .tells("What requests hold of a budget that accounts share, by what it is a budget of.")
                .bad("Near its bound (docs/security.md): requests are refused."),
            counter("supersync_budget_refused_total", "requests", &["resource", "whose"])
                .tells("Requests refused because a budget was used up: the account's own share, or what all share.")
                .bad("`all`, steadily: too little for the load, or many accounts attack together. `account`: one of them floods."),
        ],
    },
    Group {
        title: "Commits and storage",
        metrics: &[
            counter("supersync_commits_total", "plans", &["outcome"])
                .tells("Plans of accounts that a group commit wrote, by outcome.")
                .bad("`error`: the database refuses or fails; clients send again."),
            histogram("supersync_commit_seconds", "seconds", &["lane"])
                .tells("Time of a group commit.")
                .bad("More than 0.25 s for one in a hundred on the lane `ordinary`: a slow disk or database."),
            histogram("supersync_commit_wait_seconds", "seconds", &["lane"])
                .tells("Time that a group's first plan waited for its lane.")
                .bad("More than 0.25 s for one in a hundred on `ordinary`: commits come faster than they are written."),
            histogram("supersync_commit_plans", "plans", &[])
                .tells("Accounts written by one group commit.")
                .bad("Near 256 all the time: the lanes are full."),
            histogram("supersync_commit_operations", "operations", &[])
                .tells("Operations written by one group commit.")
                .bad("Near 2000 all the time: the lanes are full."),
            histogram("supersync_store_statement_seconds", "seconds", &["statement", "pool", "outcome"])
                .tells("Time of a database call, the wait for its connection included.")
                .bad("One statement slower than the others by far: a bad plan. Outcomes other than `ok` and `refused`: the database fails."),
            histogram("supersync_store_wait_seconds", "seconds", &["pool"])
                .tells("Time that a call waited for a connection or its turn.")
                .bad("More than 0.1 s for one in a hundred: too few connections, or slow statements hold them."),
            gauge("supersync_store_connections_busy", "connections", &["pool"])
                .tells("Connections at work.")
                .bad("Equal to the maximum for minutes: calls wait."),
            gauge("supersync_store_connections_max", "connections", &["pool"])
                .tells("Connections that the pool may have.")
                .bad("None by itself; the sum over all processes must stay below what PostgreSQL allows."),
            gauge("supersync_database_bytes", "bytes", &[])
                .tells("Size of the database.")
                .bad("Grows by itself without more accounts: retention does not run, or the tables are bloated."),
            gauge("supersync_database_wal_bytes", "bytes", &[])
                .tells("Size of the database's write-ahead log; missing where PostgreSQL does not let this user look.")
                .bad("Many times 96 MiB with SQLite, or growing without end: a reader, or a replication slot, keeps it."),
            gauge("supersync_sqlite_wal_pages", "pages", &[])
                .tells("Pages in the embedded database's write-ahead log after a checkpoint.")
                .bad("Above 100000: checkpoints do not catch up."),
            gauge("supersync_accounts", "accounts", &[])
                .tells("Accounts that exist.")
                .bad("Jumps: somebody registers by program."),
            gauge("supersync_accounts_near_quota", "accounts", &[])
                .tells("Accounts that have used nine tenths of their quota or more.")
                .bad("More than a few in a hundred: the quota is too small, or retention frees too little."),
            gauge("supersync_storage_used_bytes", "bytes", &[])
                .tells("Bytes charged to all quotas.")
                .bad("Grows by itself without more accounts."),
            gauge("supersync_storage_quota_bytes", "bytes", &[])
                .tells("The quotas' sum.")
                .bad("Many times the disk: nothing stops accounts from filling it."),
            gauge("supersync_archives", "data sets", &[])
                .tells("Archived data sets, those that wait for their deletion included.")
                .bad("Only grows: the clean-up does not delete."),
            gauge("supersync_archive_bytes", "bytes", &[])
                .tells("Bytes of archived data sets, as they were charged.")
                .bad("Above the live data for long: ARCHIVE_DAYS is too long, or the clean-up does not delete."),
            gauge("supersync_holdings_counted_timestamp_seconds", "seconds", &[])
                .tells("When the figures of accounts, quotas, archives and sizes were last counted, Unix time.")
                .bad("Older than 15 minutes: the database does not answer the count."),
            gauge("supersync_disk_free_bytes", "bytes", &[])
                .tells("Room on the disk of DATA_DIR.")
                .bad("Below a tenth, or less than four days at the present growth."),
            gauge("supersync_disk_size_bytes", "bytes", &[])
                .tells("Size of the disk of DATA_DIR.")
                .bad("None by itself."),
            gauge("supersync_database_disk_free_bytes", "bytes", &[])
                .tells("Room on the disk of the database: of several (tablespaces, log) the fullest. Missing: PostgreSQL runs on another machine, or does not tell this role where (pg_read_all_settings).")
                .bad("Below a tenth, or less than four days at the present growth."),
            gauge("supersync_database_disk_size_bytes", "bytes", &[])
                .tells("Size of that disk.")
                .bad("None by itself."),
            gauge("supersync_disk_refuses_data", "0 or 1", &[])
                .tells("Whether uploads are refused because the database's disk is full: the database has said so, or the embedded one's disk has less room than MIN_FREE_DISK_BYTES.")
                .bad("1: nobody can upload."),
            gauge("supersync_backup_last_success_timestamp_seconds", "seconds", &[])
                .tells("When the newest file in BACKUP_DIR was written, Unix time; 0: there is none; missing: BACKUP_DIR is not set.")
                .bad("Older than 26 hours with daily backups."),
            gauge("supersync_backup_last_bytes", "bytes", &[])
                .tells("Size of that file.")
                .bad("Half of the one before, or 0."),
        ],
    },
    Group {
        title: "Restores and housekeeping",
        metrics: &[
            histogram("supersync_restore_seconds", "seconds", &[])
                .tells("Time to rebuild a state.")
                .bad("More than 10 s: a long history without a snapshot."),
            counter("supersync_restores_shared_total", "restores", &[])
                .tells("Restores answered with the result of one that was under way.")
                .bad("Many: a client asks again before it is answered."),
            counter("supersync_sweeps_total", "clean-ups", &["outcome"])
                .tells("Clean-ups, by outcome.")
                .bad("`error`: a part was not done; the log says which and why. `held_back`: the clock is in doubt."),
            gauge("supersync_clock_doubted", "0 or 1", &[])
                .tells("Whether this machine's clock is far from what else is known of the time.")
                .bad("1: nothing is deleted because of its age."),
            histogram("supersync_sweep_seconds", "seconds", &[])
                .tells("Time of a clean-up.")
                .bad("Rises from day to day: it does not keep up."),
            gauge("supersync_sweep_last_success_timestamp_seconds", "seconds", &[])
                .tells("When the last clean-up of this process succeeded, Unix time. One process of several cleans up.")
                .bad("The newest of all processes is older than two days."),
            counter("supersync_sweep_operations_deleted_total", "operations", &[])
                .tells("Operations deleted by clean-ups.")
                .bad("None for weeks on a server with traffic: retention has no effect."),
            counter("supersync_sweep_accounts_pruned_total", "accounts", &[])
                .tells("Accounts whose superseded history a clean-up gave up.")
                .bad("None for weeks on a server with traffic."),
            counter("supersync_sweep_deleted_total", "rows", &["kind"])
                .tells("What clean-ups deleted besides operations, by kind.")
                .bad("None by itself."),
            counter("supersync_sweep_budgets_exhausted_total", "clean-ups", &[])
                .tells("Clean-ups that ended because their budget was used up; the next one continues.")
                .bad("Each day: raise OLD_OPS_CLEANUP_MAX_DELETED_PER_RUN."),
            counter("supersync_sweep_account_failures_total", "accounts", &[])
                .tells("Accounts that a clean-up could not finish.")
                .bad("The same number each day: those accounts grow without limit; the log names them."),
            counter("supersync_seal_operations_total", "operations", &[])
                .tells("Operations packed into segments.")
                .bad("None for weeks on a server with traffic: old operations take their full room."),
            counter("supersync_seal_segments_total", "segments", &[])
                .tells("Segments made.")
                .bad("None by itself."),
            counter("supersync_seal_operation_bytes_total", "bytes", &[])
                .tells("Bytes of payloads and clocks that were packed.")
                .bad("None by itself."),
            counter("supersync_seal_segment_bytes_total", "bytes", &[])
                .tells("Bytes of the segments that they became.")
                .bad("As many as went in: payloads do not compress, which encrypted ones hardly do."),
            counter("supersync_seal_account_failures_total", "accounts", &[])
                .tells("Accounts whose old operations could not be packed.")
                .bad("The same number each day; the log names them."),
            counter("supersync_seal_runs_left_total", "runs", &[])
                .tells("Runs of operations that can't be packed and stay rows.")
                .bad("Any: no rule foresees them. The log says where they are and why; report it."),
            counter("supersync_archive_evictions_total", "commits", &[])
                .tells("Commits after which something of an archive was to be deleted: beyond its limit, or brought back.")
                .bad("Many from few accounts: somebody replaces the data all day."),
            histogram("supersync_seal_seconds", "seconds", &[])
                .tells("Time of packing old operations in a clean-up.")
                .bad("Rises from day to day."),
            counter("supersync_bring_backs_total", "data sets", &["outcome"])
                .tells("Archived data sets asked to be brought back: done, refused, error.")
                .bad("`error`: somebody does not get their data; the log says why."),
            counter("supersync_bring_back_operations_total", "operations", &[])
                .tells("Operations of archived data sets that were brought back.")
                .bad("None by itself."),
            histogram("supersync_bring_back_seconds", "seconds", &[])
                .tells("Time to bring an archived data set back.")
                .bad("More than a minute."),
            counter("supersync_exports_total", "downloads", &["kind"])
                .tells("Downloads begun: an archived data set, or everything of an account.")
                .bad("Many at once: somebody copies accounts."),
        ],
    },
    Group {
        title: "Accounts and mail",
        metrics: &[
            counter("supersync_logins_total", "log-ins", &["method", "outcome"])
                .tells("Log-ins, by how and by outcome.")
                .bad("`invalid_credentials` far above `ok`: somebody tries passwords. `error`: the database fails. `busy`: more log-ins than processor."),
            counter("supersync_lockouts_total", "log-ins", &[])
                .tells("Wrong passwords that locked an address, of an account or not, for the network they came from, or for all that the account does not know.")
                .bad("A jump: somebody tries passwords."),
            counter("supersync_registrations_total", "registrations", &["outcome"])
                .tells("Registrations, by outcome.")
                .bad("A jump: somebody registers by program. `no_mail`: mail is not set up."),
            counter("supersync_registrations_capped_total", "registrations", &[])
                .tells("Repeated registrations that sent no further mail.")
                .bad("A jump: somebody uses this server to send mail to others."),
            counter("supersync_link_requests_total", "requests", &["purpose", "outcome"])
                .tells("Requests for a mailed link (the answer is the same whether one was sent), by what for.")
                .bad("A jump: as above. `error`: the database fails."),
            counter("supersync_credential_changes_total", "changes", &["kind"])
                .tells("Passwords, passkeys and addresses that were set, added, replaced or removed.")
                .bad("A jump: stolen sessions."),
            counter("supersync_verifications_total", "addresses", &[])
                .tells("E-mail addresses verified.")
                .bad("None while registrations are `ok`: mails do not arrive."),
            counter("supersync_session_checks_total", "checks", &["source"])
                .tells("Tokens checked, by where the account's state came from.")
                .bad("Mostly `database`: the memory of sessions is too small or always emptied."),
            counter("supersync_sessions_opened_total", "sessions", &["method"])
                .tells("Sessions opened, by how somebody signed in.")
                .bad("A jump after a release: the app loses its session."),
            counter("supersync_session_touches_total", "sessions", &["outcome"])
                .tells("Sessions whose last sign of life was written, failed to be written and is tried again, or was dropped.")
                .bad("`dropped`: the database did not take them for long."),
            counter("supersync_account_events_total", "changes", &["kind"])
                .tells("Changes of accounts, made by this process or another one, that were acted on.")
                .bad("A jump of revocations."),
            histogram("supersync_account_event_lag_seconds", "seconds", &[])
                .tells("Time from such a change until this process acted on it.")
                .bad("More than 2 s: a revoked session lives on that long."),
            counter("supersync_account_event_polls_failed_total", "polls", &[])
                .tells("Questions for changes of accounts that the database did not answer.")
                .bad("Steady: revocations do not reach this process."),
            counter("supersync_password_hashes_total", "hashes", &["algorithm"])
                .tells("Password hashes computed.")
                .bad("A jump: somebody tries passwords; each costs processor and memory."),
            counter("supersync_password_hashes_refused_total", "hashes", &[])
                .tells("Password hashes refused because too many were waiting.")
                .bad("Steady: people can not sign in."),
            counter("supersync_mails_total", "mails", &["outcome"])
                .tells("Mails, by outcome.")
                .bad("`failed` or `dropped`: users get no links. `retried`: the mail server is away for a moment."),
            gauge("supersync_mails_waiting", "mails", &[])
                .tells("Mails that wait or are under way.")
                .bad("Near 500: the mail server takes none; further ones are dropped."),
            histogram("supersync_mail_seconds", "seconds", &[])
                .tells("Time to hand a mail to the mail server, or to fail at it.")
                .bad("More than 10 s: the mail server is slow or a firewall drops packets."),
        ],
    },
    Group {
        title: "Process",
        metrics: &[
            gauge("supersync_build_info", "1", &["version"])
                .tells("Always 1; the label is the program's version.")
                .bad("Two versions for longer than a rolling update takes."),
            gauge("supersync_process_start_timestamp_seconds", "seconds", &[])
                .tells("When the process started, Unix time.")
                .bad("Changes without a deployment: it crashes, or is killed for its memory."),
            gauge("supersync_process_resident_memory_bytes", "bytes", &[])
                .tells("Memory in use (Linux).")
                .bad("Near the container's limit."),
            gauge("supersync_process_cpu_seconds", "seconds", &[])
                .tells("Processor time used since the start (Linux); only grows.")
                .bad("A rate near the number of cores."),
            gauge("supersync_process_open_fds", "descriptors", &[])
                .tells("Open file descriptors (Linux).")
                .bad("Above nine tenths of the maximum: soon no connection is accepted."),
            gauge("supersync_process_max_fds", "descriptors", &[])
                .tells("File descriptors that the process may open (Linux).")
                .bad("Below MAX_SOCKETS and some hundred: raise `ulimit -n`."),
            gauge("supersync_process_threads", "threads", &[])
                .tells("Threads (Linux).")
                .bad("Grows without end."),
            gauge("supersync_runtime_tasks", "tasks", &[])
                .tells("Tasks alive in the runtime.")
                .bad("Grows without more sockets and accounts."),
            gauge("supersync_runtime_queued_tasks", "tasks", &[])
                .tells("Tasks that wait in the runtime's common queue, at the moment of the scrape.")
                .bad("Above some hundred all the time: too little processor."),
        ],
    },
];
