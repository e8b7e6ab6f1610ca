//! A scan of a store's rows, merged with what is not in them yet.

use std::{collections::BTreeMap, future::Future};

use bytes::Bytes;

use crate::{error::Result, store::Key};

/// What is not in the rows yet: values, and none where a key was deleted.
pub(crate) type Held = BTreeMap<Key, Option<Bytes>>;

/// The first `limit` entries after `after`. `page` reads rows after a key, at most as many as it is told.
pub(crate) async fn merged<F>(
    held: Held,
    after: Option<&str>,
    limit: u32,
    page: impl Fn(Option<Key>, u32) -> F,
) -> Result<Vec<(Key, Bytes)>>
where
    F: Future<Output = Result<Vec<(Key, Bytes)>>>,
{
    let mut found = BTreeMap::new();
    let mut from = after.map(|after| Key::from(after.to_owned()));
    loop {
        let rows = page(from.clone(), limit).await?;
        let full = rows.len() == limit as usize;
        from = rows.last().map(|(key, _)| key.clone());
        found.extend(rows.into_iter().filter(|(key, _)| !held.contains_key(key)));
        if !full || found.len() >= limit as usize {
            break;
        }
    }
    // A held key beyond a full last page may come after rows that were not read: it must wait its turn.
    let horizon = if found.len() >= limit as usize { from } else { None };
    let near = |key: &Key| horizon.as_ref().is_none_or(|horizon| key <= horizon);
    found.extend(held.into_iter().filter(|(key, _)| near(key)).filter_map(|(key, value)| Some((key, value?))));
    Ok(found.into_iter().take(limit as usize).collect())
}
