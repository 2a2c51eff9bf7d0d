//! The queries of our own routes: typed, and wrong where they are wrong. The sync routes of the contract have a lenient
//! parser of their own ([`super::sync::leading_integer`]).

use std::error::Error as _;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::codes::INVALID_QUERY;
use super::error::{ApiError, ApiResult};
use super::state::AppState;

/// The members of a query. Empty ones count as absent: forms send them.
#[derive(Debug)]
pub(super) struct TypedQuery<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<AppState> for TypedQuery<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> ApiResult<Self> {
        let given = url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
        let given: Vec<_> = given.filter(|(_, value)| !value.is_empty()).collect();
        let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(given).finish();
        let uri = format!("/?{query}").parse().map_err(ApiError::internal)?;
        match Query::try_from_uri(&uri) {
            Ok(Query(members)) => Ok(Self(members)),
            Err(error) => {
                let reason = error.source().map_or_else(|| error.to_string(), ToString::to_string);
                Err(ApiError::coded(INVALID_QUERY, format!("Invalid query: {reason}")))
            }
        }
    }
}
