//! Style, scripts and pictures of the pages, compiled in.
//!
//! Their folder is named after their contents, so that browsers keep them for ever and still get the new ones with the
//! page of a newer server. A page of another version of the server may ask for another folder, for instance while
//! instances are being replaced: it gets what there is, to be asked for again.

use std::io::Write as _;
use std::sync::LazyLock;

use axum::body::Body;
use axum::extract::{Path, Request};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

use crate::http::{body, encode};
use crate::language::Language;

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

macro_rules! files {
    ($($name:literal: $media_type:expr),* $(,)?) => {
        &[$(($name, $media_type, include_str!(concat!("../../../assets/", $name)))),*]
    };
}

const FILES: &[(&str, &str, &str)] = files! {
    "style.css": STYLE,
    "icon.svg": PICTURE,
    "start.js": SCRIPT,
    "api.js": SCRIPT,
    "page.js": SCRIPT,
    "texts.js": SCRIPT,
    "format.js": SCRIPT,
    "passkey.js": SCRIPT,
    "home.js": SCRIPT,
    "sign-in.js": SCRIPT,
    "account.js": SCRIPT,
    "lists.js": SCRIPT,
    "magic-login.js": SCRIPT,
    "recover-passkey.js": SCRIPT,
    "reset-password.js": SCRIPT,
    "change-email.js": SCRIPT,
    "undo-email.js": SCRIPT,
    "proof.js": SCRIPT,
    "admin.js": SCRIPT,
    "invitations.js": SCRIPT,
    "diagnostics.js": SCRIPT,
};

struct Asset {
    name: String,
    media_type: &'static str,
    etag: HeaderValue,
    plain: Bytes,
    packed: Bytes,
}

struct Assets {
    folder: String,
    /// The last part of `folder`.
    version: String,
    all: Vec<Asset>,
}

static ASSETS: LazyLock<Assets> = LazyLock::new(|| {
    let mut all: Vec<Asset> =
        FILES.iter().map(|(name, media_type, text)| asset((*name).to_owned(), media_type, text.as_bytes())).collect();
    all.extend(Language::ALL.map(|language| {
        let texts: serde_json::Map<_, _> =
            language.script_texts().map(|(key, text)| (key.to_owned(), text.into())).collect();
        let script = format!("export default {};\n", serde_json::Value::Object(texts));
        asset(format!("texts.{}.js", language.code()), SCRIPT, script.as_bytes())
    }));
    let mut digest = Sha256::new();
    for asset in &all {
        digest.update(asset.name.as_bytes());
        digest.update(&asset.plain);
    }
    let version = hex::encode(&digest.finalize()[..8]);
    Assets { folder: format!("assets/{version}"), version, all }
});

fn asset(name: String, media_type: &'static str, plain: &[u8]) -> Asset {
    const INFALLIBLE: &str = "writing to memory does not fail";
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).expect(INFALLIBLE);
    let packed = encoder.finish().expect(INFALLIBLE);
    let etag = format!("\"{}\"", hex::encode(&Sha256::digest(plain)[..8]));
    let etag = HeaderValue::from_str(&etag).expect("hexadecimal digits in quotes");
    Asset { name, media_type, etag, plain: Bytes::copy_from_slice(plain), packed: packed.into() }
}

/// Where the assets are, relative to the pages.
pub(super) fn folder() -> &'static str {
    &ASSETS.folder
}

pub async fn serve(Path((version, name)): Path<(String, String)>, request: Request) -> Response {
    let Some(asset) = ASSETS.all.iter().find(|asset| asset.name == name) else {
        return body::not_found(request).await.into_response();
    };
    answer(asset, &request, version == ASSETS.version)
}

/// Browsers ask for it where no page tells them better, for instance beside a JSON answer.
pub async fn icon(request: Request) -> Response {
    match ASSETS.all.iter().find(|asset| asset.name == "icon.svg") {
        Some(asset) => answer(asset, &request, false),
        None => body::not_found(request).await.into_response(),
    }
}

fn answer(asset: &Asset, request: &Request, is_for_ever: bool) -> Response {
    let wanted = request.headers().get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let has_it = wanted
        .flat_map(|text| text.split(','))
        .map(|tag| tag.trim().trim_start_matches("W/"))
        .any(|tag| tag == "*" || asset.etag == tag);
    let mut response = if has_it {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else if encode::accepts_gzip(request.headers()) {
        let mut response = encode::with_type(StatusCode::OK, asset.media_type, Body::from(asset.packed.clone()));
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response
    } else {
        encode::with_type(StatusCode::OK, asset.media_type, Body::from(asset.plain.clone()))
    };
    let caching = if is_for_ever { "public, max-age=31536000, immutable" } else { "public, max-age=0" };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, asset.etag.clone());
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    response
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn ask(name: &str, header: Option<(&str, &str)>, version: &str) -> Response {
        let mut request = Request::get("/");
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let asset = ASSETS.all.iter().find(|asset| asset.name == name).unwrap();
        answer(asset, &request.body(Body::empty()).unwrap(), version == ASSETS.version)
    }

    #[test]
    fn what_a_browser_has_is_not_sent_again() {
        let first = ask("style.css", None, &ASSETS.version);
        assert_eq!(first.status(), StatusCode::OK);
        assert_eq!(first.headers()[header::CACHE_CONTROL], "public, max-age=31536000, immutable");
        let etag = first.headers()[header::ETAG].to_str().unwrap().to_owned();
        for tag in [etag.clone(), format!("W/{etag}"), format!("\"x\", {etag}"), "*".to_owned()] {
            assert_eq!(ask("style.css", Some(("if-none-match", &tag)), "").status(), StatusCode::NOT_MODIFIED);
        }
        assert_eq!(ask("style.css", Some(("if-none-match", "\"x\"")), "").status(), StatusCode::OK);
    }

    #[test]
    fn another_version_s_folder_is_not_kept() {
        assert_eq!(ask("home.js", None, "0").headers()[header::CACHE_CONTROL], "public, max-age=0");
    }

    #[test]
    fn packed_and_plain_are_told_apart() {
        let packed = ask("home.js", Some(("accept-encoding", "gzip")), "");
        assert_eq!(packed.headers()[header::CONTENT_ENCODING], "gzip");
        assert_eq!(packed.headers()[header::VARY], "Accept-Encoding");
        assert!(!ask("home.js", None, "").headers().contains_key(header::CONTENT_ENCODING));
    }

    #[test]
    fn scripts_import_only_what_is_there() {
        for (name, _, text) in FILES {
            for import in text.split("from './").skip(1).filter_map(|rest| rest.split('\'').next()) {
                assert!(ASSETS.all.iter().any(|asset| asset.name == import), "{name} imports {import}");
            }
        }
    }

    #[test]
    fn texts_for_scripts_are_scripts() {
        let texts = ASSETS.all.iter().find(|asset| asset.name == "texts.de.js").unwrap();
        let text = std::str::from_utf8(&texts.plain).unwrap();
        let json = text.strip_prefix("export default ").unwrap().trim_end().strip_suffix(';').unwrap();
        assert!(serde_json::from_str::<serde_json::Value>(json).unwrap().is_object());
    }
}
