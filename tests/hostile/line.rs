//! A connection in an attacker's hands: says what it wants when it wants, and reads as slowly as it likes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, interval, timeout, timeout_at};

/// What the kernel keeps for a reader that does not read; the rest stays with the server.
const RECEIVE_BUFFER_BYTES: u32 = 4096;
const PATIENCE: Duration = Duration::from_secs(5);

/// An open connection.
pub struct Line(TcpStream);

impl Line {
    pub async fn open(base: &str, from: IpAddr) -> Option<Self> {
        let to: SocketAddr = base.trim_start_matches("http://").parse().expect("an address");
        let socket = TcpSocket::new_v4().ok()?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES).ok()?;
        socket.bind(SocketAddr::new(from, 0)).ok()?;
        Some(Self(timeout(PATIENCE, socket.connect(to)).await.ok()?.ok()?))
    }

    /// Sends bytes; `None` when the server has hung up.
    pub async fn send(&mut self, bytes: &[u8]) -> Option<()> {
        timeout(PATIENCE, self.0.write_all(bytes)).await.ok()?.ok()
    }

    /// Sends `piece` again and again until the time is over or the server hangs up.
    pub async fn trickle(&mut self, piece: &[u8], every: Duration, until: Instant) {
        let mut ticks = interval(every);
        while Instant::now() < until {
            ticks.tick().await;
            if self.send(piece).await.is_none() {
                return;
            }
        }
    }

    /// Reads up to `piece` bytes at a time, so slowly. Returns how much came, and whether the server has ended it.
    pub async fn sip(&mut self, piece: usize, every: Duration, until: Instant) -> (usize, bool) {
        let (mut ticks, mut buffer, mut total) = (interval(every), vec![0; piece], 0);
        while Instant::now() < until {
            ticks.tick().await;
            match timeout_at(until, self.0.read(&mut buffer)).await {
                Err(_) => break,
                Ok(Ok(0) | Err(_)) => return (total, true),
                Ok(Ok(read)) => total += read,
            }
        }
        (total, false)
    }

    /// The status of the answer; 0 when none comes in time.
    pub async fn status(&mut self, until: Instant) -> u16 {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n") {
            match timeout_at(until, self.0.read_u8()).await {
                Ok(Ok(byte)) => head.push(byte),
                Ok(Err(_)) | Err(_) => return 0,
            }
        }
        let head = String::from_utf8_lossy(&head);
        head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }
}
