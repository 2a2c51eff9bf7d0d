//! Where strangers meet the server: connections, sockets, addresses, and how much of each one client can have.

#[path = "../harness/mod.rs"]
mod harness;

/// Makes a test per database of each function.
macro_rules! on_both_databases {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name($crate::harness::Backend::Sqlite).await;
                }
            )+
        }
        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name($crate::harness::Backend::Postgres).await;
                }
            )+
        }
    };
}

mod addresses;
mod connections;
mod logins;
mod sockets;
