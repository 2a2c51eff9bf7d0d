//! The old server's database: reaching it, and being sure that nobody else works on it.

use sqlx::postgres::PgConnection;
use tokio::time::Instant;

use super::{Options, Refusal, schema};
use crate::upstream::database::{LEAVING, LOOK_EVERY, address, connect, others};

/// By this name the target knows our session.
const APPLICATION: &str = "supersync-export";
/// Whoever holds this lock of the target exports into it.
const LOCK: i64 = 0x7375_7065_7262_6b31;

/// Connects and makes sure that the database is one to write to. Changes nothing.
pub(super) async fn open(url: &str, options: &Options) -> Result<PgConnection, Refusal> {
    let mut connection = connect(address(url, APPLICATION).ok_or(Refusal::Address)?).await?;
    schema::check(&mut connection, options).await?;
    let until = Instant::now() + LEAVING;
    while !lock(&mut connection).await? {
        if Instant::now() >= until {
            return Err(Refusal::Busy);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    if !options.force {
        let others = others(&mut connection, APPLICATION).await?;
        if !others.is_empty() {
            return Err(Refusal::InUse(others));
        }
    }
    Ok(connection)
}

async fn lock(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(LOCK).fetch_one(connection).await
}
