//! What handlers say of themselves: each extractor tells what it takes from the request, each answer what is in it.

use axum::extract::{Path, RawQuery, Request, State};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use axum::response::Response;
use bytes::Bytes;
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::{Content, Ref, RefOr, Required, ResponseBuilder, Schema};
use utoipa::{IntoParams, ToSchema};

use super::Outline;
use crate::http::body::JsonBody;
use crate::http::call::Call;
use crate::http::encode::{Answer, File, MediaType};
use crate::http::error::{ApiError, ApiResult};
use crate::http::fields::{Members, Shape};
use crate::http::query::TypedQuery;
use crate::http::sender::{Account, AfterBody, Client, SteppedUp};
use crate::http::state::AppState;

const JSON: &str = "application/json";

/// An operation that is being described.
#[derive(Default)]
pub struct Sketch {
    /// Members of the query.
    pub parameters: Vec<Parameter>,
    /// The body of the request.
    pub body: Option<RequestBody>,
    /// Answers that say "yes", by status.
    pub answers: Vec<(u16, utoipa::openapi::Response)>,
    /// The schemas that these refer to, by name.
    pub schemas: Vec<(String, RefOr<Schema>)>,
}

impl Sketch {
    /// A reference to the schema of a type.
    pub fn schema<T: ToSchema>(&mut self) -> RefOr<Schema> {
        T::schemas(&mut self.schemas);
        self.schemas.push((T::name().into_owned(), T::schema()));
        Ref::from_schema_name(T::name()).into()
    }

    /// The request has a JSON body.
    pub fn takes(&mut self, schema: impl Into<RefOr<Schema>>, is_required: bool) {
        let required = if is_required { Required::True } else { Required::False };
        let body = RequestBodyBuilder::new().content(JSON, Content::new(Some(schema))).required(Some(required));
        self.body = Some(body.build());
    }

    /// The query has these members.
    pub fn asks<T: IntoParams>(&mut self) {
        self.parameters.extend(T::into_params(|| Some(ParameterIn::Query)));
    }

    fn answers(&mut self, status: u16, media_type: &str, content: Content) {
        let response = ResponseBuilder::new().description("Success.").content(media_type, content);
        self.answers.push((status, response.build()));
    }
}

/// A part of an operation: an argument of its handler, or the answer.
pub trait Part {
    /// Adds it to the description; most arguments say nothing.
    fn describe(_: &mut Sketch) {}
}

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
        members::<T>(sketch, |outline| outline.current_password());
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
/// The description itself, and what is not JSON.
impl Part for Response {}
impl Part for Result<axum::response::Redirect, ApiError> {}

/// A handler whose arguments and answer are [`Part`]s.
pub trait Described<Arguments> {
    /// Describes them all.
    fn describe(sketch: &mut Sketch);
}

macro_rules! described {
    ($($argument:ident)*) => {
        impl<Handler, Fut, $($argument),*> Described<($($argument,)*)> for Handler
        where
            Handler: Fn($($argument),*) -> Fut,
            Fut: Future<Output: Part>,
            $($argument: Part),*
        {
            fn describe(sketch: &mut Sketch) {
                $($argument::describe(sketch);)*
                <Fut::Output as Part>::describe(sketch);
            }
        }
    };
}

described!();
described!(A);
described!(A B);
described!(A B C);
described!(A B C D);
described!(A B C D E);

/// Describes the operation of this handler.
pub fn describe<Arguments, Handler: Described<Arguments>>(_: &Handler, sketch: &mut Sketch) {
    Handler::describe(sketch);
}
