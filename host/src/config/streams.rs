//! The `[stream.NAME]` tables, and what in them and elsewhere names tables and columns of a database.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    authored::{self, Named},
    places::below,
    problem::Code,
    resolve::Resolver,
    resolved::{Store, StoreUrl, Stream},
};
use crate::{
    backend::foreign::ForeignTable,
    deployment::LegacyCursor,
    tenant::{Identifier, Name, StreamId},
};

impl Resolver<'_, '_> {
    pub(super) fn streams(
        &mut self,
        authored: &Named<authored::Stream>,
        stores: &Option<BTreeMap<Name, Store>>,
    ) -> BTreeMap<Name, Stream> {
        let mut streams = BTreeMap::new();
        for (text, stream) in authored {
            let path = below("stream", text);
            let name = self.name(&path, text);
            let tenant = self.tenant(&path, stream.tenant.as_deref());
            let store = self.store(&path, stream.store.as_deref(), None, stores);
            let sample = stream.sample.as_deref().map(|sample| self.path(sample));
            let (Some(name), Some(store)) = (name, store) else { continue };
            let table = stream.table.as_ref().map(|table| self.table(&below(&path, "table"), table));
            if table.is_some() {
                self.needs_server(&below(&path, "table"), &store, stores);
            }
            let Some(table) = table.map_or(Some(None), |table| table.map(Some)) else { continue };
            let order = stream.order.unwrap_or_default();
            let at = format!("{path}.retain");
            let retain = stream
                .retain
                .as_deref()
                .map(|text| self.duration(&at, Some(text), Duration::MAX, Duration::from_secs(1)));
            if retain.is_some() && table.is_some() {
                let message = "`retain`: another program's table is pruned by that program".to_owned();
                self.places.at_value(Code::BadValue, &at, message, Some("leave `retain` out".to_owned()));
            }
            let id = StreamId { tenant, name: name.clone() };
            streams.insert(name, Stream { id, store, sample, retain, order, table });
        }
        streams
    }

    fn table(&mut self, path: &str, authored: &authored::Table) -> Option<ForeignTable> {
        let name = self.required(path, "name", authored.name.as_deref());
        let usual = ForeignTable::named(name.and_then(|name| self.identifier(path, "name", name))?);
        let mut column = |key, text: &Option<String>| self.identifier(path, key, text.as_deref()?);
        Some(ForeignTable {
            schema: column("schema", &authored.schema),
            id: column("id", &authored.id).unwrap_or(usual.id),
            foreign_id: column("foreign-id", &authored.foreign_id).unwrap_or(usual.foreign_id),
            timestamp: column("timestamp", &authored.timestamp).unwrap_or(usual.timestamp),
            r#type: column("type", &authored.r#type).unwrap_or(usual.r#type),
            metadata: column("metadata", &authored.metadata),
            trace: column("trace", &authored.trace),
            sequence: column("sequence", &authored.sequence),
            noops: authored.noops.unwrap_or(usual.noops),
            name: usual.name,
        })
    }

    /// A row of reflex's, of a consumer of this name.
    pub(super) fn legacy_cursor(
        &mut self,
        path: &str,
        authored: &authored::LegacyCursor,
        consumer: &str,
    ) -> Option<Arc<LegacyCursor>> {
        let table = self.required(path, "table", authored.table.as_deref());
        let table = table.and_then(|table| self.identifier(path, "table", table))?;
        let mut column = |key, text: &Option<String>| self.identifier(path, key, text.as_deref()?);
        Some(Arc::new(LegacyCursor {
            table,
            schema: column("schema", &authored.schema),
            id: column("id", &authored.id).unwrap_or(Identifier::plain("id")),
            cursor: column("cursor", &authored.cursor).unwrap_or(Identifier::plain("last_event_id")),
            updated_at: column("updated-at", &authored.updated_at).unwrap_or(Identifier::plain("updated_at")),
            name: authored.name.clone().unwrap_or_else(|| consumer.to_owned()),
            mirror: authored.mirror.unwrap_or_default(),
        }))
    }

    fn identifier(&mut self, path: &str, key: &str, text: &str) -> Option<Identifier> {
        let parsed = text.parse::<Identifier>();
        if let Err(error) = &parsed {
            self.places.at_value(Code::BadValue, &below(path, key), error.to_string(), None);
        }
        parsed.ok()
    }

    /// Reports what only a database on a server can have.
    fn needs_server(&mut self, path: &str, store: &Name, stores: &Option<BTreeMap<Name, Store>>) {
        let found = stores.as_ref().and_then(|stores| stores.get(store));
        if found.is_some_and(|store| matches!(store.url, StoreUrl::Sqlite(_))) {
            let message =
                format!("store `{store}` is a SQLite file: only MySQL, MariaDB and PostgreSQL have such tables");
            let suggestion = format!("give store `{store}` the url of a server, or name another store");
            self.places.at_key(Code::Unsupported, path, message, Some(suggestion));
        }
    }

    /// Reports a cursor of reflex's that the consumer could not have had, or cannot be given.
    pub(super) fn check_legacy_cursor(&mut self, path: &str, stream: &Stream, store: Option<&Store>) {
        if stream.table.is_none() {
            let message =
                format!("reflex has no cursor in stream `{}`: that is a table of tendon's own", stream.id.name);
            let suggestion = format!("say with [stream.{}.table] which table reflex reads", stream.id.name);
            self.places.at_key(Code::BadValue, path, message, Some(suggestion));
        }
        if store.is_some_and(|store| !store.url.is_mysql()) {
            let message =
                "reflex's cursors are in a MySQL or MariaDB database, the consumer's store is none".to_owned();
            self.places.at_key(Code::Unsupported, path, message, None);
        }
    }
}
