//! The time that a call takes: CPU while the guest runs, wall time whatever it does.
//!
//! wasmtime asks at every tick of the engine's epoch. A tick is elapsed time: on a busy machine a guest may have run
//! for a part of it only, so what is charged is the thread's own CPU time. Time between a yield and the next run
//! costs nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use wasmtime::UpdateDeadline;

use super::{
    context::Ctx,
    ticker::{TICK, Ticker},
    trap::Stop,
};

/// No reading of the thread's clock yet: the first tick of a slice is charged as time that passed.
const UNREAD: u64 = u64::MAX;

/// A name and a value of a limit of time.
#[derive(Clone, Copy)]
pub(super) struct TimeLimit {
    /// As the config names it.
    pub(super) name: &'static str,
    /// How long.
    pub(super) value: Duration,
}

impl TimeLimit {
    /// The end of a call that took longer.
    pub(super) fn passed(self, what: &str) -> Stop {
        let value = humantime::format_duration(self.value).to_string();
        Stop::timeout(self.name, &value, format!("the guest took longer than {value} {what} for one call"))
    }
}

/// What is read from outside of the call that runs.
pub(super) struct Marks {
    /// When the call began, by the ticker's clock.
    began_us: AtomicU64,
    /// The thread's CPU time when the guest last began to run on it.
    cpu_us: AtomicU64,
}

impl Marks {
    /// When the call began, by the ticker's clock.
    pub(super) fn began_us(&self) -> u64 {
        self.began_us.load(Ordering::Relaxed)
    }
}

/// Measures the call that runs.
pub(super) struct Meter {
    ticker: Arc<Ticker>,
    marks: Arc<Marks>,
    used_us: u64,
    seen_us: u64,
    /// CPU per call.
    pub(super) cpu: TimeLimit,
    /// Wall time per call.
    pub(super) wall: TimeLimit,
}

impl Meter {
    /// A meter that has measured nothing.
    pub(super) fn new(ticker: Arc<Ticker>, cpu: TimeLimit, wall: TimeLimit) -> Self {
        let marks = Arc::new(Marks { began_us: AtomicU64::new(0), cpu_us: AtomicU64::new(UNREAD) });
        Self { ticker, marks, used_us: 0, seen_us: 0, cpu, wall }
    }

    /// What is read from outside of the call.
    pub(super) fn marks(&self) -> Arc<Marks> {
        self.marks.clone()
    }

    /// A call begins. No clock is read but the ticker's.
    pub(super) fn begin(&mut self) {
        let now_us = self.ticker.now_us();
        self.used_us = 0;
        self.seen_us = now_us;
        self.marks.began_us.store(now_us, Ordering::Relaxed);
    }

    /// The guest runs on from here, perhaps on another thread.
    pub(super) fn resume(&self) {
        self.marks.cpu_us.store(UNREAD, Ordering::Relaxed);
    }

    /// Charges what the guest ran since the last look, and ends it when that is too much.
    fn charge(&mut self) -> Result<(), Stop> {
        let now_us = self.ticker.now_us();
        let passed_us = now_us.saturating_sub(self.seen_us);
        let cpu_us = thread_cpu_us();
        let ran_us = match self.marks.cpu_us.swap(cpu_us, Ordering::Relaxed) {
            UNREAD => passed_us.min(micros(TICK)),
            before => passed_us.min(cpu_us.saturating_sub(before)),
        };
        self.used_us += ran_us;
        self.seen_us = now_us;
        if self.used_us > micros(self.cpu.value) {
            return Err(self.cpu.passed("of CPU"));
        }
        if now_us.saturating_sub(self.marks.began_us()) > micros(self.wall.value) {
            return Err(self.wall.passed("of wall time"));
        }
        Ok(())
    }
}

/// What wasmtime calls at every tick: the guest is ended, or yields to the other consumers of its thread.
pub(super) fn on_tick(mut store: wasmtime::StoreContextMut<'_, Ctx>) -> wasmtime::Result<UpdateDeadline> {
    let meter = &mut store.data_mut().meter;
    meter.charge()?;
    let marks = meter.marks();
    Ok(UpdateDeadline::YieldCustom(
        1,
        Box::pin(async move {
            tokio::task::yield_now().await;
            marks.cpu_us.store(thread_cpu_us(), Ordering::Relaxed);
        }),
    ))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn thread_cpu_us() -> u64 {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    let us = spent.tv_sec.saturating_mul(1_000_000).saturating_add(spent.tv_nsec / 1_000);
    u64::try_from(us).unwrap_or(0)
}
