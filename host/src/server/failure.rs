//! Errors as answers.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use crate::{
    config::Problem,
    error::{Error, Kind},
};

/// An error that a route answers with: `{code, message, suggestion, …}` and the status of its kind.
pub(super) struct Failure(pub(super) Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.0.kind() {
            Kind::Invalid => StatusCode::BAD_REQUEST,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::Denied => StatusCode::FORBIDDEN,
            Kind::Limit => StatusCode::PAYLOAD_TOO_LARGE,
            Kind::Fenced => StatusCode::CONFLICT,
            Kind::Unavailable | Kind::Ambiguous => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Corrupt => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(Problem::of(&self.0).into_iter().next())).into_response()
    }
}
