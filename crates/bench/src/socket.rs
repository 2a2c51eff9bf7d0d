//! A WebSocket of a device, with as little memory as can be: ten thousand of them are held open at once. The reference
//! client checks the handshake; this one only needs it to succeed.

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::error::{BenchError, Result};
use super::target::{Account, Target};
use crate::protocol::Seq;

/// What came over the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The server accepted the socket.
    Connected,
    /// There are operations up to here.
    NewOps(Seq),
    /// The server closed the socket, with this code.
    Closed(u16),
}

/// An open socket.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    buffer: BytesMut,
}

const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

impl Socket {
    /// Opens the socket of a device and waits until the server has accepted it.
    ///
    /// # Errors
    /// When it does not.
    pub async fn open(target: &Target, account: &Account, client_id: &str) -> Result<Self> {
        let broken = || BenchError::io("opening a socket");
        let mut stream = TcpStream::connect(target.address).await.map_err(broken())?;
        stream.set_nodelay(true).map_err(broken())?;
        let (host, token) = (&target.host, &account.token);
        let request = format!(
            "GET /api/sync/ws?token={token}&clientId={client_id} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.map_err(broken())?;
        let mut socket = Self { stream, buffer: BytesMut::new() };
        let head = loop {
            socket.read().await?;
            if let Some(end) = socket.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
        };
        if !socket.buffer.starts_with(b"HTTP/1.1 101 ") {
            return Err(BenchError::answer("no WebSocket", &socket.buffer));
        }
        socket.buffer.advance(head);
        match socket.next().await? {
            Notice::Connected => Ok(socket),
            other => Err(BenchError::Answer(format!("a socket that begins with {other:?}"))),
        }
    }

    /// Waits for the next notice; answers pings on the way.
    ///
    /// # Errors
    /// When the connection breaks or something comes that the contract does not know (section 9).
    pub async fn next(&mut self) -> Result<Notice> {
        loop {
            let Some((opcode, payload)) = take_frame(&mut self.buffer)? else {
                self.read().await?;
                continue;
            };
            match opcode {
                TEXT if payload.starts_with(br#"{"type":"ping""#) => self.send(TEXT, br#"{"type":"pong"}"#).await?,
                TEXT => return read_notice(&payload),
                PING => self.send(PONG, &payload).await?,
                CLOSE => {
                    let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                    return Ok(Notice::Closed(code));
                }
                PONG => {}
                other => return Err(BenchError::answer(&format!("frame of type {other}"), &payload)),
            }
        }
    }

    async fn send(&mut self, opcode: u8, payload: &[u8]) -> Result<()> {
        let length = u8::try_from(payload.len()).ok().filter(|length| *length < 126);
        let length = length.ok_or_else(|| BenchError::answer("a ping longer than allowed", payload))?;
        // Clients must mask; a mask of zeros leaves the payload as it is.
        let mut frame = vec![0x80 | opcode, 0x80 | length, 0, 0, 0, 0];
        frame.extend_from_slice(payload);
        self.stream.write_all(&frame).await.map_err(BenchError::io("answering on a socket"))
    }

    async fn read(&mut self) -> Result<()> {
        self.buffer.reserve(256);
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) => Err(BenchError::answer("a socket was closed without a word after", &self.buffer)),
            Ok(_) => Ok(()),
            Err(error) => Err(BenchError::io("listening on a socket")(error)),
        }
    }
}

/// Takes a whole frame's type and payload; `None`: more has to be read.
fn take_frame(buffer: &mut BytesMut) -> Result<Option<(u8, BytesMut)>> {
    let [first, second, ..] = **buffer else { return Ok(None) };
    // Notices are small, whole, and not masked.
    if first & 0xF0 != 0x80 || second & 0x80 != 0 || second == 127 {
        return Err(BenchError::answer("an unusual frame", buffer));
    }
    let (head, length) = match (second, buffer.get(2..4)) {
        (126, None) => return Ok(None),
        (126, Some(length)) => (4, usize::from(length[0]) << 8 | usize::from(length[1])),
        (length, _) => (2, usize::from(length)),
    };
    if buffer.len() < head + length {
        return Ok(None);
    }
    buffer.advance(head);
    Ok(Some((first & 0x0F, buffer.split_to(length))))
}

fn read_notice(text: &[u8]) -> Result<Notice> {
    #[derive(serde::Deserialize)]
    #[serde(tag = "type", rename_all = "snake_case")]
    enum Frame {
        Connected {},
        #[serde(rename_all = "camelCase")]
        NewOps {
            latest_seq: Seq,
        },
    }
    match serde_json::from_slice(text) {
        Ok(Frame::Connected {}) => Ok(Notice::Connected),
        Ok(Frame::NewOps { latest_seq }) => Ok(Notice::NewOps(latest_seq)),
        Err(_) => Err(BenchError::answer("an unknown notice", text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_whole() {
        let mut buffer = BytesMut::from(&b"\x81\x03abc\x88\x02\x03\xE9\x81\x7E\x00"[..]);
        assert_eq!(take_frame(&mut buffer).unwrap(), Some((TEXT, BytesMut::from("abc"))));
        assert_eq!(take_frame(&mut buffer).unwrap(), Some((CLOSE, BytesMut::from(&b"\x03\xE9"[..]))));
        assert_eq!(take_frame(&mut buffer).unwrap(), None);
        buffer.extend_from_slice(&[130]);
        buffer.extend_from_slice(&[b'x'; 129]);
        assert_eq!(take_frame(&mut buffer).unwrap(), None);
        buffer.extend_from_slice(b"x");
        assert_eq!(take_frame(&mut buffer).unwrap().unwrap().1.len(), 130);
    }

    #[test]
    fn masked_split_and_unknown_frames_are_refused() {
        for frame in [&b"\x81\x83abc"[..], &b"\x01\x03abc"[..], &b"\x81\x7F\x00\x00"[..]] {
            assert!(take_frame(&mut BytesMut::from(frame)).is_err());
        }
        assert!(read_notice(br#"{"type":"other"}"#).is_err());
        assert_eq!(read_notice(br#"{"type":"new_ops","latestSeq":3,"timestamp":1}"#).unwrap(), Notice::NewOps(3));
    }
}
