//! The loop under faults, in virtual time.

use std::collections::BTreeMap;

use tendon_tests::sim::{Plan, is_poison, run};

fn plan(seed: u64) -> Plan {
    Plan {
        seed,
        events: 300,
        keys: 7,
        hosts: 1,
        compares: true,
        redrives: false,
        divides: false,
        parks: false,
        remembers: true,
    }
}

/// Checks that every event was counted and emitted once, in order, or set aside, and gives the faults that it took and the swaps.
fn applies_each_event_once(plan: Plan) -> (u64, usize) {
    let outcome = run(plan);
    assert_eq!(outcome.lost_and_doubled(&plan), (0, 0), "{plan:?}");
    assert!(!outcome.set_aside.is_empty() && outcome.set_aside.iter().all(|id| is_poison(id)), "{plan:?}");
    assert!(!outcome.emitted.iter().any(|id| is_poison(id)), "{plan:?}");
    assert_eq!(outcome.counted as usize, plan.wanted() as usize - outcome.set_aside.len(), "{plan:?}");
    let ids: Vec<u64> = outcome.emitted.iter().map(|id| id.parse().unwrap()).collect();
    assert!(ids.is_sorted(), "{plan:?} was out of order");
    (outcome.faults, outcome.swaps)
}

/// The same for many seeds. A run proves little if little went wrong in it.
fn applies_each_event_once_whatever_the_seed(hosts: u32) {
    let runs: Vec<_> = (0..60).map(|seed| applies_each_event_once(Plan { hosts, ..plan(seed) })).collect();
    let (faults, swaps) = runs.iter().fold((0, 0), |(f, s), (faults, swaps)| (f + faults, s + swaps));
    assert!(faults > 400, "only {faults} faults were injected");
    assert!(swaps > 400, "only {swaps} components took over");
}

#[test]
fn one_host_applies_each_event_once_whatever_fails_and_whoever_operates_it() {
    applies_each_event_once_whatever_the_seed(1);
}

#[test]
fn three_hosts_that_fight_for_a_shard_apply_each_event_once() {
    applies_each_event_once_whatever_the_seed(3);
}

#[test]
fn what_was_set_aside_is_handled_once_when_it_is_wished_whatever_fails() {
    let mut late = 0;
    for seed in 0..60 {
        let plan = Plan { hosts: 1 + seed as u32 % 3, redrives: true, ..plan(seed) };
        let outcome = run(plan);
        assert_eq!(outcome.lost_and_doubled(&plan), (0, 0), "{plan:?}");
        assert_eq!(outcome.set_aside, Vec::<String>::new(), "{plan:?}");
        assert_eq!(outcome.counted, u64::from(plan.wanted()), "{plan:?}");
        let ids: Vec<u64> = outcome.emitted.iter().map(|id| id.parse().unwrap()).collect();
        late += ids.windows(2).filter(|pair| pair[1] < pair[0]).count();
    }
    assert!(late > 40, "only {late} events were handled behind later ones: little was set aside");
}

#[test]
fn shards_that_are_divided_anew_under_load_apply_each_event_once_in_the_order_of_its_key() {
    let mut divided = 0;
    for seed in 0..60 {
        let plan = Plan { hosts: 1 + seed as u32 % 3, divides: true, keys: 40, ..plan(seed) };
        let outcome = run(plan);
        assert_eq!(outcome.lost_and_doubled(&plan), (0, 0), "{plan:?}");
        assert!(!outcome.set_aside.is_empty() && outcome.set_aside.iter().all(|id| is_poison(id)), "{plan:?}");
        assert_eq!(outcome.counted as usize, plan.wanted() as usize - outcome.set_aside.len(), "{plan:?}");
        let mut last = BTreeMap::new();
        for id in outcome.emitted.iter().map(|id| id.parse::<u64>().unwrap()) {
            let before = last.insert((id - 1) % u64::from(plan.keys), id);
            assert!(before < Some(id), "{plan:?}: {id} came after {before:?}");
        }
        divided += outcome.divided;
    }
    assert!(divided > 200, "it was divided only {divided} times");
}

/// Poison is cured after a minute in half of the runs; until then, or for ever, its keys wait.
#[test]
fn parked_keys_lose_and_double_nothing_and_keep_their_order_whatever_fails() {
    let (mut waiting, mut divided) = (0, 0);
    for seed in 0..60 {
        let (redrives, divides) = (seed % 2 == 0, seed % 4 > 1);
        let plan = Plan { hosts: 1 + seed as u32 % 3, redrives, divides, parks: true, keys: 11, ..plan(seed) };
        let outcome = run(plan);
        assert_eq!(outcome.set_aside, Vec::<String>::new(), "{plan:?}");
        assert_eq!(outcome.lost_and_doubled(&plan), (0, 0), "{plan:?}");
        let mut last = BTreeMap::new();
        for id in outcome.emitted.iter().map(|id| id.parse::<u64>().unwrap()) {
            let before = last.insert((id - 1) % u64::from(plan.keys), id);
            assert!(before < Some(id), "{plan:?}: {id} came after {before:?}");
        }
        if redrives {
            assert_eq!((outcome.emitted.len(), outcome.parked.len()), (plan.wanted() as usize, 0), "{plan:?}");
        }
        for key in &outcome.parked {
            let ids: Vec<u64> = key.iter().map(|id| id.parse().unwrap()).collect();
            assert!(is_poison(&key[0]) && ids.is_sorted(), "{plan:?}: {key:?}");
            assert!(last.get(&((ids[0] - 1) % u64::from(plan.keys))) < Some(&ids[0]), "{plan:?}: {key:?}");
            waiting += key.len();
        }
        divided += outcome.divided;
    }
    assert!(waiting > 100 && divided > 30, "only {waiting} events wait, and it was divided {divided} times");
}

#[test]
fn without_the_compare_the_same_faults_double_events() {
    let control = |seed| Plan { hosts: 3, compares: false, ..plan(seed) };
    let doubled: usize = (0..10).map(|seed| run(control(seed)).lost_and_doubled(&control(seed)).1).sum();
    assert!(doubled > 0, "the control must fail, or the zero above means nothing");
}

#[test]
fn without_what_older_shards_have_handled_new_ones_double_it() {
    let control = |seed| Plan { divides: true, remembers: false, ..plan(seed) };
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
