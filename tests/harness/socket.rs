//! The notification socket, as a device holds it.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// How long an awaited event may take before the test fails. Never waited out when all is well.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How a socket ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With a close frame of this code.
    Code(u16),
    /// Without one, or with one that names no code.
    Plain,
}

/// An open socket.
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Socket {
    /// Connects and upgrades; the server's verdict on the token comes as a frame.
    pub async fn open(base: &str, query: &str) -> Self {
        let url = format!("{}/api/sync/ws?{query}", base.replacen("http", "ws", 1));
        let (stream, _) =
            timeout(PATIENCE, connect_async(url)).await.expect("an upgrade").expect("the upgrade succeeds");
        Self { stream }
    }

    async fn next(&mut self) -> Option<Result<Message, Error>> {
        timeout(PATIENCE, self.stream.next()).await.expect("a frame or the end in time")
    }

    /// The next message; protocol pings are answered on the way.
    pub async fn message(&mut self) -> Value {
        loop {
            match self.next().await {
                Some(Ok(Message::Text(text))) => return parse(&text),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("wanted a message, got {other:?}"),
            }
        }
    }

    /// The next message that is no heartbeat.
    pub async fn notice(&mut self) -> Value {
        loop {
            let message = self.message().await;
            if message["type"] != "ping" {
                return message;
            }
        }
    }

    /// Reads to the end and says how it came about; messages on the way are dropped.
    pub async fn ended(&mut self) -> Ended {
        loop {
            match self.next().await {
                Some(Ok(Message::Close(Some(frame)))) => return Ended::Code(frame.code.into()),
                Some(Ok(Message::Close(None)) | Err(_)) | None => return Ended::Plain,
                Some(Ok(_)) => {}
            }
        }
    }

    pub async fn send(&mut self, text: &str) {
        self.stream.send(Message::Text(Utf8Bytes::from(text))).await.expect("the socket is open");
    }
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).expect("the server sends JSON")
}

/// A socket that does nothing by itself: it answers no protocol ping unless told to.
pub struct RawSocket {
    stream: TcpStream,
}

impl RawSocket {
    /// Connects and upgrades.
    pub async fn open(base: &str, query: &str) -> Self {
        let host = base.trim_start_matches("http://");
        let mut stream = TcpStream::connect(host).await.expect("a connection");
        let request = format!(
            "GET /api/sync/ws?{query} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("the request leaves");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(PATIENCE, stream.read_u8()).await.expect("an answer in time").expect("an answer"));
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        Self { stream }
    }

    /// The next text message; `None` when the socket has ended, in whatever way. Control frames are passed over.
    pub async fn message(&mut self) -> Option<Value> {
        loop {
            let (opcode, payload) = timeout(PATIENCE, self.frame()).await.expect("a frame or the end in time")?;
            match opcode {
                0x1 => return Some(parse(std::str::from_utf8(&payload).expect("UTF-8"))),
                0x8 => return None,
                _ => {}
            }
        }
    }

    /// A whole frame as servers send them: not masked, not fragmented.
    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let first = self.stream.read_u8().await.ok()?;
        let length = match self.stream.read_u8().await.ok()? {
            126 => usize::from(self.stream.read_u16().await.ok()?),
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await.ok()?;
        Some((first & 0x0F, payload))
    }

    /// Sends a short text message, masked with zeros.
    pub async fn send(&mut self, text: &str) {
        self.stream.write_all(&Self::frame_of(0x81, text)).await.expect("the frame leaves");
    }

    /// A short frame with this first byte (the flag for the last one, and what kind it is), masked with zeros.
    pub fn frame_of(first: u8, text: &str) -> Vec<u8> {
        let length = u8::try_from(text.len()).ok().filter(|length| *length < 126).expect("a short text");
        [&[first, 0x80 | length, 0, 0, 0, 0][..], text.as_bytes()].concat()
    }

    /// Sends these bytes as they are.
    pub async fn push(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("they leave");
    }

    /// Sends these bytes again and again until the server takes no more, and says how the socket ended.
    pub async fn flood(self, bytes: &[u8]) -> Ended {
        let (mut reading, mut writing) = self.stream.into_split();
        let bytes = bytes.to_vec();
        let flood = tokio::spawn(async move { while writing.write_all(&bytes).await.is_ok() {} });
        let mut heard = Vec::new();
        // Whatever is unread when the connection ends makes it end with an error.
        let end = timeout(PATIENCE, async { while reading.read_buf(&mut heard).await.is_ok_and(|bytes| bytes > 0) {} });
        end.await.expect("the end in time");
        flood.abort();
        let mut rest = heard.as_slice();
        while let [first, length, after @ ..] = rest {
            let (payload, after) = after.split_at_checked(usize::from(*length)).unwrap_or_default();
            if let (0x8, [high, low, ..]) = (first & 0x0F, payload) {
                return Ended::Code(u16::from_be_bytes([*high, *low]));
            }
            rest = after;
        }
        Ended::Plain
    }
}
