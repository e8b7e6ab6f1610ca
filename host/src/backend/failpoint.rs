//! Named places between the statements of a backend, at which a test lets it crash. Only with the cargo feature
//! `failpoints`, which the tests ask for: a released binary has none.

use crate::error::Result;

#[cfg(feature = "failpoints")]
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering::Relaxed},
};

/// The failpoints of one open database. Clones are the same ones.
#[derive(Clone, Default)]
pub struct Failpoints {
    #[cfg(feature = "failpoints")]
    state: Arc<Mutex<State>>,
    /// Whether any of the calls below was ever made: until then a visit costs nothing.
    #[cfg(feature = "failpoints")]
    watched: Arc<AtomicBool>,
}

#[cfg(feature = "failpoints")]
#[derive(Default)]
struct State {
    visited: Vec<&'static str>,
    crash_at: Option<usize>,
    once: bool,
}

#[cfg(feature = "failpoints")]
impl Failpoints {
    /// From the k-th visit on, counted from 0 and from now, every visit fails: the process is dead.
    pub fn crash_at(&self, k: usize) {
        self.watch(State { crash_at: Some(k), ..State::default() });
    }

    /// The k-th visit fails, counted from 0 and from now, and no other one.
    pub fn fail_at(&self, k: usize) {
        self.watch(State { crash_at: Some(k), once: true, ..State::default() });
    }

    /// Forgets what was visited; nothing fails any more.
    pub fn disarm(&self) {
        self.watch(State::default());
    }

    /// The names of the places visited since the last of the calls above, in order, the one that failed included.
    pub fn visited(&self) -> Vec<&'static str> {
        self.state().visited.clone()
    }

    pub(super) fn hit(&self, name: &'static str) -> Result<()> {
        if !self.watched.load(Relaxed) {
            return Ok(());
        }
        let mut state = self.state();
        let k = state.visited.len();
        state.visited.push(name);
        let fails = state.crash_at.is_some_and(|at| k == at || (k > at && !state.once));
        if fails { Err(crate::error::Error::unavailable(format!("failpoint {name}"))) } else { Ok(()) }
    }

    fn watch(&self, state: State) {
        *self.state() = state;
        self.watched.store(true, Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(not(feature = "failpoints"))]
impl Failpoints {
    #[inline(always)]
    pub(super) fn hit(&self, _: &'static str) -> Result<()> {
        Ok(())
    }
}
