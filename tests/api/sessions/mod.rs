//! Sessions per device, tickets for sockets, and what one process hears of another's changes: a real server on a real
//! socket, on both databases. Nothing here waits for time to pass, but for the one test that starts the program itself.

mod admin;
mod events;
mod list;
mod ticket;
