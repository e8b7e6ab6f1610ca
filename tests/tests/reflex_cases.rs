//! What reflex's own tests show of its consumers holds of ours.

use std::{collections::BTreeSet, panic::catch_unwind};

use tendon_tests::reflex_suite::{CASES, Case};

#[test]
fn every_case_of_reflex_s_tests_holds() {
    let fails = |case: &&Case| catch_unwind(case.show).is_err();
    let name = |case: &Case| format!("\n{}: {}", case.number, case.sentence);
    let failed: String = CASES.iter().filter(fails).map(name).collect();
    assert!(failed.is_empty(), "these do not hold:{failed}");
}

#[test]
fn no_case_of_consumers_was_forgotten() {
    let numbers: BTreeSet<u32> = CASES.iter().map(|case| case.number).collect();
    assert_eq!(numbers.into_iter().collect::<Vec<_>>(), [4, 5, 6, 7, 30, 31, 34]);
}
