//! Where the load goes: an address, and who may sign in there.

use std::fmt;
use std::net::SocketAddr;

use url::Url;

use super::error::{BenchError, Result};

/// A server to put load on.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// The `Host` header.
    pub host: String,
}

impl Target {
    /// A server on this machine.
    #[must_use]
    pub fn local(address: SocketAddr) -> Self {
        Self { address, host: address.to_string() }
    }

    /// The server at `http://HOST[:PORT]`.
    ///
    /// # Errors
    /// [`BenchError::Options`] for anything else: the load generator speaks plain HTTP, so that its own cost stays
    /// small; put it beside the server, behind the proxy that does TLS.
    pub async fn resolve(url: &str) -> Result<Self> {
        let invalid = |reason: &str| BenchError::Options(format!("--url {url}: {reason}"));
        let parsed = Url::parse(url).map_err(|error| invalid(&error.to_string()))?;
        if parsed.scheme() != "http" || !matches!(parsed.path(), "" | "/") || parsed.query().is_some() {
            return Err(invalid("expected http://HOST[:PORT]; TLS is the proxy's, and not what is measured"));
        }
        let host = parsed.host_str().ok_or_else(|| invalid("no host"))?;
        let port = parsed.port_or_known_default().ok_or_else(|| invalid("no port"))?;
        let address = tokio::net::lookup_host((host.trim_matches(['[', ']']), port))
            .await
            .map_err(BenchError::io(format!("resolving {host}")))?
            .next()
            .ok_or_else(|| invalid("the name has no address"))?;
        Ok(Self { address, host: format!("{host}:{port}") })
    }

    /// `http://HOST:PORT`.
    #[must_use]
    pub fn base(&self) -> String {
        format!("http://{}", self.host)
    }
}

/// An account that takes part in the load.
#[derive(Clone)]
pub struct Account {
    /// Its access token.
    pub token: String,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Account(…)")
    }
}
