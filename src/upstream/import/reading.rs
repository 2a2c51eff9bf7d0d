//! Reads logs ahead of those who take them.

use tokio::sync::mpsc;

use super::error::ImportError;
use super::rows::SourceOp;
use super::source::Source;
use super::transform::Account;

/// Accounts whose operations are read before they are needed.
const AHEAD: usize = 4;
/// Batches of an account's operations that are read before they are needed.
const BATCHES: usize = 2;

/// An account's log as it is read.
#[derive(Debug)]
pub(super) struct Reading {
    /// The cached state, if the log may need it.
    pub(super) snapshot: Option<Vec<u8>>,
    /// Some operations at a time.
    pub(super) operations: mpsc::Receiver<Vec<SourceOp>>,
}

/// The logs of accounts, in their order.
pub(super) struct Readings(mpsc::Receiver<Reading>);

impl Readings {
    /// The next log; `None` for an account that has none.
    pub(super) async fn of(&mut self, account: &Account) -> Option<Reading> {
        if account.has_log() { self.0.recv().await } else { None }
    }
}

/// Has the logs of these accounts read while `work` takes them in the same order. Gives the source back.
pub(super) async fn read<'a, T>(
    mut source: Box<dyn Source>,
    accounts: impl Iterator<Item = &'a Account>,
    work: impl AsyncFnOnce(Readings) -> Result<T, ImportError>,
) -> Result<(T, Box<dyn Source>), ImportError> {
    let users: Vec<_> =
        accounts.filter(|account| account.has_log()).map(|a| (a.user.id, a.may_need_snapshot())).collect();
    let (to, readings) = mpsc::channel(AHEAD);
    let reader = tokio::spawn(async move {
        for (user, may_need_snapshot) in users {
            let snapshot = if may_need_snapshot { source.snapshot(user).await? } else { None };
            let (batches, operations) = mpsc::channel(BATCHES);
            if to.send(Reading { snapshot, operations }).await.is_err() {
                break;
            }
            source.operations(user, &batches).await?;
        }
        Ok::<_, ImportError>(source)
    });
    let worked = work(Readings(readings)).await;
    // Why the logs ended early explains what the other side says of that.
    let source = reader.await.map_err(|_| ImportError::Crashed)??;
    Ok((worked?, source))
}
