//! THE loop. It runs one shard: read a chunk, filter, call, merge the changes, one commit, and again.
//!
//! It is plain async code over the ports, a handler and a clock; a simulation runs this very code. Reading, calling
//! and committing overlap: one commit is in flight while the next batch is gathered. Whatever goes wrong ends
//! the run, and with it everything in memory; the next run begins from the row.

mod calling;
mod failure;
mod gathering;
mod held;
mod park;
mod parking;
mod redrive;
mod share;
mod suspect;

use std::sync::Arc;

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use self::{
    calling::Calls,
    failure::After,
    held::{Held, Seen},
    parking::Parking,
    redrive::Redriving,
    share::Share,
    suspect::Right,
};
use crate::{
    batch::{self, Gathered},
    changes::Changes,
    dead_letter::DeadLetter,
    deployment::Spec,
    error::{Error, Result},
    event::{Event, EventId, Timestamp},
    handler::{Failure, Handler},
    in_flight::InFlight,
    parked::{Parked, ParkedId},
    policy,
    shard::{Shard, Stop, Version},
    source,
    store::{Position, Reason, Revision, Status},
    suspicion::{Suspicion, is_suspect},
    tailer::{Piece, Subscription},
    tenant::ConsumerId,
    view::View,
};

/// Runs a shard until it stops. An error means that it stalled, or that somebody else moved its position: nothing in
/// memory is true any more, and a new run begins from the row.
pub async fn run(shard: &mut Shard) -> Result<Stop> {
    let mut run = Run::start(shard).await?;
    if let Some(stop) = run.stands() {
        run.give_back();
        run.commit().await?;
        run.settle().await?;
        return Ok(stop);
    }
    loop {
        let stop = match run.next().await? {
            Next::Events(piece) => run.handle(&piece).await?,
            Next::Held => run.handle_held().await?,
            Next::Due => run.rest().await.map(|()| None)?,
            Next::Swap => run.swap().await.map(|()| None)?,
            Next::Stop => Some(Stop::Asked),
            Next::Row => run.look_again().await?,
            Next::Redrive | Next::Parked => None,
        };
        if let Some(stop) = stop {
            run.give_back();
            run.commit().await?;
            run.settle().await?;
            return Ok(stop);
        }
        if run.redriving.is_due() {
            run.redrive().await?;
        }
        if run.is_parked_due() {
            run.retry_parked().await?;
        }
    }
}

/// What the loop does next.
enum Next {
    Events(Piece),
    Held,
    Due,
    Swap,
    Stop,
    Row,
    Redrive,
    Parked,
}

/// How work on some events ended.
enum Worked {
    All,
    /// Another version has taken over: what was left comes again.
    Swapped,
    Stopped(Stop),
}

/// A run of the loop.
struct Run<'a> {
    shard: &'a mut Shard,
    version: Arc<Version>,
    share: Share,
    events: Subscription,
    handler: Option<Box<dyn Handler>>,
    /// What the handler before it knew of the state, where that still is true.
    known: Option<View>,
    /// The row as it is once the commit in flight stands.
    row: Position,
    /// The row as the next commit makes it.
    next_row: Position,
    /// Whether it is to be written even if nothing was gathered: for another version, or a failure.
    row_is_due: bool,
    gathered: Gathered,
    /// When the first of what was gathered came in.
    since: Instant,
    changes: Changes,
    dead_letters: Vec<DeadLetter>,
    /// How many of them are new.
    set_aside: usize,
    /// What was set aside and may be waiting to be handled again.
    redriving: Redriving,
    /// The keys whose events wait.
    parking: Parking,
    /// What waits from now on, or for another reason, and how much of it is new.
    parked: Vec<Parked>,
    queued: u32,
    /// What waits no longer, and how much of it was handled.
    unparked: Vec<ParkedId>,
    drained: u32,
    /// What was set aside and has now been handled.
    purged: Vec<(ConsumerId, EventId)>,
    /// The last event that was passed.
    last: Option<Event>,
    /// What waits to be handled with others.
    held: Held,
    /// How the next calls are made, and those with parked events.
    calls: Calls,
    parked_calls: Calls,
    in_flight: InFlight,
    /// Whether the row says what is handled alone, and what it said before.
    is_marked: bool,
    kept: Option<Reason>,
    /// The right to handle what is accused.
    alone: Option<Right>,
}

impl<'a> Run<'a> {
    async fn start(shard: &'a mut Shard) -> Result<Self> {
        let version = shard.version.borrow_and_update().clone();
        let before = shard.store.load(&shard.id).await.ok();
        // Whoever may not run it does not disturb who does.
        before.iter().try_for_each(|row| is_of(row, &version))?;
        let row = shard.store.claim(&shard.id, &shard.owner).await?;
        is_of(&row, &version)?;
        source::verify(&**shard.tailer.source(), &row).await?;
        let mut next_row = row.clone();
        if row.revision == Revision(0) {
            next_row.cursor = version.spec.start.clone();
        }
        let share = Share::new(&version.spec, shard.id.index);
        let parking = Parking::load(&*shard.store, &shard.id.consumer, &share, &shard.metrics).await?;
        if !row.reason.as_ref().is_some_and(is_suspect) {
            // What was found out stands in the row by now, and whoever moved it wants another attempt.
            shard.remembered.suspicion.acquit();
        }
        if let Some(before) = before.filter(|before| before.owner.has_died()) {
            shard.remembered.suspicion = Suspicion::of(&before, &version.spec.batch, &**shard.tailer.source()).await?;
        }
        // What it was at is over, whoever it was.
        next_row.reason.take_if(|reason| is_suspect(reason));
        let mut run = Self {
            events: shard.tailer.subscribe(next_row.cursor.clone()),
            version: version.clone(),
            share,
            shard,
            handler: None,
            known: None,
            row,
            next_row,
            row_is_due: false,
            gathered: Gathered::default(),
            since: Instant::now(),
            changes: Changes::default(),
            dead_letters: Vec::new(),
            set_aside: 0,
            redriving: Redriving::new(),
            parking,
            parked: Vec::new(),
            queued: 0,
            unparked: Vec::new(),
            drained: 0,
            purged: Vec::new(),
            last: None,
            held: Held::default(),
            calls: Calls::Any,
            parked_calls: Calls::Any,
            in_flight: InFlight::default(),
            is_marked: false,
            kept: None,
            alone: None,
        };
        run.adopt(version);
        run.shard.adopted.send_replace(run.version.epoch);
        Ok(run)
    }

    /// Why the shard may not run, if so.
    fn stands(&self) -> Option<Stop> {
        let reason = || self.next_row.reason.clone();
        match self.next_row.status {
            Status::Running => None,
            Status::Blocked => Some(Stop::Blocked(reason())),
            Status::Paused => Some(Stop::Paused(reason())),
        }
    }

    /// Whatever comes first. More events come before a commit that is merely possible, and while a commit is in
    /// flight the next batch gathers.
    async fn next(&mut self) -> Result<Next> {
        loop {
            self.gathered.age = self.since.elapsed();
            let is_quiet = self.gathered.handled == 0;
            let quiet_wait = batch::wait(&self.version.spec.batch, &self.gathered).filter(|_| is_quiet);
            let parked_wait = self.parking.next_due().map(|due| due.since(self.shard.clock.now()));
            let held_wait = self.held.wait(self.version.spec.batch.linger);
            let look_at = self.redriving.look_at();
            let is_free = self.in_flight.is_empty();
            let is_idle_due = (!is_quiet || self.row_is_due) && is_free;
            tokio::select! {
                biased;
                () = is_raised(&mut self.shard.stop) => return Ok(Next::Stop),
                Ok(()) = self.shard.version.changed() => return Ok(Next::Swap),
                () = self.shard.poke.notified() => return Ok(Next::Row),
                piece = self.events.next() => return Ok(Next::Events(piece?)),
                () = sleep_until(look_at.unwrap_or(self.since)), if look_at.is_some() => return Ok(Next::Redrive),
                () = sleep(held_wait.unwrap_or_default()), if held_wait.is_some() => return Ok(Next::Held),
                () = sleep(parked_wait.unwrap_or_default()), if parked_wait.is_some() && is_free => return Ok(Next::Parked),
                () = std::future::ready(()), if is_idle_due => return Ok(Next::Due),
                commit = self.in_flight.next() => self.settled(&commit?),
                () = sleep(quiet_wait.unwrap_or_default()), if quiet_wait.is_some() => return Ok(Next::Due),
            }
        }
    }

    /// Handles the events of a piece, at once or with others. Gives a reason when the shard must stop.
    async fn handle(&mut self, piece: &Piece) -> Result<Option<Stop>> {
        let mut selected = self.share.select(piece, &**self.shard.tailer.source());
        let seen = Seen::of(piece, &mut selected);
        if self.version.factory.takes_many() {
            self.held.add(&selected.matching, seen);
            return self.handle_held().await;
        }
        match self.work(&selected.matching).await? {
            Worked::All => self.pass_over(seen).await,
            Worked::Swapped => Ok(None),
            Worked::Stopped(stop) => Ok(Some(stop)),
        }
    }

    /// Handles events, committing whenever that is due.
    async fn work(&mut self, mut rest: &[Event]) -> Result<Worked> {
        while let Some(first) = rest.first() {
            if self.parking.holds(first) && self.ready_at(first) <= self.shard.clock.now() {
                match self.park(first, None).await? {
                    After::Again => {}
                    After::Next => rest = rest.get(1..).unwrap_or_default(),
                    After::Stop(stop) => return Ok(Worked::Stopped(stop)),
                }
                if self.is_due_or_swapped().await? {
                    return Ok(Worked::Swapped);
                }
                continue;
            }
            let ready = self.ready(rest);
            if ready.is_empty() {
                let ready_at = match self.live(rest) {
                    [] => self.ready_at(first),
                    live => self.call_ready_at(live),
                };
                if let After::Stop(stop) = self.wait_until(ready_at).await? {
                    return Ok(Worked::Stopped(stop));
                }
                if self.is_swapped().await? {
                    return Ok(Worked::Swapped);
                }
                continue;
            }
            // What has failed before is tried alone.
            let most = if self.next_row.attempts > 0 { 1 } else { self.calls.most() };
            let handled = self.call(ready, most).await?;
            let (done, open) = rest.split_at(handled.done.min(rest.len()));
            self.gather(done, handled.changes);
            rest = open;
            if let Some(failure) = handled.failure {
                let undone = failure.index.saturating_sub(done.len());
                match self.failed(failure, undone, open.first().unwrap_or(first)).await? {
                    After::Again => {}
                    After::Next => rest = open.get(1..).unwrap_or_default(),
                    After::Stop(stop) => return Ok(Worked::Stopped(stop)),
                }
            }
            if self.is_due_or_swapped().await? {
                return Ok(Worked::Swapped);
            }
            if *self.shard.stop.borrow() && !rest.is_empty() {
                return Ok(Worked::Stopped(Stop::Asked));
            }
        }
        Ok(Worked::All)
    }

    /// Moves over what was looked at behind the last event that was handled.
    async fn pass_over(&mut self, seen: Seen) -> Result<Option<Stop>> {
        self.skip(&seen);
        if let Some((message, event)) = seen.failure {
            if let After::Stop(stop) = self.failed(Failure::of_filter(message), 0, &event).await? {
                return Ok(Some(stop));
            }
            self.events = self.shard.tailer.subscribe(self.next_row.cursor.clone());
        }
        self.commit_if_due().await?;
        Ok(None)
    }

    /// The first of the events whose keys are not parked.
    fn live<'e>(&self, events: &'e [Event]) -> &'e [Event] {
        if self.parking.is_empty() {
            return events;
        }
        let live = events.iter().take_while(|event| !self.parking.holds(event)).count();
        events.get(..live).unwrap_or_default()
    }

    /// The events that may be handled now: they are old enough, and the first of them is not to be tried again later.
    fn ready<'e>(&self, events: &'e [Event]) -> &'e [Event] {
        let live = self.live(events);
        if self.version.spec.lag.is_zero() && self.next_row.attempts == 0 {
            return live;
        }
        let now = self.shard.clock.now();
        if self.version.factory.takes_many() && self.call_ready_at(live) > now {
            return &[];
        }
        let ready = live.iter().take_while(|event| self.ready_at(event) <= now).count();
        live.get(..ready).unwrap_or_default()
    }

    /// When the first of the events may be handled, and with it all that share its call.
    fn call_ready_at(&self, events: &[Event]) -> Timestamp {
        let most = if self.version.factory.takes_many() { self.version.spec.batch.call_events_max() } else { 1 };
        let call = events.get(..most).unwrap_or(events);
        let first_and_last = [call.first(), call.last()];
        let ready_at = first_and_last.into_iter().flatten().map(|event| self.ready_at(event));
        ready_at.max().unwrap_or(Timestamp(i64::MIN))
    }

    /// When an event may be handled; long ago, where nothing is in its way.
    fn ready_at(&self, event: &Event) -> Timestamp {
        let Spec { lag, retry, .. } = &*self.version.spec;
        let old_enough = (!lag.is_zero()).then(|| event.timestamp.after(*lag));
        let again = policy::retry_at(self.next_row.reason.as_ref(), &event.id, retry, self.shard.clock.now());
        old_enough.max(again).unwrap_or(Timestamp(i64::MIN))
    }

    /// Commits what there is, and waits until then.
    async fn wait_until(&mut self, then: Timestamp) -> Result<After> {
        self.commit().await?;
        self.settle().await?;
        if self.redriving.is_due() && !*self.shard.stop.borrow() {
            // There is time for it.
            self.redrive().await?;
            return Ok(After::Again);
        }
        let then = self.parking.next_due().map_or(then, |due| due.min(then));
        let until_redrive = self.redriving.look_at().map(|at| at.saturating_duration_since(Instant::now()));
        let wait = then.since(self.shard.clock.now());
        let after = self.pause(until_redrive.map_or(wait, |redrive| redrive.min(wait))).await?;
        if self.is_parked_due() && matches!(after, After::Again) {
            self.retry_parked().await?;
        }
        Ok(after)
    }

    /// Commits where that is due, tries what is parked, and swaps where there is another version.
    async fn is_due_or_swapped(&mut self) -> Result<bool> {
        self.take_answers()?;
        if self.is_parked_due() {
            self.retry_parked().await?;
        }
        self.commit_if_due().await?;
        self.is_swapped().await
    }

    /// Swaps where there is another version, which may want other events of the piece that is being handled.
    async fn is_swapped(&mut self) -> Result<bool> {
        if !self.shard.version.has_changed().unwrap_or(false) {
            return Ok(false);
        }
        self.swap().await?;
        self.events = self.shard.tailer.subscribe(self.next_row.cursor.clone());
        Ok(true)
    }

    /// Nothing is ready: what was gathered is committed.
    async fn rest(&mut self) -> Result<()> {
        if !self.redriving.is_due() && !self.is_parked_due() && self.held.is_empty() {
            self.shard.remembered.suspicion.rest(&self.next_row.cursor, &**self.shard.tailer.source());
        }
        self.commit().await
    }

    fn adopt(&mut self, version: Arc<Version>) {
        let digest = version.factory.digest();
        let (is_newer, now) = (version.epoch > self.next_row.epoch, self.shard.clock.now());
        self.parking.renew(digest, is_newer, &version.spec.retry, now);
        self.next_row = policy::standing(&self.next_row, digest, version.epoch);
        if self.next_row.digest.replace(digest) != Some(digest) {
            self.shard.remembered.suspicion.acquit();
        }
        self.next_row.epoch = version.epoch;
        self.row_is_due |= self.next_row != self.row;
        (self.handler, self.known) = (None, None);
        self.share = Share::new(&version.spec, self.shard.id.index);
        self.version = version;
        if !self.held.is_empty() {
            // The new version may want others.
            self.held = Held::default();
            self.events = self.shard.tailer.subscribe(self.next_row.cursor.clone());
        }
    }

    /// Somebody moved the position. What was gathered is committed if that still can be; the next run sees the row.
    async fn look_again<T>(&mut self) -> Result<T> {
        self.commit().await?;
        self.settle().await?;
        Err(Error::fenced(format!("{} was moved by an operator", self.shard.id)))
    }
}

/// Refuses a row that is not this deployment's.
fn is_of(row: &Position, version: &Version) -> Result<()> {
    let (shard, newer, ours) = (&row.shard, row.epoch.0, version.epoch.0);
    if row.epoch > version.epoch {
        return Err(Error::unavailable(format!("{shard} runs deployment {newer}, this host has only {ours}"))
            .help("give this host the same config, or start it again"));
    }
    if row.topology != version.spec.past.number {
        return Err(Error::unavailable(format!(
            "{shard} is not a shard of this host's deployment {ours}: it was divided anew or reset"
        ))
        .help("give this host the same config, or start it again"));
    }
    Ok(())
}

/// Waits until the shard is to stop; whoever could ask for it being gone means the same.
async fn is_raised(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Waits until there is another version, without taking it; for ever when there can be none.
async fn is_replaced(version: &mut watch::Receiver<Arc<Version>>) {
    match version.changed().await {
        Ok(()) => version.mark_changed(),
        Err(_) => std::future::pending().await,
    }
}
