//! The `[consumer.NAME]` tables.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use super::{
    Components,
    authored::{self, Named},
    places::{below, did_you_mean},
    problem::Code,
    resolve::Resolver,
    resolved::{Consumer, Store, Stream},
    start::{self, Start},
    units,
};
use crate::{
    batch::BatchPolicy,
    deployment::StateScope,
    error::Error,
    event_file::FOREIGN_ID_BYTES_MAX,
    filter::{self, Filter},
    limits::Limits,
    policy::{OnExhausted, RetryPolicy},
    tenant::{ConsumerId, Name, StreamId, TenantId},
    topology::{SHARDS_MAX, Shards},
};

/// A WebAssembly memory of 32 bits ends here.
const MEMORY_BYTES_MAX: u64 = 4 << 30;
/// Less than the first of these the compiler does not start in.
const COMPILE_MEMORY_BYTES: std::ops::RangeInclusive<u64> = 128 << 20..=64 << 30;

/// Any `u32` from 1.
const POSITIVE: RangeInclusive<u32> = 1..=u32::MAX;
/// Any `u32`.
const ANY: RangeInclusive<u32> = 0..=u32::MAX;

impl Resolver<'_, '_> {
    pub(super) fn consumers(
        &mut self,
        authored: &Named<authored::Consumer>,
        stores: &Option<BTreeMap<Name, Store>>,
        streams: &BTreeMap<Name, Stream>,
    ) -> BTreeMap<Name, Consumer> {
        let mut consumers = BTreeMap::new();
        for (text, consumer) in authored {
            let path = below("consumer", text);
            let name = self.name(&path, text);
            let resolved = self.consumer(&path, name.as_ref(), consumer, stores, streams);
            if let (Some(name), Some(consumer)) = (name, resolved) {
                consumers.insert(name, consumer);
            }
        }
        consumers
    }

    fn consumer(
        &mut self,
        path: &str,
        name: Option<&Name>,
        authored: &authored::Consumer,
        stores: &Option<BTreeMap<Name, Store>>,
        streams: &BTreeMap<Name, Stream>,
    ) -> Option<Consumer> {
        let tenant = self.tenant(path, authored.tenant.as_deref());
        let component = self.component(path, authored.component.as_deref());
        let stream = self
            .required(path, "stream", authored.stream.as_deref())
            .and_then(|text| self.stream(&format!("{path}.stream"), text, &tenant, streams));
        let store = self.store(path, authored.store.as_deref(), stream.map(|stream| &stream.store), stores);
        let start = self.start(path, authored.start.as_deref());
        let filter = self.filter(path, &authored.filter);
        let shards = self.shards(path, &authored.shards);
        self.check_state(path, authored.state, &shards, authored.retry.on_exhausted);
        let batch = self.batch(path, &authored.batch);
        let retry = self.retry(path, &authored.retry);
        let limits = self.limits(path, &authored.limits);
        let grants_emit = self.grants(path, authored, &tenant, store.as_ref(), streams);
        let legacy_cursor = authored.legacy_cursor.as_ref().and_then(|legacy| {
            let path = below(path, "legacy-cursor");
            if let Some(stream) = stream {
                let store = stores.as_ref().zip(store.as_ref()).and_then(|(stores, store)| stores.get(store));
                self.check_legacy_cursor(&path, stream, store);
            }
            self.legacy_cursor(&path, legacy, name.map_or("", Name::as_str))
        });
        let lag = self.duration(&format!("{path}.lag"), authored.lag.as_deref(), Duration::ZERO, Duration::ZERO);
        let version = self.number(&format!("{path}.state-version"), authored.state_version, 1, ANY);
        Some(Consumer {
            id: ConsumerId { tenant, name: name?.clone() },
            component: component?,
            stream: stream?.id.clone(),
            store: store?,
            start,
            filter,
            lag,
            state: authored.state,
            shards,
            batch,
            retry,
            limits,
            grants_emit,
            config: authored.config.clone(),
            state_version: version,
            legacy_cursor,
        })
    }

    fn component(&mut self, path: &str, text: Option<&str>) -> Option<std::path::PathBuf> {
        let text = self.required(path, "component", text)?;
        let path = format!("{path}.component");
        if text.contains("://") {
            let message = format!("`component` is {text:?}: this version reads components from files");
            self.places.at_value(Code::Unsupported, &path, message, Some("name a .wasm file".to_owned()));
            return None;
        }
        let file = self.path(text);
        if self.components == Components::MustExist && !file.is_file() {
            let what = if file.exists() { "is not a file" } else { "does not exist" };
            let message = format!("the component {} {what}", file.display());
            let suggestion = "build it with `tendon build`, or correct the path".to_owned();
            self.places.at_value(Code::MissingComponent, &path, message, Some(suggestion));
        }
        Some(file)
    }

    /// A declared stream of the tenant.
    fn stream<'s>(
        &mut self,
        path: &str,
        text: &str,
        tenant: &TenantId,
        streams: &'s BTreeMap<Name, Stream>,
    ) -> Option<&'s Stream> {
        let Some(stream) = streams.values().find(|stream| stream.id.name.as_str() == text) else {
            // A stream whose own table is wrong has been reported there.
            if self.places.value_at(&below("stream", text)).is_none() {
                let message = format!("there is no stream `{text}`");
                let names = streams.keys().map(Name::as_str);
                let suggestion = did_you_mean(text, names).unwrap_or_else(|| format!("add [stream.{text}]"));
                self.places.at_value(Code::UnknownStream, path, message, Some(suggestion));
            }
            return None;
        };
        if &stream.id.tenant != tenant {
            let message = format!("stream `{text}` belongs to tenant `{}`, not to `{tenant}`", stream.id.tenant);
            let suggestion = format!("write `tenant = \"{tenant}\"` in both, or declare another stream");
            self.places.at_value(Code::OtherTenant, path, message, Some(suggestion));
        }
        Some(stream)
    }

    fn start(&mut self, path: &str, text: Option<&str>) -> Start {
        let parsed = text.map(str::parse).transpose();
        parsed
            .unwrap_or_else(|error: Error| {
                let message = format!("`start`: {error}, expected {}", start::FORMS);
                let suggestion = text.and_then(|text| did_you_mean(text, ["earliest", "latest"]));
                self.places.at_value(Code::BadValue, &format!("{path}.start"), message, suggestion);
                None
            })
            .unwrap_or_default()
    }

    fn filter(&mut self, path: &str, authored: &authored::Filter) -> Filter {
        let mut types = Vec::new();
        for (index, number) in authored.types.iter().flatten().enumerate() {
            let path = format!("{path}.filter.types[{index}]");
            match i32::try_from(*number) {
                Ok(number) => types.push(number),
                Err(_) => {
                    let message = format!("`types` has {number}, expected {} to {}", i32::MIN, i32::MAX);
                    self.places.at_value(
                        Code::BadValue,
                        &path,
                        message,
                        Some("a type is a number of 32 bits".to_owned()),
                    );
                }
            }
        }
        types.sort_unstable();
        types.dedup();
        let mut foreign_ids = Vec::new();
        for (index, id) in authored.foreign_ids.iter().flatten().enumerate() {
            match id.len() {
                0..=FOREIGN_ID_BYTES_MAX => foreign_ids.push(id.as_str().into()),
                bytes => {
                    let message = format!("a foreign id of {bytes} bytes, at most {FOREIGN_ID_BYTES_MAX}");
                    self.places.at_value(Code::BadValue, &format!("{path}.filter.foreign-ids[{index}]"), message, None);
                }
            }
        }
        foreign_ids.sort_unstable();
        foreign_ids.dedup();
        if let Some(Err(error)) = authored.r#where.as_deref().map(filter::check) {
            let (message, help) = (format!("`where`: {error}"), error.way_out().map(str::to_owned));
            self.places.at_value(Code::BadValue, &format!("{path}.filter.where"), message, help);
        }
        Filter { types, foreign_ids, r#where: authored.r#where.clone() }
    }

    fn shards(&mut self, path: &str, authored: &authored::Shards) -> Shards {
        let by = authored.by.as_deref().map(str::parse).transpose().unwrap_or_else(|error: Error| {
            let (message, help) = (format!("`by`: {error}"), error.way_out().map(str::to_owned));
            self.places.at_value(Code::BadValue, &format!("{path}.shards.by"), message, help);
            None
        });
        let count = self.number(&format!("{path}.shards.count"), authored.count, 1, 1..=SHARDS_MAX);
        Shards { by: by.unwrap_or_default(), count }
    }

    /// Shards run side by side: no two of them may write the same part of a state.
    fn check_state(
        &mut self,
        path: &str,
        authored: Option<StateScope>,
        shards: &Shards,
        on_exhausted: Option<OnExhausted>,
    ) {
        let parks = on_exhausted == Some(OnExhausted::ParkKey);
        if parks && !shards.fit(StateScope::Key) {
            let message = "`on-exhausted` is park-key: the events of a foreign id must all be one shard's".to_owned();
            let suggestion = Some("write `shards = { by = \"foreign-id\", … }`".to_owned());
            self.places.at_value(Code::BadValue, &format!("{path}.shards.by"), message, suggestion);
        } else if parks && authored.is_some_and(|state| state != StateScope::Key) {
            let message = "`state` is shared by keys: what one writes that is parked would come too late".to_owned();
            let suggestion = Some("write `state = \"key\"`, or another `on-exhausted`".to_owned());
            self.places.at_value(Code::BadValue, &format!("{path}.state"), message, suggestion);
            return;
        }
        let Some(state) = authored.filter(|state| !shards.fit(*state)) else { return };
        let what = match state {
            StateScope::Key => "a state for each foreign id, whose events many shards have",
            StateScope::Consumer | StateScope::Shard => "one state for all shards",
        };
        let message = format!("`state` is {what}: they would overwrite what the others write");
        let suggestion = Some(format!("write `state = \"{}\"`, or `shards = {{ count = 1 }}`", shards.state().word()));
        self.places.at_value(Code::BadValue, &format!("{path}.state"), message, suggestion);
    }

    fn batch(&mut self, path: &str, authored: &authored::Batch) -> BatchPolicy {
        let default = BatchPolicy::default();
        let path = |key: &str| format!("{path}.batch.{key}");
        BatchPolicy {
            max: self.number(&path("max"), authored.max, default.max, POSITIVE),
            bytes: self.size(&path("bytes"), authored.bytes.as_deref(), default.bytes, 1..=MEMORY_BYTES_MAX),
            linger: self.duration(&path("linger"), authored.linger.as_deref(), default.linger, Duration::ZERO),
        }
    }

    fn retry(&mut self, path: &str, authored: &authored::Retry) -> RetryPolicy {
        let default = RetryPolicy::default();
        let path = |key: &str| format!("{path}.retry.{key}");
        let factor = authored.factor.unwrap_or(default.factor);
        if factor < 1.0 {
            let message = format!("`factor` is {factor}, expected 1 or more: waits may not shrink");
            self.places.at_value(Code::BadValue, &path("factor"), message, Some("write `factor = 2`".to_owned()));
        }
        let shortest = Duration::from_millis(1);
        let base = self.duration(&path("base"), authored.base.as_deref(), default.base, shortest);
        let cap = self.duration(&path("cap"), authored.cap.as_deref(), default.cap.max(base), shortest);
        if cap < base {
            let (base, cap) = (units::show_duration(base), units::show_duration(cap));
            let message = format!("`cap` is {cap}, less than `base`, which is {base}");
            self.places.at_value(Code::BadValue, &path("cap"), message, Some(format!("write `cap = \"{base}\"`")));
        }
        RetryPolicy {
            attempts: self.number(&path("attempts"), authored.attempts, default.attempts, POSITIVE),
            base,
            factor,
            cap,
            jitter: authored.jitter.unwrap_or(default.jitter),
            on_exhausted: authored.on_exhausted.unwrap_or(default.on_exhausted),
            parked_keys: self.number(&path("parked-keys"), authored.parked_keys, default.parked_keys, POSITIVE),
            parked_events: self.number(&path("parked-events"), authored.parked_events, default.parked_events, POSITIVE),
        }
    }

    fn limits(&mut self, path: &str, authored: &authored::Limits) -> Limits {
        let default = Limits::default();
        let path = |key: &str| format!("{path}.limits.{key}");
        let (least, some, any) = (Duration::from_millis(1), 1..=MEMORY_BYTES_MAX, 0..=MEMORY_BYTES_MAX);
        Limits {
            cpu: self.duration(&path("cpu"), authored.cpu.as_deref(), default.cpu, least),
            wall: self.duration(&path("wall"), authored.wall.as_deref(), default.wall, least),
            init: self.duration(&path("init"), authored.init.as_deref(), default.init, least),
            memory_bytes: self.size(
                &path("memory"),
                authored.memory.as_deref(),
                default.memory_bytes,
                65_536..=MEMORY_BYTES_MAX,
            ),
            component_bytes: self.size(
                &path("component"),
                authored.component.as_deref(),
                default.component_bytes,
                some.clone(),
            ),
            compile_cpu: self.duration(
                &path("compile-cpu"),
                authored.compile_cpu.as_deref(),
                default.compile_cpu,
                Duration::from_secs(1),
            ),
            compile_memory_bytes: self.size(
                &path("compile-memory"),
                authored.compile_memory.as_deref(),
                default.compile_memory_bytes,
                COMPILE_MEMORY_BYTES,
            ),
            hostcall_bytes: self.size(&path("hostcall"), authored.hostcall.as_deref(), default.hostcall_bytes, some),
            host_calls: self.number(&path("host-calls"), authored.host_calls, default.host_calls, ANY),
            emits: self.number(&path("emits"), authored.emits, default.emits, ANY),
            state_keys: self.number(&path("state-keys"), authored.state_keys, default.state_keys, ANY),
            state_bytes: self.size(&path("state"), authored.state.as_deref(), default.state_bytes, any.clone()),
            log_bytes: self.size(&path("log"), authored.log.as_deref(), default.log_bytes, any),
        }
    }

    fn grants(
        &mut self,
        path: &str,
        authored: &authored::Consumer,
        tenant: &TenantId,
        store: Option<&Name>,
        streams: &BTreeMap<Name, Stream>,
    ) -> Vec<Name> {
        let mut granted = Vec::new();
        for (index, text) in authored.grants.emit.iter().flatten().enumerate() {
            let path = format!("{path}.grants.emit[{index}]");
            let Some(stream) = self.stream(&path, text, tenant, streams) else { continue };
            if let Some(store) = store.filter(|store| **store != stream.store) {
                let StreamId { name, .. } = &stream.id;
                let message = format!(
                    "stream `{name}` is in store `{}`, the consumer in `{store}`: one transaction cannot cover both",
                    stream.store
                );
                let suggestion = format!("put both into one store: `store = \"{}\"`", stream.store);
                self.places.at_value(Code::OtherStore, &path, message, Some(suggestion));
            }
            granted.push(stream.id.name.clone());
        }
        granted.sort();
        granted.dedup();
        granted
    }
}

/// Values with bounds.
impl Resolver<'_, '_> {
    fn number(&mut self, path: &str, value: Option<i64>, default: u32, range: RangeInclusive<u32>) -> u32 {
        let Some(value) = value else { return default };
        match u32::try_from(value).ok().filter(|value| range.contains(value)) {
            Some(value) => value,
            None => {
                self.out_of_range(path, last(path), &value, range.start(), range.end(), &default);
                default
            }
        }
    }

    fn size(&mut self, path: &str, text: Option<&str>, default: u64, range: RangeInclusive<u64>) -> u64 {
        match text.map(units::size).transpose() {
            Ok(value) if value.is_none_or(|value| range.contains(&value)) => value.unwrap_or(default),
            Ok(_) => {
                let (from, to) = (units::show_size(*range.start()), units::show_size(*range.end()));
                let usual = format!("{:?}", units::show_size(default));
                self.out_of_range(path, last(path), &text.unwrap_or_default(), &from, &to, &usual);
                default
            }
            Err(refused) => self.refused(path, text, refused, default),
        }
    }

    pub(super) fn duration(&mut self, path: &str, text: Option<&str>, default: Duration, least: Duration) -> Duration {
        match text.map(units::duration).transpose() {
            Ok(value) if value.is_none_or(|value| value >= least) => value.unwrap_or(default),
            Ok(_) => {
                let least = units::show_duration(least);
                let usual = format!("{:?}", units::show_duration(default));
                self.out_of_range(path, last(path), &text.unwrap_or_default(), &least, &"a year", &usual);
                default
            }
            Err(refused) => self.refused(path, text, refused, default),
        }
    }

    fn refused<T>(&mut self, path: &str, text: Option<&str>, (what, meant): units::Refused, default: T) -> T {
        let message = format!("`{}` is {:?}: {what}", last(path), text.unwrap_or_default());
        self.places.at_value(Code::BadValue, path, message, meant);
        default
    }

    fn out_of_range<T: std::fmt::Display>(
        &mut self,
        path: &str,
        key: &str,
        found: &dyn std::fmt::Display,
        from: &T,
        to: &dyn std::fmt::Display,
        usual: &dyn std::fmt::Display,
    ) {
        let message = format!("`{key}` is {found}, expected {from} to {to}");
        let suggestion = Some(format!("write `{key} = {usual}`, the default, or leave it out"));
        self.places.at_value(Code::BadValue, path, message, suggestion);
    }
}

/// The last key of a path.
fn last(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, key)| key)
}
