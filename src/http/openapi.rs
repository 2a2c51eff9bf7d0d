//! The description of the interface for programs: `GET /api/openapi.json`, as `OpenAPI` 3.1.
//!
//! It is made from the table of routes ([`super::routes`]): rights, limits and summaries stand there, and what a handler
//! takes and answers follows from its types (`parts`). The pages for people and the routes of the test mode are left
//! out.

pub mod outline;
mod parts;
pub mod sketch;
pub mod sync;

use axum::extract::State;
use axum::http::Method;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, Content, Info, ObjectBuilder, OpenApi, OpenApiBuilder, Paths, Ref, Required, ResponseBuilder,
    Server, Type,
};

use super::codes;
use super::encode::{self, Answer};
use super::error::{ApiResult, Member};
use super::health::{Health, PROBES};
use super::route::{Access, BodyLimit, Route};
use super::state::AppState;
use sketch::Sketch;

const TOKEN: &str = "token";

/// The routes that are described.
fn described(routes: &[Route]) -> impl Iterator<Item = &Route> {
    routes.iter().filter(|route| {
        route.access != Access::Test && (route.path.starts_with("/api/") || PROBES.contains(&route.path))
    })
}

fn document(routes: &[Route]) -> OpenApi {
    let mut paths = Paths::new();
    let mut components = ComponentsBuilder::new()
        .security_scheme(TOKEN, SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)))
        .schema_from::<sync::Refusal>();
    for (name, response) in responses() {
        components = components.response(name, response);
    }
    for route in described(routes) {
        let mut sketch = Sketch::default();
        (route.describe)(&mut sketch);
        components = components.schemas_from_iter(std::mem::take(&mut sketch.schemas));
        paths.add_path_operation(route.path, vec![method(&route.method)], operation_of(route, sketch));
    }
    let info = Info::builder()
        .title("SuperSync")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Sync server of the Super Productivity app. Times are Unix milliseconds, sizes bytes. Clients must ignore \
             members that they do not know.",
        ))
        .build();
    OpenApiBuilder::new().info(info).paths(paths).components(Some(components.build())).build()
}

fn method(method: &Method) -> HttpMethod {
    match *method {
        Method::POST => HttpMethod::Post,
        Method::PATCH => HttpMethod::Patch,
        Method::DELETE => HttpMethod::Delete,
        _ => HttpMethod::Get,
    }
}

fn operation_of(route: &Route, sketch: Sketch) -> OperationBuilder {
    let area = route.path.trim_start_matches("/api").split('/').nth(1).unwrap_or_default();
    let mut operation = OperationBuilder::new()
        .operation_id(Some(route.name.replace("::", ".")))
        .summary(Some(route.summary.trim()))
        .tag(if route.path.starts_with("/api/") { area } else { "health" })
        .request_body(sketch.body);
    for name in route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
        let text = ObjectBuilder::new().schema_type(Type::String).build();
        let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Path).schema(Some(text));
        operation = operation.parameter(parameter.required(Required::True));
    }
    for parameter in sketch.parameters {
        operation = operation.parameter(parameter);
    }
    if route.access.wants_token() {
        operation = operation.security(SecurityRequirement::new(TOKEN, [""; 0]));
    }
    for (status, answer) in sketch.answers {
        operation = operation.response(status.to_string(), answer);
    }
    for (status, name) in refusals(route) {
        operation = operation.response(status, Ref::from_response_name(name));
    }
    operation
}

/// Refusals by name, with their meaning.
const REFUSALS: [(&str, &str); 8] = [
    ("Invalid", "The body is not valid; `details` lists its faults."),
    ("Unauthorized", "The token is missing, wrong, or no longer valid."),
    ("ProofNeeded", "A recent proof of identity is needed."),
    ("AdministratorsOnly", "The account is no administrator's, or a recent proof of identity is needed."),
    ("TooLarge", "The body is too large, or the storage quota is used up."),
    ("UnsupportedMedia", "The body's media type or encoding is not supported."),
    ("RateLimited", "Too many requests: try again after the seconds in `Retry-After`."),
    ("Unavailable", "The server is in trouble, or too busy: try again later."),
];
/// Every other refusal.
const REFUSED: &str = "Refused";

/// The refusals that follow from the row of a route, by status.
fn refusals(route: &Route) -> Vec<(&'static str, &'static str)> {
    if PROBES.contains(&route.path) {
        return vec![("503", "Unhealthy")];
    }
    let mut found = vec![("4XX", REFUSED), ("5XX", "Unavailable")];
    if route.access.wants_token() {
        found.push(("401", "Unauthorized"));
    }
    if route.access.wants_admin() {
        found.push(("403", "AdministratorsOnly"));
    } else if route.access.wants_proof() {
        found.push(("403", "ProofNeeded"));
    }
    if route.body != BodyLimit::NoBody {
        found.extend([("400", "Invalid"), ("413", "TooLarge"), ("415", "UnsupportedMedia")]);
    }
    if route.class.is_some() {
        found.push(("429", "RateLimited"));
    }
    found
}

fn responses() -> impl Iterator<Item = (&'static str, ResponseBuilder)> {
    let codes = codes::ALL.iter().filter(|code| code.member != Member::None);
    let codes: Vec<_> = codes.map(|code| format!("`{}` ({})", code.name, code.status.as_u16())).collect();
    let refused = format!("Refused; `code` or `errorCode` says why: {}.", codes.join(", "));
    let refusals = REFUSALS.map(|(name, meaning)| (name, answer::<sync::Refusal>(meaning)));
    let rest = [(REFUSED, answer::<sync::Refusal>(&refused)), ("Unhealthy", answer::<Health>("Not ready."))];
    refusals.into_iter().chain(rest)
}

fn answer<T: ToSchema>(meaning: &str) -> ResponseBuilder {
    let content = Content::new(Some(Ref::from_schema_name(T::name())));
    ResponseBuilder::new().description(meaning).content("application/json", content)
}

/// The description of an interface.
#[derive(Serialize, ToSchema)]
#[schema(value_type = Object)]
pub struct Document(OpenApi);

impl Document {
    /// The description of these routes of a server at `public_url`.
    pub fn of(routes: &[Route], public_url: &str) -> Self {
        let mut document = document(routes);
        document.servers = Some(vec![Server::new(public_url)]);
        Self(document)
    }
}

/// `GET /api/openapi.json`.
pub async fn serve(State(state): State<AppState>) -> ApiResult<Answer<Document>> {
    encode::ok(&Document::of(state.routes, &state.config.public_url))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::routes::ROUTES;
    use super::*;

    /// `UPDATE_GENERATED=1 cargo test --lib openapi` writes it.
    #[test]
    fn the_document_in_the_repository_is_the_one_that_is_served() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
        let made = document(ROUTES).to_pretty_json().unwrap() + "\n";
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            std::fs::write(path, &made).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), made, "see CONTRIBUTING.md, \"Add a route\"");
    }

    #[test]
    fn every_described_route_has_a_summary_an_answer_and_a_name_of_its_own() {
        let mut names = BTreeMap::new();
        for route in described(ROUTES) {
            let mut sketch = Sketch::default();
            (route.describe)(&mut sketch);
            assert!(!route.summary.is_empty(), "{} has no summary", route.path);
            assert!(!sketch.answers.is_empty(), "the handler of {} has no typed answer", route.path);
            assert_eq!(sketch.body.is_some(), route.body != BodyLimit::NoBody, "{} {}", route.method, route.path);
            assert_eq!(names.insert(route.name, route.path), None, "{}", route.name);
        }
    }

    /// Two types with the same name would describe each other.
    #[test]
    fn every_schema_has_a_name_of_its_own() {
        let mut schemas = BTreeMap::new();
        for route in described(ROUTES) {
            let mut sketch = Sketch::default();
            (route.describe)(&mut sketch);
            for (name, schema) in sketch.schemas {
                let schema = serde_json::to_value(schema).unwrap();
                assert_eq!(*schemas.entry(name.clone()).or_insert_with(|| schema.clone()), schema, "{name}");
            }
        }
    }
}
