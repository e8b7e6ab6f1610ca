//! Where a consumer begins, as people write it.

use std::{fmt, str::FromStr, time::Duration};

use crate::{
    error::{Error, Result},
    event::{EVENT_ID_BYTES_MAX, EventId, Timestamp},
};

/// A place in a stream that has yet to be looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// `earliest`: before the first event.
    #[default]
    Earliest,
    /// `latest`: the head, as it is when the consumer is deployed.
    Latest,
    /// `@2026-11-24T08:30:00Z`: before the first event, in the stream's order, with this timestamp or a later one.
    At(Timestamp),
    /// `@-10m`: the same, for a time that long before now.
    Ago(Duration),
    /// `+100`: after so many events from the earliest.
    AfterEarliest(u64),
    /// `-100`: so many events before the head.
    BeforeHead(u64),
    /// `id:EVENT`: after that event.
    After(EventId),
}

/// What a start may look like, for help texts.
pub const FORMS: &str = "earliest, latest, @2026-11-24T08:30:00Z, @-10m, +100, -100 or id:EVENT";

impl FromStr for Start {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refused = || Error::invalid(format!("`{text}` is not a position")).help(format!("use {FORMS}"));
        let count = |digits: &str| {
            let digits = Some(digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
            digits.and_then(|digits| digits.parse().ok()).ok_or_else(refused)
        };
        match text {
            "earliest" => return Ok(Self::Earliest),
            "latest" => return Ok(Self::Latest),
            _ => {}
        }
        if let Some(ago) = text.strip_prefix("@-") {
            return humantime::parse_duration(ago).map(Self::Ago).map_err(|error| refused().because(error));
        }
        if let Some(time) = text.strip_prefix('@') {
            return time.parse().map(Self::At).map_err(|error: Error| refused().because(error));
        }
        if let Some(event) = text.strip_prefix("id:") {
            if event.is_empty() || event.len() > EVENT_ID_BYTES_MAX {
                return Err(refused());
            }
            return Ok(Self::After(EventId(event.into())));
        }
        match (text.strip_prefix('+'), text.strip_prefix('-')) {
            (Some(digits), _) => count(digits).map(Self::AfterEarliest),
            (_, Some(digits)) => count(digits).map(Self::BeforeHead),
            _ => Err(refused()),
        }
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Earliest => f.write_str("earliest"),
            Self::Latest => f.write_str("latest"),
            Self::At(time) => write!(f, "@{time}"),
            Self::Ago(ago) => write!(f, "@-{}", humantime::format_duration(*ago).to_string().replace(' ', "")),
            Self::AfterEarliest(count) => write!(f, "+{count}"),
            Self::BeforeHead(count) => write!(f, "-{count}"),
            Self::After(event) => write!(f, "id:{event}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_reads_what_it_prints() {
        for text in ["earliest", "latest", "@2026-11-24T08:30:00Z", "@-1h10m", "+0", "+100", "-7", "id:a:b c"] {
            assert_eq!(text.parse::<Start>().unwrap().to_string(), text);
        }
        assert_eq!("@-10m".parse::<Start>().unwrap(), Start::Ago(Duration::from_secs(600)));
    }

    #[test]
    fn anything_else_is_refused_with_the_forms() {
        let long = format!("id:{}", "x".repeat(256));
        for text in [
            "",
            "Earliest",
            "5",
            "+",
            "+-1",
            "++1",
            "-x",
            "@",
            "@-",
            "@yesterday",
            "id:",
            &long,
            "+99999999999999999999",
        ] {
            let error = text.parse::<Start>().unwrap_err();
            assert!(error.way_out().is_some_and(|help| help.contains(FORMS)), "{text}");
        }
    }
}
