//! What can be measured. A scenario gets servers from the [`Bench`], puts load on them, checks, and gives back its cases;
//! it prints nothing.

use anyhow::Result;
use clap::ValueEnum;

use crate::report::Case;
use crate::{Bench, ceiling};

mod disturbed;
mod idle;
mod sockets;
mod sync;

/// Something that can be measured, in the order in which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Raw limits: grouped and single inserts of the same rows, an empty handler with token check.
    Ceiling,
    /// Uploads of 1, 20 and 100 operations, half of them changes; payloads of 300 B, 500 B and 4 KiB.
    Upload,
    /// Downloads of a device that has everything already.
    Poll,
    /// Downloads that bring 5 new operations of another device: just written, and written before.
    Tail,
    /// Pages of 500 operations, again and again: as rows, and sealed.
    Download,
    /// A new device joins an account with 100,000 operations behind a full state of 1 MB and 700 after it.
    Fresh,
    /// Others' polls and uploads while one user imports 20 MB every second, and while nobody does.
    Import,
    /// Others' polls and uploads while 50 passwords a second are tried, and while nobody signs in.
    Logins,
    /// The state as of the last of 10,000 plaintext operations: by replay, and again.
    Restore,
    /// From an upload's acknowledgement to the notice on another device's socket, less the debounce, at half the peak.
    Fanout,
    /// 2 % uploads of 1 to 5 operations, 98 % polls, two devices per account, a socket for each: a real day.
    Mixed,
    /// Every request is the first one of an idle account since the server started.
    Cold,
    /// Memory of a server at rest, and of 10,000 idle sockets.
    Hold,
    /// Memory before, while and after 100,000 accounts are polled once each and become idle again.
    Touched,
}

impl Scenario {
    /// Whether it works with a foreign server: it neither restarts it nor looks at its memory or database.
    pub const fn suits_foreign(self) -> bool {
        matches!(self, Self::Upload | Self::Poll | Self::Tail | Self::Mixed)
    }

    /// Measures. A check that fails is no error, but part of the case.
    pub async fn run(self, bench: &Bench) -> Result<Vec<Case>> {
        match self {
            Self::Ceiling => ceiling::measure(bench).await,
            Self::Upload => sync::upload(bench).await,
            Self::Poll => sync::poll(bench).await,
            Self::Tail => sync::tail(bench).await,
            Self::Download => sync::download(bench).await,
            Self::Fresh => sync::fresh(bench).await,
            Self::Import => disturbed::import(bench).await,
            Self::Logins => disturbed::logins(bench).await,
            Self::Restore => sync::restore(bench).await,
            Self::Fanout => sockets::fanout(bench).await,
            Self::Mixed => sockets::mixed(bench).await,
            Self::Cold => idle::cold(bench).await,
            Self::Hold => sockets::hold(bench).await,
            Self::Touched => idle::touched(bench).await,
        }
    }
}
