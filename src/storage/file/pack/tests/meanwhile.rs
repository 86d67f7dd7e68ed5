//! What others do while a pack runs.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::*;
use crate::sync::Mutex;

/// Three objects below the root, and garbage; answers the pack time.
fn begun(storage: &Arc<FileStorage>) -> Tid {
    put_all(storage, &[(0, "old", &[1, 2, 3]), (1, "a", &[]), (2, "a", &[]), (3, "a", &[])]);
    put_all(storage, &[(1, "b", &[]), (9, "garbage", &[10]), (10, "garbage", &[]), (11, "garbage", &[])]);
    put(storage, 0, "new", &[1, 2, 3])
}

#[test]
fn commits_at_every_moment_are_kept() {
    let place = Place::new();
    let storage = place.open();
    let stop = begun(&storage);
    let before: Vec<_> = transactions(&storage);
    let mut old_transactions = Arc::clone(&storage).iterate(None, None).expect("iterate");
    let count = AtomicU64::new(0);
    let commit = || {
        let count = count.fetch_add(1, Ordering::Relaxed);
        let stored = put(&storage, 1, &format!("at {count}"), &[]);
        let undone = put(&storage, 2, &format!("undone at {count}"), &[]);
        undo(&storage, undone);
        put(&storage, 100 + count, "new", &[]);
        stored
    };
    let acknowledged = Mutex::new(Vec::new());
    let mut host = Host {
        progress: Some(Box::new(|_| {
            acknowledged.lock().push(commit());
            Ok(())
        })),
        before_last_step: Some(Box::new(|| acknowledged.lock().push(commit()))),
        ..Host::default()
    };
    Arc::clone(&storage).pack(&until(stop), &mut host).expect("pack");
    drop(host);
    let acknowledged = std::mem::take(&mut *acknowledged.lock());
    assert!(acknowledged.len() >= 6, "scanning, marking, copying, catching up twice, last step");
    acknowledged.iter().zip(0..).for_each(|(&tid, count)| {
        let data = storage.load_serial(Oid(1), tid).expect("load");
        assert_eq!(data, record(&format!("at {count}"), &[]));
        assert!(is_there(&storage, 100 + count));
    });
    assert!(holds(&storage, 2, "a", &[]) && !is_there(&storage, 9));
    let history = storage.history(Oid(1), usize::MAX).expect("history");
    assert_eq!(history.len(), acknowledged.len() + 1, "each with the one before it");

    let mut seen = Vec::new();
    while let Some((summary, mut records)) = old_transactions.next().expect("the old file is still open") {
        while records.next().expect("next").is_some() {}
        seen.push(summary.tid);
    }
    assert_eq!(seen, before.iter().map(|(tid, ..)| *tid).collect::<Vec<_>>());
    let storage = reopened(storage, &place);
    put(&storage, 1, "and on", &[]);
}

/// As the server has it: one transaction at a time, and a pack's last step between two.
struct Locked<'a>(&'a Mutex<()>);

impl PackHost for Locked<'_> {
    fn exclusively(&mut self, last_step: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let _turn = self.0.lock();
        last_step()
    }

    fn progress(&mut self, _progress: PackProgress) -> Result<()> {
        Ok(())
    }
}

/// Tells the other threads that it is over, also when it ends badly.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn threads_load_and_commit_through_several_packs() {
    let place = Place::new();
    let storage = place.open();
    begun(&storage);
    let commit_lock = Mutex::new(());
    let packed = AtomicBool::new(false);
    // Whether nobody else was at it.
    let pack_or_wait = || match Arc::clone(&storage).pack(&until(Tid::MAX), &mut Locked(&commit_lock)) {
        Err(StorageError::Refused(problem)) if problem == "Already packing" => false,
        packed => {
            packed.expect("pack");
            true
        }
    };
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut written = Vec::new();
            while !packed.load(Ordering::Relaxed) || written.len() < 10 {
                let _turn = commit_lock.lock();
                let note = written.len().to_string();
                // Both objects in one transaction, with the same note.
                written.push(put_all(&storage, &[(1, &note, &[]), (2, &note, &[])]));
            }
            written
        });
        scope.spawn(|| {
            while !packed.load(Ordering::Relaxed) {
                let first = storage.load_before(Oid(1), Tid::MAX).expect("load").expect("current");
                let second = storage.load_before(Oid(2), Tid(first.tid.0 + 1)).expect("load");
                assert!(second.is_none_or(|second| second.tid <= first.tid));
                assert!(is_there(&storage, 3));
            }
        });
        scope.spawn(|| {
            while !packed.load(Ordering::Relaxed) {
                storage.new_oids(1).expect("oids");
            }
        });
        scope.spawn(|| {
            while !packed.load(Ordering::Relaxed) {
                pack_or_wait();
            }
        });
        let over = Over(&packed);
        for _ in 0..20 {
            while !pack_or_wait() {}
        }
        drop(over);
        writer.join().expect("the writer ended well")
    });
    let note = (written.len() - 1).to_string();
    assert!(holds(&storage, 1, &note, &[]) && holds(&storage, 2, &note, &[]));
    assert_eq!(storage.last_transaction(), *written.last().expect("many"));
    reopened(storage, &place);
}

/// Packs, with this happening before the last step.
fn pack_while(storage: &Arc<FileStorage>, stop: Tid, meanwhile: impl Fn()) -> Result<PackReport> {
    let done = AtomicBool::new(false);
    let mut host = Host {
        progress: Some(Box::new(|progress| {
            if progress.phase == PackPhase::Copying && !done.swap(true, Ordering::Relaxed) {
                meanwhile();
            }
            Ok(())
        })),
        ..Host::default()
    };
    Arc::clone(storage).pack(&until(stop), &mut host)
}

#[test]
fn what_becomes_packed_cannot_be_undone() {
    let place = Place::new();
    let storage = place.open();
    let stop = begun(&storage);
    let later = put(&storage, 3, "later", &[]);
    pack_while(&storage, stop, || {
        let refused = begin(&storage).undo(stop);
        assert!(matches!(&refused, Err(StorageError::Undo(failure)) if failure.reason.contains("maintenance")));
        undo(&storage, later);
    })
    .expect("pack");
    assert!(holds(&storage, 3, "a", &[]));
    assert!(begin(&storage).undo(stop).is_err(), "packed");
    let storage = reopened(storage, &place);
    let failed = put(&storage, 3, "even later", &[]);
    undo(&storage, failed);
}

/// The revision that the undo brings back is left out, and positions behind it move by another distance.
#[test]
fn an_undo_of_garbage_gets_the_data_itself() {
    let place = Place::new();
    let storage = place.open();
    let stop = begun(&storage);
    let later = put(&storage, 11, "later", &[]);
    let kept = put(&storage, 10, "kept", &[]);
    pack_while(&storage, stop, || {
        undo(&storage, later);
        let first = put(&storage, 3, "first", &[]);
        let second = put(&storage, 3, "second", &[]);
        undo(&storage, second);
        undo(&storage, first);
        undo(&storage, kept);
    })
    .expect("pack");
    assert!(holds(&storage, 11, "garbage", &[]) && holds(&storage, 10, "garbage", &[]) && holds(&storage, 3, "a", &[]));
    let storage = reopened(storage, &place);
    assert_eq!(storage.history(Oid(11), 9).expect("history").len(), 2);
    put(&storage, 11, "on", &[]);
}

#[test]
fn a_link_to_what_is_left_out_ends_the_pack() {
    let place = Place::new();
    let storage = place.open();
    let stop = begun(&storage);
    let link = || assert!(put(&storage, 0, "linked", &[9]) > stop);
    let problem = pack_while(&storage, stop, link).expect_err("refused").to_string();
    assert!(problem.contains("pack again") && problem.contains(&Oid(9).to_string()), "{problem}");
    assert!(!place.names().contains(&"Data.fs.pack".to_owned()));
    assert!(is_there(&storage, 9) && is_there(&storage, 10));
    pack(&storage, stop);
    assert!(holds(&storage, 9, "garbage", &[10]) && is_there(&storage, 10));
    reopened(storage, &place);
}

/// Hours may pass between the first catching up and the last step.
#[test]
fn it_ends_as_soon_as_that_is_seen() {
    let place = Place::new();
    let storage = place.open();
    let stop = begun(&storage);
    let mut linked = false;
    let mut host = Host {
        progress: Some(Box::new(|progress| {
            if progress.phase == PackPhase::Copying && !linked {
                linked = true;
                put(&storage, 0, "linked", &[9]);
            }
            Ok(())
        })),
        before_last_step: Some(Box::new(|| panic!("the last step of a pack that cannot succeed"))),
        ..Host::default()
    };
    Arc::clone(&storage).pack(&until(stop), &mut host).expect_err("refused");
}

/// If the writing is undone after the pack, the object must be what it was at the pack time.
#[test]
fn nor_does_it_help_to_write_what_is_left_out() {
    for linked_first in [true, false] {
        let place = Place::new();
        let storage = place.open();
        let stop = begun(&storage);
        let written = Mutex::new(Tid::ZERO);
        let link = || put(&storage, 0, "linked", &[11]);
        let problem = pack_while(&storage, stop, || {
            if linked_first {
                link();
            }
            *written.lock() = put(&storage, 11, "mistake", &[]);
            if !linked_first {
                link();
            }
        });
        let problem = problem.expect_err("refused").to_string();
        assert!(problem.contains("pack again") && problem.contains(&Oid(11).to_string()), "{problem}");
        pack(&storage, stop);
        undo(&storage, *written.lock());
        assert!(holds(&storage, 11, "garbage", &[]));
        reopened(storage, &place);
    }
}

#[test]
fn links_to_what_comes_with_them_and_to_what_never_was_end_no_pack() {
    let place = Place::new();
    let storage = place.open();
    put_all(&storage, &[(0, "root", &[]), (57, "deleted", &[])]);
    delete(&storage, 57);
    let stop = begun(&storage);
    let linked = Mutex::new(Tid::ZERO);
    pack_while(&storage, stop, || {
        put(&storage, 0, "linked", &[1, 55, 56, 57]);
        put(&storage, 55, "new", &[]);
        *linked.lock() = put_all(&storage, &[(0, "linked", &[9]), (9, "again", &[])]);
    })
    .expect("pack");
    assert!(holds(&storage, 9, "again", &[]) && is_there(&storage, 55) && !is_there(&storage, 10));
    let storage = reopened(storage, &place);
    undo(&storage, *linked.lock());
    assert!(holds(&storage, 0, "linked", &[1, 55, 56, 57]) && !is_there(&storage, 9));
}

/// As a copying client brings them.
#[test]
fn what_counts_for_nothing_links_nothing() {
    let place = Place::new();
    let storage = place.open();
    let stop = begun(&storage);
    pack_while(&storage, stop, || {
        let begun = Begin { copied: Some((Tid(storage.last_transaction().0 + 1), b'u')), ..Begin::default() };
        let mut commit = Arc::clone(&storage).begin(begun).expect("begin");
        commit.restore(Oid(77), Tid(storage.last_transaction().0 + 1), Some(&record("", &[9])), None).expect("restore");
        finish(commit);
    })
    .expect("pack");
    assert!(!is_there(&storage, 9));
}

/// The pack time may lie in the future; what comes meanwhile is not becoming packed.
#[test]
fn what_comes_meanwhile_can_be_undone_however_late_the_pack_time() {
    let place = Place::new();
    let storage = place.open();
    let stop = begun(&storage);
    pack_while(&storage, Tid::MAX, || {
        let mistake = put(&storage, 3, "mistake", &[]);
        undo(&storage, mistake);
        assert!(begin(&storage).undo(stop).is_err());
    })
    .expect("pack");
    assert!(holds(&storage, 3, "a", &[]));
    reopened(storage, &place);
}

/// It would never end if more came than its rate allows.
#[test]
fn what_came_meanwhile_is_copied_without_limit() {
    let place = Place::new();
    let options = Options { pack_rate: Some(1), ..Options::new(place.path()) };
    let storage = Arc::new(FileStorage::open(&options).expect("open"));
    let stop = begun(&storage);
    let (mut rounds, mut last) = (0, None);
    let mut host = Host {
        progress: Some(Box::new(|progress| {
            let seen = (progress.phase, progress.done, progress.total);
            if last.replace(seen) == Some(seen) {
                return Err(StorageError::Refused("the pack waits".to_owned()));
            }
            if progress.phase == PackPhase::CatchingUp && progress.done == 0 {
                rounds += 1;
                if rounds == 1 {
                    put(&storage, 3, &"long".repeat(1 << 20), &[]);
                }
            }
            Ok(())
        })),
        ..Host::default()
    };
    Arc::clone(&storage).pack(&until(stop), &mut host).expect("pack");
    drop(host);
    assert!(rounds > 2, "twice at least before the first sync");
}

/// What is voted before the last step comes to its turn may be much. Commits are not to wait while it is copied.
#[test]
fn the_last_step_gives_its_turn_back_while_much_is_left() {
    let much = "x".repeat(usize::try_from(MOST_IN_A_TURN).expect("little") + 1);
    for (bursts, expected) in [(0, 1), (2, 3), (usize::MAX, MOST_TURNS)] {
        let place = Place::new();
        let storage = place.open();
        let stop = begun(&storage);
        let turns = AtomicUsize::new(0);
        let commit = || {
            if turns.fetch_add(1, Ordering::Relaxed) < bursts {
                put(&storage, 3, &much, &[]);
            }
        };
        let mut host = Host { before_last_step: Some(Box::new(commit)), ..Host::default() };
        Arc::clone(&storage).pack(&until(stop), &mut host).expect("pack");
        drop(host);
        assert_eq!(turns.into_inner(), expected);
        assert!(holds(&storage, 3, if bursts > 0 { &much } else { "a" }, &[]) && !is_there(&storage, 9));
        reopened(storage, &place);
    }
}

/// However late the pack time, what comes during the pack is not packed.
#[test]
fn what_comes_during_a_pack_can_be_undone() {
    let place = Place::new();
    let storage = place.open();
    begun(&storage);
    pack_while(&storage, Tid::MAX, || assert!(undo(&storage, put(&storage, 3, "mistake", &[])) > Tid::ZERO))
        .expect("pack");
    assert!(holds(&storage, 3, "a", &[]) && !is_there(&storage, 9));
    reopened(storage, &place);
}

#[test]
fn one_pack_at_a_time() {
    let place = Place::new();
    let storage = place.open();
    let stop = begun(&storage);
    pack_while(&storage, stop, || {
        assert!(
            matches!(try_pack(&storage, stop), Err(StorageError::Refused(problem)) if problem == "Already packing")
        );
    })
    .expect("pack");
    put(&storage, 0, "again", &[]);
    assert_eq!(pack(&storage, Tid::MAX).outcome, PackOutcome::Packed);
}

#[test]
fn no_last_step_during_a_transaction() {
    let place = Place::new();
    let storage = place.open();
    let stop = begun(&storage);
    let mut active = None;
    let mut host = Host { before_last_step: Some(Box::new(|| active = Some(begin(&storage)))), ..Host::default() };
    let refused = Arc::clone(&storage).pack(&until(stop), &mut host);
    drop(host);
    assert!(matches!(refused, Err(StorageError::Transaction(_))));
    let mut commit = active.expect("begun");
    commit.store(Oid(3), storage.current_tid(Oid(3)).expect("there"), &record("b", &[])).expect("store");
    finish(commit);
    pack(&storage, stop);
    reopened(storage, &place);
}

#[test]
fn closing_ends_a_pack() {
    let place = Place::new();
    let storage = place.open();
    let stop = begun(&storage);
    let closed = pack_while(&storage, stop, || storage.close().expect("close"));
    assert!(matches!(closed, Err(StorageError::Refused(problem)) if problem.contains("closed")));
    assert!(!place.names().contains(&"Data.fs.pack".to_owned()));
    assert!(is_there(&place.open(), 9));
}
