//! The operator's tools that look after stored data and watch a server, beside a running server, on both databases.

mod clock;
mod recount;
mod sweep;
mod top;
mod usage;
