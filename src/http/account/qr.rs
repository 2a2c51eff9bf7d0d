//! The session token as a picture, for a device with a camera.

use axum::body::Body;
use axum::http::{HeaderMap, header};
use qrcode::render::svg;
use qrcode::{EcLevel, QrCode};

use crate::http::encode::{File, Svg};
use crate::http::error::{ApiError, ApiResult};

/// It tells nobody anything that they did not send.
pub async fn token_as_qr(headers: HeaderMap) -> ApiResult<File<Svg>> {
    let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    picture(header.split(' ').nth(1).unwrap_or_default())
}

fn picture(token: &str) -> ApiResult<File<Svg>> {
    // The lowest level keeps the squares large: a screen has no scratches.
    let code = QrCode::with_error_correction_level(token, EcLevel::L).map_err(ApiError::internal)?;
    let drawn =
        code.render().min_dimensions(280, 280).dark_color(svg::Color("#000")).light_color(svg::Color("#fff")).build();
    Ok(File::new(Body::from(drawn)))
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;

    use super::*;

    #[tokio::test]
    async fn a_token_becomes_a_picture_that_nobody_keeps() {
        let response = picture(&"a".repeat(400)).unwrap().into_response();
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        assert!(std::str::from_utf8(&body).unwrap().contains("<svg"));
    }
}
