//! Sends a consumer to another place of its stream, and removes one.

use serde::{Deserialize, Serialize};

use super::{Host, Running, moves::not_here};
use crate::{
    config::start::Start,
    dead_letter::Letters,
    deployment::{Deployment, Spec},
    error::{Error, Kind, Result},
    event::Cursor,
    open::{Open, OpenStore},
    parked::Parked,
    shard::Version,
    source::Source,
    start,
    store::{Commit, Epoch, Position, Rewrite},
    tenant::ConsumerId,
    topology::{self, SetAside, Target},
};

/// Lag is counted no further for a reset.
const EVENTS_MAX: u64 = 10_000_000;
/// Dead letters and parked events that a reset can remember.
const REMEMBERED_MAX: usize = 10_000;
const LETTERS_A_PAGE: u32 = 1_000;
/// How often it is tried while another host commits.
const ATTEMPTS: u32 = 20;

/// Where a consumer is to go, and what becomes of what it did beyond that.
#[derive(Clone, Debug)]
pub struct Reset {
    /// Where to.
    pub to: Start,
    /// Whether its state is emptied.
    pub clears_state: bool,
    /// Whether it emits again what it has emitted for the events that it now handles again.
    pub emits_again: bool,
    /// Whether it is only looked at what that would do.
    pub dry_run: bool,
}

/// What a reset did, or would do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Done {
    /// The place.
    pub cursor: String,
    /// Events of the stream between the place and the shard that is furthest ahead, which are handled again unless a filter leaves
    /// them out; counted up to 10,000,000.
    pub again: u64,
    /// Events between the shard that is furthest behind and the place, which whoever has not handled them passes over; likewise.
    pub skipped: u64,
    /// Dead letters beyond the place, which are no longer set aside: their events are handled anyway.
    pub dead_letters: u64,
    /// Parked events beyond the place, which wait no longer: likewise.
    #[serde(default)]
    pub parked: u64,
    /// Whether nothing was changed.
    pub dry_run: bool,
}

impl Host {
    /// Sends a consumer to another place. It stops meanwhile.
    pub async fn reset(&self, consumer: &ConsumerId, reset: Reset) -> Result<Done> {
        let _control = self.control.lock().await;
        let (config, open) = self.snapshot().await;
        config.consumer(consumer)?;
        let version = self.state.read().await.consumers.get(consumer).map(Running::version);
        let version = version.ok_or_else(|| not_here(consumer))?;
        let source = open.tailer(&version.spec.stream)?.source().clone();
        let cursor = place(&reset.to, &*source).await?;
        if reset.dry_run {
            let store = open.store(&version.spec.store)?;
            let rows = rows(store, consumer).await?;
            let (letters, parked) = held(store, consumer, &reset).await?;
            return done(&reset, &version.spec, &rows, (&letters, &parked), cursor, &*source).await;
        }
        let running = self.state.write().await.consumers.remove(consumer);
        if let Some(running) = running {
            running.stop().await;
        }
        let moved = self.move_to(&open, consumer, &version, &reset, cursor).await;
        let (version, answer) = match moved {
            Ok((version, done)) => (version, Ok(done)),
            Err(error) => (self.active_or(&open, consumer, &version).await, Err(error)),
        };
        self.replace(&open, consumer, version).await?;
        answer
    }

    /// What is active now, where something else may have taken place than was answered; what ran before, where that cannot be
    /// known. Should its rows be another deployment's, its shards say so.
    pub(super) async fn active_or(&self, open: &Open, consumer: &ConsumerId, before: &Version) -> Version {
        let known = async {
            let now = open.active_in(&before.spec.store, consumer).await?.ok_or_else(|| not_here(consumer))?;
            self.deployer.restore(open, now).await
        };
        let Version { epoch, spec, factory } = before;
        let before = || Version { epoch: *epoch, spec: spec.clone(), factory: factory.clone() };
        known.await.unwrap_or_else(|_| before())
    }

    async fn move_to(
        &self,
        open: &Open,
        consumer: &ConsumerId,
        version: &Version,
        reset: &Reset,
        cursor: Cursor,
    ) -> Result<(Version, Done)> {
        let store = open.store(&version.spec.store)?;
        let source = open.tailer(&version.spec.stream)?.source();
        let compare = |a: &Cursor, b: &Cursor| source.compare(a, b);
        let last_event = source.event_at(&cursor).await?.map(|event| event.hash());
        let digest = version.factory.digest();
        let component = store.database.store().component(&digest).await?;
        for _ in 0..ATTEMPTS {
            // The rows first: whatever is set aside or handled after that moves one of them, and the compare fails.
            let from = rows(store, consumer).await?;
            let (letters, parked) = held(store, consumer, reset).await?;
            let done = done(reset, &version.spec, &from, (&letters, &parked), cursor.clone(), &**source).await?;
            let purged = letters.iter().filter(|letter| compare(&letter.cursor, &cursor).is_gt());
            let purged = purged.map(|letter| (consumer.clone(), letter.event.clone())).collect();
            let unparked = parked.iter().filter(|parked| compare(&parked.letter.event.cursor, &cursor).is_gt());
            let unparked = unparked.map(Parked::id).collect();
            let waits = |parked: Parked| SetAside { event: parked.letter.event.id, cursor: parked.letter.event.cursor };
            let set_aside = letters.into_iter().chain(parked.into_iter().map(waits)).collect();
            let target = Target { cursor: cursor.clone(), last_event, emits_again: reset.emits_again, set_aside };
            let (to, past) = topology::move_all((consumer, &version.spec), target, &from, self.clock.now(), &compare);
            let spec = Spec { past, ..Spec::clone(&version.spec) };
            let at = self.clock.now();
            let deployment = Deployment { consumer: consumer.clone(), epoch: Epoch(0), digest, spec: spec.clone(), at };
            let commit = Commit {
                rewrite: Some(Rewrite { consumer: consumer.clone(), from, to, clears_state: reset.clears_state }),
                deployment: Some((deployment, component.clone())),
                follows: Some(version.epoch),
                purged,
                unparked,
                ..Commit::default()
            };
            match store.committer.commit(commit).await {
                Ok(committed) => {
                    let epoch = committed.epoch.ok_or_else(|| Error::corrupt("the store gave no epoch"))?;
                    return Ok((Version { epoch, spec: spec.into(), factory: version.factory.clone() }, done));
                }
                Err(error) if error.kind() == Kind::Fenced => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::fenced(format!("another host runs {consumer}")).help("stop the other host, then reset it again"))
    }

    /// Removes a consumer that is in no config any more, with everything that it has.
    pub async fn remove(&self, consumer: &ConsumerId) -> Result<()> {
        let _control = self.control.lock().await;
        let (config, open) = self.snapshot().await;
        if config.consumer(consumer).is_ok() {
            return Err(Error::invalid(format!("{consumer} is in the config, which would make it anew"))
                .help(format!("take [consumer.{}] out of the file first, which stops it", consumer.name)));
        }
        let mut found = false;
        for store in open.stores() {
            for attempt in 1..=ATTEMPTS {
                let from = rows(store, consumer).await?;
                if from.is_empty() && open.active_in(&store.name, consumer).await?.is_none() {
                    break;
                }
                found = true;
                let rewrite = Rewrite { consumer: consumer.clone(), from, to: Vec::new(), clears_state: true };
                let commit = Commit { rewrite: Some(rewrite), ..Commit::default() };
                match store.committer.commit(commit).await {
                    Err(error) if error.kind() == Kind::Fenced && attempt < ATTEMPTS => {}
                    answer => drop(answer?),
                }
            }
        }
        if found { Ok(()) } else { Err(Error::not_found(format!("no store has anything of {consumer}"))) }
    }
}

/// The cursor of a place that is there.
async fn place(to: &Start, source: &dyn Source) -> Result<Cursor> {
    if let Start::AfterEarliest(wanted) | Start::BeforeHead(wanted) = to {
        let events = source.lag(&Cursor::START, *wanted).await?.events;
        if events < *wanted {
            return Err(Error::invalid(format!("the stream has {events} events: {to} is beyond its ends"))
                .help("`--to earliest` and `--to latest` are the ends"));
        }
    }
    let cursor = start::resolve(to, source).await?;
    if let Start::At(time) = to
        && cursor == source.head().await?
        && source.event_at(&cursor).await?.is_none_or(|newest| newest.timestamp < *time)
    {
        return Err(Error::invalid(format!("the stream has no event of {time} or later: {to} is beyond its head"))
            .help("`--to latest` is the head"));
    }
    Ok(cursor)
}

async fn rows(store: &OpenStore, consumer: &ConsumerId) -> Result<Vec<Position>> {
    let mut rows = store.database.store().positions().await?;
    rows.retain(|row| row.shard.consumer == *consumer);
    Ok(rows)
}

/// Everything that a consumer has set aside, by where it is in the stream.
async fn letters(store: &OpenStore, consumer: &ConsumerId) -> Result<Vec<SetAside>> {
    let (mut which, mut all) = (Letters { limit: LETTERS_A_PAGE, ..Letters::default() }, Vec::new());
    loop {
        let page = store.database.store().dead_letters(consumer, &which).await?;
        let Some(last) = page.last() else { return Ok(all) };
        which.after = Some((last.at(), last.event.id.clone()));
        all.extend(page.into_iter().map(|letter| SetAside { event: letter.event.id, cursor: letter.event.cursor }));
    }
}

/// What a consumer has set aside and parked. Where nothing is to be emitted again it must be remembered that these never were.
async fn held(store: &OpenStore, consumer: &ConsumerId, reset: &Reset) -> Result<(Vec<SetAside>, Vec<Parked>)> {
    let (letters, parked) = (letters(store, consumer).await?, parked(store, consumer).await?);
    let count = letters.len() + parked.len();
    if count > REMEMBERED_MAX && !reset.emits_again {
        return Err(Error::invalid(format!(
            "{consumer} has {count} dead letters and parked events: no more than {REMEMBERED_MAX} can be told from those that \
             have emitted"
        ))
        .help(format!("redrive them first: `tendon dlq redrive {} --all`; or emit again", consumer.name)));
    }
    Ok((letters, parked))
}

/// Everything that a consumer has parked, in no order.
async fn parked(store: &OpenStore, consumer: &ConsumerId) -> Result<Vec<Parked>> {
    let (port, mut all) = (store.database.store(), Vec::new());
    for key in port.parked_keys(consumer).await? {
        let mut from = key.first;
        loop {
            let mut page = port.parked(consumer, key.key(), from, 1_000).await?;
            let Some(last) = page.last() else { break };
            from = last.place + 1;
            page.iter_mut().for_each(|parked| parked.letter.event.metadata.clear());
            all.append(&mut page);
        }
    }
    Ok(all)
}

/// What a reset does, counted.
async fn done(
    reset: &Reset,
    spec: &Spec,
    rows: &[Position],
    (letters, parked): (&[SetAside], &[Parked]),
    cursor: Cursor,
    source: &dyn Source,
) -> Result<Done> {
    let compare = |a: &Cursor, b: &Cursor| source.compare(a, b);
    let cursors = topology::cursors(spec, rows);
    let handled = spec.past.handled.iter().flat_map(|marks| &marks.cursors);
    let first = cursors.iter().chain(handled).max_by(|a, b| compare(a, b)).unwrap_or(&spec.start);
    let last = cursors.iter().min_by(|a, b| compare(a, b)).unwrap_or(&spec.start);
    let behind = source.lag(&cursor, EVENTS_MAX).await?.events;
    let again = behind.saturating_sub(source.lag(first, EVENTS_MAX).await?.events);
    let skipped = source.lag(last, EVENTS_MAX).await?.events.saturating_sub(behind);
    let dead_letters = letters.iter().filter(|letter| compare(&letter.cursor, &cursor).is_gt()).count() as u64;
    let parked = parked.iter().filter(|parked| compare(&parked.letter.event.cursor, &cursor).is_gt()).count() as u64;
    Ok(Done { cursor: cursor.to_string(), again, skipped, dead_letters, parked, dry_run: reset.dry_run })
}
