//! What a blob directory is for its next start, and what a pack takes from it.

mod beside;
mod links;
mod packed;

use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::storage::Publisher;
use crate::storage::battery::battery;
use crate::storage::battery::bench::{Bench, Direct};
use crate::storage::battery::blobs::{RECORD, content, files, staged, store};
use crate::storage::file::{FileStorage, Options as FileOptions};
use crate::storage::mapping::MappingStorage;

const BLOB: Oid = Oid(0x1_0002);
const OTHER: Oid = Oid(0x2_0003);
const GONE: Tid = Tid(0x0300_0000_0000_0001);

fn with_blobs(inner: Arc<dyn Storage>, path: &Path) -> Result<BlobStorage> {
    BlobStorage::open(inner, &Options { path: path.join("blobs"), create: false, pack_keep_old: true })
}

fn over_file(path: &Path) -> Arc<BlobStorage> {
    let file = FileStorage::open(&FileOptions::new(path.join("Data.fs"))).expect("open the data file");
    Arc::new(with_blobs(Arc::new(file), path).expect("open the blobs"))
}

fn over_mapping(path: &Path) -> Arc<BlobStorage> {
    Arc::new(with_blobs(MappingStorage::new("memory".to_owned()), path).expect("open the blobs"))
}

battery!(
    blobs_over_file,
    over_file,
    [reading, committing, iterating, threads, walking, deleting, restoring, undoing, reopening, blobs, undoing_blobs]
);
battery!(blobs_over_mapping, over_mapping, [reading, committing, iterating, threads, blobs]);

/// A file where the blob of a revision belongs.
fn plant(base: &Path, oid: Oid, name: &str) -> PathBuf {
    let object = base.join(layout::Layout::Bushy.object(oid));
    std::fs::create_dir_all(&object).expect("make directories");
    std::fs::write(object.join(name), name).expect("write");
    object.join(name)
}

fn base(t: &Bench) -> PathBuf {
    t.storage.blobs().expect("blobs").path().to_owned()
}

#[test]
fn a_new_directory_is_the_originals() {
    let t = Bench::new(over_file);
    assert_eq!(std::fs::read(base(&t).join(".layout")).expect("the marker"), b"bushy");
    assert!(base(&t).join("tmp").is_dir());
    assert!(t.storage.describe().ends_with(&format!("; blobs in {} (bushy)", base(&t).display())));
}

#[test]
fn a_directory_without_a_marker_gets_one() {
    let home = TempDir::new().expect("make a directory");
    for (entry, layout) in [("0x01", "lawn"), (".hidden", "bushy")] {
        let path = home.path().join(layout);
        std::fs::create_dir_all(path.join(entry)).expect("make directories");
        let directory = BlobDirectory::open(&path, false, false).expect("open");
        assert_eq!(directory.layout_name(), layout);
        assert_eq!(std::fs::read_to_string(path.join(".layout")).expect("the marker"), layout);
    }
}

#[test]
fn lawn_directories_are_used_as_they_are() {
    let home = TempDir::new().expect("make a directory");
    std::fs::write(home.path().join(".layout"), "lawn\n").expect("write");
    let directory = BlobDirectory::open(home.path(), false, false).expect("open");
    assert_eq!(directory.revision(Oid(0x123), Tid(5)), home.path().join("0x0123/0x05.blob"));
    assert_eq!(std::fs::read(home.path().join(".layout")).expect("the marker"), b"lawn\n");
}

#[test]
fn read_only_makes_nothing() {
    let home = TempDir::new().expect("make a directory");
    let data = FileOptions::new(home.path().join("Data.fs"));
    FileStorage::open(&data).expect("make a data file").close().expect("close");
    let inner = Arc::new(FileStorage::open(&FileOptions { read_only: true, ..data }).expect("open"));
    let storage = with_blobs(inner, home.path()).expect("open");
    assert!(storage.is_read_only());
    assert!(!home.path().join("blobs").exists());
    assert!(matches!(storage.directory.open_revision(BLOB, GONE), Err(StorageError::NoBlobFile { .. })));
}

#[test]
fn create_empties_the_directory() {
    let home = TempDir::new().expect("make a directory");
    std::fs::create_dir_all(home.path().join("0x01")).expect("make a directory");
    std::fs::write(home.path().join("0x01/0x01.blob"), b"old").expect("write");
    let directory = BlobDirectory::open(home.path(), false, true).expect("open");
    assert_eq!(directory.layout_name(), "bushy");
    assert!(files(home.path()).is_empty());
}

#[test]
fn one_storage_at_a_time() {
    let home = TempDir::new().expect("make a directory");
    let first = over_mapping(home.path());
    let refused = with_blobs(MappingStorage::new("second".to_owned()), home.path()).err();
    assert!(matches!(refused, Some(StorageError::Locked { .. })), "{refused:?}");
    first.close().expect("close");
    over_mapping(home.path());
}

#[test]
fn blobs_have_one_directory_only() {
    let home = TempDir::new().expect("make a directory");
    let refused = with_blobs(over_mapping(home.path()), &home.path().join("outer")).err();
    assert!(matches!(refused, Some(StorageError::Refused(_))), "{refused:?}");
    assert!(!home.path().join("outer").exists());
}

#[test]
fn uploads_of_a_server_that_was_killed_are_swept() {
    let mut t = Bench::new(over_file);
    let left = staged(&t, b"left");
    let upload = plant(&base(&t), OTHER, "0x01.tmp-");
    let adopted = t.storage.blobs().expect("blobs").adopt(OTHER, "0x01.tmp-").expect("adopt");
    let foreign = base(&t).join("tmp/BUC1234");
    std::fs::write(&foreign, b"a client's").expect("write");
    let tid = store(&t, BLOB, Tid::ZERO, b"content");
    t.reopen();
    assert!(!left.path().exists());
    assert!(!upload.exists() && !adopted.path().exists());
    assert!(foreign.exists());
    assert_eq!(content(&t, BLOB, tid).expect("content"), b"content");
}

/// Each state of the directory that a kill between two steps of a finish can leave.
#[test]
fn a_file_without_its_transaction_is_removed_at_the_next_start() {
    let mut t = Bench::new(over_file);
    let tid = store(&t, BLOB, Tid::ZERO, b"content");
    let marker = |oid: Oid, gone: Tid| base(&t).join(format!("tmp/zeolite-pending-{:016x}-{gone}-{tid}", oid.0));
    let markers = [marker(BLOB, tid), marker(BLOB, GONE), marker(OTHER, GONE), marker(Oid(5), GONE)];
    for marker in &markers {
        std::fs::write(marker, b"").expect("write");
    }
    // The name was given, but the transaction is not there; the directory was for this file only, or not.
    let orphans =
        [plant(&base(&t), BLOB, "0x0300000000000001.blob"), plant(&base(&t), OTHER, "0x0300000000000001.blob")];
    // No marker, no question.
    let stray = plant(&base(&t), OTHER, "0x0300000000000002.blob");
    t.reopen();
    assert!(orphans.iter().chain(&markers).all(|path| !path.exists()));
    assert!(stray.exists());
    assert_eq!(content(&t, BLOB, tid).expect("content"), b"content");
    std::fs::remove_file(&stray).expect("remove");
    plant(&base(&t), OTHER, "0x0300000000000001.blob");
    std::fs::write(&markers[2], b"").expect("write");
    t.reopen();
    assert!(!base(&t).join("0x00/0x00/0x00/0x00/0x00/0x02").exists(), "directories of nothing");
}

#[test]
fn a_finish_that_fails_leaves_what_the_transaction_may_need() {
    let mut t = Bench::new(over_file);
    t.store(Oid(0), Tid::ZERO, b"before");
    let mut commit = t.begin();
    commit.store_blob(BLOB, Tid::ZERO, b"data", staged(&t, b"content")).expect("store");
    commit.vote().expect("vote");
    let data = base(&t).with_file_name("Data.fs");
    let length = std::fs::metadata(&data).expect("metadata").len();
    // The storage below notices that somebody else writes to its file.
    std::fs::OpenOptions::new().append(true).open(&data).and_then(|file| file.set_len(length + 1)).expect("grow");
    assert!(commit.finish(&mut Direct).is_err());
    assert_eq!(files(&base(&t)).len(), 2, "the file and its marker");
    std::fs::OpenOptions::new().append(true).open(&data).and_then(|file| file.set_len(length)).expect("cut");
    t.reopen();
    assert!(files(&base(&t)).is_empty(), "the status says that it was never committed");
}

/// Copies a directory as it is at this moment: what a server that is killed now leaves.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("make a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).expect("an entry");
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            std::fs::copy(&path, to.join(name)).expect("copy");
        }
    }
}

#[test]
fn killed_at_any_moment() {
    struct Kill<'a> {
        home: &'a Path,
        left: PathBuf,
    }

    impl Publisher for Kill<'_> {
        fn publish(&mut self, _tid: Tid, install: &mut dyn FnMut()) {
            copy(self.home, &self.left);
            install();
        }
    }

    let t = Bench::new(over_file);
    let (first, lost) = (store(&t, BLOB, Tid::ZERO, b"first"), store(&t, OTHER, Tid::ZERO, b"lost"));
    let home = base(&t).parent().expect("a parent").to_owned();
    let copies = TempDir::new().expect("make a directory");
    let at = |moment: &str| copies.path().join(moment);

    let mut commit = t.begin();
    commit.undo(lost).expect("undo");
    commit.store_blob(BLOB, first, RECORD, staged(&t, b"second")).expect("store");
    commit.store_blob(Oid(7), Tid::ZERO, RECORD, staged(&t, b"new")).expect("store");
    copy(&home, &at("stored"));
    commit.vote().expect("vote");
    copy(&home, &at("voted"));
    let second = commit.finish(&mut Kill { home: &home, left: at("durable") }).expect("finish");
    copy(&home, &at("finished"));
    // All files have their names, and the data file is as the vote left it.
    copy(&at("durable"), &at("named"));
    std::fs::copy(at("voted").join("Data.fs"), at("named").join("Data.fs")).expect("copy");

    for (moment, is_there) in
        [("stored", false), ("voted", false), ("named", false), ("durable", true), ("finished", true)]
    {
        let storage = over_file(&at(moment));
        assert_eq!(storage.last_transaction() == second, is_there, "{moment}");
        let mut expected = vec![b"first".to_vec(), b"lost".to_vec()];
        if is_there {
            expected.extend([b"new".to_vec(), b"second".to_vec()]);
        }
        let mut found: Vec<_> = files(storage.directory.path()).into_values().collect();
        found.sort();
        assert_eq!(found, expected, "{moment}");
        for (oid, tid) in [(BLOB, second), (Oid(7), second)] {
            assert_eq!(storage.directory.open_revision(oid, tid).is_ok(), is_there, "{moment}");
        }
    }
}
