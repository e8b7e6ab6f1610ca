//! Keeps a shard's loop running: begins it again after a stall, waits with it when it stands, and says why it does.

use std::{panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use serde::Serialize;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::sleep,
};

use crate::{
    clock::Clock,
    consumer,
    error::{Error, Kind, Result, Retry},
    event::Timestamp,
    policy::{self, OnExhausted, RetryPolicy},
    shard::{Shard, Stop, Version},
    store::{Epoch, Reason},
};

/// How a stalled shard is tried again: for ever, no attempt is counted.
const STALL: RetryPolicy = RetryPolicy {
    attempts: u32::MAX,
    base: Duration::from_millis(100),
    factor: 2.0,
    cap: Duration::from_secs(10),
    jitter: true,
    on_exhausted: OnExhausted::Block,
    parked_keys: 0,
    parked_events: 0,
};

/// A stalled shard runs again when it has for this long.
const RECOVERED: Duration = Duration::from_secs(1);

/// How a shard stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It has not claimed its position yet.
    Starting,
    /// It runs; at the head it waits.
    Running,
    /// A poison event is in its way.
    Blocked(Option<Reason>),
    /// An operator paused it.
    Paused(Option<Reason>),
    /// A store, a source or the host fails it: it is tried again for ever.
    Stalled {
        /// What fails.
        message: String,
        /// Since when.
        since: Timestamp,
    },
    /// It was asked to stop, and has.
    Stopped,
}

impl Standing {
    /// The word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Blocked(_) => "blocked",
            Self::Paused(_) => "paused",
            Self::Stalled { .. } => "stalled",
            Self::Stopped => "stopped",
        }
    }
}

/// A shard that is kept running. Dropping it ends the loop at once; what was not committed is handled again.
pub struct Supervised {
    version: watch::Sender<Arc<Version>>,
    stop: watch::Sender<bool>,
    poke: Arc<Notify>,
    standing: watch::Receiver<Standing>,
    adopted: watch::Receiver<Epoch>,
    full: watch::Receiver<Option<Reason>>,
    task: JoinHandle<()>,
}

impl Supervised {
    /// Begins to run a shard; `shard` is given what it has to listen to.
    pub fn start(version: Arc<Version>, shard: impl FnOnce(Ends) -> Shard) -> Self {
        let (version, version_end) = watch::channel(version);
        let (stop, stop_end) = watch::channel(false);
        let (adopted_end, adopted) = watch::channel(Epoch(0));
        let (standing_end, standing) = watch::channel(Standing::Starting);
        let (full_end, full) = watch::channel(None);
        let poke = Arc::new(Notify::new());
        let ends =
            Ends { version: version_end, stop: stop_end, adopted: adopted_end, full: full_end, poke: poke.clone() };
        let shard = shard(ends);
        let task = tokio::spawn(supervise(shard, standing_end));
        Self { version, stop, poke, standing, adopted, full, task }
    }

    /// What it runs.
    pub fn version(&self) -> Arc<Version> {
        self.version.borrow().clone()
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        match (&*self.standing.borrow(), &*self.full.borrow()) {
            (Standing::Running, Some(reason)) => Standing::Blocked(Some(reason.clone())),
            (standing, _) => standing.clone(),
        }
    }

    /// Lets another version take over between two events, and waits until it has; gives up after `most`, which leaves
    /// it to be taken over later.
    pub async fn swap(&self, version: Arc<Version>, most: Duration) -> bool {
        let mut adopted = self.adopted.clone();
        let epoch = version.epoch;
        self.version.send_replace(version);
        tokio::time::timeout(most, adopted.wait_for(|adopted| *adopted >= epoch)).await.is_ok()
    }

    /// Lets the shard look at its row again, whether it runs or stands.
    pub fn poke(&self) {
        self.poke.notify_one();
    }

    /// Asks it to stop in order, without waiting.
    pub fn ask_to_stop(&self) {
        self.stop.send_replace(true);
    }

    /// Stops it in order: what was handled is committed.
    pub async fn stop(self) {
        self.ask_to_stop();
        let mut standing = self.standing.clone();
        // The task's end closes the channel, which is as good an answer.
        let _ = standing.wait_for(|standing| *standing == Standing::Stopped).await;
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a shard listens to, and what it answers through.
pub struct Ends {
    /// The version that it is to run.
    pub version: watch::Receiver<Arc<Version>>,
    /// Makes it look at its row again.
    pub poke: Arc<Notify>,
    /// Whether it is to stop.
    pub stop: watch::Receiver<bool>,
    /// The deployment that it has taken over.
    pub adopted: watch::Sender<Epoch>,
    /// Why it stands though it runs.
    pub full: watch::Sender<Option<Reason>>,
}

async fn supervise(mut shard: Shard, standing: watch::Sender<Standing>) {
    let mut stalls = 0;
    loop {
        let end = run(&mut shard, &standing, &mut stalls).await;
        let now = match after(end, shard.clock, &standing.borrow()) {
            Some(now) => now,
            // Somebody else has it now: whoever is to stop does not take it back.
            None if *shard.stop.borrow() => Standing::Stopped,
            None => continue,
        };
        announce(&shard, &now, &standing);
        stalls = if matches!(now, Standing::Stalled { .. }) { stalls + 1 } else { 0 };
        let is_over = now == Standing::Stopped;
        standing.send_replace(now);
        if is_over {
            return;
        }
        let wait = policy::backoff(&STALL, stalls, fastrand::f64());
        tokio::select! {
            biased;
            _ = shard.stop.wait_for(|stop| *stop) => {}
            () = shard.poke.notified() => {}
            changed = shard.version.changed() => if changed.is_ok() { shard.version.mark_changed() },
            () = sleep(wait), if stalls > 0 => {}
        }
        if *shard.stop.borrow() {
            standing.send_replace(Standing::Stopped);
            return;
        }
    }
}

/// One run of the loop. It is known to run once it has claimed its position; after a stall, once it has run for a while.
async fn run(shard: &mut Shard, standing: &watch::Sender<Standing>, stalls: &mut u32) -> Result<Stop> {
    let mut claimed = shard.adopted.subscribe();
    shard.full.send_replace(None);
    let runs = async {
        // The sender is the shard's own.
        let _ = claimed.changed().await;
        if *stalls > 0 {
            sleep(RECOVERED).await;
        }
    };
    let mut run = pin!(AssertUnwindSafe(consumer::run(shard)).catch_unwind());
    let end = tokio::select! {
        biased;
        end = &mut run => end,
        () = runs => {
            standing.send_replace(Standing::Running);
            *stalls = 0;
            run.await
        }
    };
    end.unwrap_or_else(|_| Err(Error::new(Kind::Unavailable, "the loop panicked: this is a bug of the host")))
}

/// How the shard stands after a run; none when it is to begin again at once.
fn after(end: Result<Stop>, clock: Clock, before: &Standing) -> Option<Standing> {
    match end {
        Ok(Stop::Asked) => Some(Standing::Stopped),
        Ok(Stop::Blocked(reason)) => Some(Standing::Blocked(reason)),
        Ok(Stop::Paused(reason)) => Some(Standing::Paused(reason)),
        Err(error) if error.retry() == Retry::Now => None,
        Err(error) => {
            let since = match before {
                Standing::Stalled { since, .. } => *since,
                _ => clock.now(),
            };
            Some(Standing::Stalled { message: error.chain(), since })
        }
    }
}

fn announce(shard: &Shard, now: &Standing, before: &watch::Sender<Standing>) {
    if now.word() == before.borrow().word() {
        return;
    }
    match now {
        Standing::Starting | Standing::Running | Standing::Stopped => return,
        Standing::Blocked(reason) | Standing::Paused(reason) => {
            let message = reason.as_ref().map_or("", |reason| reason.message.as_str());
            let event = reason.as_ref().and_then(|reason| reason.event.as_ref()).map(ToString::to_string);
            tracing::error!(shard = %shard.id, event, "{}: {message}", now.word());
        }
        Standing::Stalled { message, .. } => tracing::error!(shard = %shard.id, "stalled: {message}"),
    }
    shard.metrics.stopped(now.word());
}
