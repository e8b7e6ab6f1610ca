//! Crashes everywhere: at each failpoint of SQLite, at each call of the ports, and by the hundred in the simulation,
//! whose control shows that it would notice.

use anyhow::Result;

use super::{Scale, report::Report};
use crate::{
    place::SqlitePlace,
    sim::{Plan, run as simulate},
    sweep_suite::{Swept, a_fault_at_any_call_loses_and_doubles_nothing, crash_everywhere},
};

pub(super) async fn crashes(report: &mut Report) -> Result<()> {
    let Swept { crashes, visited, old, new } = crash_everywhere::<SqlitePlace>().await;
    report.at_least("failpoints of SQLite at which a whole commit was crashed", 13, visited.len() as u64);
    report.count("crashes that left something between old and new", 0, (crashes - old - new) as u64);
    report.beside("crashes that left the old state, the new one", format!("{old}, {new}"));
    // It ends the proof where an event is lost or doubled.
    a_fault_at_any_call_loses_and_doubles_nothing::<SqlitePlace>().await;
    Ok(())
}

/// Runs the simulation on threads of its own: its time is virtual.
pub(super) fn simulation(report: &mut Report) -> Result<()> {
    let seeds = if report.scale() == Scale::Full { 1_000 } else { 50 };
    let plan = |seed| Plan {
        seed,
        events: 300,
        keys: 7,
        hosts: 1 + (seed % 3) as u32,
        compares: true,
        redrives: seed % 2 == 0,
        divides: seed % 4 > 1,
        parks: false,
        remembers: true,
    };
    let (mut lost, mut doubled, mut faults, mut restarts, mut divided) = (0, 0, 0, 0, 0);
    for seed in report.seed()..report.seed() + seeds {
        let outcome = simulate(plan(seed));
        let (l, d) = outcome.lost_and_doubled(&plan(seed));
        (lost, doubled) = (lost + l as u64, doubled + d as u64);
        (faults, restarts) = (faults + outcome.faults, restarts + outcome.restarts);
        divided += outcome.divided;
    }
    report.count("simulation, 1 to 3 hosts: events lost", 0, lost);
    report.count("simulation: events applied twice", 0, doubled);
    let figures = format!("{seeds}, {faults}, {restarts}, {divided}");
    report.beside("simulated runs, faults injected, hosts killed, divided anew", figures);
    let control = |seed| Plan { hosts: 3, compares: false, divides: false, ..plan(seed) };
    let doubled: u64 = (0..10).map(|seed| simulate(control(seed)).lost_and_doubled(&control(seed)).1 as u64).sum();
    report.at_least("control, without the compare: events applied twice", 1, doubled);
    Ok(())
}
