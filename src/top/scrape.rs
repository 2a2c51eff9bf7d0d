//! Asks a metrics listener.

use std::time::{Duration, Instant};

use reqwest::Url;
use serde::Deserialize;

use super::text::{NoMetric, Samples};
use crate::telemetry::metrics::TOP_PATH;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// An answer is not longer than that.
const MAX_BYTES: usize = 16 << 20;

/// What was seen at one moment.
#[derive(Clone, Debug)]
pub(super) struct Scrape {
    pub(super) at: Instant,
    pub(super) samples: Samples,
    pub(super) recent: Recent,
}

/// What the server says of accounts and slow requests.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(super) struct Recent {
    pub(super) accounts: Vec<HotAccount>,
    pub(super) slowest: Vec<SlowRequest>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct HotAccount {
    pub(super) account: i64,
    pub(super) requests: u64,
    pub(super) operations: u64,
    pub(super) bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct SlowRequest {
    pub(super) at: i64,
    pub(super) method: String,
    pub(super) route: String,
    pub(super) account: Option<i64>,
    pub(super) status: u16,
    pub(super) duration_ms: u64,
    pub(super) phase: String,
}

/// Why nothing was seen.
#[derive(Debug, thiserror::Error)]
pub enum ScrapeError {
    /// The address is none.
    #[error("--metrics must be an address such as http://127.0.0.1:9464")]
    Address,
    /// Nobody answers.
    #[error("no answer from {0}: {1}")]
    NoAnswer(String, String),
    /// Somebody else answers.
    #[error("{0} answers, but not as the metrics of a supersync server: {1}")]
    Stranger(String, String),
}

/// The listener to ask.
#[derive(Clone, Debug)]
pub(super) struct Source {
    base: Url,
    http: reqwest::Client,
}

impl Source {
    pub(super) fn new(address: &str) -> Result<Self, ScrapeError> {
        let base = Url::parse(address).map_err(|_| ScrapeError::Address)?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(ScrapeError::Address);
        }
        // There is one if it was done before, which is as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build();
        let http = http.map_err(|error| ScrapeError::NoAnswer(base.to_string(), cause(&error)))?;
        Ok(Self { base, http })
    }

    pub(super) fn address(&self) -> &str {
        self.base.as_str()
    }

    pub(super) async fn scrape(&self) -> Result<Scrape, ScrapeError> {
        let (metrics, recent) = tokio::try_join!(self.get("/metrics"), self.get(TOP_PATH))?;
        let at = Instant::now();
        let samples = Samples::parse(&metrics).map_err(|error: NoMetric| self.stranger(error.to_string()))?;
        if samples.of("supersync_build_info").is_empty() {
            return Err(self.stranger("supersync_build_info is missing".to_owned()));
        }
        let recent = serde_json::from_str(&recent).map_err(|error| self.stranger(error.to_string()))?;
        Ok(Scrape { at, samples, recent })
    }

    fn stranger(&self, why: String) -> ScrapeError {
        ScrapeError::Stranger(self.base.to_string(), why)
    }

    async fn get(&self, path: &str) -> Result<String, ScrapeError> {
        let no_answer = |error: &reqwest::Error| ScrapeError::NoAnswer(self.base.to_string(), cause(error));
        let mut url = self.base.clone();
        url.set_path(path);
        let mut response = self.http.get(url).send().await.map_err(|error| no_answer(&error))?;
        if !response.status().is_success() {
            return Err(self.stranger(format!("{} to {path}", response.status())));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| no_answer(&error))? {
            if body.len() + chunk.len() > MAX_BYTES {
                return Err(self.stranger("the answer is too long".to_owned()));
            }
            body.extend_from_slice(&chunk);
        }
        String::from_utf8(body).map_err(|error| self.stranger(error.to_string()))
    }
}

/// The innermost reason, which is what an operator can do something about.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
