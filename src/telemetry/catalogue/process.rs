//! Metrics of the process.

use super::{Metric, gauge};

pub(super) const METRICS: &[Metric] = &[
    gauge(
        "supersync_build_info",
        "1",
        &["version"],
        "Always 1; the label is the program's version.",
        "Two versions for longer than a rolling update takes.",
    ),
    gauge(
        "supersync_process_start_timestamp_seconds",
        "seconds",
        &[],
        "When the process started, Unix time.",
        "Changes without a deployment: it crashes, or is killed for its memory.",
    ),
    gauge(
        "supersync_process_resident_memory_bytes",
        "bytes",
        &[],
        "Memory in use (Linux).",
        "Near the container's limit.",
    ),
    gauge(
        "supersync_process_cpu_seconds",
        "seconds",
        &[],
        "Processor time used since the start (Linux); only grows.",
        "A rate near the number of cores.",
    ),
    gauge(
        "supersync_process_open_fds",
        "descriptors",
        &[],
        "Open file descriptors (Linux).",
        "Above nine tenths of the maximum: soon no connection is accepted.",
    ),
    gauge(
        "supersync_process_max_fds",
        "descriptors",
        &[],
        "File descriptors that the process may open (Linux).",
        "Below MAX_SOCKETS and some hundred: raise `ulimit -n`.",
    ),
    gauge("supersync_process_threads", "threads", &[], "Threads (Linux).", "Grows without end."),
    gauge(
        "supersync_runtime_tasks",
        "tasks",
        &[],
        "Tasks alive in the runtime.",
        "Grows without more sockets and accounts.",
    ),
    gauge(
        "supersync_runtime_queued_tasks",
        "tasks",
        &[],
        "Tasks that wait in the runtime's common queue, at the moment of the scrape.",
        "Above some hundred all the time: too little processor.",
    ),
];
