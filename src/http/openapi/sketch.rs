//! An operation that is being described, and what describes it.

use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::{Content, Ref, RefOr, Required, ResponseBuilder, Schema};
use utoipa::{IntoParams, ToSchema};

/// The media type of bodies.
pub const JSON: &str = "application/json";

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

    /// The answer with this status.
    pub fn answers(&mut self, status: u16, media_type: &str, content: Content) {
        let response = ResponseBuilder::new().description("Success.").content(media_type, content);
        self.answers.push((status, response.build()));
    }
}

/// A part of an operation: an argument of its handler, or the answer.
pub trait Part {
    /// Adds it to the description; most arguments say nothing.
    fn describe(_: &mut Sketch) {}
}

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
