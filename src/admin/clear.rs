//! `supersync data clear`: an account's data set is replaced by an empty one, as its user can do it.

use std::io::Write;
use std::sync::Arc;

use tokio::time::Instant;

use super::{Failure, progress};
use crate::clock::Clock;
use crate::config::Config;
use crate::engine::{EngineError, Handle, Options};
use crate::protocol::UserId;
use crate::store::{EventKind, Store, StoreError};

/// Accounts read at a time.
const LIST_PAGE: usize = 500;

pub(super) async fn every_account(store: &dyn Store) -> Result<Vec<UserId>, StoreError> {
    let mut all: Vec<UserId> = Vec::new();
    loop {
        let page = store.list_users(all.last().copied().unwrap_or(0), LIST_PAGE).await?;
        all.extend(page.iter().map(|user| user.id));
        if page.len() < LIST_PAGE {
            return Ok(all);
        }
    }
}

/// Starts a new, empty data set for each account and tells running servers. One that fails does not stop the others.
pub(super) async fn clear(
    users: &[UserId],
    store: Arc<dyn Store>,
    config: &Config,
    clock: Clock,
    output: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let engine = Handle::start(Arc::clone(&store), clock, Options::from(config)).await?;
    let (mut cleared, mut failed) = (0_u64, 0);
    let bar = progress::bar(users.len(), "accounts");
    for user in users {
        bar.inc(1);
        let wiped = match engine.wipe(*user, Instant::now() + config.timeouts.handler).await {
            // Deleted meanwhile.
            Err(EngineError::NoAccount) => continue,
            Err(error) => Err(error.to_string()),
            Ok(()) => store.announce(*user, EventKind::DataCleared).await.map_err(|error| error.to_string()),
        };
        match wiped {
            Ok(()) => cleared += 1,
            Err(error) => {
                failed += 1;
                tracing::warn!(error, user_id = user, "account not cleared");
            }
        }
    }
    bar.finish_and_clear();
    engine.shutdown().await;
    writeln!(output, "Deleted the synced data of {cleared} account(s).")?;
    Failure::unless_done(failed)
}
