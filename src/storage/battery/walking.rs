//! The walk over all current records.

use super::bench::Bench;
use crate::ids::{Oid, Tid};

const OIDS: [Oid; 6] = [Oid(0), Oid(1), Oid(0xffff), Oid(0x1_0000), Oid(0x7_0000_0001), Oid(u64::MAX)];

/// The storage says that it can, and an empty one has nothing to walk over.
pub fn can_walk(t: &mut Bench) {
    assert!(t.storage.capabilities().record_iternext);
    assert_eq!(t.storage.record_iternext(None).expect("walk"), None);
    assert_eq!(t.storage.record_iternext(Some(Oid(5))).expect("walk"), None);
}

/// In oid order, whatever the order of the stores.
pub fn every_current_record_once(t: &mut Bench) {
    let first = t.commit(|commit| OIDS.iter().rev().try_for_each(|&oid| commit.store(oid, Tid::ZERO, b"first")));
    let second = t.store(OIDS[2], first, b"second");
    let mut seen = Vec::new();
    let mut next = None;
    loop {
        let record = t.storage.record_iternext(next).expect("walk").expect("one more");
        seen.push((record.oid, record.tid, record.data));
        next = record.next;
        if next.is_none() {
            break;
        }
    }
    assert_eq!(seen.iter().map(|record| record.0).collect::<Vec<_>>(), OIDS);
    for (oid, tid, data) in seen {
        let expected = if oid == OIDS[2] { (second, b"second".as_slice()) } else { (first, b"first".as_slice()) };
        assert_eq!((tid, data.as_ref()), expected, "{oid}");
    }
}

/// The place to start at need not be an object.
pub fn starts_at_or_after(t: &mut Bench) {
    t.commit(|commit| OIDS[..5].iter().try_for_each(|&oid| commit.store(oid, Tid::ZERO, b"data")));
    for (start, found) in [
        (Oid(0), Some((OIDS[0], Some(OIDS[1])))),
        (Oid(2), Some((OIDS[2], Some(OIDS[3])))),
        (Oid(0x1_0001), Some((OIDS[4], None))),
        (Oid(OIDS[4].0 + 1), None),
        (Oid(u64::MAX), None),
    ] {
        let record = t.storage.record_iternext(Some(start)).expect("walk");
        assert_eq!(record.map(|record| (record.oid, record.next)), found, "from {start}");
    }
}
