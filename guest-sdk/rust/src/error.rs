//! Why an event could not be handled, and what the host should do about it.

use std::{fmt, time::Duration};

use crate::bindings::imports::tendon::consumer::types::{Action, Failure};

/// The result of a handler.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed event. Any error becomes one through `?`, and is tried again as the consumer's retry policy says.
///
/// Like `anyhow::Error` it is no `std::error::Error` itself: that is what lets every other error become one.
pub struct Error {
    action: Action,
    message: String,
    after: Option<Duration>,
    details: Vec<(String, String)>,
}

impl Error {
    /// Try again later.
    pub fn retry(message: impl Into<String>) -> Self {
        Self { action: Action::Retry, message: message.into(), after: None, details: Vec::new() }
    }

    /// Trying again would not help: the host applies the end of the retry policy at once.
    pub fn reject(message: impl Into<String>) -> Self {
        Self { action: Action::Reject, ..Self::retry(message) }
    }

    /// Try again, but not before this long. The host caps it.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Self {
        self.after = Some(wait);
        self
    }

    /// Adds a fact for the operator.
    #[must_use]
    pub fn detail(mut self, name: impl Into<String>, value: impl fmt::Display) -> Self {
        self.details.push((name.into(), value.to_string()));
        self
    }

    /// Whether it says that trying again would not help.
    pub fn is_reject(&self) -> bool {
        self.action == Action::Reject
    }

    pub(crate) fn into_failure(self) -> Failure {
        let after_ms = self.after.map(|after| u32::try_from(after.as_millis()).unwrap_or(u32::MAX));
        Failure { action: self.action, message: self.message, after_ms, details: self.details }
    }
}

impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            message.push_str(": ");
            message.push_str(&error.to_string());
            cause = error.source();
        }
        Self::retry(message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = if self.is_reject() { "reject" } else { "retry" };
        write!(f, "{action}: {}", self.message)
    }
}

/// Says of an error that trying again would not help.
pub trait OrReject<T> {
    /// The value, or an error that is not tried again.
    ///
    /// ```
    /// use tendon_sdk::OrReject as _;
    ///
    /// let number: tendon_sdk::Result<u32> = "x".parse().or_reject();
    /// assert!(number.unwrap_err().is_reject());
    /// ```
    fn or_reject(self) -> Result<T>;
}

impl<T, E: Into<Error>> OrReject<T> for std::result::Result<T, E> {
    fn or_reject(self) -> Result<T> {
        self.map_err(|error| Error { action: Action::Reject, ..error.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<u32> {
        Ok(text.parse()?)
    }

    #[test]
    fn an_error_that_is_passed_on_is_tried_again() {
        let failure = parse("x").unwrap_err().after(Duration::from_secs(5)).detail("text", "x").into_failure();
        assert_eq!(failure.action, Action::Retry);
        assert_eq!(failure.message, "invalid digit found in string");
        assert_eq!(failure.after_ms, Some(5_000));
        assert_eq!(failure.details, [("text".to_owned(), "x".to_owned())]);
    }

    #[test]
    fn a_wait_that_does_not_fit_is_the_longest_that_does() {
        assert_eq!(Error::retry("").after(Duration::MAX).into_failure().after_ms, Some(u32::MAX));
    }
}
