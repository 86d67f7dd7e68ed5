//! Copying revisions from another storage.

use super::bench::{Bench, copied, no_such};
use crate::ids::{Oid, Tid};

const ROOT: Oid = Oid(0);

const FIRST: Tid = Tid(0x0300_0000_0000_0100);
const SECOND: Tid = Tid(0x0300_0000_0000_0200);
const THIRD: Tid = Tid(0x0300_0000_0000_0300);
const FOURTH: Tid = Tid(0x0300_0000_0000_0400);

/// Copies one revision as a transaction of its own.
fn restore(t: &Bench, tid: Tid, data: Option<&[u8]>, same_as: Option<Tid>) {
    t.try_commit(copied(tid, b' '), |commit| commit.restore(ROOT, tid, data, same_as)).expect("restore");
}

/// Where the record of a transaction's only revision really is.
fn data_txn(t: &Bench, tid: Tid) -> Option<Tid> {
    let (_, mut records) = t.iterate(Some(tid), Some(tid)).pop().expect("one transaction");
    records.pop().expect("one record").data_txn
}

/// The storage says that it can.
pub fn can_restore(t: &mut Bench) {
    assert!(t.storage.capabilities().restore);
}

/// No serial is compared, and the revision has the tid it had.
pub fn copies_without_asking(t: &mut Bench) {
    restore(t, FIRST, Some(b"first"), None);
    restore(t, SECOND, Some(b"second"), None);
    let found = t.load(ROOT).expect("load");
    assert_eq!((found.data.as_ref(), found.tid), (b"second".as_slice(), SECOND));
    let before = t.storage.load_before(ROOT, SECOND).expect("load").expect("first");
    assert_eq!((before.data.as_ref(), before.tid, before.end), (b"first".as_slice(), FIRST, Some(SECOND)));
    assert_eq!(t.storage.last_transaction(), SECOND);
    assert!(t.storage.new_oids(1).expect("oids")[0] > ROOT);
}

/// Same data, same record; other data is written out.
pub fn points_back_where_it_can(t: &mut Bench) {
    restore(t, FIRST, Some(b"first"), None);
    restore(t, SECOND, Some(b"second"), None);
    restore(t, THIRD, Some(b"first"), Some(FIRST));
    assert_eq!(t.data(ROOT), b"first");
    assert_eq!(t.storage.history(ROOT, 1).expect("history")[0].tid, THIRD);
    restore(t, FOURTH, Some(b"other"), Some(FIRST));
    assert_eq!(t.data(ROOT), b"other");
    assert_eq!(t.storage.load_serial(ROOT, THIRD).expect("load"), b"first".as_slice());
    if t.storage.capabilities().iteration {
        assert_eq!(data_txn(t, THIRD), Some(FIRST));
        assert_eq!(data_txn(t, FOURTH), None);
    }
}

/// What it points to may have been packed away here, but not there.
pub fn an_unknown_transaction_is_no_obstacle(t: &mut Bench) {
    restore(t, FIRST, Some(b"first"), None);
    restore(t, THIRD, Some(b"first"), Some(SECOND));
    assert_eq!(t.data(ROOT), b"first");
    if t.storage.capabilities().iteration {
        assert_eq!(data_txn(t, THIRD), None);
    }
}

/// No data is a deletion, also when it points back to one.
pub fn restores_a_deletion(t: &mut Bench) {
    restore(t, FIRST, Some(b"first"), None);
    restore(t, SECOND, None, None);
    no_such(ROOT, t.storage.load_before(ROOT, Tid::MAX));
    assert!(t.storage.load_before(ROOT, SECOND).expect("load").is_some());
    restore(t, THIRD, None, Some(SECOND));
    no_such(ROOT, t.storage.load_before(ROOT, Tid::MAX));
    restore(t, FOURTH, Some(b"back"), None);
    assert_eq!(t.data(ROOT), b"back");
}
