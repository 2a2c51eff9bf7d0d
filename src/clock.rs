//! Wall-clock time as a parameter, so that tests decide what time it is; and, where data hangs on it, a clock that doubts
//! what the machine says ([`Watch`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

mod watch;

pub use watch::{Doubt, Reason, Watch};

/// A source of Unix milliseconds. Cheap to clone; clones share it.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// A clock that stands still until it is moved.
    Manual(Arc<Manual>),
    /// A clock that is compared with what else is known of the time.
    Watched(Arc<Watch>),
}

/// What a test decides.
#[derive(Debug)]
pub struct Manual {
    wall_ms: AtomicI64,
    running_ms: AtomicI64,
}

impl Clock {
    /// A manual clock that starts at `now_ms`.
    #[must_use]
    pub fn manual(now_ms: i64) -> Self {
        Self::Manual(Arc::new(Manual { wall_ms: AtomicI64::new(now_ms), running_ms: AtomicI64::new(0) }))
    }

    /// This clock, watched from now on. `known_ms` is the latest time that is known to be past, if any is; a clock that
    /// is further than `leap_ms` from what is known is doubted.
    #[must_use]
    pub fn watched(self, known_ms: Option<i64>, leap_ms: i64) -> Self {
        Self::Watched(Arc::new(Watch::new(self, known_ms, leap_ms)))
    }

    fn watch(&self) -> Option<&Watch> {
        if let Self::Watched(watch) = self { Some(watch) } else { None }
    }

    /// The time in Unix milliseconds. A watched clock gives no time that it has reason to take for a slip, see [`Watch`].
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        self.watch().map_or_else(|| self.wall_ms(), Watch::now_ms)
    }

    /// The time as far as it is certain: what may end for good (a session, an archive) is judged by it. Differs from
    /// [`Clock::now_ms`] only while a watched clock is in doubt.
    #[must_use]
    pub fn certain_ms(&self) -> i64 {
        self.watch().map_or_else(|| self.wall_ms(), Watch::certain_ms)
    }

    /// Why the time must not be acted upon, if so. A clock that is not watched is never in doubt.
    #[must_use]
    pub fn doubt(&self) -> Option<Doubt> {
        self.watch()?.doubt()
    }

    /// What the clock shows is right: somebody says so who knows.
    ///
    /// # Errors
    /// When it can't be, because this program is younger than that.
    pub fn believe(&self) -> Result<(), Doubt> {
        self.watch().map_or(Ok(()), Watch::believe)
    }

    /// What the clock shows, however likely that is.
    #[must_use]
    pub fn wall_ms(&self) -> i64 {
        match self {
            Self::System => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX)),
            Self::Manual(manual) => manual.wall_ms.load(Ordering::SeqCst),
            Self::Watched(watch) => watch.source().wall_ms(),
        }
    }

    /// How long the machine has been running in milliseconds, sleep included: nobody can set that.
    fn running_ms(&self) -> i64 {
        match self {
            Self::System => {
                let running = clock_gettime(ClockId::Boottime);
                running.tv_sec.saturating_mul(1000).saturating_add(running.tv_nsec / 1_000_000)
            }
            Self::Manual(manual) => manual.running_ms.load(Ordering::SeqCst),
            Self::Watched(watch) => watch.source().running_ms(),
        }
    }

    fn manual_source(&self) -> Option<&Manual> {
        match self {
            Self::System => None,
            Self::Manual(manual) => Some(manual),
            Self::Watched(watch) => watch.source().manual_source(),
        }
    }

    /// Lets time pass on a manual clock; others ignore it.
    pub fn advance_ms(&self, by_ms: i64) {
        self.set_by_ms(by_ms);
        if let Some(manual) = self.manual_source() {
            manual.running_ms.fetch_add(by_ms, Ordering::SeqCst);
        }
    }

    /// Sets a manual clock forward or back without any time passing; others ignore it.
    pub fn set_by_ms(&self, by_ms: i64) {
        if let Some(manual) = self.manual_source() {
            manual.wall_ms.fetch_add(by_ms, Ordering::SeqCst);
        }
    }
}
