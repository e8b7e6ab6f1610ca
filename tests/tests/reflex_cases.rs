//! What reflex's own tests show of its consumers holds of ours.

use std::{collections::BTreeSet, fs, panic::catch_unwind, path::Path};

use tendon_tests::reflex_suite::{CASES, Case};

/// Where the others are shown, by file and test, or why there is nothing to show. What is about tables of events (12 to 25) is shown
/// in the suites of sources, blobs (35) are no source yet.
const ELSEWHERE: [(u32, Result<(&str, &str), &str>); 13] = [
    (3, Ok(("tests/src/reflex_suite/defects.rs", "once_over_stops_and_kills"))),
    (8, Ok(("tests/tests/api.rs", "prometheus_finds_every_consumer_also_one_that_is_stuck"))),
    (9, Err("a consumer has no constructor that could be forgotten; a config that cannot be is refused")),
    (10, Ok(("tests/src/policy_suite.rs", "every_failure_ends_as_its_policy_says"))),
    (11, Ok(("tests/tests/foreign.rs", "a_table_of_reflex_is_read_as_it_is"))),
    (26, Ok(("tests/src/source_suite.rs", "compare_agrees_with_the_stream"))),
    (27, Err("no cursor is written but by the commit that moves it")),
    (28, Ok(("tests/tests/existing.rs", "a_table_is_made_checked_read_and_written"))),
    (29, Ok(("tests/src/letter_suite.rs", "a_dead_letter_is_there_iff_its_move_is"))),
    (33, Ok(("host/src/topology.rs", "shards_are_those_of_reflex"))),
    (40, Ok(("tests/tests/foreign.rs", "an_id_that_was_rolled_back_holds_nobody_up"))),
    (47, Ok(("tests/src/reflex_suite/defects.rs", "cut_off"))),
    (36, Err("nobody acknowledges: what is not finished is in the state, which commits with the cursor")),
];

#[test]
fn every_case_of_reflex_s_tests_holds() {
    let fails = |case: &&Case| catch_unwind(case.show).is_err();
    let name = |case: &Case| format!("\n{}: {}", case.number, case.sentence);
    let failed: String = CASES.iter().filter(fails).map(name).collect();
    assert!(failed.is_empty(), "these do not hold:{failed}");
}

#[test]
fn no_case_of_consumers_was_forgotten() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for (number, shown) in ELSEWHERE {
        if let Ok((file, test)) = shown {
            let text = fs::read_to_string(root.join(file)).unwrap();
            assert!(text.contains(&format!("fn {test}")), "{number}: {file} has no {test}");
        }
    }
    let elsewhere = ELSEWHERE.iter().map(|(number, _)| *number);
    let shown: BTreeSet<u32> = CASES.iter().map(|case| case.number).chain(elsewhere).collect();
    let missing: Vec<u32> =
        (1..=11).chain(26..=34).chain([36, 37, 40, 44, 46, 47, 50]).filter(|number| !shown.contains(number)).collect();
    assert!(missing.is_empty(), "nothing shows {missing:?}");
}
