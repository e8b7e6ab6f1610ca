//! What our claims rest on, for whoever wants to check them.

mod counting;
mod idle;
mod latency;
mod logic;
mod policies;
mod reload;
mod replay;
pub mod report;
mod sandbox;
mod shards;
mod spine;
mod sql;
mod sweep;
mod yardstick;

use anyhow::Result;

pub use counting::Counting;
pub use latency::append_events;
use report::Report;

/// The proofs, and what each shows.
pub const LIST: [(&str, &str); 4] = [
    ("spine", "exactly once at the speed of the stream: costs per event, crash sweep, reloads"),
    ("policies", "what fails holds up nobody else: parked keys, shards side by side, divided anew under faults"),
    ("sandbox", "strangers' code: tampered machine code, components that a compiler dies of, restarts"),
    ("sql", "MariaDB and PostgreSQL: costs per event, merged commits, from a commit to its handler"),
];

/// How much is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Enough to see that it works; only counts are judged.
    Quick,
    /// What the figures rest on.
    Full,
}

/// Runs a proof of the list, prints it and says whether every target was met. The full one is written to docs/proofs;
/// one that runs `only` what contains a text is not.
pub fn run(name: &str, scale: Scale, only: Option<&str>) -> Result<bool> {
    let mut report = Report::new(name, scale, only);
    match name {
        "policies" => policies::prove(&mut report)?,
        "sandbox" => sandbox::prove(&mut report)?,
        "sql" => sql::prove(&mut report)?,
        _ => spine::prove(&mut report)?,
    }
    report.finish()
}
