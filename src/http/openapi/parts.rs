//! What handlers say of themselves: each extractor tells what it takes from the request, each answer what is in it.

use axum::extract::{Path, RawQuery, Request, State};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use axum::response::Response;
use bytes::Bytes;
use utoipa::openapi::Content;
use utoipa::{IntoParams, ToSchema};

use super::outline::Outline;
use super::sketch::{JSON, Part, Sketch};
use crate::http::body::JsonBody;
use crate::http::call::Call;
use crate::http::encode::{Answer, File, MediaType};
use crate::http::error::ApiResult;
use crate::http::fields::{Members, Shape};
use crate::http::query::TypedQuery;
use crate::http::sender::{Account, AfterBody, Client, SteppedUp};
use crate::http::state::AppState;

impl Part for State<AppState> {}
impl Part for HeaderMap {}
impl Part for Parts {}
impl Part for Request {}
impl Part for Bytes {}
impl Part for RawQuery {}
impl Part for Client {}
impl Part for Account {}
// Its members follow from the path.
impl<T> Part for Path<T> {}

impl<T: Part> Part for Call<T> {
    fn describe(sketch: &mut Sketch) {
        T::describe(sketch);
    }
}

/// A call without query or body.
impl Part for () {}

impl<T: IntoParams> Part for TypedQuery<T> {
    fn describe(sketch: &mut Sketch) {
        sketch.asks::<T>();
    }
}

fn members<T: Members>(sketch: &mut Sketch, with: impl FnOnce(&mut Outline)) {
    let mut outline = Outline::default();
    T::describe(&mut outline);
    with(&mut outline);
    sketch.takes(outline.build(), T::SHAPE == Shape::Object);
}

impl<T: Members> Part for JsonBody<T> {
    fn describe(sketch: &mut Sketch) {
        members::<T>(sketch, |_| {});
    }
}

impl<T: Members> Part for SteppedUp<T> {
    fn describe(sketch: &mut Sketch) {
        members::<T>(sketch, Outline::current_password);
    }
}

impl Part for AfterBody {
    fn describe(sketch: &mut Sketch) {
        sketch.takes(Outline::default().build(), false);
    }
}

impl<T: ToSchema, const STATUS: u16> Part for ApiResult<Answer<T, STATUS>> {
    fn describe(sketch: &mut Sketch) {
        let schema = sketch.schema::<T>();
        sketch.answers(STATUS, JSON, Content::new(Some(schema)));
    }
}

impl<M: MediaType> Part for ApiResult<File<M>> {
    fn describe(sketch: &mut Sketch) {
        sketch.answers(200, M::NAME, Content::default());
    }
}

/// Pages, whose contents are for people.
impl Part for ApiResult<Response> {}
/// Files of pages.
impl Part for Response {}
