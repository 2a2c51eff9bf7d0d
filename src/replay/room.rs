//! What one replay may use of the machine: memory and work.
//!
//! Owns the count of both. Everything that a replay holds is taken here before it is allocated, by what it really takes
//! on the heap, and everything that it does is paid for before it is done: a few kilobytes of operations can ask for
//! gigabytes and minutes.

use std::fmt;

/// What writing or removing one member costs besides its bytes, in steps. A step is about a nanosecond.
pub(super) const MEMBER_STEPS: usize = 128;
/// Steps between two looks at whether the replay is still wanted.
const LOOK_EVERY: u64 = 4 << 20;

/// Why a replay can't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// It is neither absent, nor an object, nor one of the values that the app's language counts as nothing.
    NotAnObject,
    /// A key or string in it is no text (half of a UTF-16 pair), or it is nested too deep.
    Unreadable,
    /// It would become more members than any state may have.
    TooManyMembers,
    /// The state's text would become longer than this.
    TooLarge(usize),
    /// There is no memory left for it.
    Full,
    /// It is more work than one replay may be.
    Exhausted,
    /// Nobody waits for the result any more, or time is up.
    Stopped,
}

/// Memory and work of one replay.
pub(super) struct Room {
    most: usize,
    held: usize,
    steps: u64,
    next_look: u64,
    max_steps: u64,
    opened: usize,
    json: usize,
    max_json: usize,
    stop: Option<Box<dyn Fn() -> bool + Send + Sync>>,
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").field("held", &self.held).field("steps", &self.steps).finish_non_exhaustive()
    }
}

/// What a block of `len` bytes takes on the heap.
pub(super) const fn heap(len: usize) -> usize {
    len.next_multiple_of(16)
}

impl Room {
    pub(super) const fn new(most: usize, max_json: usize, max_steps: u64) -> Self {
        Self { most, held: 0, steps: 0, next_look: 0, max_steps, opened: 0, json: 0, max_json, stop: None }
    }

    /// Asks `stop` now and then whether to give up.
    pub(super) fn stop_when(&mut self, stop: Box<dyn Fn() -> bool + Send + Sync>) {
        self.stop = Some(stop);
    }

    /// Takes memory that is about to be allocated.
    pub(super) const fn take(&mut self, bytes: usize) -> Result<(), Problem> {
        if bytes > self.left() {
            return Err(Problem::Full);
        }
        self.held += bytes;
        Ok(())
    }

    /// Gives back what was freed.
    pub(super) const fn give(&mut self, bytes: usize) {
        self.held = self.held.saturating_sub(bytes);
    }

    /// What is not taken.
    pub(super) const fn left(&self) -> usize {
        self.most - self.held
    }

    /// Notes how long the state's text is.
    pub(super) const fn json_is(&mut self, len: usize) -> Result<(), Problem> {
        self.json = len;
        self.json_grows(0)
    }

    /// Whether the state's text may become longer by so much.
    pub(super) const fn json_grows(&self, more: usize) -> Result<(), Problem> {
        if self.json.saturating_add(more) > self.max_json { Err(Problem::TooLarge(self.max_json)) } else { Ok(()) }
    }

    /// Pays for work that is about to be done.
    pub(super) fn step(&mut self, steps: usize) -> Result<(), Problem> {
        self.steps = self.steps.saturating_add(u64::try_from(steps).unwrap_or(u64::MAX));
        if self.steps > self.max_steps {
            return Err(Problem::Exhausted);
        }
        if self.steps >= self.next_look {
            self.next_look = self.steps + LOOK_EVERY;
            if self.stop.as_ref().is_some_and(|stop| stop()) {
                return Err(Problem::Stopped);
            }
        }
        Ok(())
    }

    /// Notes that values were taken apart, which takes several times the bytes of their text.
    pub(super) const fn opened(&mut self, bytes: usize) {
        self.opened = self.opened.saturating_add(bytes);
    }

    /// Whether so much has been taken apart that it is time to make text of it again. Then it recounts.
    pub(super) const fn should_close(&mut self) -> bool {
        let enough = self.opened > self.most / 4;
        if enough {
            self.opened = 0;
        }
        enough
    }
}
