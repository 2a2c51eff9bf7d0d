//! What travels: prebuilt bytes in, raw bytes out.

use std::io::Write as _;

use base64::Engine as _;
use bytes::Bytes;
use reqwest::{RequestBuilder, StatusCode};

/// How a body travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// JSON as it is.
    Plain,
    /// Binary gzip: web and desktop.
    #[default]
    Gzip,
    /// Base64 text of gzip: phones, whose native HTTP layer carries text only.
    GzipBase64,
}

/// A request body ready to be sent any number of times.
#[derive(Clone, Debug)]
pub struct Body {
    bytes: Bytes,
    encoding: Encoding,
}

impl Body {
    /// Encodes JSON text.
    ///
    /// # Panics
    /// Never: compressing into memory can't fail.
    #[must_use]
    pub fn new(json: &[u8], encoding: Encoding) -> Self {
        let bytes = match encoding {
            Encoding::Plain => Bytes::copy_from_slice(json),
            Encoding::Gzip => gzip(json).into(),
            Encoding::GzipBase64 => base64::prelude::BASE64_STANDARD.encode(gzip(json)).into(),
        };
        Self { bytes, encoding }
    }

    pub(super) fn put_into(&self, mut request: RequestBuilder) -> RequestBuilder {
        if self.encoding != Encoding::Plain {
            request = request.header("content-encoding", "gzip");
        }
        if self.encoding == Encoding::GzipBase64 {
            request = request.header("content-transfer-encoding", "base64");
        }
        request.body(self.bytes.clone())
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("writing to memory can't fail")
}

/// An answer as it came.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub body: Bytes,
}
