//! Connection limits: admission of connections, and eviction of idle ones.
//!
//! An unauthenticated connection costs a file descriptor and memory. So their number is limited, in total and per
//! address ([`Bounds`]); trusted proxies are exempt from the limit per address. When all places are taken, an idle
//! connection is evicted: first those stalled in a request's head, then those between requests, then those just opened, and
//! last those that were in use a moment ago.
//! Running requests and sockets are never evicted. If none can be, a new connection gets one of a few places reserved
//! for probes, or is refused. The contents of requests play no part.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use metrics::{Counter, Gauge, counter, gauge};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::allowance::Allowance;
use super::counted;

/// A head still incomplete after this time counts as stalled.
const STALLED: Duration = Duration::from_secs(2);
/// A connection that was idle for less counts as in use: its client may be sending the next request in this moment.
const IN_USE: Duration = Duration::from_secs(1);
/// Connections examined for an eviction, and candidates after which the search ends.
const MAX_EXAMINED: usize = 2048;
const MAX_CANDIDATES: usize = 64;
/// Connections of an address that may still be closing while new ones take their places.
const CLOSING_PER_ADDRESS: usize = 8;
/// How long a new connection waits for a free place.
const MAX_WAIT: Duration = Duration::from_millis(100);

/// Maximum size of a request's head; the app's have a few hundred bytes.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Traffic allowed from a socket's client: the maximum message size, then over ten times the app's rate.
const SOCKET_BURST_BYTES: u32 = 20 * 1024;
const SOCKET_BYTES_PER_SECOND: u32 = 256;

/// Limits on connections.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// In total.
    pub most: usize,
    /// Further ones, for probes.
    pub spare: usize,
    /// From one address.
    pub per_address: usize,
}

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// Nothing received yet. Clients open connections for later use.
    Silent,
    /// Receiving a request's head.
    Head,
    /// Answering a request.
    Busy,
    /// Idle after an answer.
    Waiting,
    /// Upgraded to a socket.
    Socket,
}

/// An open connection.
#[derive(Debug)]
pub struct Connection {
    phase: AtomicU8,
    /// Start of the phase, in milliseconds since the listener's start.
    since_ms: AtomicU64,
    began: Instant,
    is_evicted: AtomicBool,
    eviction: Notify,
    is_flooded: AtomicBool,
}

impl Connection {
    fn new(began: Instant) -> Self {
        let connection = Self {
            phase: AtomicU8::new(Phase::Silent as u8),
            since_ms: AtomicU64::new(0),
            began,
            is_evicted: AtomicBool::new(false),
            eviction: Notify::new(),
            is_flooded: AtomicBool::new(false),
        };
        connection.enter(Phase::Silent);
        connection
    }

    fn is(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::Relaxed) == phase as u8
    }

    fn enter(&self, phase: Phase) {
        self.since_ms.store(millis(self.began.elapsed()), Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// A request's head is complete.
    pub fn asked(&self) {
        self.phase.store(Phase::Busy as u8, Ordering::Relaxed);
    }

    /// The request has been answered.
    pub fn answered(&self) {
        self.enter(Phase::Waiting);
    }

    /// The connection has become a socket.
    pub fn upgraded(&self) {
        self.enter(Phase::Socket);
    }

    /// Whether a request is being answered.
    pub fn is_busy(&self) -> bool {
        self.is(Phase::Busy)
    }

    /// Since when a request's head is being received; `None`: it is not.
    pub fn head_since(&self) -> Option<Instant> {
        let since = Duration::from_millis(self.since_ms.load(Ordering::Relaxed));
        self.is(Phase::Head).then(|| self.began + since)
    }

    /// Whether the client of a socket has exceeded its traffic limit.
    pub fn is_flooded(&self) -> bool {
        self.is_flooded.load(Ordering::Relaxed)
    }

    /// Waits until the connection is evicted.
    pub async fn evicted(&self) {
        self.eviction.notified().await;
    }

    /// Order of eviction at `now_ms`, smallest first. `None`: never.
    fn eviction_rank(&self, now_ms: u64) -> Option<(u8, u64)> {
        if self.is_evicted.load(Ordering::Relaxed) {
            return None;
        }
        let since_ms = self.since_ms.load(Ordering::Relaxed);
        let age_ms = now_ms.saturating_sub(since_ms);
        let class = if self.is(Phase::Waiting) {
            if age_ms >= millis(IN_USE) { 1 } else { 3 }
        } else if self.is(Phase::Silent) || self.is(Phase::Head) {
            if age_ms >= millis(STALLED) { 0 } else { 2 }
        } else {
            return None;
        };
        Some((class, since_ms))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Debug)]
struct Slot {
    connection: Arc<Connection>,
    address: IpAddr,
}

#[derive(Debug, Default)]
struct Slots {
    /// `None`: a free place.
    places: Vec<Option<Slot>>,
    free: Vec<usize>,
    open: usize,
    by_address: HashMap<IpAddr, usize>,
    /// Where the next search begins.
    next: usize,
}

impl Slots {
    /// Evicts a connection, of this address or of any. `false`: there is no candidate.
    fn evict_one(&mut self, of: Option<IpAddr>, now_ms: u64) -> bool {
        let (count, mut found, mut least) = (self.places.len(), 0, None);
        for _ in 0..count.min(MAX_EXAMINED) {
            self.next = (self.next + 1) % count;
            let Some(slot) = &self.places[self.next] else { continue };
            if of.is_some_and(|address| address != slot.address) {
                continue;
            }
            let Some(rank) = slot.connection.eviction_rank(now_ms) else { continue };
            if least.as_ref().is_none_or(|(lowest, _)| rank < *lowest) {
                least = Some((rank, Arc::clone(&slot.connection)));
            }
            found += 1;
            if found == MAX_CANDIDATES {
                break;
            }
        }
        let Some((_, connection)) = least else { return false };
        connection.is_evicted.store(true, Ordering::Relaxed);
        connection.eviction.notify_one();
        true
    }
}

/// What a new connection is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// All requests.
    All,
    /// Probes; other requests are told to retry.
    ProbesOnly,
}

/// The limit that was reached.
enum Full {
    Address,
    All,
}

/// The connection limits of a listener.
pub struct ConnectionLimits {
    bounds: Bounds,
    /// Peers exempt from the limit per address.
    exempt: Box<dyn Fn(IpAddr) -> bool + Send + Sync>,
    slots: Mutex<Slots>,
    gone: Notify,
    began: Instant,
    open: Gauge,
    refused_address: Counter,
    refused_full: Counter,
    refused_files: Counter,
    made_room: Counter,
}

impl ConnectionLimits {
    /// For the listener with this name.
    pub fn new(
        listener: &'static str,
        bounds: Bounds,
        exempt: impl Fn(IpAddr) -> bool + Send + Sync + 'static,
    ) -> Arc<Self> {
        let refused =
            |reason| counter!("supersync_connections_refused_total", "listener" => listener, "reason" => reason);
        #[expect(clippy::cast_precision_loss, reason = "a metric")]
        gauge!("supersync_connections_max", "listener" => listener).set(bounds.most as f64);
        Arc::new(Self {
            bounds,
            exempt: Box::new(exempt),
            slots: Mutex::default(),
            gone: Notify::new(),
            began: Instant::now(),
            open: gauge!("supersync_connections", "listener" => listener),
            refused_address: refused("address"),
            refused_full: refused("full"),
            refused_files: refused("files"),
            made_room: counter!("supersync_connections_cut_total", "listener" => listener, "reason" => "room"),
        })
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a new connection; `None`: refused. Waits a moment for an eviction.
    pub async fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<(ConnectionPermit, Admission)> {
        let waiting = Instant::now() + MAX_WAIT;
        loop {
            let gone = self.gone.notified();
            match self.try_admit(peer) {
                Ok(admitted) => return Some(admitted),
                Err(Full::Address) => {
                    // Waiting here would delay all other addresses.
                    self.refused_address.increment(1);
                    return None;
                }
                Err(Full::All) => {
                    let left = waiting.saturating_duration_since(Instant::now());
                    if left.is_zero() || timeout(left, gone).await.is_err() {
                        self.refused_full.increment(1);
                        return None;
                    }
                }
            }
        }
    }

    fn try_admit(self: &Arc<Self>, peer: IpAddr) -> Result<(ConnectionPermit, Admission), Full> {
        let address = counted::address(peer);
        let is_bounded = !(self.exempt)(peer);
        let now_ms = millis(self.began.elapsed());
        let Bounds { most, spare, per_address } = self.bounds;
        let mut slots = self.slots();
        if is_bounded {
            let of_address = slots.by_address.get(&address).copied().unwrap_or(0);
            if of_address >= per_address + CLOSING_PER_ADDRESS
                || (of_address >= per_address && !self.evict_one(&mut slots, Some(address), now_ms))
            {
                return Err(Full::Address);
            }
        }
        let mut admission = Admission::All;
        if slots.open >= most {
            let has_evicted = self.evict_one(&mut slots, None, now_ms);
            if slots.open >= most + spare {
                return Err(Full::All);
            }
            if !has_evicted {
                admission = Admission::ProbesOnly;
            }
        }
        let connection = Arc::new(Connection::new(self.began));
        let slot = Slot { connection: Arc::clone(&connection), address };
        let at = if let Some(at) = slots.free.pop() {
            slots.places[at] = Some(slot);
            at
        } else {
            slots.places.push(Some(slot));
            slots.places.len() - 1
        };
        slots.open += 1;
        *slots.by_address.entry(address).or_insert(0) += 1;
        self.show(slots.open);
        drop(slots);
        Ok((ConnectionPermit { limits: Arc::clone(self), connection, at }, admission))
    }

    fn evict_one(&self, slots: &mut Slots, of: Option<IpAddr>, now_ms: u64) -> bool {
        let has_evicted = slots.evict_one(of, now_ms);
        self.made_room.increment(u64::from(has_evicted));
        has_evicted
    }

    /// The process has no free descriptor: evicts a connection.
    pub fn out_of_files(&self) {
        self.refused_files.increment(1);
        self.evict_one(&mut self.slots(), None, millis(self.began.elapsed()));
    }

    #[expect(clippy::cast_precision_loss, reason = "a metric")]
    fn show(&self, open: usize) {
        self.open.set(open as f64);
    }

    fn leave(&self, at: usize) {
        let mut slots = self.slots();
        let Some(slot) = slots.places[at].take() else { return };
        slots.free.push(at);
        slots.open -= 1;
        if let Some(of_address) = slots.by_address.get_mut(&slot.address) {
            *of_address -= 1;
            if *of_address == 0 {
                slots.by_address.remove(&slot.address);
            }
        }
        self.show(slots.open);
        drop(slots);
        self.gone.notify_one();
    }
}

/// A connection's permit; returned on drop.
pub struct ConnectionPermit {
    limits: Arc<ConnectionLimits>,
    connection: Arc<Connection>,
    at: usize,
}

impl ConnectionPermit {
    /// The connection.
    pub const fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.limits.leave(self.at);
    }
}

/// A stream with its connection's permit. Tracks the connection's phase, and ends sockets that exceed their traffic limit. It counts
/// bytes, because only upper layers see messages, and those only when complete.
pub struct Watched<S> {
    stream: S,
    permit: ConnectionPermit,
    head_bytes: usize,
    socket_bytes: Option<Allowance>,
}

impl<S> Watched<S> {
    /// A stream of the connection that has this permit.
    pub const fn new(stream: S, permit: ConnectionPermit) -> Self {
        Self { stream, permit, head_bytes: 0, socket_bytes: None }
    }

    fn heard(&mut self, bytes: usize) -> io::Result<()> {
        let connection = &self.permit.connection;
        if connection.is(Phase::Busy) {
            self.head_bytes = 0;
        } else if connection.is(Phase::Silent) || connection.is(Phase::Waiting) {
            connection.enter(Phase::Head);
            self.head_bytes = bytes;
        } else if connection.is(Phase::Head) {
            // The bytes before were not the whole head; these may include a part of the body.
            if self.head_bytes > MAX_HEAD_BYTES {
                return Err(io::Error::other("a request's head is too long"));
            }
            self.head_bytes += bytes;
        } else {
            let allowance =
                self.socket_bytes.get_or_insert_with(|| Allowance::new(SOCKET_BURST_BYTES, SOCKET_BYTES_PER_SECOND));
            if !allowance.take(u32::try_from(bytes).unwrap_or(u32::MAX)) {
                connection.is_flooded.store(true, Ordering::Relaxed);
                return Err(io::Error::other("a socket's client sends too much"));
            }
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let outcome = Pin::new(&mut this.stream).poll_read(cx, buf);
        let bytes = buf.filled().len() - before;
        if bytes > 0
            && let Err(error) = this.heard(bytes)
        {
            return Poll::Ready(Err(error));
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn limits(most: usize, spare: usize, per_address: usize) -> Arc<ConnectionLimits> {
        ConnectionLimits::new("test", Bounds { most, spare, per_address }, |peer| peer.is_loopback())
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// A different address for each.
    fn nth(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    async fn is_evicted(permit: &ConnectionPermit) -> bool {
        timeout(Duration::ZERO, permit.connection.evicted()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn requests_stay_and_the_next_get_the_spare_places() {
        let limits = limits(2, 1, 2);
        let mut permits = Vec::new();
        for n in 0..3 {
            let (permit, admission) = limits.admit(nth(n)).await.unwrap();
            assert_eq!(admission, if n < 2 { Admission::All } else { Admission::ProbesOnly });
            permit.connection.asked();
            permits.push(permit);
        }
        assert!(limits.admit(nth(3)).await.is_none(), "nobody can go");
        permits.pop();
        assert_eq!(limits.admit(nth(3)).await.unwrap().1, Admission::ProbesOnly);
        permits.pop();
        assert_eq!(limits.admit(nth(3)).await.unwrap().1, Admission::All);
    }

    #[tokio::test(start_paused = true)]
    async fn the_stalled_go_first_then_the_idle_then_newcomers_then_those_in_use() {
        let limits = limits(5, 8, 2);
        let mut permits = Vec::new();
        for n in 0..5 {
            permits.push(limits.admit(nth(n)).await.unwrap().0);
        }
        let [stalled, in_use, idle, fresh, socket] = &permits[..] else { panic!() };
        socket.connection.upgraded();
        idle.connection.answered();
        tokio::time::advance(STALLED).await;
        in_use.connection.answered();
        fresh.connection.enter(Phase::Head);
        let mut newcomers = Vec::new();
        for (n, leaves) in (10..).zip([stalled, idle, fresh, in_use]) {
            assert!(!is_evicted(leaves).await);
            let (permit, admission) = limits.admit(nth(n)).await.unwrap();
            assert_eq!(admission, Admission::All);
            permit.connection.asked();
            assert!(is_evicted(leaves).await);
            newcomers.push(permit);
        }
        assert!(!is_evicted(socket).await);
        assert_eq!(limits.admit(nth(20)).await.unwrap().1, Admission::ProbesOnly, "nobody is left who could go");
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_has_its_share_and_trusted_ones_have_more() {
        let limits = limits(100, 8, 2);
        let mut permits = Vec::new();
        // Of one /64.
        for text in ["2001:db8::1", "2001:db8::2"] {
            let (permit, _) = limits.admit(address(text)).await.unwrap();
            permit.connection.asked();
            permits.push(permit);
        }
        assert!(limits.admit(address("2001:db8::3")).await.is_none());
        permits.push(limits.admit(address("2001:db8:0:1::1")).await.unwrap().0);
        for _ in 0..10 {
            permits.push(limits.admit(address("127.0.0.1")).await.unwrap().0);
        }
        // The address's own idle connection is evicted.
        permits[0].connection.answered();
        permits.push(limits.admit(address("2001:db8::3")).await.unwrap().0);
        assert!(is_evicted(&permits[0]).await && !is_evicted(&permits[1]).await);
        permits.clear();
        let slots = limits.slots();
        assert!(slots.open == 0 && slots.by_address.is_empty(), "{slots:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_waits_for_who_is_about_to_go() {
        let limits = limits(1, 0, 9);
        let (permit, _) = limits.admit(nth(1)).await.unwrap();
        let going = tokio::spawn(async move {
            permit.connection.evicted().await;
            drop(permit);
        });
        assert_eq!(limits.admit(nth(2)).await.unwrap().1, Admission::All);
        going.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_s_client_may_send_a_little() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
        let limits = limits(1, 0, 1);
        let (here, mut there) = duplex(64 * 1024);
        let (permit, _) = limits.admit(nth(1)).await.unwrap();
        let connection = Arc::clone(&permit.connection);
        let mut here = Watched::new(here, permit);
        let mut buffer = vec![0; 32 * 1024];
        for _ in 0..4 {
            there.write_all(&buffer).await.unwrap();
            here.read_exact(&mut buffer).await.expect("a head may be long");
            connection.asked();
            connection.answered();
        }
        connection.upgraded();
        let burst = usize::try_from(SOCKET_BURST_BYTES).unwrap();
        there.write_all(&buffer[..burst]).await.unwrap();
        here.read_exact(&mut buffer[..burst]).await.expect("so much at once");
        tokio::time::advance(Duration::from_secs(2)).await;
        there.write_all(&buffer[..512]).await.unwrap();
        here.read_exact(&mut buffer[..512]).await.expect("and so much later");
        assert!(!connection.is_flooded());
        there.write_all(b"x").await.unwrap();
        here.read_u8().await.expect_err("no more");
        assert!(connection.is_flooded());
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_an_end() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
        let limits = limits(1, 0, 1);
        let (here, mut there) = duplex(1024);
        let (permit, _) = limits.admit(nth(1)).await.unwrap();
        let mut here = Watched::new(here, permit);
        let writing = tokio::spawn(async move { while there.write_all(&[b'x'; 1024]).await.is_ok() {} });
        let mut heard = 0;
        while let Ok(bytes) = here.read(&mut [0; 1024]).await {
            heard += bytes;
        }
        assert!((MAX_HEAD_BYTES..MAX_HEAD_BYTES + 4096).contains(&heard), "{heard}");
        drop(here);
        writing.await.unwrap();
    }
}
