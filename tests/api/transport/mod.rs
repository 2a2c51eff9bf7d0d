//! The transport: what every request and every answer goes through, whatever it is about. A real server on a real socket,
//! on both databases. Nothing here waits for time to pass but for time limits that are scaled down.

mod bodies;
mod ends;
mod packing;
mod routes;

use reqwest::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{Account, PATIENCE, Reply, Server, http_client, receive};

/// A request without a token.
async fn ask(server: &Server, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    let request = http_client().request(method, format!("{}{path}", server.base));
    receive(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
}

/// The head of an upload with these further lines.
fn head(account: &Account, more: &str) -> String {
    let token = &account.token;
    format!(
        "POST /api/sync/ops HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
         {more}\r\n\r\n"
    )
}

/// Connects and sends these bytes.
async fn send(server: &Server, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(server.base.trim_start_matches("http://")).await.expect("a connection");
    stream.write_all(bytes).await.expect("the bytes leave");
    stream
}

/// What comes until the server closes the connection.
async fn rest(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset is an end as well.
    let _ended = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the connection ends in time");
    String::from_utf8(answer).expect("UTF-8")
}
