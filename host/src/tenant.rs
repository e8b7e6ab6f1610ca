//! Names. A tenant is inside every id of something that a tenant owns, so that no unscoped read can be written.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 63;

/// A name of `[a-z0-9-]`, 1 to 63 bytes, that neither begins nor ends with `-`. It is safe in a table's name, a path,
/// a metric's label and a URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

impl Name {
    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let outer = text.starts_with('-') || text.ends_with('-');
        if text.is_empty() || text.len() > NAME_BYTES_MAX || outer || !text.bytes().all(allowed) {
            return Err(Error::invalid(format!(
                "`{text}` is not a name: use 1 to {NAME_BYTES_MAX} of a-z, 0-9 and -, with no - at either end"
            )));
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for Name {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The longest name of a table or a column: PostgreSQL has room for this.
const IDENTIFIER_BYTES_MAX: usize = 63;

/// A name that a database's owner gave to a table or a column: letters, digits, `_`, `$` and `-`, as the server has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Identifier(String);

impl Identifier {
    /// One of our own making.
    pub(crate) fn plain(text: &'static str) -> Self {
        Self(text.to_owned())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Identifier {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '$' | '-');
        if text.is_empty() || text.len() > IDENTIFIER_BYTES_MAX || !text.chars().all(is_plain) {
            return Err(Error::invalid(format!(
                "`{text}` is no name of a table or column: 1 to {IDENTIFIER_BYTES_MAX} letters, digits, `_`, `$` or `-`"
            )));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Identifier {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Identifier> for String {
    fn from(identifier: Identifier) -> Self {
        identifier.0
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The owner of consumers and streams.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TenantId(pub Name);

impl Default for TenantId {
    /// The tenant of a host that serves only one.
    fn default() -> Self {
        Self(Name("default".into()))
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A stream of one tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StreamId {
    /// Whose stream it is.
    pub tenant: TenantId,
    /// Its name, unique for the tenant.
    pub name: Name,
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.name)
    }
}

/// A consumer of one tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConsumerId {
    /// Whose consumer it is.
    pub tenant: TenantId,
    /// Its name, unique for the tenant.
    pub name: Name,
}

impl fmt::Display for ConsumerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.name)
    }
}

/// One shard of a consumer; its index counts from 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ShardId {
    /// Whose shard it is.
    pub consumer: ConsumerId,
    /// Which one.
    pub index: u32,
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.consumer, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_lowercase_letters_digits_and_inner_dashes() {
        for good in ["a", "orders-2", "0", &"x".repeat(63)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a/b", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn names_that_could_leave_their_quotes_are_refused() {
        for good in ["events", "Order_Events", "a$b-c", &"x".repeat(63)] {
            assert_eq!(good.parse::<Identifier>().unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a\"b", "a`b", "a.b", "a;b", "ä", "a\0", &"x".repeat(64)] {
            assert!(bad.parse::<Identifier>().is_err(), "{bad} was taken");
        }
    }
}
