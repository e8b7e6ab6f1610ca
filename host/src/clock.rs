//! The time, as the loop sees it: the machine's, or a simulation's.

use tokio::time::Instant;

use crate::event::Timestamp;

/// Tells the time of day. Waits are tokio's, so that a paused runtime moves them and this clock together.
#[derive(Clone, Copy, Debug)]
pub enum Clock {
    /// The machine's.
    System,
    /// A time of day that began at a moment and goes with tokio's own time.
    Simulated {
        /// The time of day at `began`.
        start: Timestamp,
        /// The moment at which it was `start`.
        began: Instant,
    },
}

impl Clock {
    /// A clock for a runtime whose time is virtual.
    pub fn simulated(start: Timestamp) -> Self {
        Self::Simulated { start, began: Instant::now() }
    }

    /// The time of day.
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => Timestamp(jiff::Timestamp::now().as_microsecond()),
            Self::Simulated { start, began } => {
                let passed = i64::try_from(began.elapsed().as_micros()).unwrap_or(i64::MAX);
                Timestamp(start.0.saturating_add(passed))
            }
        }
    }
}
