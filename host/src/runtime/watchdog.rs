//! The end of a call that waits too long: for the store, or for a clock that the guest asked to wake it.

use std::{pin::pin, time::Duration};

use futures_util::future::poll_immediate;

use super::{
    meter::Marks,
    ticker::{TICK, Ticker},
};

/// Drives work that makes many calls; none when one of them took longer than `wall`. What never waits takes no timer.
pub(super) async fn watch<T>(
    work: impl Future<Output = T>,
    ticker: &Ticker,
    marks: &Marks,
    wall: Duration,
) -> Option<T> {
    let mut work = pin!(work);
    if let Some(done) = poll_immediate(&mut work).await {
        return Some(done);
    }
    loop {
        let passed = Duration::from_micros(ticker.now_us().saturating_sub(marks.began_us()));
        let left = wall.checked_sub(passed)?;
        match tokio::time::timeout(left.max(TICK), &mut work).await {
            Ok(done) => return Some(done),
            // Another call may have begun since the timer was set.
            Err(_) => continue,
        }
    }
}
