//! One account's view of a running server: an HTTP client that knows the sync routes and keeps whole answers.

use std::ops::Index;

use jsonwebtoken::{EncodingKey, Header};
use reqwest::Method;
use serde_json::{Value, json};

use super::op::{self, Op, Snapshot};
use super::server::JWT_SECRET;
use super::socket::Socket;

/// An answer: status, headers and the body as JSON (`null` when it is none).
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
    pub text: String,
}

impl Reply {
    /// Asserts the status and hands the answer on.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    /// Asserts status 200 and hands the answer on.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.expect(200)
    }

    /// What became of each uploaded operation: `#seq` when it was accepted, else its error code.
    #[track_caller]
    pub fn outcomes(&self) -> Vec<String> {
        assert_eq!(self.status, 200, "{}", self.text);
        let results = self.body["results"].as_array().expect("an upload's answer has results");
        results.iter().map(outcome).collect()
    }

    /// The sequence numbers of a downloaded page.
    #[track_caller]
    pub fn seqs(&self) -> Vec<i64> {
        seqs_of(&self.body["ops"])
    }

    /// The sequence numbers of the operations that came along with an upload's answer.
    #[track_caller]
    pub fn new_seqs(&self) -> Vec<i64> {
        seqs_of(&self.body["newOps"])
    }

    /// A header of the answer.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Whether the body has this member at all.
    pub fn has(&self, member: &str) -> bool {
        self.body.get(member).is_some()
    }
}

impl Index<&str> for Reply {
    type Output = Value;

    fn index(&self, member: &str) -> &Value {
        &self.body[member]
    }
}

fn outcome(result: &Value) -> String {
    if result["accepted"] == true {
        assert!(result.get("errorCode").is_none() && result.get("error").is_none(), "accepted with an error: {result}");
        format!("#{}", result["serverSeq"])
    } else {
        assert!(result.get("serverSeq").is_none(), "rejected with a sequence number: {result}");
        assert!(result["error"].as_str().is_some_and(|text| !text.is_empty()), "rejected without a text: {result}");
        result["errorCode"].as_str().expect("a rejection has a code").to_owned()
    }
}

#[track_caller]
fn seqs_of(ops: &Value) -> Vec<i64> {
    let ops = ops.as_array().expect("a list of operations");
    ops.iter().map(|op| op["serverSeq"].as_i64().expect("serverSeq is an integer")).collect()
}

/// A verified account with a valid token. Cheap to clone.
#[derive(Clone)]
pub struct Account {
    pub id: i64,
    pub email: String,
    pub token: String,
    /// `http://host:port`.
    pub base: String,
    pub http: reqwest::Client,
}

impl Account {
    /// Any request, authenticated, with a body of JSON unless the headers say otherwise; `body` goes out as it is.
    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Reply {
        let request = self.http.request(method, format!("{}{path}", self.base));
        let mut request = request.bearer_auth(&self.token);
        if !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        receive(request.body(body)).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, &[], Vec::new()).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.send(Method::DELETE, path, &[], Vec::new()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(Method::POST, path, &[], body.to_string().into_bytes()).await
    }

    /// Uploads without a cursor: no fence, nothing comes along.
    pub async fn upload(&self, client: &str, ops: &[Op]) -> Reply {
        self.post("/api/sync/ops", &op::upload(client, None, ops)).await
    }

    /// The same with one operation.
    pub async fn upload_one(&self, client: &str, op: &Op) -> Reply {
        self.upload(client, std::slice::from_ref(op)).await
    }

    /// Uploads as a device that has seen everything up to `cursor`.
    pub async fn upload_from(&self, client: &str, cursor: i64, ops: &[Op]) -> Reply {
        self.post("/api/sync/ops", &op::upload(client, Some(cursor), ops)).await
    }

    /// Uploads this very body, gzipped.
    pub async fn upload_gzip(&self, path: &str, body: &[u8]) -> Reply {
        self.send(Method::POST, path, &[("content-encoding", "gzip")], gzip(body)).await
    }

    pub async fn snapshot(&self, snapshot: &Snapshot) -> Reply {
        self.post("/api/sync/snapshot", &snapshot.json()).await
    }

    /// Downloads everything after `since`, of every device.
    pub async fn download(&self, since: i64) -> Reply {
        self.get(&format!("/api/sync/ops?sinceSeq={since}&limit=1000")).await.ok()
    }

    /// The operation with this sequence number, as devices get it.
    #[track_caller]
    pub fn op_at(&self, seq: i64) -> impl Future<Output = Value> {
        let page = self.get_owned(format!("/api/sync/ops?sinceSeq={}&limit=1", seq - 1));
        async move {
            let page = page.await.ok();
            assert_eq!(page.seqs(), [seq]);
            page["ops"][0]["op"].clone()
        }
    }

    fn get_owned(&self, path: String) -> impl Future<Output = Reply> + use<> {
        let account = self.clone();
        async move { account.get(&path).await }
    }

    pub async fn status(&self) -> Value {
        self.get("/api/sync/status").await.ok().body
    }

    /// The ids of the devices in the order of the answer.
    pub async fn devices(&self) -> Vec<String> {
        let reply = self.get("/api/sync/devices").await.ok();
        let devices = reply["devices"].as_array().expect("a list of devices");
        devices.iter().map(|d| d["clientId"].as_str().expect("clientId is a string").to_owned()).collect()
    }

    /// A token of the old server: it names no session.
    pub fn older_token(&self, issued_at_ms: i64) -> String {
        let iat = issued_at_ms.div_euclid(1000);
        Self::signed(&json!({ "userId": self.id, "email": self.email, "tokenVersion": 0, "iat": iat }))
    }

    /// A token with these claims.
    pub fn signed(claims: &Value) -> String {
        let key = EncodingKey::from_secret(JWT_SECRET.as_bytes());
        jsonwebtoken::encode(&Header::default(), claims, &key).expect("the claims are JSON")
    }

    /// Opens a socket of this device and reads the greeting.
    pub async fn socket(&self, client: &str) -> Socket {
        let mut socket = self.socket_with(&format!("token={}&clientId={client}", self.token)).await;
        let greeting = socket.message().await;
        assert_eq!(greeting["type"], "connected");
        assert_eq!(greeting["userId"], json!(self.id));
        socket
    }

    /// Opens a socket with this query and reads nothing.
    pub async fn socket_with(&self, query: &str) -> Socket {
        Socket::open(&self.base, query).await
    }
}

/// Sends a request and reads the whole answer.
pub async fn receive(request: reqwest::RequestBuilder) -> Reply {
    let response = request.send().await.expect("the server answers");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.expect("the answer arrives whole");
    let body = serde_json::from_str(&text).unwrap_or(Value::Null);
    Reply { status, headers, body, text }
}

/// A gzip member around these bytes.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    gzip_at(bytes, flate2::Compression::fast())
}

/// A gzip member around these bytes, at this level.
pub fn gzip_at(bytes: &[u8], level: flate2::Compression) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
    encoder.write_all(bytes).expect("writing to memory can't fail");
    encoder.finish().expect("writing to memory can't fail")
}
