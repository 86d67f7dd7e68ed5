//! The way of a transaction: begin, steps, vote, finish or abort.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::bench::{Bench, Direct, copied, no_such, told, unsupported};
use crate::ids::{Oid, Tid};
use crate::storage::{Begin, Publisher, Storage, StorageError};

const ROOT: Oid = Oid(0);
const OTHER: Oid = Oid(1);

/// Also when the clock has no time to advance.
pub fn tids_grow(t: &mut Bench) {
    let mut serial = Tid::ZERO;
    for round in 0..50_u8 {
        let tid = t.store(ROOT, serial, &[b'0' + round]);
        assert!(tid > serial);
        assert_eq!(t.storage.last_transaction(), tid);
        serial = tid;
    }
}

/// There is nothing it could contradict.
pub fn a_new_object_takes_any_serial(t: &mut Bench) {
    t.store(ROOT, Tid(12345), b"root");
    t.store(OTHER, Tid::MAX, b"other");
    assert_eq!(t.data(ROOT), b"root");
    assert_eq!(t.data(OTHER), b"other");
}

/// The error names both revisions.
pub fn a_stale_serial_conflicts(t: &mut Bench) {
    let first = t.store(ROOT, Tid::ZERO, b"first");
    let second = t.store(ROOT, first, b"second");
    for stale in [Tid::ZERO, first, Tid(second.0 + 1)] {
        match t.refused(|commit| commit.store(ROOT, stale, b"third")) {
            StorageError::Conflict { oid, committed, read, .. } => {
                assert_eq!((oid, committed, read), (ROOT, second, stale));
            }
            other => panic!("expected a conflict, got {other:?}"),
        }
    }
    assert_eq!(t.data(ROOT), b"second");
}

/// Fails for what has changed and for what is not there.
pub fn read_current(t: &mut Bench) {
    let first = t.store(ROOT, Tid::ZERO, b"first");
    let second = t.store(ROOT, first, b"second");
    t.commit(|commit| {
        commit.check_current(ROOT, second)?;
        commit.store(OTHER, Tid::ZERO, b"derived")
    });
    match t.refused(|commit| commit.check_current(ROOT, first)) {
        StorageError::ReadConflict { oid, committed, read } => {
            assert_eq!((oid, committed, read), (ROOT, second, first));
        }
        other => panic!("expected a read conflict, got {other:?}"),
    }
    let missing = Oid(99);
    no_such(missing, Err::<(), _>(t.refused(|commit| commit.check_current(missing, Tid::ZERO))));
}

/// The check asks for the committed revision.
pub fn read_current_of_an_object_stored_in_the_same_transaction(t: &mut Bench) {
    let first = t.store(ROOT, Tid::ZERO, b"first");
    t.commit(|commit| {
        commit.store(ROOT, first, b"second")?;
        commit.check_current(ROOT, first)
    });
    assert_eq!(t.data(ROOT), b"second");
}

/// Both name the revision from before the transaction, and the later one counts.
pub fn same_object_twice(t: &mut Bench) {
    let first = t.store(ROOT, Tid::ZERO, b"first");
    let twice = t.commit(|commit| {
        commit.store(ROOT, first, b"draft")?;
        commit.store(OTHER, Tid::ZERO, b"other")?;
        commit.store(ROOT, first, b"final")
    });
    assert_eq!(t.data(ROOT), b"final");
    assert_eq!(t.storage.load_serial(ROOT, twice).expect("load"), b"final".as_slice());
    let history = t.storage.history(ROOT, 10).expect("history");
    assert_eq!(history.iter().map(|entry| entry.tid).collect::<Vec<_>>(), [twice, first]);
    assert_eq!(t.storage.len(), 2);
    let before = t.storage.load_before(ROOT, twice).expect("load").expect("first");
    assert_eq!((before.data.as_ref(), before.end), (b"first".as_slice(), Some(twice)));
    let next = t.store(ROOT, twice, b"next");
    assert_eq!(t.load(ROOT).expect("load").tid, next);
}

/// Dropping is aborting, and what follows does not notice.
pub fn dropped_at_every_step_leaves_no_trace(t: &mut Bench) {
    let first = t.store(ROOT, Tid::ZERO, b"first");
    let untouched = t.snapshot(&[ROOT, OTHER]);
    for steps in 0..=4 {
        let mut commit = t.try_begin(told(b"nobody", b"in vain", b"")).expect("begin");
        if steps >= 1 {
            commit.store(ROOT, first, b"never").expect("store");
        }
        if steps >= 2 {
            commit.check_current(ROOT, first).expect("check");
        }
        if steps >= 3 {
            commit.store(OTHER, Tid::ZERO, &vec![b'n'; 100_000]).expect("store");
        }
        if steps >= 4 {
            commit.vote().expect("vote");
        }
        drop(commit);
        assert_eq!(t.snapshot(&[ROOT, OTHER]), untouched, "after {steps} steps");
    }
    let second = t.store(ROOT, first, b"second");
    assert_eq!(t.data(ROOT), b"second");
    assert!(second > first);
    no_such(OTHER, t.load(OTHER));
}

/// Nor does a transaction that was refused half way.
pub fn a_failed_step_leaves_no_trace(t: &mut Bench) {
    let first = t.store(ROOT, Tid::ZERO, b"first");
    let untouched = t.snapshot(&[ROOT, OTHER]);
    t.refused(|commit| {
        commit.store(OTHER, Tid::ZERO, b"never")?;
        commit.store(ROOT, Tid::ZERO, b"stale")
    });
    assert_eq!(t.snapshot(&[ROOT, OTHER]), untouched);
    t.refused(|commit| {
        commit.store(OTHER, Tid::ZERO, b"never")?;
        commit.check_current(ROOT, Tid(1))
    });
    assert_eq!(t.snapshot(&[ROOT, OTHER]), untouched);
    t.store(ROOT, first, b"second");
}

/// A second begin is refused, not kept waiting, until the first is through.
pub fn one_transaction_at_a_time(t: &mut Bench) {
    let commit = t.begin();
    assert!(matches!(t.try_begin(Begin::default()), Err(StorageError::Transaction(_))));
    drop(commit);
    let mut commit = t.begin();
    commit.store(ROOT, Tid::ZERO, b"root").expect("store");
    commit.vote().expect("vote");
    assert!(matches!(t.try_begin(Begin::default()), Err(StorageError::Transaction(_))));
    commit.finish(&mut Direct).expect("finish");
    drop(t.begin());
}

/// No finish before the vote, nothing but finish after it. A mistake ends the transaction, nothing else.
pub fn steps_have_an_order(t: &mut Bench) {
    let mut commit = t.begin();
    commit.store(ROOT, Tid::ZERO, b"root").expect("store");
    assert!(matches!(commit.finish(&mut Direct), Err(StorageError::Transaction(_))));
    no_such(ROOT, t.load(ROOT));
    let mut commit = t.begin();
    commit.store(ROOT, Tid::ZERO, b"root").expect("store");
    commit.vote().expect("vote");
    assert!(matches!(commit.store(OTHER, Tid::ZERO, b"late"), Err(StorageError::Transaction(_))));
    assert!(matches!(commit.vote(), Err(StorageError::Transaction(_))));
    drop(commit);
    no_such(ROOT, t.load(ROOT));
    t.store(ROOT, Tid::ZERO, b"root");
}

/// Readers see nothing before the install step, and everything after it.
pub fn publish_is_the_moment(t: &mut Bench) {
    struct Watch<'a> {
        storage: &'a Arc<dyn Storage>,
        first: Tid,
        published: Vec<Tid>,
    }

    impl Watch<'_> {
        fn sees(&self, data: &[u8], last: Tid, len: u64) {
            let root = self.storage.load_before(ROOT, Tid::MAX).expect("load").expect("root");
            assert_eq!((root.data.as_ref(), root.tid), (data, last));
            assert_eq!(self.storage.current_tid(ROOT).expect("known"), last);
            assert_eq!(self.storage.last_transaction(), last);
            assert_eq!(self.storage.len(), len);
            assert_eq!(self.storage.history(ROOT, 1).expect("history")[0].tid, last);
            let before = self.storage.load_before(ROOT, Tid(self.first.0 + 1)).expect("load").expect("first");
            assert_eq!(before.end, (last != self.first).then_some(last));
        }
    }

    impl Publisher for Watch<'_> {
        fn publish(&mut self, tid: Tid, install: &mut dyn FnMut()) {
            self.sees(b"first", self.first, 1);
            no_such(OTHER, self.storage.load_before(OTHER, Tid::MAX));
            no_such(ROOT, self.storage.load_serial(ROOT, tid));
            install();
            self.sees(b"second", tid, 2);
            assert!(self.storage.load_before(OTHER, Tid::MAX).expect("load").is_some());
            self.published.push(tid);
        }
    }

    let first = t.store(ROOT, Tid::ZERO, b"first");
    let mut watch = Watch { storage: &t.storage, first, published: Vec::new() };
    let mut commit = t.begin();
    commit.store(ROOT, first, b"second").expect("store");
    commit.store(OTHER, Tid::ZERO, b"other").expect("store");
    watch.sees(b"first", first, 1);
    assert!(commit.vote().expect("vote").is_empty(), "nothing was resolved");
    watch.sees(b"first", first, 1);
    let tid = commit.finish(&mut watch).expect("finish");
    watch.sees(b"second", tid, 2);
    assert_eq!(watch.published, [tid]);
}

/// A transaction without records has a tid and a place in the order.
pub fn empty_transactions_count(t: &mut Bench) {
    let first = t.store(ROOT, Tid::ZERO, b"root");
    let empty = t.try_commit(told(b"ada", b"nothing", b""), |_| Ok(())).expect("commit");
    assert!(empty > first);
    assert_eq!(t.storage.last_transaction(), empty);
    assert_eq!(t.storage.current_tid(ROOT).expect("known"), first);
    if t.storage.capabilities().iteration {
        let (summary, records) = t.iterate(Some(empty), None).pop().expect("one transaction");
        assert_eq!(summary.tid, empty);
        assert_eq!(summary.metadata.description, b"nothing".as_slice());
        assert!(records.is_empty());
    }
}

/// Any bytes, up to the longest that the format of a file can hold.
pub fn metadata_is_kept(t: &mut Bench) {
    let longest = vec![0xff; 65_535];
    // An extension is a pickle of a dict; this one has a single long value of bytes.
    let mut extension = b"}(U\x01aB\xf3\xff\x00\x00".to_vec();
    extension.resize(65_533, b'e');
    extension.extend_from_slice(b"u.");
    let mut serial = Tid::ZERO;
    for begin in
        [told(b"", b"", b""), told(b" ", b"\xc3\xa4\xff\x00", b"}U\x01aK\x01s."), told(&longest, &longest, &extension)]
    {
        let metadata = begin.metadata.clone();
        serial = t.try_commit(begin, |commit| commit.store(ROOT, serial, b"data")).expect("commit");
        let entry = t.storage.history(ROOT, 1).expect("history").pop().expect("one");
        assert_eq!(entry.tid, serial);
        assert!(entry.metadata == metadata, "metadata of {serial}");
    }
}

/// A storage may refuse what its format cannot hold, but not shorten it.
pub fn metadata_too_long_is_never_cut(t: &mut Bench) {
    let too_long = vec![b'x'; 65_536];
    let first = t.store(ROOT, Tid::ZERO, b"first");
    for begin in [told(&too_long, b"", b""), told(b"", &too_long, b""), told(b"", b"", &too_long)] {
        let metadata = begin.metadata.clone();
        let before = t.snapshot(&[ROOT]);
        match t.try_commit(begin, |commit| commit.store(OTHER, Tid::ZERO, b"other")) {
            Ok(tid) => {
                let entry = t.storage.history(OTHER, 1).expect("history").pop().expect("one");
                assert!(entry.metadata == metadata, "metadata of {tid}");
                return;
            }
            Err(StorageError::Refused(_)) => assert_eq!(t.snapshot(&[ROOT]), before),
            Err(other) => panic!("expected a refusal, got {other:?}"),
        }
    }
    t.store(ROOT, first, b"second");
}

/// Python writes a file that it cannot read again in this case.
pub fn an_empty_record_is_refused_or_kept(t: &mut Bench) {
    let first = t.store(ROOT, Tid::ZERO, b"first");
    match t.try_commit(Begin::default(), |commit| commit.store(ROOT, first, b"")) {
        Ok(tid) => {
            let found = t.load(ROOT).expect("load");
            assert_eq!((found.data.as_ref(), found.tid), (b"".as_slice(), tid));
        }
        Err(_) => assert_eq!(t.data(ROOT), b"first"),
    }
    let current = t.storage.current_tid(ROOT).expect("known");
    t.store(ROOT, current, b"next");
    assert_eq!(t.data(ROOT), b"next");
}

/// A transaction that is copied from elsewhere is what it was there.
pub fn copied_transactions_keep_tid_and_status(t: &mut Bench) {
    let tid = Tid(0x0300_0000_0000_1234);
    let done = t.try_commit(copied(tid, b'p'), |commit| commit.store(ROOT, Tid::ZERO, b"old")).expect("commit");
    assert_eq!(done, tid);
    assert_eq!(t.storage.last_transaction(), tid);
    let found = t.load(ROOT).expect("load");
    assert_eq!((found.data.as_ref(), found.tid), (b"old".as_slice(), tid));
    assert_eq!(t.storage.history(ROOT, 1).expect("history")[0].status, b'p');
    let next = t.store(ROOT, tid, b"new");
    assert!(next > tid);
}

/// Nobody promised that copies come in order.
pub fn an_older_tid_may_be_copied(t: &mut Bench) {
    let first = t.store(ROOT, Tid::ZERO, b"first");
    let older = Tid(0x0300_0000_0000_1234);
    t.try_commit(copied(older, b' '), |commit| commit.store(OTHER, Tid::ZERO, b"older")).expect("commit");
    assert_eq!(t.storage.last_transaction(), older, "the one finished last");
    assert_eq!(t.storage.current_tid(OTHER).expect("known"), older);
    assert_eq!(t.storage.current_tid(ROOT).expect("known"), first);
    let next = t.store(OTHER, older, b"newer");
    assert!(next > first && next > older);
}

/// Then each new tid is the one after its predecessor.
pub fn tids_go_on_after_one_from_the_future(t: &mut Bench) {
    let next_year = SystemTime::now() + Duration::from_secs(365 * 86_400);
    let future = Tid::from_time(next_year);
    t.try_commit(copied(future, b' '), |commit| commit.store(ROOT, Tid::ZERO, b"future")).expect("commit");
    let next = t.store(ROOT, future, b"next");
    assert_eq!(next, Tid::ZERO.later_than(future));
    assert_eq!(t.store(ROOT, next, b"next but one"), Tid::ZERO.later_than(next));
}

/// The current revision is what is older than `Tid::MAX`, and no tid comes after the last one.
pub fn tids_stay_below_what_clients_can_load(t: &mut Bench) {
    for tid in [Tid::MAX, Tid(Tid::MAX.0 + 1), Tid(u64::MAX)] {
        let done = t.try_commit(copied(tid, b' '), |commit| commit.store(ROOT, Tid::ZERO, b"never seen"));
        assert!(matches!(done, Err(StorageError::Refused(_))), "{tid}");
    }
    t.store(OTHER, Tid::ZERO, b"goes on");
    let last = Tid(Tid::MAX.0 - 1);
    t.try_commit(copied(last, b' '), |commit| commit.store(ROOT, Tid::ZERO, b"last")).expect("commit");
    let after = Arc::clone(&t.storage).begin(Begin::default()).map(drop);
    assert!(matches!(after, Err(StorageError::Refused(_))));
    assert_eq!(t.load(ROOT).expect("load").data, b"last".as_slice());
}

/// Never zero, never twice.
pub fn fresh_oids(t: &mut Bench) {
    assert!(t.storage.new_oids(0).expect("none").is_empty());
    let mut handed_out = Vec::new();
    for count in [1, 100, 1, 1000] {
        let oids = t.storage.new_oids(count).expect("oids");
        assert_eq!(oids.len(), count);
        handed_out.extend(oids);
    }
    assert!(handed_out.iter().all(|&oid| oid > ROOT));
    handed_out.sort_unstable();
    handed_out.dedup();
    assert_eq!(handed_out.len(), 1102);
}

/// Also those whose transaction is not finished, or never was.
pub fn fresh_oids_avoid_stored_ones(t: &mut Bench) {
    t.store(Oid(50), Tid::ZERO, b"fifty");
    assert!(t.storage.new_oids(100).expect("oids").iter().all(|&oid| oid > Oid(50)));
    let mut commit = t.begin();
    commit.store(Oid(5000), Tid::ZERO, b"five thousand").expect("store");
    commit.vote().expect("vote");
    assert!(t.storage.new_oids(100).expect("oids").iter().all(|&oid| oid > Oid(5000)));
    drop(commit);
    assert!(t.storage.new_oids(100).expect("oids").iter().all(|&oid| oid > Oid(5000)));
}

/// The last oid can be stored, but nothing comes after it.
pub fn oids_run_out_without_wrapping(t: &mut Bench) {
    let last = Oid(u64::MAX);
    t.store(last, Tid::ZERO, b"last");
    assert_eq!(t.data(last), b"last");
    assert!(t.storage.new_oids(1).is_err());
}

/// What [`Storage::capabilities`] does not list does not half work.
pub fn absent_capabilities_are_refused(t: &mut Bench) {
    let tid = t.store(ROOT, Tid::ZERO, b"root");
    let untouched = t.snapshot(&[ROOT]);
    let can = t.storage.capabilities();
    if !can.undo {
        unsupported(t.storage.undo_log(0, 20, &mut |_| true));
        unsupported(Err::<(), _>(t.refused(|commit| commit.undo(tid).map(drop))));
    }
    if !can.restore {
        unsupported(Err::<(), _>(t.refused(|commit| commit.restore(ROOT, tid, Some(b"again"), None))));
    }
    if !can.external_gc {
        unsupported(Err::<(), _>(t.refused(|commit| commit.delete(ROOT, tid))));
    }
    if !can.record_iternext {
        unsupported(t.storage.record_iternext(None));
    }
    if !can.iteration {
        unsupported(Arc::clone(&t.storage).iterate(None, None));
    }
    assert_eq!(t.snapshot(&[ROOT]), untouched);
}

/// Every call says so; none gives old answers.
pub fn closed_storages_refuse(t: &mut Bench) {
    let tid = t.store(ROOT, Tid::ZERO, b"root");
    t.storage.close().expect("close");
    assert!(t.storage.load_before(ROOT, Tid::MAX).is_err());
    assert!(t.storage.load_serial(ROOT, tid).is_err());
    assert!(t.storage.history(ROOT, 1).is_err());
    assert!(t.storage.new_oids(1).is_err());
    assert!(t.try_begin(Begin::default()).is_err());
    t.storage.close().expect("closing again is no error");
}
