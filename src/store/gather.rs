//! Look-ups of many callers in one statement. Batching is natural, as in the committer: while one statement runs, the
//! keys of those who come meanwhile gather for the next one; nothing waits for a timer, and a caller on an idle server
//! gets a statement of its own at once.
//!
//! Promises that whoever asks is answered from a statement that began after the question, and that a caller who goes
//! away costs the others nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::{Result, StoreError};

/// Statements under way at once. The second one is for when the first has met a dead connection.
const MAX_RUNNING: usize = 2;

/// What is looked up, and where the answer goes.
type Asked<K, V> = (K, oneshot::Sender<Result<V>>);

#[derive(Debug)]
struct State<K, V> {
    waiting: Vec<Asked<K, V>>,
    running: usize,
}

/// Keys that wait for a statement.
#[derive(Debug)]
pub(super) struct Gather<K, V> {
    state: Arc<Mutex<State<K, V>>>,
    /// Most keys of one statement.
    max_keys: usize,
}

fn lock<K, V>(state: &Mutex<State<K, V>>) -> MutexGuard<'_, State<K, V>> {
    // Nothing that can panic runs under the lock.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Send + 'static, V: Send + 'static> Gather<K, V> {
    pub(super) fn new(max_keys: usize) -> Self {
        Self { state: Arc::new(Mutex::new(State { waiting: Vec::new(), running: 0 })), max_keys }
    }

    /// Has a key looked up together with others'. `look_up` runs the statement: one result per key, in their order. All
    /// callers must bring the same.
    ///
    /// # Errors
    /// What `look_up` says of the key, or of the whole statement.
    pub(super) async fn ask<F>(&self, key: K, look_up: impl Fn(Vec<K>) -> F + Send + 'static) -> Result<V>
    where
        F: Future<Output = Result<Vec<Result<V>>>> + Send + 'static,
    {
        let (sender, answer) = oneshot::channel();
        let turn = {
            let mut state = lock(&self.state);
            state.waiting.push((key, sender));
            (state.running < MAX_RUNNING).then(|| {
                state.running += 1;
                Turn { state: Arc::clone(&self.state), max_keys: self.max_keys, ended: false }
            })
        };
        if let Some(turn) = turn {
            // A task of its own: it answers others too, whatever becomes of this caller.
            tokio::spawn(turn.run(look_up));
        }
        answer.await.unwrap_or(Err(StoreError::Unavailable(sqlx::Error::WorkerCrashed)))
    }
}

/// Runs statements until nobody waits any more.
struct Turn<K, V> {
    state: Arc<Mutex<State<K, V>>>,
    max_keys: usize,
    ended: bool,
}

impl<K, V> Turn<K, V> {
    async fn run<F>(mut self, look_up: impl Fn(Vec<K>) -> F)
    where
        F: Future<Output = Result<Vec<Result<V>>>>,
    {
        while let Some(asked) = self.next() {
            let (keys, callers): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
            match look_up(keys).await {
                Ok(found) => {
                    for (caller, result) in callers.into_iter().zip(found) {
                        // Nobody may be waiting any more.
                        caller.send(result).ok();
                    }
                }
                Err(error) => {
                    for caller in callers {
                        caller.send(Err(error.for_another())).ok();
                    }
                }
            }
        }
    }

    /// The next keys. `None`: nobody waits, and the turn is over; both are decided at once, so that nobody is left over.
    fn next(&mut self) -> Option<Vec<Asked<K, V>>> {
        let mut state = lock(&self.state);
        state.waiting.retain(|(_, caller)| !caller.is_closed());
        if state.waiting.is_empty() {
            // What a burst has taken.
            state.waiting = Vec::new();
            state.running -= 1;
            self.ended = true;
            return None;
        }
        let count = state.waiting.len().min(self.max_keys);
        Some(state.waiting.drain(..count).collect())
    }
}

impl<K, V> Drop for Turn<K, V> {
    /// After a panic, or when the runtime ends.
    fn drop(&mut self) {
        if !self.ended {
            let mut state = lock(&self.state);
            state.running -= 1;
            if state.running == 0 {
                // Nobody else would answer them: dropped, they learn that the look-up has failed.
                state.waiting.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::Semaphore;

    struct Database {
        gather: Gather<u32, u32>,
        gate: Arc<Semaphore>,
        statements: Arc<Mutex<Vec<Vec<u32>>>>,
    }

    impl Database {
        fn new(max_keys: usize) -> Arc<Self> {
            let gather = Gather::new(max_keys);
            Arc::new(Self { gather, gate: Arc::new(Semaphore::new(0)), statements: Arc::default() })
        }

        /// Twice the key; 13 can't be read, 99 breaks the statement, 666 panics.
        async fn twice(&self, key: u32) -> Result<u32> {
            let (gate, statements) = (Arc::clone(&self.gate), Arc::clone(&self.statements));
            self.gather
                .ask(key, move |keys| {
                    let (gate, statements) = (Arc::clone(&gate), Arc::clone(&statements));
                    async move {
                        gate.acquire().await.expect("open").forget();
                        assert!(!keys.contains(&666), "injected");
                        statements.lock().expect("no panic").push(keys.clone());
                        if keys.contains(&99) {
                            return Err(StoreError::Timeout(sqlx::Error::PoolTimedOut));
                        }
                        let of = |key| if key == 13 { Err(StoreError::Corrupt("13".to_owned())) } else { Ok(2 * key) };
                        Ok(keys.into_iter().map(of).collect())
                    }
                })
                .await
        }

        fn ask(self: &Arc<Self>, key: u32) -> tokio::task::JoinHandle<Result<u32>> {
            let database = Arc::clone(self);
            tokio::spawn(async move { database.twice(key).await })
        }

        /// Asks for the first ones until every turn is taken, so that those after them gather.
        async fn occupied(self: &Arc<Self>) -> Vec<tokio::task::JoinHandle<Result<u32>>> {
            let mut first = Vec::new();
            for key in 0..MAX_RUNNING {
                first.push(self.ask(u32::try_from(key).expect("small")));
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
            }
            first
        }
    }

    #[tokio::test]
    async fn who_comes_while_statements_run_shares_the_next_one() {
        let database = Database::new(3);
        let first = database.occupied().await;
        let later: Vec<_> = (10..14).map(|key| database.ask(key)).collect();
        tokio::task::yield_now().await;
        database.gate.add_permits(10);
        for asked in first {
            asked.await.expect("no panic").expect("found");
        }
        for (key, asked) in (10..14).zip(later) {
            match asked.await.expect("no panic") {
                Ok(found) => assert_eq!((key, found), (key, 2 * key)),
                Err(error) => assert!(key == 13 && matches!(error, StoreError::Corrupt(_)), "{key}: {error}"),
            }
        }
        // They end in any order.
        let mut statements = database.statements.lock().unwrap().clone();
        statements.sort_unstable();
        assert_eq!(statements, [vec![0], vec![1], vec![10, 11, 12], vec![13]]);
        // Both turns see that nobody waits any more, and end.
        while lock(&database.gather.state).running > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_statement_that_fails_fails_for_each_and_the_next_one_works() {
        let database = Database::new(10);
        let first = database.occupied().await;
        let later: Vec<_> = [98, 99].map(|key| database.ask(key)).into();
        tokio::task::yield_now().await;
        database.gate.add_permits(10);
        for asked in later {
            let error = asked.await.expect("no panic").expect_err("the statement failed");
            assert!(matches!(error, StoreError::Timeout(sqlx::Error::PoolTimedOut)), "{error:?}");
        }
        assert_eq!(database.twice(7).await.expect("works"), 14);
        drop(first);
    }

    #[tokio::test]
    async fn a_panic_leaves_nobody_waiting() {
        let database = Database::new(10);
        let first = database.occupied().await;
        let broken = database.ask(666);
        tokio::task::yield_now().await;
        database.gate.add_permits(10);
        let error = broken.await.expect("the caller lives").expect_err("the look-up has panicked");
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
        assert_eq!(database.twice(7).await.expect("works"), 14);
        drop(first);
    }

    #[tokio::test]
    async fn who_has_gone_is_not_looked_up() {
        let database = Database::new(10);
        let first = database.occupied().await;
        let gone = database.ask(5);
        let stays = database.ask(6);
        tokio::task::yield_now().await;
        gone.abort();
        assert!(gone.await.expect_err("aborted").is_cancelled());
        database.gate.add_permits(10);
        assert_eq!(stays.await.expect("no panic").expect("found"), 12);
        drop(first);
        assert!(!database.statements.lock().unwrap().concat().contains(&5));
    }
}
