//! What a storage that is closed and opened again still knows.

use std::time::{Duration, SystemTime};

use super::bench::{Bench, copied, told};
use crate::ids::{Oid, Tid};

const ROOT: Oid = Oid(0);
const OTHER: Oid = Oid(0x1_0001);

/// All that could be seen before.
pub fn everything_is_there_again(t: &mut Bench) {
    let first = t.store(ROOT, Tid::ZERO, b"first");
    t.try_commit(told(b"ada", b"both", b"}U\x01aK\x01s."), |commit| {
        commit.store(ROOT, first, b"draft")?;
        commit.store(OTHER, Tid::ZERO, b"other")?;
        commit.store(ROOT, first, b"final")
    })
    .expect("commit");
    t.commit(|_| Ok(()));
    let before = t.snapshot(&[ROOT, OTHER, Oid(5)]);
    t.reopen();
    assert_eq!(t.snapshot(&[ROOT, OTHER, Oid(5)]), before);
    t.reopen();
    assert_eq!(t.snapshot(&[ROOT, OTHER, Oid(5)]), before);
    let serial = t.storage.current_tid(ROOT).expect("known");
    t.store(ROOT, serial, b"next");
    assert_eq!(t.data(ROOT), b"next");
}

/// Also when the last one lies in the future.
pub fn tids_go_on(t: &mut Bench) {
    let tomorrow = Tid::from_time(SystemTime::now() + Duration::from_secs(86_400));
    t.try_commit(copied(tomorrow, b' '), |commit| commit.store(ROOT, Tid::ZERO, b"data")).expect("commit");
    t.reopen();
    assert_eq!(t.storage.last_transaction(), tomorrow);
    assert_eq!(t.store(ROOT, tomorrow, b"next"), Tid::ZERO.later_than(tomorrow));
}

/// Clients keep a stock of them across a restart.
pub fn oids_are_never_handed_out_again(t: &mut Bench) {
    let mut highest = Oid(0);
    for _ in 0..3 {
        let oids = t.storage.new_oids(100).expect("oids");
        assert!(oids.iter().all(|&oid| oid > highest), "{} after {highest}", oids[0]);
        highest = oids.into_iter().max().expect("a hundred");
        t.reopen();
    }
}

/// Also when it was voted.
pub fn an_aborted_transaction_is_not_there(t: &mut Bench) {
    let first = t.store(ROOT, Tid::ZERO, b"first");
    let before = t.snapshot(&[ROOT, OTHER]);
    let mut commit = t.begin();
    commit.store(ROOT, first, b"never").expect("store");
    commit.store(OTHER, Tid::ZERO, b"never").expect("store");
    commit.vote().expect("vote");
    drop(commit);
    t.reopen();
    assert_eq!(t.snapshot(&[ROOT, OTHER]), before);
}
