//! What is beside a blob directory when a server is killed in one of several packs.

use super::packed::{Host, Packed};
use super::*;
use crate::storage::disk::with_suffix;

fn names(base: &Path) -> Vec<PathBuf> {
    files(base).into_keys().map(|path| path.strip_prefix(base).expect("inside").to_owned()).collect()
}

/// The second pack, too, removes what it has left out, and keeps that and the rest. What the first one has kept goes,
/// which has links to the same files.
#[test]
fn killed_before_the_second_removal() {
    let mut t = Bench::new(over_file);
    let pack = |t: &Bench, mut host| {
        let request = PackRequest { stop: Tid::MAX, gc: Some(false) };
        let report = Arc::clone(&t.storage).pack(&request, &mut host).expect("pack");
        assert_eq!(report.outcome, PackOutcome::Packed);
    };
    let mut tids = vec![Tid::ZERO];
    let mut next = |t: &Bench| {
        let number = tids.len().to_string();
        tids.push(store(t, BLOB, tids[tids.len() - 1], number.as_bytes()));
    };
    next(&t);
    next(&t);
    pack(&t, Host::default());
    next(&t);
    let before = names(&base(&t));
    pack(&t, Host::stopping());
    assert_eq!(names(&base(&t)).len(), 3, "two revisions, and a list");
    t.reopen();
    t.storage.maintain().expect("housekeeping");
    let left: Vec<_> = files(&base(&t)).into_values().collect();
    assert_eq!(left, [b"3"]);
    assert_eq!(names(&with_suffix(&base(&t), ".old")), before);
}

/// Wherever it was stopped, the next start goes on there: it removes nothing that this pack has kept.
#[test]
fn stopped_at_every_step() {
    let mut steps = 0;
    loop {
        let packed = Packed::new(true);
        let old = with_suffix(&packed.base(), ".old");
        let deep = old.join("0x00/0x01");
        std::fs::create_dir_all(&deep).expect("make directories");
        for directory in [&old, &deep, &deep.with_file_name("0x02")] {
            std::fs::create_dir_all(directory).expect("make directories");
            std::fs::write(directory.join("0x01.blob"), b"of the pack before").expect("write");
        }
        // What is gone has a second name there.
        let linked = packed.kept(&packed.gone[0]);
        std::fs::create_dir_all(linked.parent().expect("a parent")).expect("make directories");
        std::fs::hard_link(&packed.gone[0], &linked).expect("link");
        let mut left = steps;
        let stopped = removal::Removal::new(&packed.storage, true).run(&mut |_, _| {
            left = usize::checked_sub(left, 1).ok_or_else(|| StorageError::Refused("stop".to_owned()))?;
            Ok(())
        });
        packed.work_off();
        packed.check();
        let stays = packed.storage.directory.revision(BLOB, packed.tid);
        let mut expected: Vec<_> = packed.gone.iter().chain([&stays]).map(|path| packed.kept(path)).collect();
        expected.sort();
        assert_eq!(files(&old).into_keys().collect::<Vec<_>>(), expected, "after {steps} steps");
        if !stopped {
            break;
        }
        steps += 1;
    }
    assert!(steps > 10, "{steps}");
}

/// What cannot be removed from there is in nobody's way.
#[test]
fn a_second_name_of_the_same_file() {
    let packed = Packed::new(true);
    let list = packed.base().join(".removed");
    let lines = std::fs::read_to_string(&list).expect("a list");
    std::fs::write(&list, lines.replace("of an earlier pack", "of this pack      ")).expect("write");
    let linked = packed.kept(&packed.gone[0]);
    std::fs::create_dir_all(linked.parent().expect("a parent")).expect("make directories");
    std::fs::hard_link(&packed.gone[0], &linked).expect("link");
    packed.work_off();
    packed.check();
    assert_eq!(std::fs::read(linked).expect("kept"), b"0x0300000000000001.blob");
}

/// Packs that keep nothing remove what earlier ones have kept, if that is theirs.
#[test]
fn what_was_kept_goes_once_nothing_is() {
    for is_ours in [true, false] {
        let mut packed = Packed::new(false);
        if !is_ours {
            packed.storage = packed.storage.leaving_old();
        }
        let old = with_suffix(&packed.base(), ".old");
        std::fs::create_dir(&old).expect("make a directory");
        std::fs::write(old.join("0x01.blob"), b"of the pack before").expect("write");
        removal::remove_listed(&packed.storage, &mut Host::default());
        packed.check();
        assert_eq!(old.exists(), !is_ours);
    }
}

/// Whoever works off what an earlier server has left gives way to a pack, which goes on with it, and to the end.
#[test]
fn what_was_left_over_keeps_nobody_waiting() {
    for packs in [false, true] {
        let packed = Packed::new(false);
        let list = packed.base().join(".removed");
        let storage = Arc::new(packed.storage);
        let names = storage.directory.names.lock();
        std::thread::scope(|scope| {
            scope.spawn(|| storage.maintain().expect("housekeeping"));
            // Just before the first file goes, for which it needs the lock.
            while !std::fs::read_to_string(&list).expect("a list").contains("of this pack") {
                std::thread::yield_now();
            }
            let other = scope.spawn(|| {
                if packs {
                    let request = PackRequest { stop: Tid::MAX, gc: Some(false) };
                    Arc::clone(&storage).pack(&request, &mut Host::default()).map(drop)
                } else {
                    storage.close()
                }
            });
            while !storage.give_way.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            drop(names);
            other.join().expect("no panic").expect("done");
        });
        assert_eq!(list.exists(), !packs, "given up, and left for the next start");
        assert_eq!(packed.gone.iter().filter(|path| path.exists()).count(), usize::from(!packs));
    }
}
