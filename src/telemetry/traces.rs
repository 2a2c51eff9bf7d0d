//! Sends spans to a collector, by OTLP over HTTP.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider};
use secrecy::ExposeSecret as _;
use tokio::runtime::Handle;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

use crate::config::TraceExport;
use crate::spans;

/// How long the collector may take for an answer, and stopping for the last spans.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often spans are sent.
const SEND_EVERY: Duration = Duration::from_secs(2);
/// Spans that wait to be sent; what does not fit is dropped.
const MAX_WAITING: usize = 8192;
/// Spans sent at a time.
const MAX_SENT: usize = 1024;

/// The way to the collector, until [`Traces::flush`].
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// Opens the way. Sends nothing yet, so a collector that is not there is no error.
    ///
    /// # Errors
    /// When the settings make no exporter. Must be called within a tokio runtime.
    pub fn new(export: &TraceExport) -> Result<Self, ExporterBuildError> {
        // The client wants a provider for TLS even where it speaks none; somebody else may have installed it.
        let _already_installed = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none()).build();
        let http = http.map_err(|error| ExporterBuildError::InternalFailure(error.to_string()))?;
        let headers = export.headers.iter().map(|(name, value)| (name.clone(), value.expose_secret().to_owned()));
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(export.endpoint.as_str())
            .with_headers(headers.collect())
            .with_timeout(PATIENCE)
            .with_http_client(Client { http, runtime: Handle::current() })
            .build()?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(MAX_WAITING)
            .with_max_export_batch_size(MAX_SENT)
            .with_scheduled_delay(SEND_EVERY)
            .build();
        let resource = Resource::builder_empty()
            .with_service_name(export.service.clone())
            .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(export.share))))
            .with_resource(resource)
            .build();
        Ok(Self { provider })
    }

    /// What takes the spans of this process.
    pub(super) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> impl Layer<S> {
        let tracer = self.provider.tracer("supersync");
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(Targets::new().with_target(spans::TARGET, tracing::Level::TRACE))
    }

    /// Sends what is left, and ends. Blocks for at most five seconds.
    pub fn flush(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(PATIENCE) {
            tracing::info!(%error, "the last spans were not sent");
        }
    }
}

/// The spans are sent from a thread of their own, which knows nothing of the runtime that the client needs.
#[derive(Debug)]
struct Client {
    http: reqwest::Client,
    runtime: Handle,
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let http = self.http.clone();
        let exchange = async move {
            let answer = http.execute(request.try_into()?).await.map_err(reqwest::Error::without_url)?;
            let mut response = Response::builder().status(answer.status());
            if let Some(headers) = response.headers_mut() {
                headers.clone_from(answer.headers());
            }
            Ok(response.body(answer.bytes().await?)?)
        };
        self.runtime.spawn(exchange).await?
    }
}
