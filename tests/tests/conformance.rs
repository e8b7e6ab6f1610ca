//! The suites, run on every backend. A new backend is one line in the table, a new property one line in the list.

use tendon_tests::place::{MemoryPlace, SqlitePlace};

macro_rules! conformance {
    ($($backend:ident: $place:ty;)+ => $properties:tt) => {
        $(mod $backend {
            use super::*;
            conformance!(@each $place, $properties);
        })+
    };
    (@each $place:ty, { $($suite:ident :: $property:ident;)+ }) => {
        $(#[tokio::test]
        async fn $property() {
            tendon_tests::$suite::$property::<$place>().await;
        })+
    };
}

conformance! {
    memory: MemoryPlace;
    sqlite: SqlitePlace;
    => {
        source_suite::events_come_in_their_order_without_gaps;
        source_suite::a_stream_begins_strictly_after_its_cursor;
        source_suite::head_then_stream_yields_only_newer_events;
        source_suite::a_stream_until_the_head_ends_there;
        source_suite::a_stream_without_end_waits_for_what_comes;
        source_suite::what_another_host_appends_is_seen;
        source_suite::events_of_many_writers_are_all_seen_in_one_order;
        source_suite::every_cursor_is_accepted_after_reopening;
        source_suite::compare_agrees_with_the_stream;
        source_suite::a_stream_that_is_dropped_leaks_nothing;
        source_suite::events_of_any_bytes_survive;
        source_suite::chunks_are_bounded_by_events_and_by_bytes;
        source_suite::lag_is_exact_below_its_cap;
        source_suite::a_cursor_of_another_source_is_invalid;
        source_suite::a_stream_is_made_once_and_found_by_its_whole_name;
    }
}
