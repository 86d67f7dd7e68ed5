//! Undo and its log. The reasons are the original's words: clients show them.

use super::bench::{Bench, Direct, copied, no_such, told};
use crate::ids::{Oid, Tid};
use crate::storage::{StorageError, Undone};

const ROOT: Oid = Oid(0);
const OTHER: Oid = Oid(1);
const THIRD: Oid = Oid(2);

const MODIFIED: &str = "Some data were modified by a later transaction";
const ADD_FOLLOWED: &str = "Can't undo an add transaction followed by conflicting transactions.";
const NO_DATA: &str = "_loadBack() failed";

/// Which objects an undo failed for, and why.
fn failures(error: StorageError) -> Vec<(Option<Oid>, String)> {
    match error {
        StorageError::Undo(failure) => vec![(failure.oid, failure.reason)],
        StorageError::MultipleUndo(failures) => {
            failures.into_iter().map(|failure| (failure.oid, failure.reason)).collect()
        }
        other => panic!("expected that undo is refused, got {other:?}"),
    }
}

/// Asserts that the undo of one transaction fails for one object.
#[track_caller]
fn fails(t: &Bench, tid: Tid, oid: Oid, reason: &str) {
    let error = t.refused(|commit| commit.undo(tid).map(drop));
    assert!(matches!(error, StorageError::MultipleUndo(_)), "{error:?}");
    assert_eq!(failures(error), [(Some(oid), reason.to_owned())]);
}

/// Successive revisions of the root, with these records.
fn revisions<const N: usize>(t: &Bench, records: [&[u8]; N]) -> [Tid; N] {
    let mut serial = Tid::ZERO;
    records.map(|data| {
        serial = t.store(ROOT, serial, data);
        serial
    })
}

/// The storage says that it can.
pub fn can_undo(t: &mut Bench) {
    assert!(t.storage.capabilities().undo);
    assert!(t.storage.undo_log(0, 20, &mut |_| true).expect("log").is_empty());
}

/// The record before is current again, as a revision of the undoing transaction.
pub fn undo_of_a_change(t: &mut Bench) {
    let [first, second] = revisions(t, [b"first", b"second"]);
    let mut touched = Vec::new();
    let undone = t.commit(|commit| {
        touched = commit.undo(second)?;
        Ok(())
    });
    assert_eq!(touched, [Undone { oid: ROOT, source: Some(first) }]);
    let found = t.load(ROOT).expect("load");
    assert_eq!((found.data.as_ref(), found.tid), (b"first".as_slice(), undone));
    assert_eq!(t.storage.load_serial(ROOT, undone).expect("load"), b"first".as_slice());
    let before = t.storage.load_before(ROOT, undone).expect("load").expect("second");
    assert_eq!((before.data.as_ref(), before.tid, before.end), (b"second".as_slice(), second, Some(undone)));
    let sizes: Vec<u64> = t.storage.history(ROOT, 10).expect("history").iter().map(|entry| entry.size).collect();
    assert_eq!(sizes, [0, 6, 5], "a record that points back has no size of its own");
    if t.storage.capabilities().iteration {
        let (_, records) = t.iterate(Some(undone), None).pop().expect("one");
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].data.as_deref(), Some(b"first".as_slice()));
        assert_eq!(records[0].data_txn, Some(first));
    }
    t.store(ROOT, undone, b"third");
}

/// The object does not exist any more, but did before.
pub fn undo_of_a_creation(t: &mut Bench) {
    let [first] = revisions(t, [b"first"]);
    let undone = t.undo(first);
    no_such(ROOT, t.storage.load_before(ROOT, Tid::MAX));
    no_such(ROOT, t.storage.load_serial(ROOT, undone));
    no_such(ROOT, t.storage.current_tid(ROOT));
    let before = t.storage.load_before(ROOT, undone).expect("load").expect("first");
    assert_eq!((before.data.as_ref(), before.end), (b"first".as_slice(), Some(undone)));
    assert_eq!(t.storage.load_before(ROOT, first).expect("known, but not yet then"), None);
    let history = t.storage.history(ROOT, 10).expect("history");
    assert_eq!(history.iter().map(|entry| (entry.tid, entry.size)).collect::<Vec<_>>(), [(undone, 0), (first, 5)]);
    no_such(ROOT, Err::<(), _>(t.refused(|commit| commit.check_current(ROOT, undone))));
}

/// An undo is a transaction as any other.
pub fn undo_of_undo(t: &mut Bench) {
    let [_, second] = revisions(t, [b"first", b"second"]);
    let undone = t.undo(second);
    assert_eq!(t.data(ROOT), b"first");
    let redone = t.undo(undone);
    assert_eq!(t.data(ROOT), b"second");
    let undone_again = t.undo(redone);
    assert_eq!(t.data(ROOT), b"first");
    if t.storage.capabilities().iteration {
        let (_, records) = t.iterate(Some(undone_again), None).pop().expect("one");
        assert_eq!(records[0].data_txn, Some(undone), "one step back, not the whole way");
    }
}

/// Brings the object back.
pub fn undo_of_an_undone_creation(t: &mut Bench) {
    let [first] = revisions(t, [b"first"]);
    let undone = t.undo(first);
    let redone = t.undo(undone);
    let found = t.load(ROOT).expect("load");
    assert_eq!((found.data.as_ref(), found.tid), (b"first".as_slice(), redone));
}

/// What counts is the record, not which transaction wrote it.
pub fn undo_over_an_equal_record(t: &mut Bench) {
    let [_, second, _, _] = revisions(t, [b"first", b"second", b"third", b"second"]);
    t.undo(second);
    assert_eq!(t.data(ROOT), b"first");
}

/// Then the object is gone, although later transactions wrote it too.
pub fn undo_of_a_creation_over_an_equal_record(t: &mut Bench) {
    let [first, _, third] = revisions(t, [b"first", b"second", b"first"]);
    let undone = t.undo(first);
    no_such(ROOT, t.load(ROOT));
    let before = t.storage.load_before(ROOT, undone).expect("load").expect("third");
    assert_eq!((before.tid, before.end), (third, Some(undone)));
}

/// Somebody has built on it.
pub fn undo_over_a_change_is_refused(t: &mut Bench) {
    let [_, second, third] = revisions(t, [b"first", b"second", b"third"]);
    fails(t, second, ROOT, MODIFIED);
    t.undo(third);
    t.undo(second);
    assert_eq!(t.data(ROOT), b"first");
}

/// There is no earlier state to go back to.
pub fn undo_of_a_creation_over_a_change_is_refused(t: &mut Bench) {
    let [first, _] = revisions(t, [b"first", b"second"]);
    fails(t, first, ROOT, ADD_FOLLOWED);
}

/// Nor anything to compare with.
pub fn undo_of_a_creation_over_a_deletion_is_refused(t: &mut Bench) {
    let [first] = revisions(t, [b"first"]);
    t.undo(first);
    fails(t, first, ROOT, NO_DATA);
}

/// Each undo sees what the one before it wrote.
pub fn several_undos_in_one_transaction(t: &mut Bench) {
    let [first, second, third, fourth] = revisions(t, [b"first", b"second", b"third", b"fourth"]);
    let undone = t.commit(|commit| {
        for (tid, source) in [(fourth, third), (third, second), (second, first)] {
            assert_eq!(commit.undo(tid)?, [Undone { oid: ROOT, source: Some(source) }]);
        }
        Ok(())
    });
    let found = t.load(ROOT).expect("load");
    assert_eq!((found.data.as_ref(), found.tid), (b"first".as_slice(), undone));
    assert_eq!(t.storage.history(ROOT, 10).expect("history").len(), 5);
    t.undo(undone);
    assert_eq!(t.data(ROOT), b"fourth");
}

/// Oldest first does not work.
pub fn several_undos_in_the_wrong_order(t: &mut Bench) {
    let [_, second, third] = revisions(t, [b"first", b"second", b"third"]);
    let error = t.refused(|commit| {
        commit.undo(second)?;
        commit.undo(third).map(drop)
    });
    assert_eq!(failures(error), [(Some(ROOT), MODIFIED.to_owned())]);
}

/// The record just stored is the current one.
pub fn undo_after_a_store_in_the_same_transaction(t: &mut Bench) {
    let [_, second] = revisions(t, [b"first", b"second"]);
    let error = t.refused(|commit| {
        commit.store(ROOT, second, b"third")?;
        commit.undo(second).map(drop)
    });
    assert_eq!(failures(error), [(Some(ROOT), MODIFIED.to_owned())]);
    t.commit(|commit| {
        commit.store(ROOT, second, b"second")?;
        commit.undo(second).map(drop)
    });
    assert_eq!(t.data(ROOT), b"first");
}

/// And touches none of the others.
pub fn undo_of_several_objects_names_the_ones_that_fail(t: &mut Bench) {
    let oids = [ROOT, OTHER, THIRD];
    let store_all =
        |data: &[u8], serial: Tid| t.commit(|commit| oids.iter().try_for_each(|&oid| commit.store(oid, serial, data)));
    let first = store_all(b"first", Tid::ZERO);
    let second = store_all(b"second", first);
    let third = t.store(OTHER, second, b"third");
    fails(t, second, OTHER, MODIFIED);
    t.store(THIRD, second, b"third");
    let error = t.refused(|commit| commit.undo(second).map(drop));
    let mut found = failures(error);
    found.sort_unstable();
    assert_eq!(found, [(Some(OTHER), MODIFIED.to_owned()), (Some(THIRD), MODIFIED.to_owned())]);
    t.store(OTHER, third, b"second");
    let third = t.storage.current_tid(THIRD).expect("known");
    t.store(THIRD, third, b"second");
    let mut touched = Vec::new();
    t.commit(|commit| {
        touched = commit.undo(second)?;
        Ok(())
    });
    let mut touched: Vec<Oid> = touched.into_iter().map(|undone| undone.oid).collect();
    touched.sort_unstable();
    assert_eq!(touched, oids);
    assert!(oids.iter().all(|&oid| t.data(oid) == b"first"));
}

/// The later record decides: a failure of the earlier one is forgiven.
pub fn undo_of_an_object_stored_twice(t: &mut Bench) {
    let [first] = revisions(t, [b"first"]);
    let twice = t.commit(|commit| {
        commit.store(ROOT, first, b"draft")?;
        commit.store(ROOT, first, b"final")
    });
    t.undo(twice);
    assert_eq!(t.data(ROOT), b"first");
}

/// Refused as a whole.
pub fn undo_of_an_unknown_transaction(t: &mut Bench) {
    let [first] = revisions(t, [b"first"]);
    for unknown in [Tid::ZERO, Tid(first.0 + 1), Tid::MAX] {
        let error = t.refused(|commit| commit.undo(unknown).map(drop));
        assert_eq!(failures(error), [(None, "Invalid transaction id".to_owned())]);
    }
}

/// Its predecessors may be gone.
pub fn undo_of_a_packed_transaction(t: &mut Bench) {
    let [first] = revisions(t, [b"first"]);
    let packed = Tid(first.0 + 1);
    t.try_commit(copied(packed, b'p'), |commit| commit.store(ROOT, first, b"second")).expect("commit");
    let error = t.refused(|commit| commit.undo(packed).map(drop));
    assert_eq!(failures(error), [(None, "non-undoable transaction".to_owned())]);
}

/// There is nothing to it.
pub fn undo_of_an_empty_transaction(t: &mut Bench) {
    let [first] = revisions(t, [b"first"]);
    let empty = t.commit(|_| Ok(()));
    let undone = t.commit(|commit| {
        assert!(commit.undo(empty)?.is_empty());
        Ok(())
    });
    assert_eq!(t.storage.last_transaction(), undone);
    assert_eq!(t.storage.current_tid(ROOT).expect("known"), first);
}

/// Neither when refused, nor when the transaction is given up after the undo.
pub fn refused_undo_leaves_no_trace(t: &mut Bench) {
    let [_, second, third] = revisions(t, [b"first", b"second", b"third"]);
    let untouched = t.snapshot(&[ROOT]);
    t.refused(|commit| commit.undo(second).map(drop));
    assert_eq!(t.snapshot(&[ROOT]), untouched);
    let mut commit = t.begin();
    commit.undo(third).expect("undo");
    drop(commit);
    assert_eq!(t.snapshot(&[ROOT]), untouched);
    let mut commit = t.begin();
    commit.undo(third).expect("undo");
    commit.vote().expect("vote");
    drop(commit);
    assert_eq!(t.snapshot(&[ROOT]), untouched);
    let mut commit = t.begin();
    commit.undo(third).expect("undo");
    commit.vote().expect("vote");
    commit.finish(&mut Direct).expect("finish");
    assert_eq!(t.data(ROOT), b"second");
}

/// The log's tids between two places.
fn log(t: &Bench, first: usize, last: usize) -> Vec<Tid> {
    let entries = t.storage.undo_log(first, last, &mut |_| true).expect("log");
    entries.into_iter().map(|entry| entry.tid).collect()
}

/// Newest first, from one place to before another.
pub fn undo_log_windows(t: &mut Bench) {
    let mut tids = revisions(t, [b"1", b"2", b"3", b"4", b"5"]);
    tids.reverse();
    assert_eq!(log(t, 0, 20), tids);
    assert_eq!(log(t, 0, usize::MAX), tids);
    assert_eq!(log(t, 1, 3), tids[1..3]);
    assert_eq!(log(t, 4, 5), tids[4..]);
    assert!(log(t, 5, 20).is_empty());
    assert!(log(t, 0, 0).is_empty());
    assert!(log(t, 3, 1).is_empty());
}

/// A place is one among those that the filter accepts.
pub fn undo_log_filters_before_it_counts(t: &mut Bench) {
    let mut tids = Vec::new();
    let mut serial = Tid::ZERO;
    for user in [b"ada", b"bob", b"ada", b"bob", b"ada"] {
        serial = t.try_commit(told(user, b"why", b""), |commit| commit.store(ROOT, serial, b"data")).expect("commit");
        tids.push(serial);
    }
    let by_ada = |first, last| {
        let entries = t.storage.undo_log(first, last, &mut |entry| entry.metadata.user == b"ada".as_slice());
        entries.expect("log").into_iter().map(|entry| entry.tid).collect::<Vec<_>>()
    };
    assert_eq!(by_ada(0, 20), [tids[4], tids[2], tids[0]]);
    assert_eq!(by_ada(1, 2), [tids[2]]);
    assert_eq!(by_ada(2, 3), [tids[0]]);
    let entry = t.storage.undo_log(0, 1, &mut |_| true).expect("log").pop().expect("one");
    assert_eq!((entry.status, entry.metadata.description.as_ref()), (b' ', b"why".as_slice()));
    assert!(entry.size > 0);
}

/// What lies before a pack cannot be undone.
pub fn undo_log_ends_at_packed_transactions(t: &mut Bench) {
    let older = Tid(0x0300_0000_0000_0001);
    let packed = Tid(0x0300_0000_0000_0002);
    t.try_commit(copied(older, b' '), |commit| commit.store(ROOT, Tid::ZERO, b"older")).expect("commit");
    t.try_commit(copied(packed, b'p'), |commit| commit.store(ROOT, older, b"packed")).expect("commit");
    let newer = t.store(ROOT, packed, b"newer");
    let newest = t.store(ROOT, newer, b"newest");
    assert_eq!(log(t, 0, 20), [newest, newer]);
}
