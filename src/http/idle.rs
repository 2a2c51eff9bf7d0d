//! A connection that may not be silent for too long, in either direction and in whatever state it is, and whose other side
//! must take what is written at some pace.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::pace::{self, Pace};

/// Wraps a stream: when nothing could be read or written for `limit` although somebody waits for it, or when what is
/// written is taken too slowly, reading and writing fail with [`io::ErrorKind::TimedOut`].
#[derive(Debug)]
pub struct IdleLimit<S> {
    stream: S,
    limit: Duration,
    last_at: Instant,
    reader: Pace,
    /// Since when writing waits for the other side, or does not.
    blocked: bool,
    since: Instant,
    // Set lazily: restarting a timer at each byte would cost more than the byte.
    alarm: Pin<Box<Sleep>>,
}

impl<S> IdleLimit<S> {
    /// A stream that may be silent for `limit`.
    pub fn new(stream: S, limit: Duration) -> Self {
        let last_at = Instant::now();
        let alarm = Box::pin(sleep_until(last_at + limit));
        Self { stream, limit, last_at, reader: Pace::of_reader(), blocked: false, since: last_at, alarm }
    }

    /// When the other side is given up, and whether for being slow.
    fn due(&self) -> (Instant, bool) {
        let silent = self.last_at + self.limit;
        let slow = self.since + self.reader.left();
        if self.blocked && slow < silent { (slow, true) } else { (silent, false) }
    }

    /// The same as [`IdleLimit::watch`], with an eye on how fast the other side reads.
    fn watch_write(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let is_blocked = outcome.is_pending();
        if !(is_blocked && self.blocked) {
            let now = Instant::now();
            let spent = now - self.since;
            if self.blocked {
                self.reader.moved(0, spent);
            } else {
                self.reader.rested(spent);
            }
            if let Poll::Ready(Ok(bytes)) = &outcome {
                self.reader.moved(*bytes, Duration::ZERO);
            }
            (self.blocked, self.since) = (is_blocked, now);
        }
        self.watch(cx, outcome)
    }

    /// Passes on what came of reading or writing; silence that lasts too long becomes an error.
    fn watch<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.last_at = Instant::now();
            return outcome;
        }
        let (due, _) = self.due();
        if due < self.alarm.deadline() {
            self.alarm.as_mut().reset(due);
        }
        loop {
            ready!(self.alarm.as_mut().poll(cx));
            let (due, slow) = self.due();
            if due <= Instant::now() {
                if slow {
                    pace::count_cut("slow_reader");
                }
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.alarm.as_mut().reset(due);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for IdleLimit<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_read(cx, buf);
        this.watch(cx, outcome)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for IdleLimit<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.watch_write(cx, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.watch_write(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_flush(cx);
        // Flushing is no sign of life: a stream with nothing to flush is always done.
        if outcome.is_ready() { outcome } else { this.watch(cx, outcome) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.watch(cx, outcome)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const LIMIT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn each_byte_starts_the_time_anew() {
        let (here, mut there) = duplex(16);
        let mut here = IdleLimit::new(here, LIMIT);
        there.write_u8(1).await.unwrap();
        assert_eq!(here.read_u8().await.unwrap(), 1);
        let last_byte = Instant::now();
        assert_eq!(here.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(last_byte.elapsed() >= LIMIT.saturating_sub(Duration::from_millis(1)));
    }

    /// For how long the other side may read so many bytes a second before it is cut off, if it is.
    async fn readable_for(bytes_per_second: usize) -> Option<u64> {
        let (here, mut there) = duplex(4 * 1024);
        let mut here = IdleLimit::new(here, Duration::from_secs(90));
        let started = Instant::now();
        let reading = tokio::spawn(async move {
            let mut piece = vec![0; bytes_per_second / 10];
            while there.read_exact(&mut piece).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        let sent = here.write_all(&vec![0; 600 * bytes_per_second]).await;
        reading.abort();
        sent.err().map(|error| {
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            started.elapsed().as_secs()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_is_slow_is_given_up_and_one_that_keeps_up_is_not() {
        assert_eq!(readable_for(40 * 1024).await, None, "ten minutes");
        let slow = readable_for(16 * 1024).await;
        assert!(slow.is_some_and(|seconds| (55..=65).contains(&seconds)), "{slow:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_between_answers_are_nobodys_slowness() {
        let (here, mut there) = duplex(1024);
        let mut here = IdleLimit::new(here, Duration::from_secs(90));
        for _ in 0..20 {
            here.write_all(&[0; 1024]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(80)).await;
            there.read_exact(&mut [0; 1024]).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_peer_that_reads_nothing_is_given_up_too() {
        let (here, _there) = duplex(16);
        let error = IdleLimit::new(here, LIMIT).write_all(&[0; 17]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
