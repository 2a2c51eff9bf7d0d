//! Ways to sign in, through the routes, on both databases: mailed links, passkeys, invitations, changes of the own account.
#![allow(clippy::unwrap_used, reason = "a test that can't set its stage has failed")]

#[path = "../harness/mod.rs"]
mod harness;

/// Makes one test per database of each function, as the harness does, but on one thread: there is no socket.
macro_rules! on_both_databases {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test]
                async fn $name() {
                    super::$name($crate::harness::Backend::Sqlite).await;
                }
            )+
        }
        mod postgres {
            $(
                #[tokio::test]
                async fn $name() {
                    super::$name($crate::harness::Backend::Postgres).await;
                }
            )+
        }
    };
}

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
