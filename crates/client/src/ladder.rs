//! The client half of the time-out ladder.

use std::time::Duration;

/// How long the client waits for what, inner to outer. Each layer outlasts the one it waits on, so that the inner one
/// can still report: a request (75 s) gives up before the server's handler (80 s) and the proxy (85 s), and the whole
/// sync waits longest (90 s).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ladder {
    /// Opening a connection (10 s).
    pub connect: Duration,
    /// One request, from the first byte sent to the last one received (75 s).
    pub request: Duration,
    /// A whole [`super::Device::sync`] (90 s).
    pub sync_wait: Duration,
    /// Pauses before each further attempt of a restore that failed in the network (2 s, 4 s).
    pub restore_retries: Vec<Duration>,
}

impl Default for Ladder {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            request: Duration::from_secs(75),
            sync_wait: Duration::from_secs(90),
            restore_retries: vec![Duration::from_secs(2), Duration::from_secs(4)],
        }
    }
}
