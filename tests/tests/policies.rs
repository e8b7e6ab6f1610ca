//! Every kind of failure under every policy, in every form of call.

use tendon_tests::policy_suite::{kills, table, table_of_other_policies};

#[test]
fn every_failure_ends_as_its_policy_says_in_every_form() {
    let ran = table();
    assert!(ran.wrong.is_empty(), "{}", ran.wrong.join("\n"));
    assert_eq!(ran.count, 9 * 4 * 3);
    assert!(!table_of_other_policies().wrong.is_empty(), "whatever is left is taken for right");
}

#[test]
fn a_kill_between_any_two_steps_changes_nothing_of_that() {
    let ran = kills();
    assert!(ran.wrong.is_empty(), "{}", ran.wrong.join("\n"));
    assert!(ran.count > 1_000, "only {} kills", ran.count);
}
