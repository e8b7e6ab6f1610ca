//! Back from the resolved to the authored form, with every default written out.

use super::{authored, resolved, units::show_duration, units::show_size};
use crate::{
    backend::foreign::ForeignTable,
    deployment::LegacyCursor,
    limits::Limits,
    tenant::{Identifier, Name},
};

/// The config as a file that says everything. Reading it again gives an equal config, but for passwords, which are
/// not shown.
pub fn shown(config: &resolved::Config) -> authored::Root {
    let stores = config.stores.iter().map(|(name, store)| (name.to_string(), show_store(store)));
    let streams = config.streams.iter().map(|(name, stream)| (name.to_string(), show_stream(stream)));
    let consumers = config.consumers.iter().map(|(name, consumer)| (name.to_string(), show_consumer(consumer)));
    authored::Root {
        host: authored::Host {
            listen: Some(config.host.listen.to_string()),
            code_cache: config.host.code_cache.clone(),
        },
        store: stores.collect(),
        stream: streams.collect(),
        consumer: consumers.collect(),
    }
}

/// The same as TOML. The error is one of this crate's own making: every value here can be written.
pub fn to_toml(config: &resolved::Config) -> crate::error::Result<String> {
    toml::to_string(&shown(config))
        .map_err(|error| crate::error::Error::corrupt("the config cannot be written as TOML").because(error))
}

fn show_store(store: &resolved::Store) -> authored::Store {
    let url = match &store.url {
        resolved::StoreUrl::Sqlite(file) => format!("sqlite://{}", file.display()),
        resolved::StoreUrl::Server(url) => url.to_string(),
    };
    authored::Store { url: Some(url), durability: Some(store.durability) }
}

fn show_stream(stream: &resolved::Stream) -> authored::Stream {
    authored::Stream {
        tenant: Some(stream.id.tenant.to_string()),
        store: Some(stream.store.to_string()),
        sample: stream.sample.as_ref().map(|file| file.display().to_string()),
        retain: stream.retain.map(show_duration),
        order: Some(stream.order),
        table: stream.table.as_ref().map(show_table),
    }
}

fn show_table(table: &ForeignTable) -> authored::Table {
    let optional = |name: &Option<Identifier>| name.as_ref().map(Identifier::to_string);
    authored::Table {
        name: Some(table.name.to_string()),
        schema: optional(&table.schema),
        id: Some(table.id.to_string()),
        foreign_id: Some(table.foreign_id.to_string()),
        timestamp: Some(table.timestamp.to_string()),
        r#type: Some(table.r#type.to_string()),
        metadata: optional(&table.metadata),
        trace: optional(&table.trace),
        sequence: optional(&table.sequence),
        noops: Some(table.noops),
    }
}

fn show_legacy_cursor(legacy: &LegacyCursor) -> authored::LegacyCursor {
    authored::LegacyCursor {
        table: Some(legacy.table.to_string()),
        schema: legacy.schema.as_ref().map(Identifier::to_string),
        name: Some(legacy.name.clone()),
        id: Some(legacy.id.to_string()),
        cursor: Some(legacy.cursor.to_string()),
        updated_at: Some(legacy.updated_at.to_string()),
        mirror: Some(legacy.mirror),
    }
}

fn show_consumer(consumer: &resolved::Consumer) -> authored::Consumer {
    let resolved::Consumer { batch, retry, limits, .. } = consumer;
    authored::Consumer {
        tenant: Some(consumer.id.tenant.to_string()),
        component: Some(consumer.component.display().to_string()),
        stream: Some(consumer.stream.name.to_string()),
        store: Some(consumer.store.to_string()),
        start: Some(consumer.start.to_string()),
        legacy_cursor: consumer.legacy_cursor.as_deref().map(show_legacy_cursor),
        filter: authored::Filter {
            types: Some(consumer.filter.types.iter().copied().map(i64::from).collect()),
            foreign_ids: Some(consumer.filter.foreign_ids.iter().map(ToString::to_string).collect()),
            r#where: consumer.filter.r#where.clone(),
        },
        lag: Some(show_duration(consumer.lag)),
        state: consumer.state,
        shards: authored::Shards {
            by: Some(consumer.shards.by.to_string()),
            count: Some(consumer.shards.count.into()),
        },
        batch: authored::Batch {
            max: Some(batch.max.into()),
            bytes: Some(show_size(batch.bytes)),
            linger: Some(show_duration(batch.linger)),
        },
        retry: authored::Retry {
            attempts: Some(retry.attempts.into()),
            base: Some(show_duration(retry.base)),
            factor: Some(retry.factor),
            cap: Some(show_duration(retry.cap)),
            jitter: Some(retry.jitter),
            on_exhausted: Some(consumer.retry.on_exhausted),
            parked_keys: Some(retry.parked_keys.into()),
            parked_events: Some(retry.parked_events.into()),
        },
        limits: show_limits(limits),
        grants: authored::Grants { emit: Some(consumer.grants_emit.iter().map(Name::to_string).collect()) },
        config: consumer.config.clone(),
        state_version: Some(consumer.state_version.into()),
    }
}

/// All limits as a file has them.
pub fn show_limits(limits: &Limits) -> authored::Limits {
    authored::Limits {
        memory: Some(show_size(limits.memory_bytes)),
        cpu: Some(show_duration(limits.cpu)),
        wall: Some(show_duration(limits.wall)),
        init: Some(show_duration(limits.init)),
        component: Some(show_size(limits.component_bytes)),
        compile_cpu: Some(show_duration(limits.compile_cpu)),
        compile_memory: Some(show_size(limits.compile_memory_bytes)),
        hostcall: Some(show_size(limits.hostcall_bytes)),
        host_calls: Some(limits.host_calls.into()),
        emits: Some(limits.emits.into()),
        state: Some(show_size(limits.state_bytes)),
        state_keys: Some(limits.state_keys.into()),
        log: Some(show_size(limits.log_bytes)),
    }
}
