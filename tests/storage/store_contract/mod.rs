//! The store's contract: one suite, two databases. What `supersync::store` promises is checked here through the traits
//! only.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

mod accounts;
mod archives;
mod commit;
mod fixture;
mod log;
mod overview;
mod postgres_only;
mod segments;
mod sessions;
mod sqlite_only;
mod sqlite_trouble;
mod upkeep;

/// Makes one test per database of each function: `sqlite::name` and `postgres::name`.
macro_rules! on_both_databases {
    ($($module:ident: $($name:ident),+ $(,)?;)+) => {
        mod sqlite {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    let database = super::fixture::SqliteDatabase::create();
                    let store = database.open().await;
                    super::$module::$name(store.clone()).await;
                    store.close().await;
                }
            )+)+
        }

        mod postgres {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    let database = crate::harness::postgres::TestDatabase::create().await;
                    let store = super::fixture::open_postgres(&database).await;
                    super::$module::$name(store.clone()).await;
                    store.close().await;
                    database.remove().await;
                }
            )+)+
        }
    };
}

on_both_databases! {
    commit:
        a_stale_revision_applies_nothing_at_all,
        a_poisoned_commit_does_not_sink_its_group,
        a_duplicate_id_applies_nothing_of_its_commit,
        the_same_id_may_return_in_the_next_generation,
        every_field_survives_the_round_trip,
        the_state_row_survives_the_round_trip,
        a_group_reports_one_outcome_per_commit_in_order,
        many_rows_travel_in_one_commit,
        heads_are_replaced_and_looked_up_above_the_base,
        an_entity_that_was_to_be_absent_refuses_its_commit_only,
        all_heads_only_up_to_the_limit,
        heads_of_one_operation_share_its_clock,
        clearing_devices_leaves_only_the_uploader,
        archives_are_listed_newest_first,
        snapshots_are_set_replaced_and_cleared,
        a_large_payload_survives,
        racing_commits_on_one_revision_let_one_through;
    log:
        a_page_is_bounded_in_rows,
        a_page_is_bounded_in_bytes_but_never_empty,
        ids_and_clocks_count_for_a_page,
        a_large_payload_is_read_in_pieces,
        a_page_that_is_full_at_the_end_has_no_more,
        the_own_device_is_left_out,
        a_single_foreign_operation_is_found_behind_many_own,
        operations_are_found_by_id_within_their_generation,
        full_states_come_newest_first,
        heads_are_read_from_the_log,
        operations_are_measured_and_dated,
        a_missing_account_is_none,
        devices_keep_the_latest_time;
    accounts:
        addresses_ignore_case,
        a_new_account_has_an_empty_log,
        twenty_failed_logins_at_once_are_all_counted,
        failed_logins_are_forgotten_in_time_and_the_oldest_when_there_are_too_many,
        a_token_works_once,
        an_expired_token_does_not_work,
        what_was_registered_counts_for_the_browser_that_registered,
        passwords_versions_and_quota,
        deleting_an_account_takes_everything_along,
        a_long_log_goes_with_its_account,
        a_deleted_number_is_not_given_out_again,
        accounts_are_listed_in_pages;
    archives:
        a_staged_range_becomes_the_data_set_at_once,
        what_was_given_up_is_not_adopted_and_takes_nothing_in,
        a_deleted_account_leaves_nothing_staged;
    upkeep:
        operations_are_deleted_in_steps,
        expired_archives_are_found_and_dropped_with_old_heads,
        a_clock_goes_with_the_last_head_that_shares_it,
        heads_of_an_old_data_set_go_in_steps,
        prunable_accounts_are_found_in_order,
        stale_devices_go,
        the_device_seen_longest_ago_gives_way,
        archives_are_measured_and_given_up,
        one_leader_at_a_time,
        a_reset_log_starts_over_with_a_grown_revision,
        a_truncated_log_is_recomputed,
        the_newest_operations_of_a_type,
        it_answers_a_ping;
    segments:
        a_page_does_not_show_what_is_packed,
        a_foreign_operation_is_found_behind_many_packed_own,
        packed_operations_are_found_by_id,
        packed_operations_are_measured_and_dated,
        packed_operations_are_deleted_in_steps,
        a_log_is_truncated_in_the_middle_of_a_segment,
        a_reset_log_has_no_segments,
        a_deleted_account_leaves_no_segment,
        the_newest_operations_are_found_in_segments,
        a_stale_seal_moves_nothing,
        a_segment_that_replaces_other_rows_is_refused,
        a_segment_takes_in_a_smaller_one,
        a_segment_that_cuts_through_another_is_refused,
        accounts_to_seal_are_found_in_order,
        a_truncated_log_is_made_from_segments_too,
        growth_counts_what_is_packed_by_its_share_of_time;
    sessions:
        a_session_needs_an_account_that_is_not_locked,
        a_session_is_listed_as_it_was_opened,
        the_standing_of_a_token_is_read_at_once,
        the_session_seen_longest_ago_makes_room,
        a_session_is_renamed_and_revoked_by_its_account_only,
        other_sessions_go_and_the_older_tokens_with_them,
        whatever_grows_the_token_version_ends_every_session,
        replacing_sessions_keeps_the_name_of_the_one,
        signs_of_life_keep_the_latest_time,
        ended_sessions_are_deleted_in_steps_and_in_silence,
        a_ticket_works_once_while_its_session_lives,
        each_change_is_announced_in_its_order,
        what_is_not_done_is_not_announced,
        a_reader_misses_no_event_of_those_that_are_written_at_once,
        old_events_go_but_numbers_go_on,
        a_deleted_account_leaves_no_session,
        an_account_is_made_an_administrator_s;
    overview:
        an_account_is_shown_with_what_it_holds,
        accounts_are_found_by_address_and_number,
        the_database_knows_its_size_and_the_time;
}
