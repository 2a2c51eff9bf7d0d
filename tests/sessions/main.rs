//! Sessions per device, tickets for sockets, and what one process hears of another's changes: a real server on a real
//! socket, on both databases. Nothing here waits for time to pass, but for the one test that starts the program itself.

#[path = "../harness/mod.rs"]
mod harness;

/// Makes one test per database of each function: `sqlite::name` and `postgres::name`.
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

mod admin;
mod events;
mod list;
mod ticket;
