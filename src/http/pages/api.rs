//! The description of the interface for people: the document that programs get ([`crate::http::openapi`]), as a page. It
//! is for developers, so it has one language.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::{Map, Value};

use super::{Frame, html, language};
use crate::http::error::{ApiError, ApiResult};
use crate::http::openapi::Document;
use crate::http::state::AppState;
use crate::language::Language;

static AREAS: OnceLock<Vec<Area>> = OnceLock::new();

#[derive(Template)]
#[template(path = "api.html")]
struct Api<'a> {
    t: Language,
    frame: Frame,
    areas: &'a [Area],
}

/// Operations on one kind of thing.
struct Area {
    name: String,
    operations: Vec<Operation>,
}

struct Operation {
    method: String,
    path: String,
    summary: String,
    wants_token: bool,
    query: Vec<Member>,
    body: Vec<Member>,
    answers: Vec<Answer>,
}

struct Answer {
    status: String,
    meaning: String,
    members: Vec<Member>,
}

/// A member of a query or a body. Members of members have their path as a name.
struct Member {
    name: String,
    kind: String,
    is_required: bool,
    meaning: String,
}

pub async fn page(State(state): State<AppState>, RawQuery(query): RawQuery, headers: HeaderMap) -> ApiResult<Response> {
    let areas = if let Some(areas) = AREAS.get() {
        areas
    } else {
        let document = serde_json::to_value(Document::of(state.routes, "")).map_err(ApiError::internal)?;
        AREAS.get_or_init(|| areas(&document))
    };
    let t = language(query.as_deref(), &headers);
    html(StatusCode::OK, &Api { t, frame: Frame::new(&state.config, String::new()), areas })
}

fn areas(document: &Value) -> Vec<Area> {
    let mut found = BTreeMap::<_, Vec<_>>::new();
    for (path, methods) in document["paths"].as_object().into_iter().flatten() {
        for (method, of) in methods.as_object().into_iter().flatten() {
            let parameters = of["parameters"].as_array().into_iter().flatten();
            let content = |of: &Value| {
                let mut members = Vec::new();
                let media = of["content"].as_object().and_then(|content| content.values().next());
                collect(document, media.map_or(&Value::Null, |media| &media["schema"]), "", &mut members);
                members
            };
            let answers = of["responses"].as_object().into_iter().flatten().map(|(status, answer)| {
                let answer = resolved(document, answer);
                // The members of refusals are the same everywhere.
                let members = if status.starts_with('2') { content(answer) } else { Vec::new() };
                Answer { status: status.clone(), meaning: text(&answer["description"]), members }
            });
            found.entry(text(&of["tags"][0])).or_default().push(Operation {
                method: method.to_uppercase(),
                path: path.clone(),
                summary: text(&of["summary"]),
                wants_token: of["security"].is_array(),
                query: parameters
                    .map(|parameter| member(&text(&parameter["name"]), &parameter["schema"], parameter))
                    .collect(),
                body: content(&of["requestBody"]),
                answers: answers.collect(),
            });
        }
    }
    found.into_iter().map(|(name, operations)| Area { name, operations }).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// What a reference refers to; anything else itself.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let target = value["$ref"].as_str().and_then(|path| document.pointer(path.trim_start_matches('#')));
    target.unwrap_or(value)
}

fn member(name: &str, schema: &Value, described: &Value) -> Member {
    let kinds = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
        kind => text(kind),
    };
    let kind = if kinds.is_empty() { "any".to_owned() } else { kinds };
    let mut meaning = text(&described["description"]);
    let choices: Vec<_> = schema["enum"].as_array().into_iter().flatten().map(ToString::to_string).collect();
    if !choices.is_empty() {
        meaning = format!("One of {}. {meaning}", choices.join(", "));
    }
    Member { name: name.to_owned(), kind, is_required: described["required"] == true, meaning }
}

/// Collects the members of a schema, each followed by its own members.
fn collect(document: &Value, schema: &Value, within: &str, members: &mut Vec<Member>) {
    let schema = resolved(document, schema);
    for part in schema["allOf"].as_array().into_iter().flatten() {
        collect(document, part, within, members);
    }
    let required: Vec<&Value> = schema["required"].as_array().into_iter().flatten().collect();
    for (name, of) in schema["properties"].as_object().unwrap_or(&Map::new()) {
        let path = format!("{within}{name}");
        let target = resolved(document, of);
        let mut described = member(&path, target, if of["description"].is_string() { of } else { target });
        described.is_required = required.iter().any(|required| *required == name);
        members.push(described);
        collect(document, &target["items"], &format!("{path}[]."), members);
        collect(document, target, &format!("{path}."), members);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::routes::ROUTES;

    #[test]
    fn members_of_members_are_found_through_references_and_lists() {
        let document = serde_json::to_value(Document::of(ROUTES, "")).unwrap();
        let areas = areas(&document);
        let operation = |path: &str, method: &str| {
            let mut all = areas.iter().flat_map(|area| &area.operations);
            all.find(|operation| operation.path == path && operation.method == method).unwrap()
        };
        let names = |members: &[Member]| members.iter().map(|member| member.name.clone()).collect::<Vec<_>>();
        let upload = operation("/api/sync/ops", "POST");
        assert!(names(&upload.body).contains(&"ops[].vectorClock".to_owned()), "{:?}", names(&upload.body));
        let account = operation("/api/account", "GET");
        assert!(names(&account.answers[0].members).contains(&"storage.usedBytes".to_owned()));
        assert!(names(&account.answers[0].members).contains(&"passkeys".to_owned()));
    }
}
