//! What a pack makes of a history that nobody adds to meanwhile.

use super::super::super::format::{MAGIC_FS21, STATUS_OFFSET};
use super::super::super::io::with_suffix;
use super::*;

/// Root to 1 to 2, each with an older revision; 3 is garbage as of the last transaction.
fn family(storage: &Arc<FileStorage>) -> Tid {
    put_all(storage, &[(0, "old", &[1, 3]), (1, "old", &[2]), (2, "old", &[]), (3, "garbage", &[])]);
    put_all(storage, &[(0, "new", &[1]), (2, "new", &[])])
}

#[test]
fn only_what_was_current_stays() {
    let place = Place::new();
    let storage = place.open();
    let last = family(&storage);
    let before = place.bytes();
    let report = pack(&storage, last);
    assert_eq!((report.outcome, report.objects_before, report.objects_after), (PackOutcome::Packed, 4, 3));
    assert_eq!((report.bytes_before, report.bytes_after), (before.len() as u64, place.bytes().len() as u64));
    assert!(report.bytes_after < report.bytes_before);
    assert_eq!((report.dangling, report.undecodable), (0, 0));
    let first = transactions(&storage)[0].0;
    assert_eq!(transactions(&storage), [(first, b'p', vec![(1, true)]), (last, b'p', vec![(0, true), (2, true)])]);
    assert!(holds(&storage, 0, "new", &[1]) && holds(&storage, 1, "old", &[2]) && holds(&storage, 2, "new", &[]));
    assert!(!is_there(&storage, 3));
    assert_eq!(storage.history(ROOT, 10).expect("history").len(), 1);
    assert_eq!(std::fs::read(with_suffix(&place.path(), ".old")).expect("the old file"), before);
    assert_eq!(place.names(), ["Data.fs", "Data.fs.index", "Data.fs.lock", "Data.fs.oids", "Data.fs.old"]);
    put(&storage, 1, "goes on", &[2]);
    reopened(storage, &place);
}

#[test]
fn what_came_later_stays_as_it_was() {
    let place = Place::new();
    let storage = place.open();
    put_all(&storage, &[(0, "old", &[1]), (1, "a", &[])]);
    let stop = put(&storage, 1, "b", &[]);
    let later = put(&storage, 1, "c", &[]);
    let latest = put(&storage, 1, "d", &[]);
    undo(&storage, latest);
    pack(&storage, stop);
    let history = storage.history(Oid(1), 10).expect("history");
    assert_eq!(history.iter().map(|revision| revision.status).collect::<Vec<_>>(), [b' ', b' ', b' ', b'p']);
    let revision = storage.load_before(Oid(1), later).expect("load").expect("older");
    assert_eq!((revision.data.as_ref(), revision.end), (record("b", &[]).as_slice(), Some(later)));
    assert!(holds(&storage, 1, "c", &[]));
    undo(&storage, later);
    assert!(holds(&storage, 1, "b", &[]));
    reopened(storage, &place);
}

/// An undo after the pack time needs a revision that was no longer current then, and all that it refers to.
#[test]
fn a_back_pointer_over_the_pack_time_keeps_its_target() {
    for gc in [true, false] {
        let place = Place::new();
        let storage = place.open();
        put(&storage, 0, "oldest", &[]);
        put_all(&storage, &[(0, "old", &[1]), (1, "only then", &[])]);
        let unlinked = put(&storage, 0, "new", &[]);
        let undone = undo(&storage, unlinked);
        let request = PackRequest { stop: unlinked, gc: Some(gc) };
        let report = Arc::clone(&storage).pack(&request, &mut Host::default()).expect("pack");
        assert_eq!(report.outcome, PackOutcome::Packed);
        assert!(holds(&storage, 0, "old", &[1]) && holds(&storage, 1, "only then", &[]));
        assert_eq!(storage.history(ROOT, 1).expect("history")[0].size, 0, "it still points back");
        let before = storage.load_before(ROOT, undone).expect("load").expect("older");
        assert_eq!((before.data.as_ref(), before.tid), (record("new", &[]).as_slice(), unlinked));
        reopened(storage, &place);
    }
}

/// Also of an object of which nothing else is left from before.
#[test]
fn a_target_may_be_all_that_stays_of_an_object() {
    let place = Place::new();
    let storage = place.open();
    put_all(&storage, &[(0, "old", &[]), (1, "garbage", &[2]), (2, "garbage", &[])]);
    let stop = put(&storage, 0, "new", &[]);
    let later = put(&storage, 1, "later", &[]);
    undo(&storage, later);
    pack(&storage, stop);
    assert!(holds(&storage, 1, "garbage", &[2]) && is_there(&storage, 2));
    let history = storage.history(Oid(1), 9).expect("history");
    assert_eq!(history.iter().map(|revision| revision.status).collect::<Vec<_>>(), [b' ', b' ', b'p']);
    reopened(storage, &place);
}

#[test]
fn back_pointers_before_the_pack_time_become_data() {
    let place = Place::new();
    let storage = place.open();
    put(&storage, 0, "first", &[]);
    let second = put(&storage, 0, "second", &[]);
    let stop = undo(&storage, second);
    pack(&storage, stop);
    assert_eq!(transactions(&storage), [(stop, b'p', vec![(0, true)])]);
    assert_eq!(storage.history(ROOT, 5).expect("history")[0].size, record("first", &[]).len() as u64);
    reopened(storage, &place);
}

#[test]
fn deletions_leave() {
    let place = Place::new();
    let storage = place.open();
    put_all(&storage, &[(0, "root", &[]), (1, "deleted", &[]), (2, "deleted later", &[])]);
    let stop = delete(&storage, 1);
    let deleted = delete(&storage, 2);
    pack(&storage, stop);
    assert_eq!(transactions(&storage)[1], (deleted, b' ', vec![(2, false)]));
    assert_eq!(storage.position(Oid(1)).expect("look"), 0);
    assert!(!is_there(&storage, 2));
    let mut commit = begin(&storage);
    commit.store(Oid(2), deleted, &record("again", &[])).expect("store");
    finish(commit);
    assert!(holds(&storage, 2, "again", &[]));
    reopened(storage, &place);
}

#[test]
fn of_an_object_stored_twice_the_last_record_stays() {
    let place = Place::new();
    let storage = place.open();
    let mut commit = begin(&storage);
    for note in ["first", "second"] {
        commit.store(ROOT, Tid::ZERO, &record(note, &[])).expect("store");
    }
    let stop = finish(commit);
    pack(&storage, stop);
    assert_eq!(transactions(&storage), [(stop, b'p', vec![(0, true)])]);
    assert!(holds(&storage, 0, "second", &[]));
}

/// The root is garbage-collected when nothing but time says so; without garbage collection nothing is.
#[test]
fn without_gc_all_current_objects_stay() {
    let place = Place::new();
    let storage = place.open();
    let stop = family(&storage);
    let request = PackRequest { stop, gc: Some(false) };
    Arc::clone(&storage).pack(&request, &mut Host::default()).expect("pack");
    assert_eq!(storage.len(), 4);
    assert!(holds(&storage, 3, "garbage", &[]));
}

#[test]
fn extra_roots_stay_with_what_they_refer_to() {
    let place = Place::new();
    let options = Options { pack_extra_roots: vec![Oid(3), Oid(99)], ..Options::new(place.path()) };
    let storage = Arc::new(FileStorage::open(&options).expect("open"));
    put_all(&storage, &[(0, "old", &[]), (3, "kept", &[4]), (4, "kept", &[]), (5, "garbage", &[])]);
    let stop = put(&storage, 0, "new", &[]);
    pack(&storage, stop);
    assert!(is_there(&storage, 3) && is_there(&storage, 4) && !is_there(&storage, 5));
}

#[test]
fn without_a_root_nothing_is_collected() {
    let place = Place::new();
    let storage = place.open();
    put(&storage, 1, "a", &[]);
    let stop = put(&storage, 1, "b", &[]);
    let before = place.bytes();
    let problem = try_pack(&storage, stop).expect_err("refused").to_string();
    assert!(problem.contains("no root object"), "{problem}");
    assert_eq!(place.bytes(), before);
    Arc::clone(&storage).pack(&PackRequest { stop, gc: Some(false) }, &mut Host::default()).expect("pack");
    assert!(place.bytes().len() < before.len());
}

#[test]
fn what_cannot_be_followed_ends_no_pack() {
    let place = Place::new();
    let storage = place.open();
    put_all(&storage, &[(0, "old", &[]), (3, "garbage", &[])]);
    let stop = put(&storage, 0, "dangling", &[77, 77, 78]);
    let report = pack(&storage, stop);
    assert_eq!((report.dangling, report.undecodable, report.objects_after), (2, 0, 1));

    let place = Place::new();
    let storage = place.open();
    put_all(&storage, &[(0, "old", &[]), (1, "referred to, perhaps", &[])]);
    let stop = store(&storage, ROOT, b"no pickle");
    let report = pack(&storage, stop);
    assert_eq!((report.outcome, report.undecodable, report.objects_after), (PackOutcome::Packed, 1, 2));
    assert_eq!(storage.history(ROOT, 9).expect("history").len(), 1, "older revisions go all the same");
}

/// A client that still had an object linked it again after the pack time.
#[test]
fn what_later_transactions_refer_to_is_no_garbage() {
    let place = Place::new();
    let storage = place.open();
    put_all(&storage, &[(0, "old", &[]), (1, "garbage, then not", &[2]), (2, "the same", &[])]);
    let stop = put(&storage, 0, "new", &[]);
    put(&storage, 0, "linked", &[1, 5]);
    put(&storage, 5, "made later", &[]);
    let report = pack(&storage, stop);
    assert_eq!((report.outcome, report.dangling), (PackOutcome::Packed, 0));
    assert!(is_there(&storage, 1) && is_there(&storage, 2));
}

#[test]
fn nothing_to_do() {
    let place = Place::new();
    let storage = place.open();
    let outcome = |stop| pack(&storage, stop).outcome;
    assert_eq!(outcome(Tid::MAX), PackOutcome::NothingToDo, "empty");
    let first = put(&storage, 0, "a", &[]);
    assert_eq!(outcome(Tid(first.0 - 1)), PackOutcome::NothingToDo, "before the first transaction");
    assert_eq!(outcome(first), PackOutcome::NothingToDo, "all is needed");
    let second = put(&storage, 0, "b", &[]);
    assert_eq!(outcome(second), PackOutcome::Packed);
    let old = with_suffix(&place.path(), ".old");
    assert!(old.exists());
    assert_eq!(outcome(second), PackOutcome::NothingToDo, "no changes since");
    assert_eq!(outcome(Tid::MAX), PackOutcome::NothingToDo, "nor in the future");
    assert_eq!(outcome(first), PackOutcome::NothingToDo, "packed to a later time");
    assert!(old.exists(), "a pack that does nothing leaves the old file alone");
    put(&storage, 0, "c", &[]);
    assert_eq!(outcome(Tid::MAX), PackOutcome::Packed, "the future means now");
    assert!(
        matches!(try_pack(&storage, Tid::ZERO), Err(StorageError::Refused(problem)) if problem == "Invalid pack time")
    );
    storage.close().expect("close");
    let read_only = FileStorage::open(&Options { read_only: true, ..Options::new(place.path()) }).expect("open");
    assert!(matches!(try_pack(&Arc::new(read_only), Tid::MAX), Err(StorageError::ReadOnly)));
}

/// As in the original, even if another kind of pack would find something.
#[test]
fn packed_is_packed() {
    let place = Place::new();
    let storage = place.open();
    let stop = family(&storage);
    let with_gc = |gc| Arc::clone(&storage).pack(&PackRequest { stop, gc: Some(gc) }, &mut Host::default());
    assert_eq!(with_gc(false).expect("pack").outcome, PackOutcome::Packed);
    assert_eq!(with_gc(true).expect("pack").outcome, PackOutcome::NothingToDo);
    assert!(is_there(&storage, 3));
}

#[test]
fn the_old_file_is_kept_if_asked_for() {
    let place = Place::new();
    let options = Options { pack_keep_old: false, ..Options::new(place.path()) };
    let storage = Arc::new(FileStorage::open(&options).expect("open"));
    let stop = family(&storage);
    let old = with_suffix(&place.path(), ".old");
    std::fs::write(&old, b"of an earlier pack").expect("write");
    pack(&storage, stop);
    assert!(!old.exists());
    reopened(storage, &place);
}

/// Clients would find their caches newer than the server.
#[test]
fn the_last_tid_stays_over_a_restart() {
    let place = Place::new();
    let storage = place.open();
    put(&storage, 0, "a", &[]);
    put(&storage, 0, "b", &[]);
    let last = put(&storage, 1, "garbage", &[]);
    pack(&storage, last);
    let told = transactions(&storage);
    assert_eq!(told.last().expect("one"), &(last, b'p', vec![]));
    assert_eq!(reopened(storage, &place).last_transaction(), last);
}

#[test]
fn oids_never_come_back() {
    let place = Place::new();
    let storage = place.open();
    put_all(&storage, &[(0, "root", &[]), (50_000, "garbage", &[])]);
    let stop = put(&storage, 0, "new", &[]);
    pack(&storage, stop);
    drop(storage);
    assert!(place.open().new_oids(1).expect("oids")[0] > Oid(50_000));
}

#[test]
fn files_of_python_2_stay_what_they_are() {
    let place = Place::new();
    place.put(&MAGIC_FS21);
    let storage = place.open();
    let stop = family(&storage);
    pack(&storage, stop);
    assert_eq!(place.bytes()[..4], MAGIC_FS21);
    reopened(storage, &place);
}

/// Copied from elsewhere: tids that do not grow, records with tids of their own, back pointers.
#[test]
fn restored_transactions() {
    let place = Place::new();
    let storage = place.open();
    let restore = |tid: u64, oid: u64, serial: u64, data: Option<&[u8]>, same_as: Option<u64>| {
        let begun = Begin { copied: Some((Tid(tid), b' ')), ..Begin::default() };
        let mut commit = Arc::clone(&storage).begin(begun).expect("begin");
        commit.restore(Oid(oid), Tid(serial), data, same_as.map(Tid)).expect("restore");
        finish(commit)
    };
    restore(1000, 0, 1000, Some(&record("a", &[])), None);
    restore(500, 0, 499, Some(&record("b", &[])), None);
    restore(2000, 0, 1999, Some(&record("a", &[])), Some(1000));
    restore(1500, 0, 1500, Some(&record("c", &[])), None);
    let report = pack(&storage, Tid(1000));
    assert_eq!(report.outcome, PackOutcome::NothingToDo, "the later one points back to the first");
    pack(&storage, Tid(2000));
    assert_eq!(transactions(&storage), [(Tid(1500), b'p', vec![(0, true)])]);
    assert!(holds(&storage, 0, "c", &[]));
    assert_eq!(reopened(storage, &place).last_transaction(), Tid(1500));
}

/// They do not count when the file is opened; a pack must not bring them back.
#[test]
fn transactions_undone_in_place_do_not_come_back() {
    for packs_it in [true, false] {
        let place = Place::new();
        let storage = place.open();
        put(&storage, 0, "before", &[]);
        let kept = put(&storage, 0, "kept", &[1]);
        let status_at = usize::try_from(storage.size() + STATUS_OFFSET).expect("small");
        let undone = put(&storage, 1, "undone", &[]);
        drop(storage);
        let mut bytes = place.bytes();
        bytes[status_at] = b'u';
        place.put(&bytes);
        std::fs::remove_file(with_suffix(&place.path(), ".index")).ok();
        let storage = place.open();
        assert!(!is_there(&storage, 1));
        pack(&storage, if packs_it { undone } else { kept });
        assert!(!is_there(&storage, 1) && holds(&storage, 0, "kept", &[1]));
        assert!(!is_there(&reopened(storage, &place), 1));
    }
}

#[test]
fn damage_ends_a_pack() {
    let place = Place::new();
    let storage = place.open();
    put(&storage, 0, "a", &[]);
    let middle = usize::try_from(storage.size()).expect("small");
    put(&storage, 0, "b", &[]);
    let stop = put(&storage, 0, "c", &[]);
    let good = place.bytes();
    for at in [middle - 1, middle + 16, middle + 23 + 24 + 7, middle + 23 + 41] {
        let mut damaged = good.clone();
        damaged[at] ^= 0x41;
        place.put(&damaged);
        assert!(matches!(try_pack(&storage, stop), Err(StorageError::Corrupted { .. })), "at {at}");
        assert!(!place.names().contains(&"Data.fs.pack".to_owned()));
    }
    place.put(&good);
    pack(&storage, stop);
}

/// What it points to would be kept as a revision of the wrong object.
#[test]
fn a_back_pointer_to_another_object_ends_a_pack() {
    let place = Place::new();
    let storage = place.open();
    put_all(&storage, &[(0, "old", &[]), (1, "a", &[])]);
    put(&storage, 0, "older", &[]);
    let stop = put(&storage, 0, "new", &[]);
    let mistake = put(&storage, 1, "b", &[]);
    undo(&storage, mistake);
    let wrong = storage.position(ROOT).expect("there").to_be_bytes();
    let mut bytes = place.bytes();
    // The last record is the undo; behind its back pointer is the length of the transaction.
    let back = bytes.len() - 16;
    bytes[back..back + 8].copy_from_slice(&wrong);
    place.put(&bytes);
    for gc in [true, false] {
        let request = PackRequest { stop, gc: Some(gc) };
        let problem = Arc::clone(&storage).pack(&request, &mut Host::default());
        assert!(matches!(problem, Err(StorageError::Corrupted { .. })), "{problem:?}");
        assert!(!place.names().contains(&"Data.fs.pack".to_owned()));
    }
}

/// Clients store a blob twice in one transaction, so that there are two records of the revision whose file is needed.
#[test]
fn blobs_that_later_undos_lead_back_to_stay() {
    let blob = |note: &str| [b"\x80\x03cZODB.blob\nBlob\n.\x80\x03X\x01\0\0\0", note.as_bytes(), b"."].concat();
    let place = Place::new();
    let storage = place.open();
    put(&storage, 0, "root", &[1, 2]);
    let other = store(&storage, Oid(2), &blob("a"));
    let first = store(&storage, Oid(1), &blob("a"));
    let mut commit = begin(&storage);
    for _ in 0..2 {
        commit.store(Oid(1), first, &blob("b")).expect("store");
    }
    finish(commit);
    let third = store(&storage, Oid(1), &blob("c"));
    let stop = store(&storage, Oid(2), &blob("b"));
    undo(&storage, third);
    let mut host = Host { has_blobs: true, ..Host::default() };
    Arc::clone(&storage).pack(&until(stop), &mut host).expect("pack");
    assert_eq!(host.blobs, [(2, other, false), (1, first, false)]);
    assert_eq!(data(&storage, Oid(1)), blob("b"));
}

#[test]
fn blobs_that_are_left_out_are_told() {
    const BLOB: &[u8] = b"\x80\x03cZODB.blob\nBlob\n.\x80\x03N.";
    let place = Place::new();
    let storage = place.open();
    put(&storage, 0, "root", &[1, 2, 3, 4]);
    let first = store(&storage, Oid(1), BLOB);
    let garbage = store(&storage, Oid(2), BLOB);
    // A client stores a blob twice.
    let mut commit = begin(&storage);
    for _ in 0..2 {
        commit.store(Oid(3), Tid::ZERO, BLOB).expect("store");
    }
    finish(commit);
    put(&storage, 4, "no blob", &[]);
    store(&storage, Oid(1), BLOB);
    put(&storage, 4, "no blob", &[]);
    let stop = put(&storage, 0, "root", &[1, 3, 4]);
    let expected = [(1, first, false), (2, garbage, true)];
    let mut host = Host { has_blobs: true, ..Host::default() };
    Arc::clone(&storage).pack(&until(stop), &mut host).expect("pack");
    assert_eq!(host.blobs, expected);
}
