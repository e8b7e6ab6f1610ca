//! The loop under faults, in virtual time.

use tendon_tests::sim::{Plan, run};

fn plan(seed: u64) -> Plan {
    Plan { seed, events: 300, keys: 7, hosts: 1, compares: true }
}

/// Checks that every event was counted and emitted once, in order, and gives the faults that it took.
fn applies_each_event_once(plan: Plan) -> u64 {
    let outcome = run(plan);
    assert_eq!(outcome.lost_and_doubled(&plan), (0, 0), "{plan:?}");
    assert_eq!(outcome.counted, u64::from(plan.events), "{plan:?}");
    let ids: Vec<u64> = outcome.emitted.iter().map(|id| id.parse().unwrap()).collect();
    assert!(ids.is_sorted(), "{plan:?} was out of order");
    outcome.faults
}

#[test]
fn one_host_applies_each_event_once_whatever_fails() {
    let faults: u64 = (0..40).map(|seed| applies_each_event_once(plan(seed))).sum();
    assert!(faults > 400, "only {faults} faults were injected: the runs prove little");
}

#[test]
fn three_hosts_that_fight_for_a_shard_apply_each_event_once() {
    let faults: u64 = (0..40).map(|seed| applies_each_event_once(Plan { hosts: 3, ..plan(seed) })).sum();
    assert!(faults > 1_000, "only {faults} faults were injected: the runs prove little");
}

#[test]
fn without_the_compare_the_same_faults_double_events() {
    let control = |seed| Plan { hosts: 3, compares: false, ..plan(seed) };
    let doubled: usize = (0..10).map(|seed| run(control(seed)).lost_and_doubled(&control(seed)).1).sum();
    assert!(doubled > 0, "the control must fail, or the zero above means nothing");
}

#[test]
fn a_seed_gives_the_same_run_twice() {
    for seed in 0..5 {
        let plan = Plan { hosts: 2, ..plan(seed) };
        assert_eq!(run(plan), run(plan));
    }
}
