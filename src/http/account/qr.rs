//! The session token as a picture, for a device with a camera.

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use qrcode::render::svg;
use qrcode::{EcLevel, QrCode};

use crate::http::encode;
use crate::http::error::{ApiError, ApiResult};

/// `GET /api/account/qr`: the presented token as a QR code in SVG. It tells nobody anything that they did not send.
pub async fn token_as_qr(headers: HeaderMap) -> ApiResult {
    let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    picture(header.split(' ').nth(1).unwrap_or_default())
}

fn picture(token: &str) -> Result<Response, ApiError> {
    // The lowest level keeps the squares large: a screen has no scratches.
    let code = QrCode::with_error_correction_level(token, EcLevel::L).map_err(ApiError::internal)?;
    let drawn =
        code.render().min_dimensions(280, 280).dark_color(svg::Color("#000")).light_color(svg::Color("#fff")).build();
    Ok(encode::no_store(encode::with_type(StatusCode::OK, "image/svg+xml", Body::from(drawn))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_becomes_a_picture_that_nobody_keeps() {
        let response = picture(&"a".repeat(400)).unwrap();
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        assert!(std::str::from_utf8(&body).unwrap().contains("<svg"));
    }
}
