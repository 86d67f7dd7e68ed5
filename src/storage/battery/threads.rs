//! Many threads at once.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::bench::{Bench, Direct, after};
use crate::ids::{Oid, Tid};

const OIDS: [Oid; 4] = [Oid(0), Oid(1), Oid(0x1_0000), Oid(0x7fff_ffff)];

/// As of any moment all objects are from the same transaction, and time does not run backwards.
pub fn readers_see_whole_transactions(t: &mut Bench) {
    let t = &*t;
    let write = |round: u32, serial: Tid| {
        t.commit(|commit| OIDS.iter().try_for_each(|&oid| commit.store(oid, serial, &round.to_be_bytes())))
    };
    let mut serial = write(0, Tid::ZERO);
    let done = AtomicBool::new(false);
    let storage = &t.storage;
    thread::scope(|scope| {
        for reader in 0..3 {
            let done = &done;
            scope.spawn(move || {
                let mut newest = (Tid::ZERO, Vec::new());
                loop {
                    let at_the_end = done.load(Ordering::Acquire);
                    let last = storage.last_transaction();
                    for oid in OIDS.iter().cycle().skip(reader).take(OIDS.len()) {
                        let then = storage.load_before(*oid, after(last)).expect("load").expect("there");
                        assert_eq!(then.tid, last, "{oid} as of {last}");
                        if last == newest.0 {
                            assert_eq!(then.data, newest.1, "{oid} as of {last}");
                        }
                        assert!(last >= newest.0, "{last} after {}", newest.0);
                        newest = (last, then.data.to_vec());
                        let now = storage.load_before(*oid, Tid::MAX).expect("load").expect("there");
                        assert!(now.tid >= last, "{oid} is older than what was seen before");
                        assert!(storage.current_tid(*oid).expect("there") >= now.tid);
                        assert_eq!(storage.load_serial(*oid, now.tid).expect("there"), now.data);
                    }
                    if at_the_end {
                        break;
                    }
                }
            });
        }
        for round in 1..200 {
            serial = write(round, serial);
        }
        done.store(true, Ordering::Release);
    });
    assert_eq!(t.load(OIDS[0]).expect("load").tid, serial);
}

/// No two threads get the same one.
pub fn fresh_oids_are_unique_across_threads(t: &mut Bench) {
    let storage = &t.storage;
    let handed_out: Vec<Oid> = thread::scope(|scope| {
        let threads: Vec<_> = (1..=4)
            .map(|count| {
                scope.spawn(move || (0..200).flat_map(|_| storage.new_oids(count).expect("oids")).collect::<Vec<_>>())
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    let unique: HashSet<_> = handed_out.iter().collect();
    assert_eq!((handed_out.len(), unique.len()), (2000, 2000));
}

/// Each step may run on another thread of a pool.
pub fn a_commit_may_move_between_threads(t: &mut Bench) {
    let mut commit = t.begin();
    let tid = thread::scope(|scope| {
        let stored = scope.spawn(move || {
            commit.store(Oid(0), Tid::ZERO, b"root").expect("store");
            commit
        });
        let mut commit = stored.join().expect("no panic");
        let voted = scope.spawn(move || {
            commit.vote().expect("vote");
            commit
        });
        let commit = voted.join().expect("no panic");
        scope.spawn(move || commit.finish(&mut Direct).expect("finish")).join().expect("no panic")
    });
    assert_eq!(t.load(Oid(0)).expect("load").tid, tid);
}
