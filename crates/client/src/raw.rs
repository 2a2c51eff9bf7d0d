//! The lean path: prebuilt bytes in, raw bytes out. Connections are kept and shared by clones.

use std::io::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};

use super::{ClientError, Ladder};

/// How a body travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// JSON as it is.
    Plain,
    /// Binary gzip: web and desktop.
    #[default]
    Gzip,
    /// Base64 text of gzip: phones, whose native HTTP layer carries text only.
    GzipBase64,
}

/// A request body ready to be sent any number of times.
#[derive(Clone, Debug)]
pub struct Body {
    bytes: Bytes,
    encoding: Encoding,
}

impl Body {
    /// Encodes JSON text.
    ///
    /// # Panics
    /// Never: compressing into memory can't fail.
    #[must_use]
    pub fn new(json: &[u8], encoding: Encoding) -> Self {
        let bytes = match encoding {
            Encoding::Plain => Bytes::copy_from_slice(json),
            Encoding::Gzip => gzip(json).into(),
            Encoding::GzipBase64 => base64::prelude::BASE64_STANDARD.encode(gzip(json)).into(),
        };
        Self { bytes, encoding }
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("writing to memory can't fail")
}

/// An answer as it came.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// A server, a token, and a pool of connections.
#[derive(Clone, Debug)]
pub struct Raw {
    http: reqwest::Client,
    base: String,
    authorization: Option<HeaderValue>,
    connect: Duration,
    request: Duration,
}

impl Raw {
    /// A client of the server at `base` (`http://host:port`, without a trailing slash). Opens no connection yet.
    ///
    /// # Errors
    /// [`ClientError::Address`], [`ClientError::Setup`].
    pub fn new(base: &str, ladder: &Ladder) -> Result<Self, ClientError> {
        Self::from_address(base, ladder, None)
    }

    /// The same, with connections that come from this address of the machine.
    ///
    /// # Errors
    /// Like [`Raw::new`].
    pub fn from_address(base: &str, ladder: &Ladder, from: Option<IpAddr>) -> Result<Self, ClientError> {
        let url = url::Url::parse(base).map_err(|error| ClientError::Address(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(ClientError::Address("expected http://HOST[:PORT] or https://HOST[:PORT]".into()));
        }
        use_ring();
        let mut builder =
            reqwest::Client::builder().connect_timeout(ladder.connect).tcp_nodelay(true).local_address(from).no_proxy();
        if url.scheme() == "http" {
            // A machine without root certificates can still speak plain HTTP.
            builder = builder.tls_certs_only([]);
        }
        Ok(Self {
            http: builder.build().map_err(ClientError::Setup)?,
            base: base.trim_end_matches('/').to_owned(),
            authorization: None,
            connect: ladder.connect,
            request: ladder.request,
        })
    }

    /// The same server and the same connections with another token.
    ///
    /// # Errors
    /// [`ClientError::Address`] when the token can't be a header.
    pub fn with_token(&self, token: &str) -> Result<Self, ClientError> {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| ClientError::Address("the token holds characters that no header may have".into()))?;
        value.set_sensitive(true);
        Ok(Self { authorization: Some(value), ..self.clone() })
    }

    /// The server's address.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Sends one request and reads the whole answer, whatever its status.
    ///
    /// # Errors
    /// Only what the network or the ladder says: see [`ClientError::is_network`].
    pub async fn send(&self, method: Method, path: &str, body: Option<&Body>) -> Result<Answer, ClientError> {
        let exchange = async {
            let mut request = self
                .http
                .request(method, format!("{}{path}", self.base))
                // The app sends it with every request, body or not.
                .header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            if let Some(authorization) = &self.authorization {
                request = request.header(AUTHORIZATION, authorization.clone());
            }
            if let Some(body) = body {
                if body.encoding != Encoding::Plain {
                    request = request.header(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                }
                if body.encoding == Encoding::GzipBase64 {
                    request = request.header("content-transfer-encoding", HeaderValue::from_static("base64"));
                }
                request = request.body(body.bytes.clone());
            }
            let response = request.send().await?;
            let (status, headers) = (response.status(), response.headers().clone());
            Ok::<_, reqwest::Error>(Answer { status, headers, body: response.bytes().await? })
        };
        match tokio::time::timeout(self.request, exchange).await {
            Err(_) => Err(ClientError::RequestTimeout(self.request)),
            Ok(Err(error)) if error.is_connect() && error.is_timeout() => {
                Err(ClientError::ConnectTimeout(self.connect))
            }
            // Addresses may hold tokens (the WebSocket's do), so errors never carry one.
            Ok(Err(error)) if error.is_connect() => Err(ClientError::Connect(error.without_url())),
            Ok(Err(error)) => Err(ClientError::Network(error.without_url())),
            Ok(Ok(answer)) => Ok(answer),
        }
    }
}

/// Makes ring the process's TLS provider unless one is chosen already.
pub(super) fn use_ring() {
    // An error only means that a provider is installed, which is all that is needed.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
