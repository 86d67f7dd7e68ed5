//! Pack: what nobody needs as of a time goes, and nothing else.

use std::sync::Arc;

use super::bench::{Bench, no_such};
use crate::ids::{Oid, Tid};
use crate::storage::{PackHost, PackOutcome, PackProgress, PackReport, PackRequest, Result, StorageError};

const ROOT: Oid = Oid(0);
const OTHER: Oid = Oid(1);
const THIRD: Oid = Oid(2);
const FOURTH: Oid = Oid(3);
const ALL: [Oid; 4] = [ROOT, OTHER, THIRD, FOURTH];

/// Later than any transaction of these tests.
const FUTURE: Tid = Tid(Tid::MAX.0 - 1);

/// A host that lets everything happen.
struct Willing;

impl PackHost for Willing {
    fn exclusively(&mut self, last_step: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        last_step()
    }

    fn progress(&mut self, _progress: PackProgress) -> Result<()> {
        Ok(())
    }
}

/// A host that does something before the last step, and then perhaps refuses it.
struct Before<F>(F);

impl<F: FnMut() -> Result<()>> PackHost for Before<F> {
    fn exclusively(&mut self, last_step: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        (self.0)()?;
        last_step()
    }

    fn progress(&mut self, _progress: PackProgress) -> Result<()> {
        Ok(())
    }
}

fn try_pack(t: &Bench, stop: Tid, gc: Option<bool>, host: &mut dyn PackHost) -> Result<PackReport> {
    Arc::clone(&t.storage).pack(&PackRequest { stop, gc }, host)
}

/// Packs with a host that lets everything happen.
pub fn pack(t: &Bench, stop: Tid, gc: bool) -> PackReport {
    try_pack(t, stop, Some(gc), &mut Willing).expect("pack")
}

fn refusal() -> StorageError {
    StorageError::Refused("not now".to_owned())
}

fn just_before(tid: Tid) -> Tid {
    Tid(tid.0 - 1)
}

/// A record that refers to `oids`.
pub fn record(oids: &[Oid]) -> Vec<u8> {
    let references = oids.iter().map(|oid| [b"C\x08", &oid.to_bytes()[..], b"Q"].concat());
    [b"\x80\x03cm\nC\nq\x00.\x80\x03(".to_vec(), references.collect::<Vec<_>>().concat(), b"t.".to_vec()].concat()
}

/// The record of [`record`], with something in it that tells it apart.
fn noted(note: &str, oids: &[Oid]) -> Vec<u8> {
    let mut record = record(oids);
    record.truncate(record.len() - 2);
    record.extend([b'U', u8::try_from(note.len()).expect("short")]);
    [&record, note.as_bytes(), b"t."].concat()
}

/// Root, and three objects that it refers to.
fn family(t: &Bench) -> Tid {
    t.commit(|commit| {
        commit.store(ROOT, Tid::ZERO, &record(&ALL[1..]))?;
        ALL[1..].iter().try_for_each(|&oid| commit.store(oid, Tid::ZERO, &record(&[])))
    })
}

/// There is nothing to do where nothing is.
pub fn an_empty_storage(t: &mut Bench) {
    for gc in [true, false] {
        let report = pack(t, FUTURE, gc);
        assert_eq!((report.outcome, report.objects_after), (PackOutcome::NothingToDo, 0));
    }
    assert!(t.storage.is_empty());
}

/// Revisions that were replaced by then; the one that was current then is there, and all later ones.
pub fn replaced_revisions_go(t: &mut Bench) {
    for gc in [true, false] {
        let start = t.load(ROOT).map_or(Tid::ZERO, |revision| revision.tid);
        let first = t.store(ROOT, start, &noted("first", &[]));
        let second = t.store(ROOT, first, &noted("second", &[]));
        let third = t.store(ROOT, second, &noted("third", &[]));
        let fourth = t.store(ROOT, third, &noted("fourth", &[]));
        // Between two transactions the earlier one counts.
        let report = pack(t, just_before(third), gc);
        assert_eq!((report.outcome, report.objects_before, report.objects_after), (PackOutcome::Packed, 1, 1));
        assert!(report.bytes_after < report.bytes_before, "{report:?}");
        assert_eq!(report.bytes_after, t.storage.size());
        no_such(ROOT, t.storage.load_serial(ROOT, first));
        assert_eq!(t.storage.load_before(ROOT, second).expect("known, but not yet then"), None);
        for (tid, end, note) in
            [(second, Some(third), "second"), (third, Some(fourth), "third"), (fourth, None, "fourth")]
        {
            assert_eq!(t.storage.load_serial(ROOT, tid).expect("load"), noted(note, &[]));
            let revision = t.storage.load_before(ROOT, Tid(tid.0 + 1)).expect("load").expect("revision");
            assert_eq!((revision.data.to_vec(), revision.tid, revision.end), (noted(note, &[]), tid, end));
        }
        let history = t.storage.history(ROOT, 10).expect("history");
        assert_eq!(history.iter().map(|entry| entry.tid).collect::<Vec<_>>(), [fourth, third, second]);
        // The end of the very transaction.
        pack(t, third, gc);
        no_such(ROOT, t.storage.load_serial(ROOT, second));
        assert_eq!(t.storage.history(ROOT, 10).expect("history").len(), 2);
    }
}

/// What the root does not lead to as of then, in cycles too; not what is referred to from what stays.
pub fn unreachable_objects_go(t: &mut Bench) {
    let first = t.commit(|commit| {
        commit.store(ROOT, Tid::ZERO, &record(&[OTHER, THIRD]))?;
        commit.store(OTHER, Tid::ZERO, &record(&[ROOT, OTHER]))?;
        commit.store(THIRD, Tid::ZERO, &record(&[FOURTH, THIRD]))?;
        commit.store(FOURTH, Tid::ZERO, &record(&[THIRD, OTHER]))
    });
    let second = t.store(ROOT, first, &record(&[OTHER]));
    pack(t, first, true);
    assert_eq!(t.storage.len(), 4, "as of then it was still referred to");
    pack(t, second, false);
    assert_eq!(t.storage.len(), 4, "garbage is not collected");
    // A storage may remember that it was packed to that time, and not how.
    let third = t.store(ROOT, second, &record(&[OTHER]));
    let report = try_pack(t, third, None, &mut Willing).expect("pack");
    assert_eq!((report.outcome, report.objects_before, report.objects_after), (PackOutcome::Packed, 4, 2));
    assert_eq!((report.dangling, report.undecodable), (0, 0));
    assert_eq!(t.storage.len(), 2);
    assert_eq!((t.data(ROOT), t.data(OTHER)), (record(&[OTHER]), record(&[ROOT, OTHER])));
    for gone in [THIRD, FOURTH] {
        no_such(gone, t.storage.load_before(gone, Tid::MAX));
        no_such(gone, t.storage.load_before(gone, third));
        no_such(gone, t.storage.load_serial(gone, first));
        no_such(gone, t.storage.current_tid(gone));
        no_such(gone, t.storage.history(gone, 1));
    }
}

/// However long the way to an object is.
pub fn long_chains_are_followed(t: &mut Bench) {
    let tid = t.commit(|commit| {
        (0..20_000).try_for_each(|number| commit.store(Oid(number), Tid::ZERO, &record(&[Oid(number + 1)])))?;
        commit.store(Oid(20_000), Tid::ZERO, &record(&[]))
    });
    let report = pack(t, tid, true);
    assert_eq!((report.outcome, report.objects_after, report.dangling), (PackOutcome::NothingToDo, 20_001, 0));
}

/// An object stored after the pack time may be about to be linked, and what it refers to with it.
pub fn what_is_newer_stays(t: &mut Bench) {
    let first = family(t);
    let second = t.store(ROOT, first, &record(&[OTHER]));
    let third = t.store(Oid(9), Tid::ZERO, &record(&[FOURTH]));
    pack(t, second, true);
    assert_eq!(t.load(Oid(9)).expect("newer").tid, third);
    assert_eq!(t.data(FOURTH), record(&[]));
    no_such(THIRD, t.storage.load_before(THIRD, Tid::MAX));
}

/// The future ends now, and to pack twice is to pack once.
pub fn the_future_ends_now(t: &mut Bench) {
    let first = family(t);
    let second = t.store(ROOT, first, &record(&[OTHER]));
    assert_eq!(pack(t, FUTURE, true).outcome, PackOutcome::Packed);
    no_such(ROOT, t.storage.load_serial(ROOT, first));
    assert_eq!(t.storage.len(), 2);
    let before = t.snapshot(&ALL);
    for stop in [FUTURE, second, first] {
        let report = pack(t, stop, true);
        assert_eq!((report.outcome, report.objects_after), (PackOutcome::NothingToDo, 2));
        assert_eq!(report.bytes_before, report.bytes_after);
    }
    assert_eq!(t.snapshot(&ALL), before);
    // A pack to a time to come does not stand in the way of later ones.
    let third = t.store(ROOT, second, &record(&[]));
    assert_eq!(pack(t, third, true).outcome, PackOutcome::Packed);
    assert_eq!(t.storage.len(), 1);
}

/// Nothing was there to be replaced.
pub fn before_the_first_transaction(t: &mut Bench) {
    let first = t.commit(|commit| {
        commit.store(ROOT, Tid::ZERO, &record(&[]))?;
        commit.store(OTHER, Tid::ZERO, &record(&[]))
    });
    t.store(ROOT, first, &record(&[]));
    let before = t.snapshot(&ALL);
    for gc in [true, false] {
        assert_eq!(pack(t, just_before(first), gc).outcome, PackOutcome::NothingToDo);
    }
    assert_eq!(t.snapshot(&ALL), before);
}

/// A reference into the void is counted, and leaves nothing out.
pub fn dangling_references(t: &mut Bench) {
    let first = t.commit(|commit| {
        commit.store(ROOT, Tid::ZERO, &record(&[Oid(77), OTHER]))?;
        commit.store(OTHER, Tid::ZERO, &record(&[]))?;
        commit.store(THIRD, Tid::ZERO, &record(&[]))
    });
    let report = pack(t, first, true);
    assert_eq!((report.outcome, report.objects_after, report.dangling), (PackOutcome::Packed, 2, 1));
    assert_eq!(t.data(OTHER), record(&[]));
}

/// Weak references, and those to other databases, hold nothing.
pub fn weak_references_do_not_count(t: &mut Bench) {
    let weak = [b"N.](X\x01\0\0\0wC\x08", &OTHER.to_bytes()[..], b"\x85eQ."].concat();
    let elsewhere = [b"N.](X\x01\0\0\0n(X\x01\0\0\0dC\x08", &THIRD.to_bytes()[..], b"teQ."].concat();
    let first = t.commit(|commit| {
        commit.store(ROOT, Tid::ZERO, &record(&[FOURTH]))?;
        commit.store(OTHER, Tid::ZERO, &record(&[]))?;
        commit.store(THIRD, Tid::ZERO, &record(&[]))?;
        commit.store(FOURTH, Tid::ZERO, &weak)
    });
    let second = t.store(FOURTH, first, &elsewhere);
    assert_eq!(pack(t, first, true).objects_after, 2);
    assert_eq!(pack(t, second, true).objects_after, 2);
    no_such(OTHER, t.storage.load_before(OTHER, Tid::MAX));
    no_such(THIRD, t.storage.load_before(THIRD, Tid::MAX));
}

/// An unreadable record may refer to anything: no object goes, but older revisions do.
pub fn unreadable_records_hold_everything(t: &mut Bench) {
    let first = t.commit(|commit| {
        commit.store(ROOT, Tid::ZERO, &record(&[OTHER]))?;
        commit.store(OTHER, Tid::ZERO, &record(&[]))?;
        commit.store(THIRD, Tid::ZERO, &record(&[]))
    });
    let second = t.store(OTHER, first, b".zno pickle at all");
    let report = pack(t, second, true);
    assert_eq!((report.outcome, report.objects_after, report.undecodable), (PackOutcome::Packed, 3, 1));
    assert_eq!(t.data(OTHER), b".zno pickle at all");
    assert_eq!(t.data(THIRD), record(&[]));
    no_such(OTHER, t.storage.load_serial(OTHER, first));
}

/// Without a root everything would go; that is not what was meant.
pub fn no_root_no_collection(t: &mut Bench) {
    let first = t.store(OTHER, Tid::ZERO, &noted("first", &[]));
    let second = t.store(OTHER, first, &noted("second", &[]));
    let before = t.snapshot(&ALL);
    match try_pack(t, second, Some(true), &mut Willing) {
        Err(StorageError::Refused(problem)) => assert!(problem.contains("root"), "{problem}"),
        other => panic!("expected a refusal, got {other:?}"),
    }
    assert_eq!(t.snapshot(&ALL), before);
    assert_eq!(pack(t, second, false).outcome, PackOutcome::Packed);
    assert_eq!(t.data(OTHER), noted("second", &[]));
    no_such(OTHER, t.storage.load_serial(OTHER, first));
}

/// As if the past had never been, but for tids and oids.
pub fn commits_go_on(t: &mut Bench) {
    let first = family(t);
    let second = t.store(ROOT, first, &record(&[OTHER]));
    let highest = t.storage.new_oids(1).expect("new oid")[0];
    pack(t, second, true);
    for (oid, stale, current) in [(ROOT, first, second), (ROOT, Tid::ZERO, second), (OTHER, Tid::ZERO, first)] {
        match t.refused(|commit| commit.store(oid, stale, &record(&[]))) {
            StorageError::Conflict { oid: named, committed, read, .. } => {
                assert_eq!((named, committed, read), (oid, current, stale));
            }
            other => panic!("expected a conflict, got {other:?}"),
        }
    }
    t.refused(|commit| commit.check_current(ROOT, first));
    let third = t.commit(|commit| {
        commit.check_current(OTHER, first)?;
        commit.store(ROOT, second, &record(&[OTHER, THIRD]))?;
        commit.store(THIRD, Tid::ZERO, &record(&[]))
    });
    assert!(third > second);
    assert_eq!((t.load(ROOT).expect("load").tid, t.load(THIRD).expect("load").tid), (third, third));
    let before = t.storage.load_before(ROOT, third).expect("load").expect("packed");
    assert_eq!((before.tid, before.end), (second, Some(third)));
    assert!(t.storage.new_oids(1).expect("new oid")[0] > highest);
}

/// Clients have seen it, so later tids must be later, even if nothing of it is left.
pub fn the_last_tid_stays(t: &mut Bench) {
    t.store(ROOT, Tid::ZERO, &record(&[]));
    // A tid ahead of the clock, as another storage may have given it.
    let last = Tid(0x7000_0000_0000_0000);
    let garbage = super::bench::copied(last, b' ');
    t.try_commit(garbage, |commit| commit.store(OTHER, Tid::ZERO, &record(&[]))).expect("commit");
    assert_eq!(pack(t, last, true).objects_after, 1);
    assert_eq!(t.storage.last_transaction(), last);
    let next = t.commit(|_| Ok(()));
    assert!(next > last, "{next}");
}

/// Iterators see what is left, and which transactions were touched.
pub fn iterated_afterwards(t: &mut Bench) {
    let first = family(t);
    let second = t.store(OTHER, first, &record(&[]));
    let vanished = t.store(FOURTH, first, &record(&[]));
    let third = t.store(ROOT, first, &record(&[OTHER, THIRD]));
    let fourth = t.store(THIRD, first, &record(&[]));
    let open = t.storage.capabilities().iteration.then(|| Arc::clone(&t.storage).iterate(None, None).expect("iterate"));
    pack(t, third, true);
    let Some(mut open) = open else { return };
    let found = t.iterate(None, None);
    let shown: Vec<_> = found
        .iter()
        .map(|(summary, records)| (summary.tid, records.iter().map(|record| record.oid).collect::<Vec<_>>()))
        .collect();
    assert_eq!(shown, [(first, vec![THIRD]), (second, vec![OTHER]), (third, vec![ROOT]), (fourth, vec![THIRD])]);
    no_such(FOURTH, t.storage.load_serial(FOURTH, vanished));
    assert_eq!((found[0].0.status, found[3].0.status), (b'p', b' '));
    assert_eq!(found[0].1[0].data.as_deref(), Some(record(&[]).as_slice()));
    // One that was there before goes on, with what was or with what is.
    let (summary, _) = open.next().expect("next").expect("one");
    assert_eq!(summary.tid, first);
}

/// Whoever runs the pack may end it before the last step.
pub fn a_refusal_changes_nothing(t: &mut Bench) {
    struct Impatient(u64);
    impl PackHost for Impatient {
        fn exclusively(&mut self, last_step: &mut dyn FnMut() -> Result<()>) -> Result<()> {
            last_step()
        }
        fn progress(&mut self, _progress: PackProgress) -> Result<()> {
            self.0 += 1;
            Err(refusal())
        }
    }
    let first = family(t);
    let second = t.store(ROOT, first, &record(&[OTHER]));
    let before = t.snapshot(&ALL);
    for gc in [true, false] {
        match try_pack(t, second, Some(gc), &mut Before(|| Err(refusal()))) {
            Err(StorageError::Refused(problem)) => assert_eq!(problem, "not now"),
            other => panic!("expected the host's refusal, got {other:?}"),
        }
        assert_eq!(t.snapshot(&ALL), before);
    }
    let mut host = Impatient(0);
    let outcome = try_pack(t, second, Some(true), &mut host);
    if host.0 > 0 {
        assert!(outcome.is_err(), "{outcome:?}");
        assert_eq!(t.snapshot(&ALL), before);
        assert_eq!(pack(t, second, true).outcome, PackOutcome::Packed);
    }
    assert_eq!(t.storage.len(), 2);
}

/// What is committed while a pack is on is there afterwards, with all that it refers to.
pub fn commits_meanwhile(t: &mut Bench) {
    let first = family(t);
    let second = t.store(ROOT, first, &record(&[OTHER]));
    let mut third = None;
    let outcome = try_pack(
        t,
        second,
        Some(true),
        &mut Before(|| {
            assert_eq!((t.data(ROOT), t.data(FOURTH)), (record(&[OTHER]), record(&[])), "loads go on");
            third = Some(t.commit(|commit| {
                commit.store(ROOT, second, &record(&[OTHER, FOURTH]))?;
                commit.store(Oid(9), Tid::ZERO, &record(&[]))
            }));
            Ok(())
        }),
    );
    let third = third.expect("the last step was asked for");
    assert_eq!((t.load(ROOT).expect("load").tid, t.load(Oid(9)).expect("load").tid), (third, third));
    assert_eq!(t.data(FOURTH), record(&[]), "garbage that was linked again");
    assert_eq!(t.storage.last_transaction(), third);
    match outcome {
        Ok(_) => no_such(THIRD, t.storage.load_before(THIRD, Tid::MAX)),
        // A storage may rather give up than follow.
        Err(_) => assert_eq!(t.data(THIRD), record(&[])),
    }
}

/// A second one is told to wait.
pub fn one_pack_at_a_time(t: &mut Bench) {
    let first = family(t);
    let second = t.store(ROOT, first, &record(&[OTHER]));
    let mut inner = None;
    try_pack(
        t,
        second,
        Some(true),
        &mut Before(|| {
            inner = Some(try_pack(t, second, Some(true), &mut Willing));
            Ok(())
        }),
    )
    .expect("the first one");
    match inner {
        Some(Err(StorageError::Refused(problem))) => assert_eq!(problem, "Already packing"),
        other => panic!("expected a refusal, got {other:?}"),
    }
    assert_eq!(t.storage.len(), 2);
    assert_eq!(pack(t, second, true).outcome, PackOutcome::NothingToDo);
}

/// After it, nothing.
pub fn closed_storages_do_not_pack(t: &mut Bench) {
    let first = family(t);
    let second = t.store(ROOT, first, &record(&[OTHER]));
    t.storage.close().expect("close");
    try_pack(t, second, Some(true), &mut Willing).expect_err("closed");
}
