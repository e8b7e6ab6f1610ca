//! A handler's view of its consumer's state: reads go through to the store, writes are held back as changes.
//!
//! It keeps a bounded cache across commits. That stays true because every writer of a scope moves the position's
//! revision, and a loop that finds its revision moved drops handler and view.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use bytestring::ByteString;

use crate::{
    cache::{Cache, KeyRef},
    changes::{Changes, Emit, Write},
    clock::Clock,
    deployment::StateScope,
    emitted::Emitted,
    error::{Error, Kind, Result},
    event::{Event, EventId, EventKey, NewEvent, StreamName, Timestamp},
    limits::{EVENT_BYTES_MAX, Limits, SCAN_ENTRIES_MAX, STATE_KEY_BYTES_MAX, STATE_VALUE_BYTES_MAX},
    scan::{self, Held},
    store::{Key, Scope, Store},
    tenant::{ShardId, StreamId},
};

/// How many bytes each of a view's two cache generations may hold.
const CACHE_GENERATION_BYTES: usize = 2 * 1024 * 1024;

/// What a view is made of.
#[derive(Clone)]
pub struct ViewSpec {
    /// Where the state is.
    pub store: Arc<dyn Store>,
    /// Whose it is.
    pub shard: ShardId,
    /// Which part of it an event sees.
    pub scope: StateScope,
    /// The stream that the events come from.
    pub stream: StreamId,
    /// The position's incarnation and generation: parts of an emitted event's key.
    pub incarnation: (u64, u32),
    /// The streams that may be emitted to.
    pub granted: Arc<HashSet<StreamName>>,
    /// What an event may use.
    pub limits: Arc<Limits>,
    /// Stamps emitted events.
    pub clock: Clock,
    /// What is not emitted again.
    pub emitted: Option<Arc<Emitted>>,
}

/// See the module.
pub struct View {
    spec: ViewSpec,
    part: ByteString,
    causes: Vec<Cause>,
    call: Call,
    changes: Changes,
    young: Cache,
    old: Cache,
    knows: Knows,
    /// Whether the cache has what an event wrote that does not stand.
    is_tainted: bool,
}

/// What the cache says of a key that is not in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Knows {
    /// Nobody has looked yet.
    #[default]
    Unasked,
    /// The state was empty, and all that was written since is in the cache: there is no such key.
    All,
    /// It may be in the store.
    Some,
}

/// An event that is being handled: what is emitted is caused by it.
struct Cause {
    event: EventId,
    at: Timestamp,
    emitted: u32,
    /// Whether it was all emitted before.
    is_over: bool,
}

/// What the event that is being handled has asked for so far.
#[derive(Default)]
struct Call {
    /// How many of the changes' writes are older than it.
    first: usize,
    /// The keys that it writes, once there are so many writes that somebody must count them.
    keys: HashSet<String>,
    write_bytes: usize,
    emits: Vec<Emit>,
}

impl View {
    /// A view that has read nothing yet.
    pub fn new(spec: ViewSpec) -> Self {
        let part = spec.scope.part(spec.shard.index);
        Self {
            spec,
            part,
            causes: Vec::new(),
            call: Call::default(),
            changes: Changes::default(),
            young: Cache::default(),
            old: Cache::default(),
            knows: Knows::default(),
            is_tainted: false,
        }
    }

    /// The limits that hold for each event.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.spec.limits
    }

    /// Whose view it is.
    pub fn shard(&self) -> &ShardId {
        &self.spec.shard
    }

    /// Which part of the state an event sees.
    pub fn state_scope(&self) -> StateScope {
        self.spec.scope
    }

    /// The event that is being handled, or a batch's first.
    pub fn event(&self) -> Option<&EventId> {
        self.causes.first().map(|cause| &cause.event)
    }

    /// Begins an event: reads and writes are now in its scope, emitted events are caused by it.
    pub fn begin(&mut self, event: &Event) {
        self.begin_batch(std::slice::from_ref(event));
    }

    /// Begins events that are handled in one call, and share what each of them may use. Where the state's scope is
    /// the key they must be of one foreign id.
    pub fn begin_batch(&mut self, events: &[Event]) {
        if let (StateScope::Key, Some(first)) = (self.spec.scope, events.first()) {
            // A copy: the id is a slice of its whole chunk's memory, and the part outlives that in every key.
            self.part = ByteString::from(&*first.foreign_id);
        }
        self.causes.clear();
        let emitted = self.spec.emitted.as_deref();
        self.causes.extend(events.iter().map(|event| Cause {
            event: event.id.clone(),
            at: event.timestamp,
            emitted: 0,
            is_over: emitted.is_some_and(|emitted| emitted.has(event)),
        }));
    }

    /// Keeps what was asked for since the last `keep`: it stands.
    pub fn keep(&mut self) {
        self.changes.emits.append(&mut self.call.emits);
        self.call.first = self.changes.writes.len();
        self.call.keys.clear();
        self.call.write_bytes = 0;
    }

    /// Hands the kept changes out.
    pub fn take(&mut self) -> Changes {
        let mut changes = std::mem::take(&mut self.changes);
        let stand = std::mem::take(&mut self.call.first);
        self.is_tainted |= changes.writes.len() > stand;
        changes.writes.truncate(stand);
        if !changes.writes.is_empty() {
            changes.consumer = Some(self.spec.shard.consumer.clone());
        }
        changes
    }

    /// Whether all that it knows stands: nothing was asked for that nobody has taken, such as what `init` wrote before the first
    /// event, and nothing that was dropped.
    pub fn is_clean(&self) -> bool {
        self.changes.is_empty() && self.call.emits.is_empty() && !self.is_tainted
    }

    /// A view for the handler that takes over: what is known of the state, what is being committed included, stays known.
    pub fn renewed(self, spec: ViewSpec) -> Self {
        let knows = if spec.scope == self.spec.scope { self.knows } else { Knows::default() };
        Self { young: self.young, old: self.old, knows, ..Self::new(spec) }
    }

    /// The commit before the one that is being gathered stands. Only now may the cache forget its older generation:
    /// what is in there is in the store. (One commit at most is in flight; the younger generation may hold writes of
    /// it and of the next.)
    pub fn committed(&mut self) {
        if self.young.bytes() > CACHE_GENERATION_BYTES {
            if !self.old.is_empty() {
                self.knows = Knows::Some;
            }
            self.old = std::mem::take(&mut self.young);
        }
    }

    /// The value of a key.
    pub async fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>> {
        if let Some(value) = self.cached(key) {
            return Ok(value);
        }
        if self.knows_all().await? {
            return Ok(None);
        }
        let values = self.spec.store.get(&self.scope(), &[key.to_owned().into()]).await?;
        let value = values.into_iter().next().flatten();
        self.remember(key, value.as_deref());
        Ok(value.map(Vec::from))
    }

    /// The values of keys, in their order, with one question to the store.
    pub async fn get_many(&mut self, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>> {
        let mut values: Vec<Option<Option<Vec<u8>>>> = keys.iter().map(|key| self.cached(key)).collect();
        let is_missing = |(key, value): (&String, &Option<_>)| value.is_none().then(|| Key::from(key.as_str()));
        let missing: Vec<Key> = keys.iter().zip(&values).filter_map(is_missing).collect();
        if !missing.is_empty() && !self.knows_all().await? {
            let stored = self.spec.store.get(&self.scope(), &missing).await?;
            let gaps = values.iter_mut().filter(|value| value.is_none());
            for ((gap, key), value) in gaps.zip(missing).zip(stored) {
                self.remember(&key, value.as_deref());
                *gap = Some(value.map(Vec::from));
            }
        }
        Ok(values.into_iter().map(Option::flatten).collect())
    }

    /// Entries by prefix, after a key, in order. What was written and is not committed yet is among them.
    pub async fn scan(&mut self, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<(Key, Bytes)>> {
        let limit = limit.min(SCAN_ENTRIES_MAX);
        let page = |from: Option<Key>, want| {
            let (store, scope, prefix) = (self.spec.store.clone(), self.scope(), prefix.to_owned());
            async move { store.scan(&scope, &prefix, from.as_deref(), want).await }
        };
        scan::merged(self.held(prefix, after), after, limit, page).await
    }

    /// Sets or deletes a key.
    pub fn write(&mut self, key: &str, value: Option<&[u8]>) -> Result<()> {
        let limits = &self.spec.limits;
        let events = self.causes.len().max(1);
        let keys_max = (limits.state_keys as usize).saturating_mul(events);
        let bytes_max = usize::try_from(limits.state_bytes).unwrap_or(usize::MAX).saturating_mul(events);
        let value_bytes = value.map_or(0, <[u8]>::len);
        check("a state key", "bytes", key.len(), STATE_KEY_BYTES_MAX)?;
        check("a state value", "bytes", value_bytes, STATE_VALUE_BYTES_MAX)?;
        let bytes = self.call.write_bytes + key.len() + value_bytes;
        check("limits.state", "bytes written by one event", bytes, bytes_max)?;
        self.check_keys(key, keys_max)?;
        self.call.write_bytes = bytes;
        self.young.put(KeyRef { part: &self.part, key }, value);
        self.changes.writes.push(Write { part: &self.part, key, value });
        Ok(())
    }

    /// Counts a key that is to be written. As long as there are fewer writes than keys allowed, nobody needs to know
    /// how many of them are of the same key.
    fn check_keys(&mut self, key: &str, most: usize) -> Result<()> {
        let (Call { first, keys, .. }, writes) = (&mut self.call, &self.changes.writes);
        if writes.len() - *first < most {
            return Ok(());
        }
        if keys.is_empty() {
            // A call sees one part of the state.
            keys.extend(writes.since(*first).map(|write| write.key.to_owned()));
        }
        keys.insert(key.to_owned());
        check("limits.state-keys", "keys written by one event", keys.len(), most)
    }

    /// Emits an event to one of the granted streams.
    pub fn emit(&mut self, stream: StreamName, event: NewEvent) -> Result<()> {
        self.emit_for(0, stream, event)
    }

    /// Emits an event that the `index`-th of the events that are being handled caused.
    pub fn emit_for(&mut self, index: u32, stream: StreamName, mut event: NewEvent) -> Result<()> {
        if !self.spec.granted.contains(&stream) {
            return Err(Error::new(Kind::Denied, format!("stream `{stream}` was not granted to {}", self.spec.shard))
                .help(format!("add \"{stream}\" to the consumer's grants.emit")));
        }
        if self.causes.is_empty() {
            return Err(Error::invalid("an event can be emitted only while an event is handled: `init` has none"));
        }
        let events = self.causes.len();
        let cause = self.causes.get(index as usize).ok_or_else(|| {
            Error::invalid(format!("an event was emitted for event {index} of a batch of {events}; they count from 0"))
        })?;
        check(
            "limits.emits",
            "events emitted by one event",
            cause.emitted as usize + 1,
            self.spec.limits.emits as usize,
        )?;
        check("an event", "bytes", event.metadata.len() + event.foreign_id.len(), EVENT_BYTES_MAX)?;
        event.timestamp = self.spec.clock.now();
        let key = self.emit_key(cause);
        let stream = StreamId { tenant: self.spec.stream.tenant.clone(), name: stream };
        if !cause.is_over {
            self.call.emits.push(Emit { key, stream, event });
        }
        if let Some(cause) = self.causes.get_mut(index as usize) {
            cause.emitted += 1;
        }
        Ok(())
    }

    /// The same whenever the same event is handled again: of consumer, incarnation, generation, stream, event and n.
    fn emit_key(&self, cause: &Cause) -> EventKey {
        let ViewSpec { shard, stream, incarnation: (incarnation, generation), .. } = &self.spec;
        EventKey::new(
            cause.at,
            &[
                shard.consumer.tenant.0.as_str().as_bytes(),
                shard.consumer.name.as_str().as_bytes(),
                &incarnation.to_le_bytes(),
                &generation.to_le_bytes(),
                stream.name.as_str().as_bytes(),
                cause.event.0.as_bytes(),
                &cause.emitted.to_le_bytes(),
            ],
        )
    }

    fn scope(&self) -> Scope {
        Scope { consumer: self.spec.shard.consumer.clone(), part: self.part.clone() }
    }

    /// Whether a key that is not in the cache is nowhere. A consumer that begins with an empty state, as each does that
    /// replays a stream, learns so with one read, in place of one for every new key.
    async fn knows_all(&mut self) -> Result<bool> {
        if self.knows == Knows::Unasked {
            // The state of a key is another one with every event: it is not worth the question.
            let asks = self.spec.scope != StateScope::Key;
            let is_empty = asks && self.spec.store.scan(&self.scope(), "", None, 1).await?.is_empty();
            self.knows = if is_empty { Knows::All } else { Knows::Some };
        }
        Ok(self.knows == Knows::All)
    }

    fn cached(&self, key: &str) -> Option<Option<Vec<u8>>> {
        let key = KeyRef { part: &self.part, key };
        let value = self.young.get(key).or_else(|| self.old.get(key))?;
        Some(value.map(<[u8]>::to_vec))
    }

    /// Keeps what was read, unless one batch alone has read more than the cache is meant for.
    fn remember(&mut self, key: &str, value: Option<&[u8]>) {
        if self.young.bytes() > 2 * CACHE_GENERATION_BYTES {
            return;
        }
        self.young.put(KeyRef { part: &self.part, key }, value);
    }

    /// What was written below a prefix and may not be in the store yet: the cache knows all of it.
    fn held(&self, prefix: &str, after: Option<&str>) -> Held {
        let wanted = |KeyRef { part, key }: KeyRef<'_>| {
            *part == *self.part && key.starts_with(prefix) && after.is_none_or(|after| key > after)
        };
        let found = self.old.iter().chain(self.young.iter()).filter(|(key, _)| wanted(*key));
        found.map(|(KeyRef { key, .. }, value)| (key.into(), value.map(Bytes::copy_from_slice))).collect()
    }
}

fn check(name: &str, unit: &str, found: usize, most: usize) -> Result<()> {
    if found <= most {
        return Ok(());
    }
    Err(Error::limit(format!("{name}: {found} {unit}, at most {most} are allowed")))
}
