//! Errors as answers.

use axum::{
    Json,
    body::to_bytes,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{
    config::Problem,
    error::{Error, Kind},
};

/// The longest text of a refusal that is passed on.
const TEXT_BYTES_MAX: usize = 64 * 1024;

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

/// What axum itself refuses, such as a query that is none or a method that a route does not know, in the form of every
/// other error.
pub(super) async fn as_json(response: Response) -> Response {
    let status = response.status();
    let is_ours = response.headers().get(header::CONTENT_TYPE).is_some_and(|value| value == "application/json");
    if !status.is_client_error() || is_ours {
        return response;
    }
    let text = to_bytes(response.into_body(), TEXT_BYTES_MAX).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let said = if text.is_empty() { status.canonical_reason().unwrap_or("refused") } else { text.trim() };
    let problem = Problem::of(&Error::invalid(said)).into_iter().next();
    (status, Json(problem)).into_response()
}
