//! Refuses what does not come from a program on this machine: a browser's page from elsewhere carries its `Origin`,
//! and one whose name was rebound to this address carries that name as `Host`.

use axum::{
    extract::Request,
    http::{HeaderMap, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::error::{Error, Kind};

use super::failure::Failure;

/// Lets a request through whose `Host` is a loopback address and whose `Origin`, if there is one, is the same.
pub(super) async fn same_origin(request: Request, next: Next) -> Response {
    let host = text(request.headers(), header::HOST);
    if !host.is_some_and(is_loopback) {
        return refuse(format!("the API answers to loopback addresses only, not to the host `{}`", host.unwrap_or("")));
    }
    let origin = text(request.headers(), header::ORIGIN);
    if origin.is_some_and(|origin| origin.strip_prefix("http://") != host) {
        return refuse(format!("pages of `{}` may not use the API", origin.unwrap_or("")));
    }
    next.run(request).await
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => authority.split(':').next(),
    };
    matches!(host, Some("localhost" | "127.0.0.1" | "::1"))
}

fn refuse(message: String) -> Response {
    Failure(Error::new(Kind::Denied, message)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_loopback() {
        for good in ["localhost", "localhost:7070", "127.0.0.1:1", "[::1]:7070"] {
            assert!(is_loopback(good), "{good}");
        }
        for bad in ["", "evil.example", "127.0.0.1.evil.example:7070", "[::2]:1", "10.0.0.1", "localhost.evil.example"]
        {
            assert!(!is_loopback(bad), "{bad}");
        }
    }
}
