//! Backups: everything comes back, from either database into either, made while a server is busy; what is not whole is
//! refused and changes nothing.

/// Makes a test for each database that a backup is made from and each that it is restored into.
macro_rules! across_databases {
    ($($name:ident),+ $(,)?) => {
        across_databases!(@ sqlite_to_sqlite, Sqlite, Sqlite, $($name),+);
        across_databases!(@ sqlite_to_postgres, Sqlite, Postgres, $($name),+);
        across_databases!(@ postgres_to_sqlite, Postgres, Sqlite, $($name),+);
        across_databases!(@ postgres_to_postgres, Postgres, Postgres, $($name),+);
    };
    (@ $module:ident, $from:ident, $to:ident, $($name:ident),+) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name($crate::harness::Backend::$from, $crate::harness::Backend::$to).await;
                }
            )+
        }
    };
}

mod drill;
mod hostile;
mod refusal;
mod schema;
mod whole;

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use crate::harness::TestDatabase;
use supersync::store::backup::{Piece, Row};
use supersync::store::{self, Store};

/// Everything that a database holds: the numbers given out, and the rows by table.
type Contents = (Vec<i64>, Vec<(&'static str, Vec<Row>)>);

async fn contents_of(store: &dyn Store) -> Contents {
    let (to, mut from) = tokio::sync::mpsc::channel(4);
    let taking = async {
        let (mut numbers, mut tables) = (Vec::new(), Vec::new());
        loop {
            match from.recv().await.expect("the stream has an end") {
                Piece::Begin(snapshot) => numbers = snapshot.numbers,
                Piece::Table(table, _) => tables.push((table.name, Vec::new())),
                Piece::Rows(rows) => tables.last_mut().expect("of a table").1.extend(rows),
                Piece::End => return (numbers, tables),
            }
        }
    };
    let (dumped, contents) = tokio::join!(store.dump(to), taking);
    dumped.expect("the database can be read");
    contents
}

/// What a database holds that nobody works on.
async fn contents(database: &TestDatabase) -> Contents {
    let store = store::open(&database.settings(), Duration::from_mins(1)).await.expect("the store opens");
    let contents = contents_of(&*store).await;
    store.close().await;
    contents
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// What a command says when it does what it is told to.
#[track_caller]
fn done(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// What a command says that ends with this code.
#[track_caller]
fn refused(output: &Output, code: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}
