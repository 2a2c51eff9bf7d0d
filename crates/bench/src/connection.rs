//! A keep-alive HTTP/1.1 connection with as little work per request as can be: the load shares the machine with the
//! server, and whatever it spends is missing there.

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::error::{BenchError, Result};
use super::target::Target;

/// Sends one request at a time.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: BytesMut,
}

/// An answer; valid until the next request.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The HTTP status.
    pub status: u16,
    /// The whole body.
    pub body: &'a [u8],
}

impl<'a> Answer<'a> {
    /// The body of a 200.
    ///
    /// # Errors
    /// [`BenchError::Answer`] with any other status.
    pub fn ok(self) -> Result<&'a [u8]> {
        if self.status == 200 {
            return Ok(self.body);
        }
        Err(BenchError::answer(&format!("status {}", self.status), self.body))
    }
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// [`BenchError::Io`].
    pub async fn open(target: &Target) -> Result<Self> {
        let stream = TcpStream::connect(target.address).await.map_err(BenchError::io("connecting to the server"))?;
        stream.set_nodelay(true).map_err(BenchError::io("connecting to the server"))?;
        Ok(Self { stream, buffer: BytesMut::with_capacity(16 * 1024) })
    }

    /// Sends a whole request and reads the whole answer.
    ///
    /// # Errors
    /// [`BenchError::Io`] when the connection breaks, [`BenchError::Answer`] when what comes is not HTTP with a
    /// `Content-Length`.
    pub async fn send(&mut self, request: &[u8]) -> Result<Answer<'_>> {
        let broken = || BenchError::io("talking to the server");
        self.stream.write_all(request).await.map_err(broken())?;
        self.buffer.clear();
        let head = loop {
            self.read().await?;
            if let Some(head) = Head::parse(&self.buffer)? {
                break head;
            }
        };
        let whole = head.bytes + head.body_bytes;
        self.buffer.reserve(whole.saturating_sub(self.buffer.len()));
        while self.buffer.len() < whole {
            self.read().await?;
        }
        if self.buffer.len() > whole {
            return Err(BenchError::answer("more than one answer", &self.buffer));
        }
        Ok(Answer { status: head.status, body: &self.buffer[head.bytes..] })
    }

    async fn read(&mut self) -> Result<()> {
        let read = self.stream.read_buf(&mut self.buffer).await.map_err(BenchError::io("talking to the server"))?;
        if read == 0 {
            return Err(BenchError::answer("the server closed the connection after", &self.buffer));
        }
        Ok(())
    }
}

/// What has to be known of an answer's head.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    /// With the empty line.
    bytes: usize,
    body_bytes: usize,
}

impl Head {
    /// `None`: more has to be read.
    fn parse(received: &[u8]) -> Result<Option<Self>> {
        let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
        let invalid = || BenchError::answer("not HTTP/1.1 with a Content-Length", received);
        let head = std::str::from_utf8(&received[..end]).map_err(|_| invalid())?;
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
        let length = head.split("\r\n").skip(1).find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        let (status, body_bytes) = status.zip(length).ok_or_else(invalid)?;
        Ok(Some(Self { status, bytes: end + 4, body_bytes }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_when_it_is_complete() {
        assert_eq!(Head::parse(b"HTTP/1.1 200 OK\r\ncontent-le").unwrap(), None);
        let head = Head::parse(b"HTTP/1.1 429 Too Many\r\nX: y\r\nContent-Length: 12\r\n\r\nabc").unwrap();
        assert_eq!(head, Some(Head { status: 429, bytes: 51, body_bytes: 12 }));
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for text in ["HTTP/1.1 200 OK\r\n\r\n", "SMTP 200\r\ncontent-length: 1\r\n\r\n", "HTTP/1.1 xyz\r\n\r\n"] {
            assert!(Head::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
