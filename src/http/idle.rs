//! A connection that may not be silent for too long, in either direction and in whatever state it is.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// Wraps a stream: when nothing could be read or written for `limit` although somebody waits for it, reading and
/// writing fail with [`io::ErrorKind::TimedOut`].
#[derive(Debug)]
pub struct IdleLimit<S> {
    stream: S,
    limit: Duration,
    last_at: Instant,
    // Set lazily: restarting a timer at each byte would cost more than the byte.
    alarm: Pin<Box<Sleep>>,
}

impl<S> IdleLimit<S> {
    /// A stream that may be silent for `limit`.
    pub fn new(stream: S, limit: Duration) -> Self {
        let last_at = Instant::now();
        Self { stream, limit, last_at, alarm: Box::pin(sleep_until(last_at + limit)) }
    }

    /// Passes on what came of reading or writing; silence that lasts too long becomes an error.
    fn watch<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.last_at = Instant::now();
            return outcome;
        }
        loop {
            ready!(self.alarm.as_mut().poll(cx));
            let due = self.last_at + self.limit;
            if due <= Instant::now() {
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
        this.watch(cx, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.watch(cx, outcome)
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
    async fn a_silent_peer_is_given_up_after_the_limit() {
        let (here, _there) = duplex(16);
        let started = Instant::now();
        let error = IdleLimit::new(here, LIMIT).read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() >= LIMIT);
    }

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

    #[tokio::test]
    async fn a_peer_that_reads_nothing_is_given_up_too() {
        let (here, _there) = duplex(16);
        let error = IdleLimit::new(here, LIMIT).write_all(&[0; 17]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
