//! Metrics, for Prometheus, on a listener of their own: they are nobody's business but the operator's.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Redirect};
use axum::routing::get;
use axum::{Json, Router};
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::catalogue::{self, KNOWN_VALUES, Kind};
use super::process;
use super::recent::Recent;
use super::view::View;

/// From a read out of memory to the outermost time-out of the ladder.
const SECONDS: &[f64] =
    &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 90.0];
/// The same, finer: what users wait for. The ladder's steps (30, 60, 75, 80, 90 s) are all there.
const REQUEST_SECONDS: &[f64] = &[
    0.000_5, 0.001, 0.002_5, 0.005, 0.007_5, 0.01, 0.015, 0.025, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.35, 0.5, 0.75,
    1.0, 1.5, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 75.0, 80.0, 90.0,
];
/// Sizes of a group commit.
const COUNTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0];
/// Where `supersync top` finds everything that it shows.
pub const TOP_PATH: &str = "/top.json";
/// How often recorded values are folded into their buckets. They pile up until then, also when nobody scrapes.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Makes every metric of the process collectable. Once per process.
///
/// # Errors
/// When it was done before.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = builder()?.install_recorder()?;
    describe();
    start_at_zero();
    gauge!("supersync_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    gauge!("supersync_process_start_timestamp_seconds").set(now.as_secs_f64());
    Ok(handle)
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full("supersync_http_request_seconds".to_owned()), REQUEST_SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)?
        .set_buckets(COUNTS)
}

fn describe() {
    for metric in catalogue::all() {
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, metric.doc),
            Kind::Gauge => describe_gauge!(metric.name, metric.doc),
            Kind::Histogram => describe_histogram!(metric.name, metric.doc),
        }
    }
}

/// A counter that appears with its first event seems never to have grown, and an alert on its growth stays silent. So
/// whatever can be known beforehand is there from the start.
fn start_at_zero() {
    for metric in catalogue::all().filter(|metric| metric.labels.is_empty() && metric.kind == Kind::Counter) {
        counter!(metric.name).increment(0);
    }
    for (name, label, values) in KNOWN_VALUES {
        for value in *values {
            counter!(*name, *label => *value).increment(0);
        }
    }
}

/// Folds recorded values into their buckets now and then, until `cancel`: whether anybody asks for them or not.
pub async fn keep_up(handle: PrometheusHandle, cancel: CancellationToken) {
    let mut ticks = tokio::time::interval(UPKEEP_EVERY);
    while cancel.run_until_cancelled(ticks.tick()).await.is_some() {
        handle.run_upkeep();
    }
}

/// Seconds that `/top.json` looks at unless asked otherwise, and at most.
const LOOK_SECONDS: (f64, f64) = (1.0, 10.0);

/// `GET /metrics`, and `GET /top.json?seconds=` for `supersync top`.
pub fn router(handle: PrometheusHandle, recent: Arc<Recent>) -> Router {
    Router::new()
        .route("/", get(async || Redirect::to("/metrics")))
        .route("/metrics", get(scrape))
        .with_state(handle.clone())
        .route(TOP_PATH, get(async move |Query(look): Query<Look>| Json(look.at(&handle, &recent).await)))
}

fn render(handle: &PrometheusHandle) -> String {
    process::record();
    handle.render()
}

async fn scrape(State(handle): State<PrometheusHandle>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], render(&handle))
}

/// How long to look before answering.
#[derive(Deserialize)]
struct Look {
    seconds: Option<f64>,
}

impl Look {
    async fn at(&self, handle: &PrometheusHandle, recent: &Recent) -> View {
        let (usual, most) = LOOK_SECONDS;
        // NaN becomes the usual time.
        let seconds = self.seconds.filter(|seconds| *seconds > 0.0).map_or(usual, |seconds| seconds.clamp(0.1, most));
        let (before, began) = (render(handle), Instant::now());
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        View::between(&before, &render(handle), began.elapsed().as_secs_f64(), recent.seen())
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use http_body_util::BodyExt;
    use metrics::histogram;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn a_scrape_shows_values_buckets_and_descriptions() {
        let recorder = builder().expect("buckets").build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe();
            start_at_zero();
            counter!("supersync_operations_total", "outcome" => "accepted").increment(3);
            histogram!("supersync_commit_seconds", "lane" => "small").record(0.003);
            histogram!("supersync_commit_plans").record(5.0);
            histogram!("supersync_http_request_seconds").record(61.0);
            process::record();
        });
        let ask = |path: &str| {
            router(handle.clone(), Arc::default()).oneshot(Request::get(path).body(Body::empty()).expect("request"))
        };
        assert_eq!(ask("/other").await.expect("infallible").status(), StatusCode::NOT_FOUND);
        let response = ask("/metrics").await.expect("infallible");
        assert_eq!(response.status(), StatusCode::OK);
        let body = response.into_body().collect().await.expect("body").to_bytes();
        let text = std::str::from_utf8(&body).expect("UTF-8");
        for line in [
            "# HELP supersync_operations_total Uploaded operations",
            "# TYPE supersync_operations_total counter",
            "supersync_operations_total{outcome=\"accepted\"} 3",
            "supersync_commit_seconds_bucket{lane=\"small\",le=\"0.005\"} 1",
            "supersync_commit_seconds_bucket{lane=\"small\",le=\"0.0025\"} 0",
            "supersync_commit_plans_bucket{le=\"8\"} 1",
            "supersync_actor_failures_total 0",
            "supersync_mails_total{outcome=\"failed\"} 0",
            "supersync_http_request_seconds_bucket{le=\"75\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        if cfg!(target_os = "linux") {
            assert!(text.contains("supersync_process_resident_memory_bytes"), "{text}");
        }
    }
}
