//! Ways to sign in, through the routes, on both databases: mailed links, passkeys, invitations, changes of the own account.
#![allow(clippy::unwrap_used, reason = "a test that can't set its stage has failed")]

mod authenticator;
mod golden;
mod guesses;
mod invites;
mod links;
mod matrix;
mod neutral;
mod own;
mod passkey_forgery;
mod passkey_registration;
mod passkey_sign_in;
mod passkeys;
mod prehijack;
mod recovery;
mod revocation;
mod security_log;
mod step_up;
mod vectors;
mod world;
