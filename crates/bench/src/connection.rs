//! A keep-alive HTTP/1.1 connection with as little work per request as can be: the load shares the machine with the
//! server, and whatever it spends is missing there.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use httparse::{EMPTY_HEADER, Response, Status};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Headers of an answer, at most.
const MAX_HEADERS: usize = 64;

/// Sends one request at a time.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer; valid until the next request.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    pub status: u16,
    pub body: &'a [u8],
}

impl<'a> Answer<'a> {
    /// The body of a 200; an error with any other status.
    pub fn ok(self) -> Result<&'a [u8]> {
        ensure!(self.status == 200, unexpected(&format!("status {}", self.status), self.body));
        Ok(self.body)
    }
}

/// Describes an answer that the load did not expect, with at most 300 bytes of it.
pub fn unexpected(what: &str, body: &[u8]) -> String {
    format!("unexpected answer: {what}: {}", String::from_utf8_lossy(&body[..body.len().min(300)]))
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(16 * 1024) })
    }

    /// Sends a whole request and reads the whole answer, which must have a `Content-Length`.
    pub async fn send(&mut self, request: &[u8]) -> Result<Answer<'_>> {
        self.stream.write_all(request).await.context("talking to the server")?;
        self.buffer.clear();
        let (status, head, length) = loop {
            self.read().await?;
            if let Some(head) = parse_head(&self.buffer)? {
                break head;
            }
        };
        self.buffer.reserve((head + length).saturating_sub(self.buffer.len()));
        while self.buffer.len() < head + length {
            self.read().await?;
        }
        ensure!(self.buffer.len() == head + length, unexpected("more than one answer", &self.buffer));
        Ok(Answer { status, body: &self.buffer[head..] })
    }

    async fn read(&mut self) -> Result<()> {
        if self.stream.read_buf(&mut self.buffer).await.context("talking to the server")? == 0 {
            bail!(unexpected("the server closed the connection after", &self.buffer));
        }
        Ok(())
    }
}

/// Status, bytes of the head, bytes of the body; `None`: more has to be read.
fn parse_head(received: &[u8]) -> Result<Option<(u16, usize, usize)>> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut response = Response::new(&mut headers);
    let Status::Complete(bytes) = response.parse(received)? else { return Ok(None) };
    let is_length = |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case("content-length");
    let length =
        response.headers.iter().find(is_length).and_then(|length| str::from_utf8(length.value).ok()?.parse().ok());
    match (response.code, length) {
        (Some(code), Some(length)) => Ok(Some((code, bytes, length))),
        _ => bail!(unexpected("no Content-Length", received)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_when_it_is_complete() {
        assert_eq!(parse_head(b"HTTP/1.1 200 OK\r\ncontent-le").unwrap(), None);
        let head = parse_head(b"HTTP/1.1 429 Too Many\r\nX: y\r\nContent-Length: 12\r\n\r\nabc").unwrap();
        assert_eq!(head, Some((429, 51, 12)));
        for text in ["HTTP/1.1 200 OK\r\n\r\n", "SMTP 200\r\ncontent-length: 1\r\n\r\n"] {
            assert!(parse_head(text.as_bytes()).is_err(), "{text}");
        }
    }
}
