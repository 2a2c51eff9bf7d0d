//! Where strangers meet the server: connections, sockets, addresses, and how much of each one client can have.

mod addresses;
mod connections;
mod full_disk;
mod logins;
mod sockets;
