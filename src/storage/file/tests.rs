//! The battery that every storage passes, and what only a file can show: recovery, a disk that fails, the files
//! beside it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use tempfile::TempDir;

use super::format::{MAGIC_FS21, STATUS_VOTED};
use super::io::{in_memory, with_suffix};
use super::*;
use crate::storage::Publisher;
use crate::storage::battery::battery;

battery!(
    file,
    |directory: &Path| Arc::new(open(&directory.join("Data.fs"))),
    [reading, committing, iterating, threads, deleting, reopening, restoring, undoing, walking, packing]
);

const ROOT: Oid = Oid::ZERO;

pub(super) fn open(path: &Path) -> FileStorage {
    FileStorage::open(&Options::new(path)).expect("open the data file")
}

fn open_read_only(path: &Path) -> Result<FileStorage> {
    FileStorage::open(&Options { read_only: true, ..Options::new(path) })
}

/// A data file in a directory of its own.
pub(super) struct Place {
    directory: TempDir,
}

impl Place {
    pub(super) fn new() -> Self {
        Self { directory: TempDir::new().expect("make a directory") }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.directory.path().join("Data.fs")
    }

    pub(super) fn open(&self) -> Arc<FileStorage> {
        Arc::new(open(&self.path()))
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path()).expect("read the data file")
    }

    pub(super) fn put(&self, bytes: &[u8]) {
        std::fs::write(self.path(), bytes).expect("write the data file");
    }

    /// The names of all files, sorted.
    pub(super) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory.path()).expect("list the directory");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

pub(super) struct Direct;

impl Publisher for Direct {
    fn publish(&mut self, _tid: Tid, install: &mut dyn FnMut()) {
        install();
    }
}

pub(super) fn begin(storage: &Arc<FileStorage>) -> Box<dyn Commit> {
    Arc::clone(storage).begin(Begin::default()).expect("begin")
}

pub(super) fn voted(storage: &Arc<FileStorage>, oid: Oid, data: &[u8]) -> Result<Box<dyn Commit>> {
    let serial = storage.current_tid(oid).unwrap_or(Tid::ZERO);
    let mut commit = Arc::clone(storage).begin(Begin::default())?;
    commit.store(oid, serial, data)?;
    commit.vote()?;
    Ok(commit)
}

pub(super) fn try_store(storage: &Arc<FileStorage>, oid: Oid, data: &[u8]) -> Result<Tid> {
    voted(storage, oid, data)?.finish(&mut Direct)
}

pub(super) fn store(storage: &Arc<FileStorage>, oid: Oid, data: &[u8]) -> Tid {
    try_store(storage, oid, data).expect("commit")
}

pub(super) fn data(storage: &FileStorage, oid: Oid) -> Vec<u8> {
    let revision = storage.load_before(oid, Tid::MAX).expect("load");
    revision.expect("older than the latest tid").data.to_vec()
}

#[test]
fn a_voted_tail_is_kept_aside_and_its_tid_forgotten() {
    let place = Place::new();
    let storage = place.open();
    let first = store(&storage, ROOT, b"first");
    let end = storage.size();
    let commit = voted(&storage, ROOT, b"second").expect("vote");
    let killed = place.bytes();
    drop(commit);
    storage.close().expect("close");
    drop(storage);

    let crashed = Place::new();
    crashed.put(&killed);
    let storage = crashed.open();
    assert_eq!((storage.last_transaction(), storage.size(), data(&storage, ROOT)), (first, end, b"first".to_vec()));
    assert_eq!(killed.len() as u64, end + crashed.tail(0).len() as u64);
    assert_eq!(crashed.tail(0).get(16), Some(&STATUS_VOTED));
    assert_eq!(place.bytes(), crashed.bytes(), "what an abort leaves is what a crash leaves");
}

impl Place {
    fn tail(&self, number: usize) -> Vec<u8> {
        std::fs::read(with_suffix(&self.path(), &format!(".tr{number}"))).expect("read the tail")
    }
}

#[test]
fn garbage_tails_are_cut_off_again_and_again() {
    let place = Place::new();
    let storage = place.open();
    let last = store(&storage, ROOT, b"record");
    drop(storage);
    let good = place.bytes();
    for (number, garbage) in [vec![0; 300], vec![0xff; 300], good[4..good.len() - 1].to_vec()].iter().enumerate() {
        place.put(&[&good[..], garbage].concat());
        assert_eq!(open_read_only(&place.path()).expect("open read-only").last_transaction(), last);
        assert_eq!(place.bytes().len(), good.len() + garbage.len(), "read-only cuts nothing off");
        assert_eq!(place.open().last_transaction(), last);
        assert_eq!((place.bytes(), place.tail(number)), (good.clone(), garbage.clone()));
    }
    place.put(&[&good[..], &[1; 22]].concat());
    assert_eq!(place.open().last_transaction(), last);
    assert_eq!(place.bytes(), good);
    assert!(!with_suffix(&place.path(), ".tr3").exists(), "less than a header is not worth keeping");
}

#[test]
fn damage_in_the_middle_is_refused_and_left_alone() {
    let place = Place::new();
    let storage = place.open();
    store(&storage, ROOT, b"first");
    let middle = storage.size();
    store(&storage, ROOT, b"second");
    drop(storage);
    let good = place.bytes();
    // The record's length, then the transaction's repeated one.
    for position in [4 + 23 + 41, middle - 1] {
        let mut damaged = good.clone();
        *damaged.get_mut(usize::try_from(position).expect("small")).expect("in the file") ^= 1;
        place.put(&damaged);
        let opened = FileStorage::open(&Options::new(place.path()));
        assert!(matches!(opened, Err(StorageError::Corrupted { .. })), "damage at {position}");
        assert_eq!(place.bytes(), damaged);
    }
}

#[test]
fn absurd_lengths_behind_a_good_index_are_errors() {
    let place = Place::new();
    let storage = place.open();
    store(&storage, ROOT, b"first");
    for _ in 0..6 {
        store(&storage, Oid(1), b"other");
    }
    storage.close().expect("close");
    let mut damaged = place.bytes();
    damaged.get_mut(4 + 23 + 34..4 + 23 + 42).expect("the data length").fill(0xff);
    place.put(&damaged);
    let storage = place.open();
    assert!(matches!(storage.load_before(ROOT, Tid::MAX), Err(StorageError::Corrupted { position: 27, .. })));
    assert_eq!(data(&storage, Oid(1)), b"other");
}

#[test]
fn a_record_with_a_wrong_past_is_still_a_record() {
    let place = Place::new();
    let storage = place.open();
    let first = store(&storage, ROOT, b"first");
    storage.close().expect("close");
    let mut damaged = place.bytes();
    damaged.get_mut(4 + 23 + 16..4 + 23 + 24).expect("the previous position").fill(0x7f);
    place.put(&damaged);
    let storage = place.open();
    assert_eq!(data(&storage, ROOT), b"first");
    assert!(matches!(storage.load_before(ROOT, first), Err(StorageError::Corrupted { position: 27, .. })));
}

#[test]
fn only_data_files_are_opened() {
    for content in ["F", "FS", "FS3", "FS99", "not a data file"] {
        let place = Place::new();
        place.put(content.as_bytes());
        for read_only in [false, true] {
            let opened = FileStorage::open(&Options { read_only, ..Options::new(place.path()) });
            assert!(matches!(opened, Err(StorageError::Format { .. })), "{content}");
        }
        assert_eq!(place.bytes(), content.as_bytes());
    }
}

#[test]
fn both_magics_are_served() {
    let place = Place::new();
    place.put(b"");
    let storage = place.open();
    assert_eq!((place.bytes(), storage.size()), (b"FS30".to_vec(), 4));
    drop(storage);

    place.put(&MAGIC_FS21);
    let storage = place.open();
    store(&storage, ROOT, b"record");
    drop(storage);
    assert!(place.bytes().starts_with(&MAGIC_FS21));
    assert_eq!(data(&place.open(), ROOT), b"record");
}

#[test]
fn read_only_leaves_everything_alone() {
    let place = Place::new();
    assert!(matches!(open_read_only(&place.path()), Err(StorageError::Io { .. })), "a missing file stays missing");
    let owner = place.open();
    store(&owner, ROOT, b"record");
    let names = place.names();
    let reader = Arc::new(open_read_only(&place.path()).expect("open without the lock"));
    assert_eq!(data(&reader, ROOT), b"record");
    assert!(matches!(reader.new_oids(1), Err(StorageError::ReadOnly)));
    assert!(matches!(try_store(&reader, ROOT, b"other"), Err(StorageError::ReadOnly)));
    store(&owner, ROOT, b"later");
    assert_eq!(data(&reader, ROOT), b"record", "it sees what was there when it was opened");
    reader.close().expect("close");
    assert_eq!(place.names(), names);
}

#[test]
fn create_begins_anew() {
    let place = Place::new();
    let storage = place.open();
    store(&storage, ROOT, b"record");
    storage.close().expect("close");
    drop(storage);
    let storage = FileStorage::open(&Options { create: true, ..Options::new(place.path()) }).expect("create");
    assert_eq!((storage.len(), storage.size(), storage.last_transaction()), (0, 4, Tid::ZERO));
    let both = Options { create: true, read_only: true, ..Options::new(place.path()) };
    assert!(matches!(FileStorage::open(&both), Err(StorageError::Refused(_))));
}

#[test]
fn the_quota_counts_where_a_record_begins() {
    let place = Place::new();
    let options = Options { quota: Some(100), ..Options::new(place.path()) };
    let storage = Arc::new(FileStorage::open(&options).expect("open"));
    store(&storage, ROOT, &[b'x'; 500]);
    assert!(matches!(try_store(&storage, ROOT, b"more"), Err(StorageError::Quota)));
    assert_eq!(storage.size(), 4 + 23 + 42 + 500 + 8);
}

#[test]
fn tids_grow_while_the_clock_stands_still() {
    let place = Place::new();
    let open_at = |clock| {
        let storage = FileStorage::open_with(&Options::new(place.path()), clock, |file| Box::new(file));
        Arc::new(storage.expect("open"))
    };
    let storage = open_at(|| UNIX_EPOCH + Duration::from_secs(1_795_189_680));
    let first = store(&storage, ROOT, b"1");
    drop(begin(&storage));
    let second = store(&storage, ROOT, b"2");
    assert_eq!(second.0, first.0 + 2, "an aborted transaction uses its tid up");
    storage.close().expect("close");
    drop(storage);
    let storage = open_at(|| UNIX_EPOCH);
    assert_eq!(store(&storage, ROOT, b"3").0, second.0 + 1, "the clock stepped back across a restart");
}

#[test]
fn an_object_stored_twice_costs_no_scan() {
    let place = Place::new();
    let storage = place.open();
    let mut commit = begin(&storage);
    for record in [&b"first"[..], b"second", b"third"] {
        commit.store(ROOT, Tid::ZERO, record).expect("store");
    }
    commit.vote().expect("vote");
    commit.finish(&mut Direct).expect("finish");
    storage.close().expect("close");
    drop(storage);

    let (saved, verdict) = place.saved_index();
    assert_eq!(verdict, Some(false), "there is no earlier index that Python takes");
    assert_eq!(saved.end, place.bytes().len() as u64);
    let mut wrong = Index::default();
    wrong.insert(ROOT, 27);
    assert_eq!(place.judge(&index_file::Saved { index: wrong, end: saved.end }), None, "its first record");
    assert_eq!(data(&place.open(), ROOT), b"third");
}

/// Oids and positions, in order.
fn entries(index: &Index) -> Vec<(u64, u64)> {
    index
        .buckets()
        .flat_map(|(prefix, bucket)| bucket.map(move |(oid, at)| (prefix << 16 | u64::from(oid), at)))
        .collect()
}

impl Place {
    /// `None` if an index is refused; otherwise whether Python takes it, too.
    fn judge(&self, saved: &index_file::Saved) -> Option<bool> {
        let raw = Box::new(File::open(self.path()).expect("open"));
        let view = View { file: Arc::new(DataFile::new(raw, self.path())), end: saved.end };
        index_check::check(saved, &view).expect("check").map(|sane| sane.python_agrees)
    }

    /// The index as it is in its file, and the judgement of it.
    fn saved_index(&self) -> (index_file::Saved, Option<bool>) {
        let saved = index_file::load(&self.path()).expect("an index");
        let verdict = self.judge(&saved);
        (saved, verdict)
    }
}

fn commit_all(storage: &Arc<FileStorage>, stores: &[u64]) {
    let mut commit = begin(storage);
    for (number, &oid) in stores.iter().enumerate() {
        let serial = storage.current_tid(Oid(oid)).unwrap_or(Tid::ZERO);
        commit.store(Oid(oid), serial, format!("record {number} of {oid}").as_bytes()).expect("store");
    }
    commit.vote().expect("vote");
    commit.finish(&mut Direct).expect("finish");
}

#[test]
fn the_index_is_saved_as_of_before_objects_stored_twice() {
    let place = Place::new();
    let storage = place.open();
    commit_all(&storage, &[0, 1, 2]);
    let trusted = storage.size();
    let before = storage.with_state(|state| entries(&state.index)).expect("open");
    commit_all(&storage, &[1, 7, 1, 7]);
    commit_all(&storage, &[2, 8, 2]);
    commit_all(&storage, &[]);
    let now = storage.with_state(|state| entries(&state.index)).expect("open");
    storage.close().expect("close");
    drop(storage);

    let (saved, verdict) = place.saved_index();
    assert_eq!((saved.end, verdict, saved.index.len()), (trusted, Some(true), 3));
    assert_eq!(entries(&saved.index), before);
    let storage = place.open();
    assert_eq!(storage.with_state(|state| entries(&state.index)).expect("open"), now);
    assert!(storage.describe().ends_with(" 3 newer transactions added"), "{}", storage.describe());

    // Beyond the records that Python looks at, and under a transaction that it likes, there is nothing to mend.
    commit_all(&storage, &[0, 1, 2, 3, 4, 5, 6, 5]);
    storage.close().expect("close");
    let (saved, verdict) = place.saved_index();
    assert_eq!((saved.end, verdict), (place.bytes().len() as u64, Some(true)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is saved is what a scan of that part of the file finds.
    #[test]
    fn a_saved_index_is_that_of_its_part_of_the_file(
        history in prop::collection::vec(prop::collection::vec(0_u64..6, 0..7), 1..8),
    ) {
        let place = Place::new();
        let storage = place.open();
        for stores in &history {
            commit_all(&storage, stores);
        }
        let len = storage.len();
        storage.close().expect("close");
        // Of empty transactions alone no index is saved; the one of the new file is still there.
        if len > 0 {
            let (saved, _) = place.saved_index();
            let part = Place::new();
            part.put(place.bytes().get(..in_memory(saved.end)).expect("within the file"));
            let scanned = part.open().with_state(|state| entries(&state.index)).expect("open");
            prop_assert_eq!(entries(&saved.index), scanned);
        }
    }
}

#[test]
fn no_index_file_without_objects() {
    let place = Place::new();
    let storage = place.open();
    let fresh = std::fs::read(with_suffix(&place.path(), ".index")).expect("read the index");
    for _ in 0..4 {
        let mut commit = begin(&storage);
        commit.vote().expect("vote");
        commit.finish(&mut Direct).expect("finish");
    }
    storage.close().expect("close");
    let index = std::fs::read(with_suffix(&place.path(), ".index")).expect("read the index");
    assert_eq!(index, fresh, "Python could not open the file with another one");
}

#[test]
fn the_index_is_saved_beside_a_running_transaction() {
    let place = Place::new();
    let storage = place.open();
    store(&storage, ROOT, b"first");
    assert!(!storage.index_is_stale());
    store(&storage, Oid(1), &vec![b'x'; 17 << 20]);
    assert!(storage.index_is_stale());
    let end = storage.size();
    let commit = voted(&storage, Oid(2), b"not yet").expect("vote");
    storage.maintain().expect("maintain");
    assert!(!storage.index_is_stale());
    let saved = index_file::load(&place.path()).expect("an index");
    assert_eq!((saved.end, saved.index.len(), saved.index.get(Oid(2))), (end, 2, None));
    commit.finish(&mut Direct).expect("finish");
    assert_eq!(data(&storage, Oid(1)).len(), 17 << 20);

    // What a server leaves that is killed now.
    let killed = Place::new();
    killed.put(&place.bytes());
    let index = std::fs::read(with_suffix(&place.path(), ".index")).expect("read the index");
    std::fs::write(with_suffix(&killed.path(), ".index"), index).expect("write the index");
    let storage = killed.open();
    assert!(storage.describe().ends_with(" 1 newer transactions added"), "{}", storage.describe());
    assert_eq!(data(&storage, Oid(2)), b"not yet");
}

#[test]
fn a_closed_storage_keeps_its_lock_until_the_transaction_is_gone() {
    let place = Place::new();
    let storage = place.open();
    let commit = voted(&storage, ROOT, b"late").expect("vote");
    storage.close().expect("close");
    assert!(matches!(FileStorage::open(&Options::new(place.path())), Err(StorageError::Locked { .. })));
    assert!(commit.finish(&mut Direct).is_err());
    assert_eq!(place.open().size(), 4);
}

#[test]
fn a_replaced_file_is_not_written_to() {
    let place = Place::new();
    let storage = place.open();
    std::fs::rename(place.path(), with_suffix(&place.path(), ".moved")).expect("rename");
    let error = try_store(&storage, ROOT, b"lost").expect_err("refused");
    assert!(matches!(&error, StorageError::Poisoned(reason) if reason.contains("removed or replaced")), "{error}");
    assert!(matches!(storage.new_oids(1), Err(StorageError::Poisoned(_))));
    place.put(b"the file of another server");
    storage.close().expect("close");
    assert_eq!(place.bytes(), b"the file of another server");
}

#[test]
fn no_index_beside_a_replaced_file() {
    let place = Place::new();
    let storage = place.open();
    store(&storage, ROOT, b"record");
    let index = with_suffix(&place.path(), ".index");
    let before = std::fs::read(&index).expect("read the index");
    std::fs::rename(place.path(), with_suffix(&place.path(), ".moved")).expect("rename");
    assert!(matches!(storage.close(), Err(StorageError::Poisoned(_))));
    assert_eq!(std::fs::read(&index).expect("read the index"), before);
}

/// Two storages on one file, as after the lock file of the first was removed.
fn intruded(place: &Place, storage: &FileStorage) -> Arc<FileStorage> {
    std::fs::remove_file(with_suffix(&place.path(), ".lock")).expect("remove the lock file");
    let second = place.open();
    assert!(storage.check_writable().is_ok(), "the first has not looked yet");
    second
}

fn refused<T>(result: Result<T>, why: &str) {
    match result {
        Err(StorageError::Poisoned(reason)) if reason.contains(why) => {}
        Err(error) => panic!("not refused because of {why:?}: {error}"),
        Ok(_) => panic!("not refused"),
    }
}

#[test]
fn without_its_lock_file_a_storage_writes_nothing() {
    let place = Place::new();
    let storage = place.open();
    let first = store(&storage, ROOT, b"first");
    let second = intruded(&place, &storage);
    refused(storage.new_oids(1), "is no longer the file that this server has locked");
    refused(try_store(&storage, ROOT, b"lost"), "has locked");
    assert_eq!((data(&storage, ROOT), storage.last_transaction()), (b"first".to_vec(), first));
    let tid = store(&second, ROOT, b"second");
    refused(try_store(&storage, ROOT, b"lost"), "need never be removed");
    drop((storage, second));
    assert_eq!(place.open().load_serial(ROOT, tid).expect("load"), b"second".as_slice());
}

#[test]
fn a_transaction_goes_no_further_without_the_lock_file() {
    let place = Place::new();
    let storage = place.open();
    store(&storage, ROOT, b"first");
    let mut commit = begin(&storage);
    commit.store(Oid(1), Tid::ZERO, b"lost").expect("store");
    let second = intruded(&place, &storage);
    let tid = store(&second, ROOT, b"second");
    let bytes = place.bytes();
    refused(commit.vote(), "has locked");
    drop(commit);
    assert_eq!(place.bytes(), bytes);
    assert_eq!(data(&second, ROOT), b"second");
    assert_eq!(second.last_transaction(), tid);
}

#[test]
fn a_vote_that_another_server_cut_off_is_not_finished() {
    for end in [true, false] {
        let place = Place::new();
        let storage = place.open();
        store(&storage, ROOT, b"first");
        let commit = voted(&storage, Oid(1), &[b'x'; 500]).expect("vote");
        let second = intruded(&place, &storage);
        // Shorter than the vote was: its length alone does not tell whose it is.
        store(&second, ROOT, b"second");
        let bytes = place.bytes();
        if end {
            refused(commit.finish(&mut Direct), "has locked");
        } else {
            drop(commit);
        }
        assert_eq!(place.bytes(), bytes, "nothing written, nothing cut off");
        refused(storage.new_oids(1), "has locked");
    }
}

/// Somebody who asks for no lock at all.
fn append_garbage(place: &Place) -> Vec<u8> {
    let bytes = [place.bytes(), vec![b'x'; 5000]].concat();
    place.put(&bytes);
    bytes
}

#[test]
fn what_others_appended_is_not_written_over() {
    for step in ["begin", "vote", "finish", "abort"] {
        let place = Place::new();
        let storage = place.open();
        store(&storage, ROOT, b"first");
        let appended = if step == "begin" {
            let appended = append_garbage(&place);
            refused(Arc::clone(&storage).begin(Begin::default()), "another process has changed it");
            appended
        } else {
            let mut commit = begin(&storage);
            commit.store(ROOT, storage.last_transaction(), b"lost").expect("store");
            if step == "vote" {
                let appended = append_garbage(&place);
                refused(commit.vote(), "another process has changed it");
                appended
            } else {
                commit.vote().expect("vote");
                let appended = append_garbage(&place);
                if step == "finish" {
                    refused(commit.finish(&mut Direct), "another process has changed it");
                }
                appended
            }
        };
        assert_eq!(place.bytes(), appended, "{step}");
        refused(try_store(&storage, ROOT, b"lost"), "then start one server");
        assert_eq!(data(&storage, ROOT), b"first");
    }
}

#[test]
fn a_file_that_was_cut_is_not_filled_up() {
    let place = Place::new();
    let storage = place.open();
    store(&storage, ROOT, b"first");
    let commit = voted(&storage, ROOT, b"lost").expect("vote");
    let cut = place.bytes().get(..40).expect("longer").to_vec();
    place.put(&cut);
    drop(commit);
    assert_eq!(place.bytes(), cut);
    refused(try_store(&storage, ROOT, b"lost"), "another process has changed it");
}

#[test]
fn nothing_is_acknowledged_into_a_replaced_file() {
    let place = Place::new();
    let storage = place.open();
    store(&storage, ROOT, b"first");
    let commit = voted(&storage, ROOT, b"lost").expect("vote");
    let moved = with_suffix(&place.path(), ".moved");
    std::fs::rename(place.path(), &moved).expect("rename");
    let bytes = std::fs::read(&moved).expect("read the old file");
    refused(commit.finish(&mut Direct), "removed or replaced");
    assert_eq!(std::fs::read(&moved).expect("read the old file"), bytes, "no status was written");
    assert_eq!(data(&storage, ROOT), b"first");
}

#[test]
fn a_path_that_cannot_be_looked_at_lets_nothing_through() {
    let place = Place::new();
    let storage = place.open();
    store(&storage, ROOT, b"first");
    // A link to itself: neither there nor absent.
    let moved = with_suffix(&place.path(), ".moved");
    std::fs::rename(place.path(), &moved).expect("rename");
    std::os::unix::fs::symlink(place.path(), place.path()).expect("link");
    for _ in 0..2 {
        assert!(matches!(try_store(&storage, ROOT, b"lost"), Err(StorageError::Io { .. })));
    }
    std::fs::rename(&moved, place.path()).expect("rename");
    store(&storage, ROOT, b"second");
}

#[test]
fn the_remedy_fits_the_reason() {
    let place = Place::new();
    let storage = place.open();
    std::fs::rename(place.path(), with_suffix(&place.path(), ".moved")).expect("rename");
    let message = try_store(&storage, ROOT, b"lost").expect_err("refused").to_string();
    assert!(message.contains("copy it from /proc/") && !message.contains("restart"), "{message}");
}
