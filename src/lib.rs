//! `SuperSync`: the sync server of the Super Productivity app.
//!
//! The server gives every operation that an account's devices upload the next number of that
//! account's sequence, refuses operations that lost a race, tells the other devices, and can rebuild
//! state by replay. The wire behaviour is documented in `docs/protocol.md`, the shape of the code in
//! `docs/architecture.md`.
//!
//! Imports run one way: `main` → [`http`], [`admin`], [`events`], [`gauges`] → [`accounts`], [`engine`],
//! [`backup`], [`diagnosis`], [`mod@upstream`] → [`store`] → [`replay`] →
//! [`protocol`]. The last two are pure: no I/O, no clock, no async. `src/layers.rs` holds all of it.

pub mod accounts;
pub mod admin;
pub mod aside;
pub mod backup;
pub mod budget;
pub mod clock;
pub mod config;
pub mod descriptors;
pub mod diagnosis;
pub mod disk;
pub mod engine;
pub mod events;
pub mod gauges;
pub mod http;
pub mod language;
#[cfg(test)]
mod layers;
pub mod mail;
pub mod protocol;
pub mod replay;
pub mod server;
pub mod spans;
pub mod store;
pub mod telemetry;
pub mod timekeeper;
pub mod top;
pub mod upstream;
pub mod webauthn;
