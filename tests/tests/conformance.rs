//! The suites, run on every backend. A new backend is one line in the table, a new property one line in the list.

use tendon_tests::place::{MemoryPlace, MysqlPlace, Place as _, PostgresByIdPlace, PostgresPlace, SqlitePlace};

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
            if !<$place>::is_here() {
                return;
            }
            tendon_tests::$suite::$property::<$place>().await;
        })+
    };
}

conformance! {
    memory: MemoryPlace;
    sqlite: SqlitePlace;
    mysql: MysqlPlace;
    postgres: PostgresPlace;
    postgres_by_id: PostgresByIdPlace;
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
        source_suite::what_is_pruned_is_gone_and_the_rest_keeps_its_place;
        store_suite::a_commit_moves_cursor_state_and_events_together;
        store_suite::a_stale_commit_is_fenced_and_changes_nothing;
        store_suite::a_claim_fences_the_host_before_it;
        store_suite::a_rewind_fences_a_host_that_read_before_it;
        store_suite::a_commit_of_an_older_deployment_is_fenced;
        store_suite::a_shard_begins_at_the_start_once_it_is_claimed;
        store_suite::every_field_of_a_position_survives;
        store_suite::attempts_survive_a_restart;
        store_suite::a_loser_takes_nobody_with_it;
        store_suite::many_shards_share_a_call;
        state_suite::tenants_consumers_shards_and_parts_are_blind_to_each_other;
        state_suite::whether_a_consumer_has_any_state_is_known;
        state_suite::a_scan_is_in_the_order_of_bytes;
        state_suite::keys_are_read_in_the_order_asked_and_deleted;
        state_suite::values_of_any_bytes_survive_up_to_their_limit;
        letter_suite::a_dead_letter_is_there_iff_its_move_is;
        letter_suite::dead_letters_are_in_the_order_of_time_and_each_consumer_s_own;
        letter_suite::dead_letters_are_read_by_pages_of_bounded_bytes;
        letter_suite::a_wish_to_handle_a_dead_letter_again_is_kept;
        letter_suite::purged_dead_letters_are_gone;
        park_suite::an_event_is_parked_iff_its_move_is;
        park_suite::queues_are_in_their_order_and_each_consumer_s_own;
        park_suite::queues_are_read_by_pages_of_bounded_bytes;
        rewrite_suite::other_positions_take_the_place_of_all;
        rewrite_suite::a_rewrite_that_comes_too_late_changes_nothing;
        rewrite_suite::a_state_is_emptied_with_the_move;
        rewrite_suite::a_consumer_that_is_gone_has_nothing;
        rewrite_suite::a_crash_in_a_rewrite_leaves_old_or_new;
        rewrite_suite::a_deployment_is_activated_only_after_the_one_it_was_made_from;
        rewrite_suite::of_deployments_at_once_one_is_activated;
        store_suite::emitted_events_are_in_their_streams_in_order;
        store_suite::an_event_key_is_appended_once;
        store_suite::fences_and_epochs_are_never_drawn_twice;
        store_suite::the_history_names_each_component_from_its_first_commit;
        store_suite::the_newest_deployment_is_the_active_one;
        store_suite::two_hosts_racing_commit_each_event_once;
        store_suite::two_hosts_with_one_fence_commit_each_event_once;
        policy_suite::every_failure_ends_as_its_policy_says;
        sweep_suite::a_crash_at_any_failpoint_leaves_old_or_new;
        sweep_suite::an_error_at_any_failpoint_has_a_true_answer_for_each_commit;
        sweep_suite::a_crash_in_a_claim_leaves_a_row_that_can_be_claimed;
        sweep_suite::a_fault_at_any_call_loses_and_doubles_nothing;
        sweep_suite::a_repeated_append_adds_what_is_missing;
    }
}
