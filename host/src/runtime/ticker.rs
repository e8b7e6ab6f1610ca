//! The engine's clock: one thread that moves wasmtime's epoch, and with it a coarse time that costs one load to read.
//!
//! It sleeps while no guest runs, so that an idle host costs nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::error::{Error, Result};

/// The length of a tick: a guest is ended at most this much after its limit, and yields to others this often.
pub(super) const TICK: Duration = Duration::from_millis(2);
/// How many ticks without a running guest put the thread to sleep.
const IDLE_TICKS: u32 = 50;

/// Moves the epoch for as long as it lives.
pub(super) struct Ticker {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

struct Shared {
    began: Instant,
    /// Microseconds since `began`, as of the last tick.
    now_us: AtomicU64,
    /// How many slices of guests run now.
    active: AtomicUsize,
    /// Whether the thread sleeps until it is woken.
    resting: AtomicBool,
    ended: AtomicBool,
}

impl Shared {
    fn refresh(&self) {
        let now = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.now_us.fetch_max(now, Ordering::Relaxed);
    }
}

/// A slice of a guest runs as long as this lives.
pub(super) struct Activity<'a>(&'a Shared);

impl Drop for Activity<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Ticker {
    /// Starts the thread; `tick` is called once a tick.
    pub(super) fn start(tick: impl Fn() + Send + 'static) -> Result<Self> {
        let shared = Arc::new(Shared {
            began: Instant::now(),
            now_us: AtomicU64::new(0),
            active: AtomicUsize::new(0),
            resting: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        let mine = shared.clone();
        let thread = thread::Builder::new()
            .name("tendon-ticker".to_owned())
            .spawn(move || run(&mine, tick))
            .map_err(|error| Error::unavailable("start the thread that bounds guests").because(error))?;
        Ok(Self { shared, thread })
    }

    /// Says that a slice of a guest begins: the clock is right from here on, and stays so until it ends.
    pub(super) fn activity(&self) -> Activity<'_> {
        self.shared.active.fetch_add(1, Ordering::SeqCst);
        if self.shared.resting.swap(false, Ordering::SeqCst) {
            self.shared.refresh();
            self.thread.thread().unpark();
        }
        Activity(&self.shared)
    }

    /// Microseconds since the engine was made, at most a tick old while a guest runs.
    pub(super) fn now_us(&self) -> u64 {
        self.shared.now_us.load(Ordering::Relaxed)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.thread.thread().unpark();
    }
}

fn run(shared: &Shared, tick: impl Fn()) {
    let mut idle = 0;
    while !shared.ended.load(Ordering::SeqCst) {
        idle = if shared.active.load(Ordering::SeqCst) > 0 { 0 } else { idle + 1 };
        if idle > IDLE_TICKS {
            rest(shared);
            idle = 0;
        }
        // Not a sleep, so that an engine's end wakes it; a token that is left over only shortens a tick.
        thread::park_timeout(TICK);
        shared.refresh();
        tick();
    }
}

/// Sleeps until a guest runs. Whoever begins one after the look at `active` sees `resting`, and wakes the thread.
fn rest(shared: &Shared) {
    shared.resting.store(true, Ordering::SeqCst);
    while shared.resting.load(Ordering::SeqCst) && !shared.ended.load(Ordering::SeqCst) {
        if shared.active.load(Ordering::SeqCst) > 0 {
            shared.resting.store(false, Ordering::SeqCst);
            break;
        }
        thread::park();
    }
    shared.refresh();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ticks_while_a_guest_runs_rests_while_none_does_and_ends_with_its_owner() {
        let ticks = Arc::new(AtomicU64::new(0));
        let count = ticks.clone();
        let ticker = Ticker::start(move || {
            count.fetch_add(1, Ordering::SeqCst);
        })
        .unwrap();
        let activity = ticker.activity();
        let before = ticks.load(Ordering::SeqCst);
        while ticks.load(Ordering::SeqCst) < before + 3 {
            thread::yield_now();
        }
        assert!(ticker.now_us() > 0);
        drop(activity);
        let shared = Arc::downgrade(&ticker.shared);
        drop(ticker);
        while shared.upgrade().is_some() {
            thread::yield_now();
        }
    }
}
