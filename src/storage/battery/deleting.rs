//! Deletion by an external garbage collector.

use super::bench::{Bench, no_such};
use crate::ids::{Oid, Tid};
use crate::storage::StorageError;

const ROOT: Oid = Oid(0);
const OTHER: Oid = Oid(1);

/// The storage says that it can.
pub fn can_delete(t: &mut Bench) {
    assert!(t.storage.capabilities().external_gc);
    no_such(ROOT, Err::<(), _>(t.refused(|commit| commit.delete(ROOT, Tid::ZERO))));
}

/// As an undone creation.
pub fn a_deleted_object_is_gone_but_not_its_past(t: &mut Bench) {
    let first = t.store(ROOT, Tid::ZERO, b"first");
    let second = t.store(ROOT, first, b"second");
    let deleted = t.commit(|commit| commit.delete(ROOT, second));
    no_such(ROOT, t.storage.load_before(ROOT, Tid::MAX));
    no_such(ROOT, t.storage.load_serial(ROOT, deleted));
    no_such(ROOT, t.storage.current_tid(ROOT));
    no_such(ROOT, Err::<(), _>(t.refused(|commit| commit.check_current(ROOT, deleted))));
    assert_eq!(t.storage.load_serial(ROOT, first).expect("load"), b"first".as_slice());
    let before = t.storage.load_before(ROOT, deleted).expect("load").expect("second");
    assert_eq!((before.data.as_ref(), before.tid, before.end), (b"second".as_slice(), second, Some(deleted)));
    assert_eq!(t.storage.load_before(ROOT, first).expect("known, but not yet then"), None);
    let history = t.storage.history(ROOT, 10).expect("history");
    let shown: Vec<_> = history.iter().map(|entry| (entry.tid, entry.size)).collect();
    assert_eq!(shown, [(deleted, 0), (second, 6), (first, 5)]);
    assert_eq!(t.storage.last_transaction(), deleted);
}

/// The collector may have missed a change.
pub fn delete_needs_the_current_serial(t: &mut Bench) {
    let first = t.store(ROOT, Tid::ZERO, b"first");
    let second = t.store(ROOT, first, b"second");
    for stale in [Tid::ZERO, first] {
        match t.refused(|commit| commit.delete(ROOT, stale)) {
            StorageError::Conflict { oid, committed, read, .. } => {
                assert_eq!((oid, committed, read), (ROOT, second, stale));
            }
            other => panic!("expected a conflict, got {other:?}"),
        }
    }
    assert_eq!(t.data(ROOT), b"second");
}

/// A deletion is a revision: storing over it needs its serial.
pub fn storing_over_a_deletion(t: &mut Bench) {
    let first = t.store(ROOT, Tid::ZERO, b"first");
    let deleted = t.commit(|commit| commit.delete(ROOT, first));
    for stale in [Tid::ZERO, first] {
        match t.refused(|commit| commit.store(ROOT, stale, b"again")) {
            StorageError::Conflict { committed, .. } => assert_eq!(committed, deleted),
            other => panic!("expected a conflict, got {other:?}"),
        }
    }
    let again = t.store(ROOT, deleted, b"again");
    assert_eq!(t.load(ROOT).expect("load").tid, again);
    no_such(ROOT, t.storage.load_before(ROOT, again));
}

/// Iteration tells of the deletion.
pub fn iterated_as_no_data(t: &mut Bench) {
    let first = t.commit(|commit| {
        commit.store(ROOT, Tid::ZERO, b"root")?;
        commit.store(OTHER, Tid::ZERO, b"other")
    });
    let deleted = t.commit(|commit| {
        commit.delete(OTHER, first)?;
        commit.store(ROOT, first, b"without other")
    });
    if t.storage.capabilities().iteration {
        let (_, records) = t.iterate(Some(deleted), None).pop().expect("one");
        assert_eq!(records.len(), 2);
        assert_eq!((records[0].oid, records[0].tid), (OTHER, deleted));
        assert_eq!((&records[0].data, records[0].data_txn), (&None, None));
    }
}
