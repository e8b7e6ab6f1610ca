//! The yardstick of replays from a server: what anybody would write to read these rows with sqlx.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::{replay::Cost, report::cpu_time};

/// Id, type, foreign id, timestamp, payload, headers.
pub(super) type Row = (i64, i32, Vec<u8>, i64, Vec<u8>, Option<String>);

/// Reads all events page by page, each as values of its own; what that cost.
pub(super) async fn run(events: u64, mut page: impl AsyncFnMut(i64) -> Result<Vec<Row>>) -> Result<Cost> {
    let (began, cpu) = (Instant::now(), cpu_time());
    let (mut after, mut seen) = (0, 0);
    loop {
        let rows = std::hint::black_box(page(after).await?);
        let Some((last, ..)) = rows.last() else { break };
        after = *last;
        seen += rows.len() as u64;
    }
    ensure!(seen == events, "the plain loop saw {seen} of {events} events");
    Ok(Cost::since(began, cpu, events))
}
