//! The reference client: what the released app does at its end of the wire, as a library. The server's tests and
//! the load generator speak through it.
//!
//! Owns the client half of the contract: the time-out ladder ([`Ladder`]), the cursor rules (contract, section 14.6),
//! the reactions to results and statuses (14.3, 14.4), strict validation of answers (14.2). It has its own view of the
//! wire ([`wire`]) and uses no line of the server, so that a server that breaks the contract is caught. It knows
//! nothing of the app's data: payloads are opaque JSON.
//!
//! - [`Client`]: typed calls with validated answers, and [`Client::send`]: prebuilt bytes in, raw bytes out.
//! - [`Device`]: a device of an account: pending queue, clock, cursor, [`Device::sync`].
//! - [`Notices`]: the WebSocket.

mod api;
mod device;
mod error;
mod ladder;
mod notices;
pub mod raw;
#[cfg(test)]
mod tests;
pub mod wire;

pub use api::Client;
pub use device::{Change, Device, SyncReport};
pub use error::ClientError;
pub use ladder::Ladder;
pub use notices::{Notice, Notices};
pub use wire::{OpType, Seq};
