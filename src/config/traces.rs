//! Where spans go.

use secrecy::SecretString;
use url::Url;

use super::TraceExport;
use super::reader::Reader;

const ENDPOINT: &str = "expected the address of a collector that takes OTLP over HTTP, such as http://localhost:4318";
const HEADERS: &str = "expected names and values such as api-key=…,x-tenant=…";

/// The exporter's settings, if there is a collector.
pub(super) fn traces(r: &mut Reader<'_>) -> Option<TraceExport> {
    let endpoint = r.optional("OTEL_EXPORTER_OTLP_ENDPOINT", ENDPOINT, endpoint);
    let headers = r.optional("OTEL_EXPORTER_OTLP_HEADERS", HEADERS, headers).unwrap_or_default();
    if !headers.is_empty() {
        r.show("OTEL_EXPORTER_OTLP_HEADERS", "***");
    }
    let service = r.value("OTEL_SERVICE_NAME", "expected a name", |text| Some(text.to_owned()));
    let share = r.value("OTEL_TRACES_SAMPLER_ARG", "expected a share of all requests from 0 to 1", share);
    Some(TraceExport { endpoint: endpoint?, headers, service, share })
}

/// The collector's address with the path for spans.
fn endpoint(text: &str) -> Option<Url> {
    let mut url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())?;
    url.path_segments_mut().ok()?.pop_if_empty().extend(["v1", "traces"]);
    Some(url)
}

fn headers(text: &str) -> Option<Vec<(String, SecretString)>> {
    let header = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let (name, value) = (name.trim(), value.trim());
        let is_name =
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        let is_value = value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        (is_name && is_value).then(|| (name.to_owned(), value.into()))
    };
    text.split(',').map(header).collect()
}

fn share(text: &str) -> Option<f64> {
    text.parse().ok().filter(|share| (0.0..=1.0).contains(share))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_for_spans_is_added() {
        let of = |text| endpoint(text).map(String::from);
        assert_eq!(of("http://localhost:4318").as_deref(), Some("http://localhost:4318/v1/traces"));
        assert_eq!(
            of("https://collector.example.org/otlp/").as_deref(),
            Some("https://collector.example.org/otlp/v1/traces")
        );
        for wrong in ["localhost:4318", "grpc://localhost:4317", "http://", ""] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn headers_are_read_and_nonsense_is_not() {
        let names = |text| headers(text).map(|all| all.into_iter().map(|(name, _)| name).collect::<Vec<_>>());
        assert_eq!(names("api-key=abc=, x-tenant = one"), Some(vec!["api-key".to_owned(), "x-tenant".to_owned()]));
        for wrong in ["", "x", "=x", "a b=c", "a=b,,c=d", "a=\u{7f}"] {
            assert_eq!(names(wrong), None, "{wrong}");
        }
    }
}
