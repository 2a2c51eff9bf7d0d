//! Accounts themselves: passwords, passkeys, links, addresses; those that are gone.
