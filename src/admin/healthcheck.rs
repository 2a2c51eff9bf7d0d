//! `supersync healthcheck`: whether the server on this machine is ready. For container images, which have no other
//! program to ask with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Failure;
use crate::config::Config;

/// How long the answer may take.
const TIMEOUT: Duration = Duration::from_secs(4);
/// `HTTP/1.1 200`.
const STATUS_BYTES: usize = 12;

/// Asks `GET /readyz/reads`: who watches containers may restart what is not healthy, which would lose what can be served
/// while the database is down.
///
/// # Errors
/// Why the server is not ready.
pub async fn run(config: &Config) -> Result<(), Failure> {
    let server = SocketAddr::new(reachable(config.host), config.port);
    let no_answer = |why: String| Failure::failed(format!("no answer from {server}{why}"));
    let head = tokio::time::timeout(TIMEOUT, ask(server))
        .await
        .map_err(|_| no_answer(format!(" within {TIMEOUT:?}")))?
        .map_err(|error| no_answer(format!(": {error}")))?;
    if head.ends_with(" 200") { Ok(()) } else { Err(Failure::failed(format!("{server} answers {head}: not ready"))) }
}

/// A server that listens on all addresses is asked on the loopback one.
fn reachable(host: IpAddr) -> IpAddr {
    match host {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        host => host,
    }
}

async fn ask(server: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(b"GET /readyz/reads HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut head = [0; STATUS_BYTES];
    stream.read_exact(&mut head).await?;
    Ok(String::from_utf8_lossy(&head).into_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tokio::net::TcpListener;

    use super::*;

    async fn check(answer: &'static [u8]) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let variables = HashMap::from([
            ("PORT".to_owned(), listener.local_addr().expect("bound").port().to_string()),
            ("JWT_SECRET".to_owned(), "0123456789abcdef0123456789abcdef".to_owned()),
        ]);
        let config = Config::parse(&variables).expect("valid");
        let serve = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = [0; 22];
            stream.read_exact(&mut request).await.expect("a request");
            assert_eq!(&request, b"GET /readyz/reads HTTP");
            stream.write_all(answer).await.expect("written");
        };
        tokio::join!(serve, run(&config)).1.map_err(|failure| failure.to_string())
    }

    #[tokio::test]
    async fn only_200_is_healthy() {
        assert!(check(b"HTTP/1.1 503 x\r\n\r\n").await.expect_err("503").ends_with(" answers HTTP/1.1 503: not ready"));
        assert!(check(b"HTTP/1.1").await.expect_err("cut off").starts_with("no answer from "));
        assert!(check(b"HTTP/1.1 200 OK\r\n\r\n").await.is_ok());
    }

    #[test]
    fn a_wildcard_address_is_asked_on_loopback() {
        for (host, asked) in [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("10.0.0.1", "10.0.0.1")] {
            assert_eq!(reachable(host.parse().expect("address")), asked.parse::<IpAddr>().expect("address"));
        }
    }
}
