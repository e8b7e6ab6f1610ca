//! The values that the operator configured for this consumer.

use crate::host;

/// The value of a key.
pub fn get(key: &str) -> Option<String> {
    host::config_get(key)
}

/// All keys and values, in the order of the keys.
pub fn all() -> Vec<(String, String)> {
    host::config_all()
}
