//! Memory for request bodies, in all. The caps bound one request; this bounds what many at once may hold, so that a few
//! clients with large bodies, or many that trickle theirs, can't take the machine's memory.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::{ApiError, ApiResult};
use crate::engine::EngineError;

/// Memory is counted in units of this size: a permit's count is 32 bits wide.
const UNIT_BYTES: usize = 1024;

/// The budget. Cheap to clone.
#[derive(Clone, Debug)]
pub struct BodyBudget {
    units: Arc<Semaphore>,
}

/// Memory that a request holds; given back on drop.
#[derive(Debug)]
pub struct Held {
    permit: OwnedSemaphorePermit,
    bytes: usize,
}

impl BodyBudget {
    /// A budget of so many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self { units: Arc::new(Semaphore::new((bytes / UNIT_BYTES).clamp(1, Semaphore::MAX_PERMITS))) }
    }

    /// Takes a part of the budget.
    ///
    /// # Errors
    /// 503 "server busy, please retry" when not so much is left.
    pub fn hold(&self, bytes: usize) -> ApiResult<Held> {
        Ok(Held { permit: self.take(bytes)?, bytes })
    }

    /// Takes more of it for a request that turned out to be larger.
    ///
    /// # Errors
    /// Like [`BodyBudget::hold`].
    pub fn grow(&self, held: &mut Held, bytes: usize) -> ApiResult<()> {
        if let Some(more) = bytes.checked_sub(held.bytes).filter(|more| *more > 0) {
            held.permit.merge(self.take(more)?);
            held.bytes = bytes;
        }
        Ok(())
    }

    fn take(&self, bytes: usize) -> ApiResult<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        self.units.clone().try_acquire_many_owned(units).map_err(|_| {
            metrics::counter!("supersync_engine_refused_total", "bound" => "bodies").increment(1);
            ApiError::from(EngineError::Busy)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exceeds_the_budget_is_refused_and_what_is_given_back_is_free_again() {
        let budget = BodyBudget::new(10 * 1024);
        let mut first = budget.hold(4 * 1024).expect("there is room");
        assert_eq!(budget.hold(7 * 1024).expect_err("too much").status().as_u16(), 503);
        assert!(budget.grow(&mut first, 11 * 1024).is_err());
        budget.grow(&mut first, 10 * 1024).expect("exactly the rest");
        assert!(budget.hold(1).is_err());
        drop(first);
        budget.hold(10 * 1024).expect("all of it is free again");
    }
}
