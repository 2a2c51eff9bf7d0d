//! Asks a metrics listener.

use std::time::Duration;

use reqwest::Url;

use crate::telemetry::metrics::TOP_PATH;
use crate::telemetry::view::View;

/// How long an answer may take beyond the time that the server looks.
const TIMEOUT: Duration = Duration::from_secs(5);

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
        let http = reqwest::Client::builder().no_proxy().build();
        let http = http.map_err(|error| ScrapeError::NoAnswer(base.to_string(), cause(&error)))?;
        Ok(Self { base, http })
    }

    pub(super) fn address(&self) -> &str {
        self.base.as_str()
    }

    /// What happens within the next so many seconds.
    pub(super) async fn look(&self, time: Duration) -> Result<View, ScrapeError> {
        let no_answer = |error: &reqwest::Error| ScrapeError::NoAnswer(self.base.to_string(), cause(error));
        let mut url = self.base.clone();
        url.set_path(TOP_PATH);
        url.set_query(Some(&format!("seconds={}", time.as_secs_f64())));
        let asked = self.http.get(url).timeout(time + TIMEOUT).send().await;
        let response = asked.map_err(|error| no_answer(&error))?;
        if !response.status().is_success() {
            return Err(self.stranger(format!("{} to {TOP_PATH}", response.status())));
        }
        let body = response.bytes().await.map_err(|error| no_answer(&error))?;
        serde_json::from_slice(&body).map_err(|error| self.stranger(error.to_string()))
    }

    fn stranger(&self, why: String) -> ScrapeError {
        ScrapeError::Stranger(self.base.to_string(), why)
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
