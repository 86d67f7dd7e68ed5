//! Loads, history and counts.

use bytes::Bytes;

use super::bench::{Bench, after, no_such, told};
use crate::ids::{Oid, Tid};
use crate::storage::Revision;

const ROOT: Oid = Oid(0);
const OTHER: Oid = Oid(1);

/// Nothing is there, and nothing pretends to be.
pub fn a_new_storage_is_empty(t: &mut Bench) {
    assert_eq!(t.storage.len(), 0);
    assert!(t.storage.is_empty());
    assert_eq!(t.storage.last_transaction(), Tid::ZERO);
    assert!(!t.storage.is_read_only());
    assert!(t.storage.last_invalidations(10).expect("ask").unwrap_or_default().is_empty());
    no_such(ROOT, t.storage.load_before(ROOT, Tid::MAX));
}

/// A revision is current from its own tid to just before the next one's.
pub fn loads_at_every_boundary(t: &mut Bench) {
    let first = t.store(ROOT, Tid::ZERO, b"first");
    let second = t.store(ROOT, first, b"second");
    let third = t.store(ROOT, second, b"third");
    let revision = |data: &'static [u8], tid, end| Some(Revision { data: Bytes::from_static(data), tid, end });
    let cases = [
        (Tid::ZERO, None),
        (first, None),
        (after(first), revision(b"first", first, Some(second))),
        (second, revision(b"first", first, Some(second))),
        (after(second), revision(b"second", second, Some(third))),
        (third, revision(b"second", second, Some(third))),
        (after(third), revision(b"third", third, None)),
        (Tid::MAX, revision(b"third", third, None)),
        (Tid(u64::MAX), revision(b"third", third, None)),
    ];
    for (before, expected) in cases {
        let found = t.storage.load_before(ROOT, before).expect("load");
        assert_eq!(found, expected, "before {before}");
    }
}

/// Neither an earlier nor a later revision will do.
pub fn load_serial_wants_the_very_revision(t: &mut Bench) {
    let first = t.store(ROOT, Tid::ZERO, b"first");
    let elsewhere = t.store(OTHER, Tid::ZERO, b"other");
    let second = t.store(ROOT, first, b"second");
    assert_eq!(t.storage.load_serial(ROOT, first).expect("load"), b"first".as_slice());
    assert_eq!(t.storage.load_serial(ROOT, second).expect("load"), b"second".as_slice());
    for wrong in [Tid::ZERO, after(first), elsewhere, after(second), Tid::MAX] {
        no_such(ROOT, t.storage.load_serial(ROOT, wrong));
    }
}

/// Whatever else is committed.
pub fn current_tid_is_the_newest(t: &mut Bench) {
    let first = t.store(ROOT, Tid::ZERO, b"first");
    assert_eq!(t.storage.current_tid(ROOT).expect("known"), first);
    let second = t.store(ROOT, first, b"second");
    t.store(OTHER, Tid::ZERO, b"other");
    assert_eq!(t.storage.current_tid(ROOT).expect("known"), second);
}

/// Each entry carries what its transaction said, and the size of the record.
pub fn history_is_newest_first(t: &mut Bench) {
    let mut serial = Tid::ZERO;
    let mut tids = Vec::new();
    for (user, description, data) in
        [("ada", "one", "1".repeat(10)), ("", "", "2".repeat(20)), ("bob", "three", "3".repeat(300))]
    {
        let begin = told(user.as_bytes(), description.as_bytes(), b"");
        serial = t.try_commit(begin, |commit| commit.store(ROOT, serial, data.as_bytes())).expect("commit");
        tids.push(serial);
        t.store(OTHER, t.storage.current_tid(OTHER).unwrap_or(Tid::ZERO), b"noise");
    }
    let history = t.storage.history(ROOT, usize::MAX).expect("history");
    let shown: Vec<_> =
        history.iter().map(|entry| (entry.tid, entry.metadata.user.as_ref(), entry.size, entry.status)).collect();
    let expected: [(Tid, &[u8], u64, u8); 3] =
        [(tids[2], b"bob", 300, b' '), (tids[1], b"", 20, b' '), (tids[0], b"ada", 10, b' ')];
    assert_eq!(shown, expected);
    assert_eq!(history[0].metadata.description, b"three".as_slice());
    assert_eq!(t.storage.history(ROOT, 1).expect("history"), history[..1]);
    assert_eq!(t.storage.history(ROOT, 2).expect("history"), history[..2]);
    assert_eq!(t.storage.history(ROOT, 3).expect("history"), history);
    no_such(Oid(77), t.storage.history(Oid(77), 1));
}

/// The length counts objects, the size grows with every revision.
pub fn counts_and_sizes(t: &mut Bench) {
    let empty = t.storage.size();
    let first = t.store(ROOT, Tid::ZERO, &[b'x'; 1000]);
    assert_eq!(t.storage.len(), 1);
    assert!(!t.storage.is_empty());
    let one = t.storage.size();
    assert!(one >= empty + 1000);
    t.store(ROOT, first, &[b'y'; 1000]);
    assert_eq!(t.storage.len(), 1, "a second revision is no second object");
    assert!(t.storage.size() >= one + 1000);
    let last = t.commit(|commit| {
        commit.store(Oid(2), Tid::ZERO, b"a")?;
        commit.store(Oid(0x1234_5678_9abc), Tid::ZERO, b"b")
    });
    assert_eq!(t.storage.len(), 3);
    assert_eq!(t.storage.last_transaction(), last);
}

/// Any bytes, of any length.
pub fn records_come_back_as_they_were(t: &mut Bench) {
    let every_byte: Vec<u8> = (0..=255).collect();
    let long = every_byte.repeat(5000);
    let records = [b"x".as_slice(), &every_byte, &vec![0; 70_000], &long];
    let tid = t.commit(|commit| {
        let mut oids = (0..).map(Oid);
        records.iter().zip(&mut oids).try_for_each(|(data, oid)| commit.store(oid, Tid::ZERO, data))
    });
    for (oid, data) in (0..).map(Oid).zip(records) {
        assert!(t.data(oid) == data, "record of {oid}");
        assert!(t.storage.load_serial(oid, tid).expect("load") == data, "record of {oid}");
    }
}

/// Every call that names an object says that it does not exist.
pub fn unknown_objects(t: &mut Bench) {
    let tid = t.store(OTHER, Tid::ZERO, b"other");
    for oid in [ROOT, Oid(2), Oid(0x1_0001), Oid(u64::MAX)] {
        no_such(oid, t.storage.load_before(oid, Tid::MAX));
        no_such(oid, t.storage.load_before(oid, Tid::ZERO));
        no_such(oid, t.storage.load_serial(oid, tid));
        no_such(oid, t.storage.current_tid(oid));
        no_such(oid, t.storage.history(oid, 1));
    }
}

/// A storage may be unable to tell, but then it always is.
pub fn last_invalidations_are_oldest_first(t: &mut Bench) {
    let first = t.store(ROOT, Tid::ZERO, b"first");
    let both = t.commit(|commit| {
        commit.store(OTHER, Tid::ZERO, b"other")?;
        commit.store(ROOT, first, b"second")
    });
    let empty = t.commit(|_| Ok(()));
    let all = [(first, vec![ROOT]), (both, vec![OTHER, ROOT]), (empty, vec![])];
    for count in 0..=5 {
        let expected = all[all.len().saturating_sub(count)..].to_vec();
        if let Some(told) = t.storage.last_invalidations(count).expect("ask") {
            assert_eq!(told, expected, "the last {count}");
        } else {
            assert_eq!(t.storage.last_invalidations(1).expect("ask"), None);
        }
    }
}
