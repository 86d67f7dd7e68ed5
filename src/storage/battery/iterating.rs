//! Iteration over transactions.

use std::sync::Arc;

use super::bench::{Bench, after, copied, told};
use crate::ids::{Oid, Tid};

const ROOT: Oid = Oid(0);
const OTHER: Oid = Oid(1);

/// The storage says that it can.
pub fn can_iterate(t: &mut Bench) {
    assert!(t.storage.capabilities().iteration);
    assert!(t.iterate(None, None).is_empty());
}

/// Every transaction with its records in the order of their first store.
pub fn everything_in_order(t: &mut Bench) {
    let first = t.commit(|commit| {
        commit.store(OTHER, Tid::ZERO, b"other")?;
        commit.store(ROOT, Tid::ZERO, b"root")
    });
    let second = t.store(ROOT, first, b"changed");
    let found = t.iterate(None, None);
    let shown: Vec<(Tid, Oid, Tid, &[u8])> = found
        .iter()
        .flat_map(|(summary, records)| records.iter().map(move |record| (summary.tid, record)))
        .map(|(tid, record)| (tid, record.oid, record.tid, record.data.as_deref().expect("data")))
        .collect();
    let expected: [(Tid, Oid, Tid, &[u8]); 3] =
        [(first, OTHER, first, b"other"), (first, ROOT, first, b"root"), (second, ROOT, second, b"changed")];
    assert_eq!(shown, expected);
    assert!(found.iter().flat_map(|(_, records)| records).all(|record| record.data_txn.is_none()));
}

/// Both ends count, and need not be tids of transactions.
pub fn bounds_are_inclusive(t: &mut Bench) {
    let mut tids = Vec::new();
    for step in 1..=5 {
        let tid = Tid(0x0300_0000_0000_0000 + step * 0x100);
        tids.push(t.try_commit(copied(tid, b' '), |_| Ok(())).expect("commit"));
    }
    let before = |tid: Tid| Tid(tid.0 - 1);
    assert_eq!(t.tids(None, None), tids);
    for from in 0..5 {
        assert_eq!(t.tids(Some(tids[from]), None), tids[from..]);
        assert_eq!(t.tids(Some(before(tids[from])), None), tids[from..]);
        assert_eq!(t.tids(Some(after(tids[from])), None), tids[from + 1..]);
        for to in from..5 {
            assert_eq!(t.tids(Some(tids[from]), Some(tids[to])), tids[from..=to]);
            assert_eq!(t.tids(Some(tids[from]), Some(before(tids[to]))), tids[from..to]);
            assert_eq!(t.tids(Some(tids[from]), Some(after(tids[to]))), tids[from..=to]);
        }
        assert_eq!(t.tids(None, Some(tids[from])), tids[..=from]);
    }
    assert!(t.tids(None, Some(before(tids[0]))).is_empty());
    assert!(t.tids(Some(tids[3]), Some(tids[1])).is_empty(), "bounds the wrong way round");
    assert_eq!(t.tids(Some(Tid::ZERO), Some(Tid(u64::MAX))), tids);
}

/// The end is the one at the start.
pub fn what_is_committed_later_is_not_seen(t: &mut Bench) {
    let first = t.store(ROOT, Tid::ZERO, b"first");
    let second = t.store(ROOT, first, b"second");
    let mut transactions = Arc::clone(&t.storage).iterate(None, None).expect("iterate");
    let third = t.store(ROOT, second, b"third");
    let mut seen = Vec::new();
    while let Some((summary, _)) = transactions.next().expect("next") {
        seen.push(summary.tid);
    }
    assert_eq!(seen, [first, second]);
    assert!(transactions.next().expect("still at the end").is_none());
    assert_eq!(t.tids(Some(third), None), [third]);
}

/// A client may ask for the records after it went on to the next transaction.
pub fn records_outlive_the_step(t: &mut Bench) {
    let first = t.store(ROOT, Tid::ZERO, b"first");
    t.store(ROOT, first, b"second");
    let mut transactions = Arc::clone(&t.storage).iterate(None, None).expect("iterate");
    let (_, mut records) = transactions.next().expect("next").expect("one");
    let (_, mut later) = transactions.next().expect("next").expect("two");
    assert!(transactions.next().expect("next").is_none());
    drop(transactions);
    let record = records.next().expect("record").expect("one");
    assert_eq!(record.data.as_deref(), Some(b"first".as_slice()));
    assert!(records.next().expect("end").is_none());
    assert!(records.next().expect("still at the end").is_none());
    let record = later.next().expect("record").expect("one");
    assert_eq!(record.data.as_deref(), Some(b"second".as_slice()));
}

/// What a transaction says of itself comes along.
pub fn metadata_and_status(t: &mut Bench) {
    let old = Tid(0x0300_0000_0000_0001);
    t.try_commit(copied(old, b'p'), |_| Ok(())).expect("commit");
    let begin = told(b"ada", b"\xff", b"}U\x01aK\x01s.");
    let metadata = begin.metadata.clone();
    let new = t.try_commit(begin, |commit| commit.store(ROOT, Tid::ZERO, b"root")).expect("commit");
    let found: Vec<_> = t.iterate(None, None).into_iter().map(|(summary, _)| summary).collect();
    assert_eq!(found.iter().map(|one| (one.tid, one.status)).collect::<Vec<_>>(), [(old, b'p'), (new, b' ')]);
    assert_eq!(found[1].metadata, metadata);
}
