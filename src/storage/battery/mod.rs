//! One battery of tests for every storage: the contract of [`Storage`] and [`Commit`](super::Commit).
//!
//! A storage runs it with one line, naming the groups that its capabilities call for:
//!
//! ```ignore
//! battery!(mapping, |_| MappingStorage::new("memory".to_owned()), [reading, committing, iterating, packing, threads]);
//! ```
//!
//! The expression opens the storage in a directory; it is called again, after a close, by the group
//! `reopening`. Nothing here may know which storage it tests: where storages may differ, a test says
//! what each choice must look like.

pub mod bench;
pub mod blobs;
pub mod committing;
pub mod deleting;
pub mod iterating;
pub mod packing;
pub mod reading;
pub mod reopening;
pub mod restoring;
pub mod threads;
pub mod undoing;
pub mod undoing_blobs;
pub mod walking;

/// Makes the tests of some groups for one storage.
macro_rules! battery {
    ($name:ident, $open:expr, [$($group:ident),+ $(,)?]) => {
        mod $name {
            use super::*;
            $($crate::storage::battery::battery!(@$group $open);)+
        }
    };
    (@reading $open:expr) => {
        $crate::storage::battery::battery!(@tests $open, reading, [
            a_new_storage_is_empty,
            loads_at_every_boundary,
            load_serial_wants_the_very_revision,
            current_tid_is_the_newest,
            history_is_newest_first,
            counts_and_sizes,
            records_come_back_as_they_were,
            unknown_objects,
            last_invalidations_are_oldest_first,
        ]);
    };
    (@committing $open:expr) => {
        $crate::storage::battery::battery!(@tests $open, committing, [
            tids_grow,
            a_new_object_takes_any_serial,
            a_stale_serial_conflicts,
            read_current,
            read_current_of_an_object_stored_in_the_same_transaction,
            same_object_twice,
            dropped_at_every_step_leaves_no_trace,
            a_failed_step_leaves_no_trace,
            one_transaction_at_a_time,
            steps_have_an_order,
            publish_is_the_moment,
            empty_transactions_count,
            metadata_is_kept,
            metadata_too_long_is_never_cut,
            an_empty_record_is_refused_or_kept,
            copied_transactions_keep_tid_and_status,
            an_older_tid_may_be_copied,
            tids_go_on_after_one_from_the_future,
            tids_stay_below_what_clients_can_load,
            fresh_oids,
            fresh_oids_avoid_stored_ones,
            oids_run_out_without_wrapping,
            absent_capabilities_are_refused,
            closed_storages_refuse,
        ]);
    };
    (@iterating $open:expr) => {
        $crate::storage::battery::battery!(@tests $open, iterating, [
            can_iterate,
            everything_in_order,
            bounds_are_inclusive,
            what_is_committed_later_is_not_seen,
            records_outlive_the_step,
            metadata_and_status,
        ]);
    };
    (@packing $open:expr) => {
        $crate::storage::battery::battery!(@tests $open, packing, [
            an_empty_storage,
            replaced_revisions_go,
            unreachable_objects_go,
            long_chains_are_followed,
            what_is_newer_stays,
            the_future_ends_now,
            before_the_first_transaction,
            dangling_references,
            weak_references_do_not_count,
            unreadable_records_hold_everything,
            no_root_no_collection,
            commits_go_on,
            the_last_tid_stays,
            iterated_afterwards,
            a_refusal_changes_nothing,
            commits_meanwhile,
            one_pack_at_a_time,
            closed_storages_do_not_pack,
        ]);
    };
    (@threads $open:expr) => {
        $crate::storage::battery::battery!(@tests $open, threads, [
            readers_see_whole_transactions,
            fresh_oids_are_unique_across_threads,
            a_commit_may_move_between_threads,
        ]);
    };
    (@walking $open:expr) => {
        $crate::storage::battery::battery!(@tests $open, walking, [
            can_walk,
            every_current_record_once,
            starts_at_or_after,
        ]);
    };
    (@deleting $open:expr) => {
        $crate::storage::battery::battery!(@tests $open, deleting, [
            can_delete,
            a_deleted_object_is_gone_but_not_its_past,
            delete_needs_the_current_serial,
            storing_over_a_deletion,
            iterated_as_no_data,
        ]);
    };
    (@restoring $open:expr) => {
        $crate::storage::battery::battery!(@tests $open, restoring, [
            can_restore,
            copies_without_asking,
            points_back_where_it_can,
            an_unknown_transaction_is_no_obstacle,
            restores_a_deletion,
        ]);
    };
    (@undoing $open:expr) => {
        $crate::storage::battery::battery!(@tests $open, undoing, [
            can_undo,
            undo_of_a_change,
            undo_of_a_creation,
            undo_of_undo,
            undo_of_an_undone_creation,
            undo_over_an_equal_record,
            undo_of_a_creation_over_an_equal_record,
            undo_over_a_change_is_refused,
            undo_of_a_creation_over_a_change_is_refused,
            undo_of_a_creation_over_a_deletion_is_refused,
            several_undos_in_one_transaction,
            several_undos_in_the_wrong_order,
            undo_after_a_store_in_the_same_transaction,
            undo_of_several_objects_names_the_ones_that_fail,
            undo_of_an_object_stored_twice,
            undo_of_an_unknown_transaction,
            undo_of_a_packed_transaction,
            undo_of_an_empty_transaction,
            refused_undo_leaves_no_trace,
            undo_log_windows,
            undo_log_filters_before_it_counts,
            undo_log_ends_at_packed_transactions,
        ]);
    };
    (@blobs $open:expr) => {
        $crate::storage::battery::battery!(@tests $open, blobs, [
            what_is_stored_is_loaded,
            an_empty_blob,
            complete_content_does_not_change,
            a_revision_without_a_file,
            nobody_may_write_to_a_blob,
            dropped_at_every_step_leaves_no_file,
            a_conflict_leaves_no_file_and_the_content_to_the_caller,
            several_blobs_in_one_transaction,
            same_blob_twice,
            a_name_that_cannot_be_given,
            a_file_without_a_record_is_replaced,
            the_file_is_there_before_the_record,
            finished_only_after_a_vote,
            uploads_of_a_shared_directory,
            other_names_are_no_uploads,
            a_pack_takes_the_files_of_what_it_leaves_out,
        ]);
    };
    (@undoing_blobs $open:expr) => {
        $crate::storage::battery::battery!(@tests $open, undoing_blobs, [
            undo_of_a_changed_blob,
            undo_of_a_created_blob,
            undo_of_an_undone_blob,
            undo_without_the_file,
            several_undos_of_a_blob,
            undo_after_a_store_in_one_transaction,
            aborted_undo_leaves_no_file,
            undo_of_other_objects_has_no_file,
            copied_with_its_tid,
            a_file_with_a_record_is_never_replaced,
        ]);
    };
    (@reopening $open:expr) => {
        $crate::storage::battery::battery!(@tests $open, reopening, [
            everything_is_there_again,
            tids_go_on,
            oids_are_never_handed_out_again,
            an_aborted_transaction_is_not_there,
        ]);
    };
    (@tests $open:expr, $group:ident, [$($test:ident),+ $(,)?]) => {
        mod $group {
            use super::*;
            $(
                #[test]
                fn $test() {
                    $crate::storage::battery::$group::$test(&mut $crate::storage::battery::bench::Bench::new($open));
                }
            )+
        }
    };
}

pub(crate) use battery;
