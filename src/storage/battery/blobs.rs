//! Blobs, for any storage that has a directory for them.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::bench::{Bench, Direct, no_such};
use super::packing::{pack, record};
use crate::ids::{Oid, Tid};
use crate::storage::blob::{BlobDirectory, StagedBlob};
use crate::storage::{Commit, Publisher, Result, StorageError};

/// A blob.
pub const BLOB: Oid = Oid(0x1_0002);
/// Another one.
pub const OTHER: Oid = Oid(0x1_0003);

/// The record of every blob.
pub const RECORD: &[u8] = b"\x80\x03cZODB.blob\nBlob\nq\x00.\x80\x03N.";

/// Where the blobs are.
pub fn directory(t: &Bench) -> &BlobDirectory {
    t.storage.blobs().expect("a storage with blobs")
}

/// Content that has arrived.
pub fn staged(t: &Bench, content: &[u8]) -> Arc<StagedBlob> {
    let mut staged = directory(t).stage().expect("stage");
    for chunk in content.chunks(3) {
        staged.append(chunk).expect("append");
    }
    staged.complete().expect("complete");
    Arc::new(staged)
}

/// Commits one blob.
pub fn store(t: &Bench, oid: Oid, serial: Tid, content: &[u8]) -> Tid {
    let staged = staged(t, content);
    t.commit(|commit| commit.store_blob(oid, serial, RECORD, staged))
}

/// The content of a revision.
pub fn content(t: &Bench, oid: Oid, tid: Tid) -> Result<Vec<u8>> {
    let (mut file, len) = directory(t).open_revision(oid, tid)?;
    let mut content = Vec::new();
    file.read_to_end(&mut content).expect("read");
    assert_eq!(content.len() as u64, len);
    Ok(content)
}

/// Every file in a directory and below, but for the marker of the layout.
pub fn files(base: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut directories = vec![base.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                directories.push(path);
            } else if ![".layout", ".zeolite-lock"].map(|name| base.join(name)).contains(&path) {
                found.insert(path.clone(), std::fs::read(path).unwrap_or_default());
            }
        }
    }
    found
}

/// The content of every file there is.
pub fn contents(t: &Bench) -> Vec<Vec<u8>> {
    files(directory(t).path()).into_values().collect()
}

/// Asserts that a call missed the file of a revision.
#[track_caller]
pub fn no_file<T: std::fmt::Debug>(oid: Oid, tid: Tid, result: Result<T>) {
    match result {
        Err(StorageError::NoBlobFile { path, oid: named, tid: of }) => {
            assert_eq!((named, of), (oid, tid));
            assert!(path.ends_with(format!("{}.blob", Oid(tid.0))), "{}", path.display());
        }
        other => panic!("expected that there is no file, got {other:?}"),
    }
}

/// Record and content of each revision.
pub fn what_is_stored_is_loaded(t: &mut Bench) {
    let first = store(t, BLOB, Tid::ZERO, b"first content");
    let second = store(t, BLOB, first, b"second content");
    assert_eq!(t.load(BLOB).expect("load").tid, second);
    assert_eq!(t.data(BLOB), RECORD);
    assert_eq!(content(t, BLOB, first).expect("first"), b"first content");
    assert_eq!(content(t, BLOB, second).expect("second"), b"second content");
    assert_eq!(contents(t).len(), 2, "and nothing else is there");
}

/// No content is content, too.
pub fn an_empty_blob(t: &mut Bench) {
    let tid = store(t, BLOB, Tid::ZERO, b"");
    assert_eq!(content(t, BLOB, tid).expect("open"), b"");
    // Nobody need have said that it is complete.
    let staged = Arc::new(directory(t).stage().expect("stage"));
    let tid = t.commit(|commit| commit.store_blob(BLOB, tid, RECORD, staged));
    assert_eq!(content(t, BLOB, tid).expect("open"), b"");
}

/// It is synced and closed then.
pub fn complete_content_does_not_change(t: &mut Bench) {
    let mut staged = directory(t).stage().expect("stage");
    staged.append(b"all").expect("append");
    staged.complete().expect("complete");
    staged.append(b" and more").expect_err("complete");
    let tid = t.commit(|commit| commit.store_blob(BLOB, Tid::ZERO, RECORD, Arc::new(staged)));
    assert_eq!(content(t, BLOB, tid).expect("open"), b"all");
}

/// The error says where it was looked for.
pub fn a_revision_without_a_file(t: &mut Bench) {
    no_file(BLOB, Tid(0xabc), directory(t).open_revision(BLOB, Tid(0xabc)));
    let tid = t.store(BLOB, Tid::ZERO, b"no blob");
    no_file(BLOB, tid, directory(t).open_revision(BLOB, tid));
}

/// Who may read the directory may read the blob.
pub fn nobody_may_write_to_a_blob(t: &mut Bench) {
    let tid = store(t, BLOB, Tid::ZERO, b"content");
    let (file, _) = directory(t).open_revision(BLOB, tid).expect("open");
    let mode = file.metadata().expect("metadata").permissions().mode() & 0o777;
    let around = directory(t).path().metadata().expect("metadata").permissions().mode();
    assert_eq!(mode, 0o400 | (around & 0o444));
}

/// Nothing is in the directory, wherever it was.
pub fn dropped_at_every_step_leaves_no_file(t: &mut Bench) {
    drop(staged(t, b"never stored"));
    for vote in [false, true] {
        let mut commit = t.begin();
        commit.store_blob(BLOB, Tid::ZERO, RECORD, staged(t, b"never finished")).expect("store");
        if vote {
            commit.vote().expect("vote");
        }
        drop(commit);
        assert!(contents(t).is_empty(), "vote: {vote}");
        no_such(BLOB, t.load(BLOB));
    }
}

/// So that it can be stored again without being sent again.
pub fn a_conflict_leaves_no_file_and_the_content_to_the_caller(t: &mut Bench) {
    let first = store(t, BLOB, Tid::ZERO, b"first");
    let upload = staged(t, b"upload");
    let mut commit = t.begin();
    let refused = commit.store_blob(BLOB, Tid::ZERO, RECORD, Arc::clone(&upload));
    assert!(matches!(refused, Err(StorageError::Conflict { .. })));
    drop(commit);
    let mut commit = t.begin();
    commit.store_blob(BLOB, first, RECORD, Arc::clone(&upload)).expect("store");
    commit.vote().expect("vote");
    drop(commit);
    assert!(upload.path().exists());
    let second = t.commit(|commit| commit.store_blob(BLOB, first, RECORD, Arc::clone(&upload)));
    assert!(!upload.path().exists(), "the finish has taken it");
    drop(upload);
    assert_eq!(content(t, BLOB, second).expect("second"), b"upload");
    assert_eq!(contents(t).len(), 2);
}

/// All or none.
pub fn several_blobs_in_one_transaction(t: &mut Bench) {
    let (one, two) = (staged(t, b"one"), staged(t, b"two"));
    let tid = t.commit(|commit| {
        commit.store_blob(BLOB, Tid::ZERO, RECORD, one)?;
        commit.store_blob(OTHER, Tid::ZERO, RECORD, two)
    });
    assert_eq!(content(t, BLOB, tid).expect("one"), b"one");
    assert_eq!(content(t, OTHER, tid).expect("two"), b"two");
}

/// The later content counts, as the later record does.
pub fn same_blob_twice(t: &mut Bench) {
    let (one, two) = (staged(t, b"one"), staged(t, b"two"));
    let tid = t.commit(|commit| {
        commit.store_blob(BLOB, Tid::ZERO, RECORD, one)?;
        commit.store_blob(BLOB, Tid::ZERO, RECORD, two)
    });
    assert_eq!(content(t, BLOB, tid).expect("two"), b"two");
    assert_eq!(contents(t), [b"two".to_vec()]);
}

/// Where the file of a blob is going to be.
fn file_to_be(t: &Bench, object: &str, commit: &dyn Commit) -> PathBuf {
    let base = directory(t).path().join("0x00/0x00/0x00/0x00/0x00/0x01/0x00");
    base.join(object).join(format!("{}.blob", Oid(commit.tid().0)))
}

/// The transaction fails, and none of it is there: before its vote if that can be, but before it is finished anyway.
pub fn a_name_that_cannot_be_given(t: &mut Bench) {
    for vote_first in [false, true] {
        let mut commit = t.begin();
        commit.store_blob(BLOB, Tid::ZERO, RECORD, staged(t, b"placed first")).expect("store");
        commit.store_blob(OTHER, Tid::ZERO, RECORD, staged(t, b"refused")).expect("store");
        let taken = file_to_be(t, "0x03", commit.as_ref());
        let error = if vote_first {
            commit.vote().expect("vote");
            std::fs::create_dir(&taken).expect("the directory was made at the vote");
            commit.finish(&mut Direct).expect_err("a directory is in the way")
        } else {
            std::fs::create_dir_all(&taken).expect("make directories");
            let refused = commit.vote().expect_err("a directory is in the way");
            drop(commit);
            refused
        };
        assert!(error.to_string().contains(taken.to_str().expect("text")), "{error}");
        assert!(contents(t).is_empty());
        let object = file_to_be(t, "0x02", t.begin().as_ref());
        assert!(!object.parent().expect("a parent").exists(), "a directory for nothing");
        no_such(BLOB, t.load(BLOB));
        no_such(OTHER, t.load(OTHER));
        std::fs::remove_dir_all(taken.parent().expect("a parent")).expect("remove");
    }
    let tid = store(t, BLOB, Tid::ZERO, b"next");
    assert_eq!(content(t, BLOB, tid).expect("next"), b"next");
}

/// The file of a transaction that another server did not finish is in nobody's way.
pub fn a_file_without_a_record_is_replaced(t: &mut Bench) {
    let mut commit = t.begin();
    commit.store_blob(BLOB, Tid::ZERO, RECORD, staged(t, b"content")).expect("store");
    let orphan = file_to_be(t, "0x02", commit.as_ref());
    std::fs::create_dir_all(orphan.parent().expect("a parent")).expect("make directories");
    std::fs::write(&orphan, b"of a transaction that never was").expect("write");
    commit.vote().expect("vote");
    let tid = commit.finish(&mut Direct).expect("finish");
    assert_eq!(content(t, BLOB, tid).expect("content"), b"content");
    assert_eq!(contents(t), [b"content".to_vec()]);
}

/// Whoever sees the record finds the file.
pub fn the_file_is_there_before_the_record(t: &mut Bench) {
    struct Watch<'a>(&'a Bench);

    impl Publisher for Watch<'_> {
        fn publish(&mut self, tid: Tid, install: &mut dyn FnMut()) {
            assert_eq!(content(self.0, BLOB, tid).expect("the file"), b"content");
            no_such(BLOB, self.0.load(BLOB));
            install();
        }
    }

    let mut commit = t.begin();
    commit.store_blob(BLOB, Tid::ZERO, RECORD, staged(t, b"content")).expect("store");
    commit.vote().expect("vote");
    no_file(BLOB, commit.tid(), directory(t).open_revision(BLOB, commit.tid()));
    commit.finish(&mut Watch(t)).expect("finish");
}

/// And leaves nothing otherwise.
pub fn finished_only_after_a_vote(t: &mut Bench) {
    let mut commit = t.begin();
    commit.store_blob(BLOB, Tid::ZERO, RECORD, staged(t, b"content")).expect("store");
    assert!(matches!(commit.finish(&mut Direct), Err(StorageError::Transaction(_))));
    assert!(contents(t).is_empty());
}

/// Puts a file where a client with a shared directory puts its uploads of a blob.
fn upload(t: &Bench, name: &str, content: &[u8]) -> PathBuf {
    let object = directory(t).path().join("0x00/0x00/0x00/0x00/0x00/0x01/0x00/0x02");
    std::fs::create_dir_all(&object).expect("make directories");
    let path = object.join(name);
    std::fs::write(&path, content).expect("write");
    path
}

/// They are taken where they are.
pub fn uploads_of_a_shared_directory(t: &mut Bench) {
    let mut serial = Tid::ZERO;
    for name in ["0x00abc.tmp-", "0x00def.tmp", ".tmp", "x.tmp\u{20ac}"] {
        let path = upload(t, name, name.as_bytes());
        let content_of = Arc::new(directory(t).adopt(BLOB, name).expect("adopt"));
        serial = t.commit(|commit| commit.store_blob(BLOB, serial, RECORD, content_of));
        assert_eq!(content(t, BLOB, serial).expect("open"), name.as_bytes());
        assert!(!path.exists());
    }
    let path = upload(t, "aborted.tmp-", b"content");
    drop(directory(t).adopt(BLOB, "aborted.tmp-").expect("adopt"));
    assert!(!path.exists());
    assert!(matches!(directory(t).adopt(BLOB, "missing.tmp"), Err(StorageError::Io { .. })));
}

/// Whatever they name stays as it is.
pub fn other_names_are_no_uploads(t: &mut Bench) {
    let tid = store(t, BLOB, Tid::ZERO, b"content");
    let outside = upload(t, "outside", b"outside");
    let object = outside.parent().expect("a parent");
    std::os::unix::fs::symlink(&outside, object.join("link.tmp")).expect("link");
    std::fs::create_dir(object.join("directory.tmp")).expect("make a directory");
    let before = files(directory(t).path());
    let committed = format!("{}.blob", Oid(tid.0));
    for name in [
        "",
        ".",
        "..",
        "x",
        "x.tmp--",
        "../0x02/x.tmp",
        "/x.tmp",
        "x/.tmp",
        "x\0.tmp",
        "link.tmp",
        "directory.tmp",
        &committed,
    ] {
        match directory(t).adopt(BLOB, name) {
            Err(StorageError::BlobName(named)) => assert_eq!(named, name),
            other => panic!("{name:?}: {other:?}"),
        }
    }
    assert_eq!(files(directory(t).path()), before);
}

/// Old revisions go with their files, and objects that nothing refers to with all of theirs.
pub fn a_pack_takes_the_files_of_what_it_leaves_out(t: &mut Bench) {
    t.commit(|commit| commit.store(Oid::ZERO, Tid::ZERO, &record(&[BLOB])));
    let old = store(t, BLOB, Tid::ZERO, b"old");
    store(t, OTHER, Tid::ZERO, b"garbage");
    let now = store(t, BLOB, old, b"now");
    pack(t, now, true);
    assert_eq!(contents(t), [b"now"]);
    no_file(BLOB, old, content(t, BLOB, old));
    let later = store(t, BLOB, now, b"later");
    pack(t, now, false);
    assert_eq!(contents(t), [&b"now"[..], b"later"]);
    store(t, OTHER, Tid::ZERO, b"garbage");
    pack(t, t.storage.last_transaction(), true);
    assert_eq!(contents(t), [b"later"]);
    assert_eq!(t.storage.current_tid(BLOB).expect("it is there"), later);
}
