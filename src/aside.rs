//! Work that keeps a core busy for milliseconds, done where no other request waits for its thread.

use std::num::NonZeroUsize;
use std::sync::LazyLock;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;

/// Texts from here on, and whatever takes as long to go through, are large.
pub const LARGE_BYTES: usize = 64 * 1024;

/// Half of the cores at most: small requests have the others.
static TURNS: LazyLock<Semaphore> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(2, NonZeroUsize::get);
    Semaphore::new((cores / 2).max(1))
});

/// Does the work; if it is `large`, in turn with other large work, while another thread takes over what this one had to do.
pub async fn aside<T>(large: bool, work: impl FnOnce() -> T) -> T {
    if !large {
        return work();
    }
    // Never closed, so never an error.
    let _turn = TURNS.acquire().await;
    // A runtime of one thread, as tests have it, has nobody to take over.
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return work();
    }
    tokio::task::block_in_place(work)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn others_go_on_while_large_work_keeps_the_only_thread() {
        let (begun, has_begun) = oneshot::channel();
        let (finish, finished) = mpsc::channel();
        let large = tokio::spawn(aside(true, move || {
            begun.send(()).expect("the test waits");
            finished.recv_timeout(Duration::from_mins(1))
        }));
        has_begun.await.expect("it begins");
        tokio::spawn(async move { finish.send(()) });
        large.await.expect("no panic").expect("the other task ran meanwhile");
    }

    #[tokio::test]
    async fn a_runtime_of_one_thread_does_it_there() {
        assert_eq!(aside(true, || 7).await, 7);
    }
}
