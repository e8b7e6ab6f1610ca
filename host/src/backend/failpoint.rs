//! Named places between the statements of a backend, at which a test lets it crash. Release builds have none.

use crate::error::Result;

#[cfg(debug_assertions)]
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The failpoints of one open database. Clones are the same ones.
#[derive(Clone, Default)]
pub struct Failpoints {
    #[cfg(debug_assertions)]
    state: Arc<Mutex<State>>,
}

#[cfg(debug_assertions)]
#[derive(Default)]
struct State {
    visited: Vec<&'static str>,
    crash_at: Option<usize>,
    once: bool,
}

#[cfg(debug_assertions)]
impl Failpoints {
    /// From the k-th visit on, counted from 0 and from now, every visit fails: the process is dead.
    pub fn crash_at(&self, k: usize) {
        *self.state() = State { crash_at: Some(k), ..State::default() };
    }

    /// The k-th visit fails, counted from 0 and from now, and no other one.
    pub fn fail_at(&self, k: usize) {
        *self.state() = State { crash_at: Some(k), once: true, ..State::default() };
    }

    /// Forgets what was visited; nothing fails any more.
    pub fn disarm(&self) {
        *self.state() = State::default();
    }

    /// The names of the places visited since the last of the calls above, in order, the one that failed included.
    pub fn visited(&self) -> Vec<&'static str> {
        self.state().visited.clone()
    }

    pub(super) fn hit(&self, name: &'static str) -> Result<()> {
        let mut state = self.state();
        let k = state.visited.len();
        state.visited.push(name);
        let fails = state.crash_at.is_some_and(|at| k == at || (k > at && !state.once));
        if fails { Err(crate::error::Error::unavailable(format!("failpoint {name}"))) } else { Ok(()) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(not(debug_assertions))]
impl Failpoints {
    #[inline(always)]
    pub(super) fn hit(&self, _: &'static str) -> Result<()> {
        Ok(())
    }
}
