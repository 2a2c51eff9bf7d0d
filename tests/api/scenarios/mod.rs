//! The numbered test scenarios of the protocol contract (section 18), and what its section 17 asks for beyond them: a
//! real server on a real socket, on both databases. `s01_…` is scenario 1, `m01_…` is point 1 of section 17.
//!
//! Only where a scenario needs a state that no request can make (rows of older servers, a pruned prefix) does it reach
//! into the store. Nothing here waits for time to pass: the server's clock is moved by hand, and events are awaited.

mod conflict;
mod device;
mod download;
mod encoding;
mod encryption;
mod fence;
mod idempotency;
mod limit;
mod poison;
mod quota;
mod restore;
mod retention;
mod sealed;
mod share;
mod snapshot;
mod socket;
mod upload;
mod wipe;
