//! Where spans go.

use secrecy::SecretString;
use url::Url;

use super::kinds::Kind;
use super::reader::Reader;
use super::{TraceExport, settings};

pub(super) const ENDPOINT: Kind<Url> = Kind::new(
    "URL",
    "expected the address of a collector that takes OTLP over HTTP, such as http://localhost:4318",
    endpoint,
);
pub(super) const HEADERS: Kind<Vec<(String, SecretString)>> =
    Kind::secret("list, secret", "expected names and values such as api-key=…,x-tenant=…", headers);
pub(super) const SHARE: Kind<f64> = Kind::new("0 to 1", "expected a share of all requests from 0 to 1", share);

/// The exporter's settings, if there is a collector.
pub(super) fn traces(r: &mut Reader<'_>) -> Option<TraceExport> {
    let endpoint = r.optional(&settings::OTEL_EXPORTER_OTLP_ENDPOINT);
    let headers = r.optional(&settings::OTEL_EXPORTER_OTLP_HEADERS).unwrap_or_default();
    if !headers.is_empty() {
        r.show(&settings::OTEL_EXPORTER_OTLP_HEADERS, "***");
    }
    let service = r.get(&settings::OTEL_SERVICE_NAME);
    let share = r.get(&settings::OTEL_TRACES_SAMPLER_ARG);
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
