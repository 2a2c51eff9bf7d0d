//! A real server per test, and clients that speak to it as devices do.

#![allow(dead_code, unused_imports, unused_macros, reason = "every test program uses a part of it")]

mod account;
#[macro_use]
mod database;
mod log;
mod op;
pub mod postgres;
mod program;
mod server;
mod socket;
mod wire;

pub use account::{Account, Reply, gzip, gzip_at, receive};
pub use database::{Backend, TestDatabase};
pub use log::Log;
pub use op::{Op, ciphertext, fresh, fresh_uuid, import, nested, op, snapshot, time_delta, upload};
pub use program::{LONG_PATIENCE, Program, free_port, ladder, send_signal};
pub use server::{Server, Setup, http_client, register, settings};
pub use socket::{Ended, PATIENCE, RawSocket, Socket};
pub use wire::{Cut, Mode, Wire};
