//! A clock compared with what else is known of the time. Pure: what is known comes from outside ([`crate::timekeeper`]).
//!
//! What is certain is the latest time known to be past, plus what the machine has been running since. A clock that shows
//! something else is treated like this:
//!
//! - up to [`SLEW_MS`] away: it is right. That is how synchronised clocks move.
//! - further away for less than [`SETTLE_MS`]: a slip. The certain time is used.
//! - for longer, and at most a leap away (a week, or less with short retentions): it has been set. It is right.
//! - for longer, and further ahead: it may be right (the server was off for months) or wrong. Its time is used, so that
//!   new rows never look older than they are, but nothing ends by it and nothing is deleted until it is confirmed.
//! - for longer, and further behind: the certain time is used, so that new rows never look older than the existing ones.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Clock;

/// How far a clock may be from the certain time without a question: clocks are steered, and instances differ a little.
const SLEW_MS: i64 = 60 * 1000;
/// How long a clock must show another time before that is more than a slip.
const SETTLE_MS: i64 = 60 * 1000;
/// 2026-01-01: no earlier time can be right. Machines without a battery start in 1970.
const EARLIEST_MS: i64 = 1_767_225_600_000;
/// Nothing is known of the time yet.
const UNKNOWN: i64 = i64::MIN;

/// Why a clock's time must not be acted upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// What is wrong with it.
    pub reason: Reason,
    /// What the clock shows, Unix milliseconds.
    pub shown_ms: i64,
    /// The certain time, or what the database server's clock shows.
    pub other_ms: i64,
}

/// What is wrong with a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It has changed by more than a little just now.
    Unsettled,
    /// It is further ahead of what is known than a leap.
    Ahead,
    /// It is further behind what is known than a leap, or shows a time before this program was made.
    Behind,
    /// The database server's clock shows another time.
    Database,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.reason {
            Reason::Unsettled => "; it has just been set, and would show",
            Reason::Ahead => ", too far after the last time known to be right, by which it is",
            Reason::Behind => ", before the last time known to be right, by which it is",
            Reason::Database => "; the database server's clock shows",
        };
        write!(f, "this machine's clock shows {}{how} {}", time(self.shown_ms), time(self.other_ms))
    }
}

impl Doubt {
    /// What an operator does about it.
    pub const ADVICE: &'static str = "Set the clock (NTP). If it is right, for example because the server was off for \
         long, say so: `supersync sweep --clock-is-right`.";

    /// It shows a time at which this program did not exist.
    const fn too_early(shown_ms: i64) -> Self {
        Self { reason: Reason::Behind, shown_ms, other_ms: EARLIEST_MS }
    }
}

const fn is_near(one_ms: i64, other_ms: i64) -> bool {
    one_ms.abs_diff(other_ms) <= SLEW_MS.unsigned_abs()
}

fn time(at_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(at_ms)
        .map_or_else(|_| format!("{at_ms} ms after 1970"), |at| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

/// A clock that is watched.
#[derive(Debug)]
pub struct Watch {
    source: Clock,
    leap_ms: i64,
    /// The certain time less the running time, or [`UNKNOWN`].
    certain: AtomicI64,
    /// Whether `astray` holds something: then what the clock shows is never taken unseen.
    is_astray: AtomicBool,
    astray: Mutex<Option<Astray>>,
}

/// A clock that shows something else than what is certain.
#[derive(Clone, Copy, Debug)]
struct Astray {
    /// The shown time less the running time.
    shown: i64,
    /// Since when it shows that, in running time.
    since_ms: i64,
}

impl Watch {
    pub(super) fn new(source: Clock, known_ms: Option<i64>, leap_ms: i64) -> Self {
        let (shown_ms, running_ms) = (source.wall_ms(), source.running_ms());
        let shown = shown_ms - running_ms;
        let (certain, astray) = match known_ms {
            None if shown_ms < EARLIEST_MS => (UNKNOWN, None),
            None => (shown, None),
            // What was known may be long past, as the server was off.
            Some(known_ms) if (-SLEW_MS..=leap_ms).contains(&(shown_ms - known_ms)) => (shown, None),
            Some(known_ms) => {
                // It has shown that since long before the start, which tells nothing about one that is behind: it is
                // probably about to be set.
                let since_ms = if shown_ms > known_ms { running_ms - SETTLE_MS } else { running_ms };
                (known_ms - running_ms, Some(Astray { shown, since_ms }))
            }
        };
        Self {
            source,
            leap_ms,
            certain: AtomicI64::new(certain),
            is_astray: AtomicBool::new(astray.is_some()),
            astray: Mutex::new(astray),
        }
    }

    pub(super) const fn source(&self) -> &Clock {
        &self.source
    }

    pub(super) fn now_ms(&self) -> i64 {
        let (shown_ms, certain_ms, doubt) = self.look();
        match doubt {
            None | Some(Doubt { reason: Reason::Ahead, .. }) => shown_ms,
            Some(_) => certain_ms,
        }
    }

    pub(super) fn certain_ms(&self) -> i64 {
        self.look().1
    }

    pub(super) fn doubt(&self) -> Option<Doubt> {
        self.look().2
    }

    /// The time shown, the certain one, and what is wrong with the former.
    fn look(&self) -> (i64, i64, Option<Doubt>) {
        let (shown_ms, running_ms) = (self.source.wall_ms(), self.source.running_ms());
        let (shown, certain) = (shown_ms - running_ms, self.certain.load(Ordering::SeqCst));
        if !self.is_astray.load(Ordering::SeqCst) && certain != UNKNOWN && is_near(shown, certain) {
            self.follow(certain, shown);
            return (shown_ms, shown_ms, None);
        }
        self.look_closely(shown_ms, running_ms)
    }

    fn look_closely(&self, shown_ms: i64, running_ms: i64) -> (i64, i64, Option<Doubt>) {
        let mut astray = self.astray();
        let (shown, certain) = (shown_ms - running_ms, self.certain.load(Ordering::SeqCst));
        if certain == UNKNOWN {
            if shown_ms < EARLIEST_MS {
                return (shown_ms, EARLIEST_MS, Some(Doubt::too_early(shown_ms)));
            }
            self.follow(certain, shown);
            return (shown_ms, shown_ms, None);
        }
        let certain_ms = certain + running_ms;
        let doubt = |reason| Doubt { reason, shown_ms, other_ms: certain_ms };
        if is_near(shown, certain) {
            if astray.is_some() {
                tracing::info!("the clock shows the expected time again");
            }
            self.settle(&mut astray, certain, shown);
            return (shown_ms, shown_ms, None);
        }
        let since_ms = match *astray {
            Some(known) if is_near(known.shown, shown) => known.since_ms,
            _ => {
                *astray = Some(Astray { shown, since_ms: running_ms });
                self.is_astray.store(true, Ordering::SeqCst);
                tracing::warn!(doubt = %doubt(Reason::Unsettled), "the clock has been set; the new time counts once it has lasted for a minute");
                running_ms
            }
        };
        let reason = if running_ms - since_ms < SETTLE_MS {
            Reason::Unsettled
        } else if shown_ms >= EARLIEST_MS && shown.abs_diff(certain) <= self.leap_ms.unsigned_abs() {
            tracing::warn!(seconds = (shown - certain) / 1000, "the clock has been set and is followed");
            self.settle(&mut astray, certain, shown);
            return (shown_ms, shown_ms, None);
        } else if shown > certain {
            Reason::Ahead
        } else {
            Reason::Behind
        };
        (shown_ms, certain_ms, Some(doubt(reason)))
    }

    pub(super) fn believe(&self) -> Result<(), Doubt> {
        let shown_ms = self.source.wall_ms();
        if shown_ms < EARLIEST_MS {
            return Err(Doubt::too_early(shown_ms));
        }
        let shown = shown_ms - self.source.running_ms();
        let mut astray = self.astray();
        self.settle(&mut astray, self.certain.load(Ordering::SeqCst), shown);
        Ok(())
    }

    /// This time was shown by a clock that is right, of this process or another one. A lasting doubt ends with a time
    /// near the shown one: the clock has been confirmed elsewhere.
    pub fn heard(&self, right_ms: i64) {
        let is_lasting = self.doubt().is_some_and(|doubt| matches!(doubt.reason, Reason::Ahead | Reason::Behind));
        let is_confirmed = self.source.wall_ms().abs_diff(right_ms) <= self.leap_ms.unsigned_abs();
        if is_lasting && is_confirmed && self.believe().is_ok() {
            tracing::info!("the clock has been confirmed");
        }
    }

    /// The leap beyond which a clock is doubted.
    #[must_use]
    pub const fn leap_ms(&self) -> i64 {
        self.leap_ms
    }

    fn settle(&self, astray: &mut Option<Astray>, certain: i64, shown: i64) {
        *astray = None;
        self.follow(certain, shown);
        self.is_astray.store(false, Ordering::SeqCst);
    }

    /// Who has looked before somebody else decided must not undo that.
    fn follow(&self, certain: i64, shown: i64) {
        let _decided_meanwhile = self.certain.compare_exchange(certain, shown, Ordering::SeqCst, Ordering::SeqCst);
    }

    fn astray(&self) -> MutexGuard<'_, Option<Astray>> {
        self.astray.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = EARLIEST_MS + 300 * DAY;
    const DAY: i64 = 24 * 60 * 60 * 1000;
    const WEEK: i64 = 7 * DAY;

    fn watched(known_ms: Option<i64>) -> Clock {
        Clock::manual(NOW).watched(known_ms, WEEK)
    }

    fn is(clock: &Clock, reason: Reason) -> bool {
        clock.doubt().is_some_and(|doubt| doubt.reason == reason)
    }

    /// Looks at the clock until what it shows is more than a slip.
    fn settle(clock: &Clock) {
        for _ in 0..=SETTLE_MS / 1000 {
            let _ = clock.now_ms();
            clock.advance_ms(1000);
        }
    }

    #[test]
    fn a_slip_of_seconds_is_no_time_at_all() {
        for days in [-366, -31, -1, 1, 2, 31, 46, 366] {
            let clock = watched(Some(NOW));
            assert_eq!(clock.doubt(), None);
            clock.set_by_ms(days * DAY);
            for second in 0..3 {
                assert_eq!((clock.now_ms(), clock.certain_ms()), (NOW + second * 1000, NOW + second * 1000), "{days}");
                assert!(is(&clock, Reason::Unsettled), "{days}");
                clock.advance_ms(1000);
            }
            clock.set_by_ms(-days * DAY);
            assert_eq!((clock.now_ms(), clock.doubt()), (NOW + 3000, None), "{days}");
            // The next slip does not inherit the first one's age.
            clock.advance_ms(2 * SETTLE_MS);
            clock.set_by_ms(days * DAY);
            assert!(is(&clock, Reason::Unsettled), "{days}");
        }
    }

    #[test]
    fn a_clock_that_is_set_by_less_than_a_leap_is_followed_after_a_minute() {
        for by in [-6 * DAY, -2 * SLEW_MS, 2 * SLEW_MS, DAY, 6 * DAY] {
            let clock = watched(Some(NOW));
            clock.set_by_ms(by);
            settle(&clock);
            assert_eq!((clock.now_ms(), clock.certain_ms()), (clock.wall_ms(), clock.wall_ms()), "{by}");
            assert_eq!(clock.doubt(), None, "{by}");
        }
    }

    #[test]
    fn small_steps_are_how_clocks_move() {
        let clock = watched(Some(NOW));
        for by in [SLEW_MS, -SLEW_MS, 500, -500] {
            clock.set_by_ms(by);
            assert_eq!((clock.now_ms(), clock.doubt()), (clock.wall_ms(), None), "{by}");
        }
    }

    #[test]
    fn a_clock_far_ahead_stamps_and_ends_nothing_until_it_is_confirmed() {
        let clock = watched(Some(NOW));
        clock.set_by_ms(31 * DAY);
        settle(&clock);
        let certain = clock.wall_ms() - 31 * DAY;
        assert_eq!((clock.now_ms(), clock.certain_ms()), (clock.wall_ms(), certain));
        assert_eq!(clock.doubt(), Some(Doubt { reason: Reason::Ahead, shown_ms: clock.wall_ms(), other_ms: certain }));
        let Clock::Watched(watch) = &clock else { panic!("watched") };
        watch.heard(certain);
        assert!(clock.doubt().is_some(), "that is what was known before");
        watch.heard(clock.wall_ms() - DAY);
        assert_eq!((clock.doubt(), clock.certain_ms()), (None, clock.wall_ms()));
    }

    #[test]
    fn a_start_is_judged_by_what_is_known() {
        for (known, is_ahead) in [(NOW - 6 * DAY, false), (NOW - 8 * DAY, true), (NOW, false), (NOW + SLEW_MS, false)] {
            let clock = watched(Some(known));
            assert_eq!(is(&clock, Reason::Ahead), is_ahead, "{known}");
            assert_eq!(clock.now_ms(), NOW, "{known}");
            assert_eq!(clock.certain_ms(), if is_ahead { known } else { NOW }, "{known}");
            assert_eq!(clock.believe(), Ok(()));
            assert_eq!((clock.doubt(), clock.certain_ms()), (None, NOW), "{known}");
        }
    }

    #[test]
    fn a_start_in_1970_makes_no_old_rows() {
        let fresh = Clock::manual(5_000).watched(None, WEEK);
        assert_eq!(fresh.now_ms(), EARLIEST_MS);
        assert!(is(&fresh, Reason::Behind));
        fresh.set_by_ms(NOW);
        assert_eq!((fresh.now_ms(), fresh.doubt()), (NOW + 5_000, None), "nothing else is known");

        let clock = Clock::manual(5_000).watched(Some(NOW), WEEK);
        settle(&clock);
        settle(&clock);
        assert!(clock.now_ms() >= NOW && clock.certain_ms() >= NOW);
        assert!(clock.believe().is_err());
        assert!(is(&clock, Reason::Behind));
        clock.set_by_ms(NOW + DAY);
        settle(&clock);
        assert_eq!((clock.now_ms(), clock.doubt()), (clock.wall_ms(), None));
    }

    #[test]
    fn a_doubt_names_both_times() {
        let doubt = Doubt { reason: Reason::Ahead, shown_ms: NOW + 31 * DAY, other_ms: NOW };
        let text = doubt.to_string();
        assert!(text.contains("shows 2026-11-28 00:00:00 UTC") && text.ends_with("2026-10-28 00:00:00 UTC"), "{text}");
    }
}
