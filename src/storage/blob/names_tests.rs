//! How content gets its name: what is synced when, and what a client with a shared directory cannot make of it.

use std::cell::{Cell, RefCell};
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;

use super::tree::{Durable, Tree};
use super::*;
use crate::storage::battery::bench::{Bench, Direct, no_such};
use crate::storage::battery::blobs::{BLOB, OTHER, RECORD, content, contents, directory, staged, store};
use crate::storage::file::{FileStorage, Options as FileOptions};
use crate::storage::{Commit, Publisher};

thread_local! {
    static SYNCED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    /// How many syncs succeed.
    static SUCCEED: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Notes what is synced, and what it is like then.
#[derive(Debug)]
struct Watched(PathBuf);

impl Durable for Watched {
    fn sync(&self, file: &File, path: &Path) -> io::Result<()> {
        let metadata = file.metadata()?;
        assert_eq!(metadata.ino(), path.metadata()?.ino());
        let name = path.strip_prefix(&self.0).expect("inside").to_str().expect("text").to_owned();
        let what = if metadata.is_file() {
            format!("content {:o}", metadata.permissions().mode() & 0o777)
        } else {
            let names = path.read_dir().expect("a directory").map(|entry| entry.expect("an entry").file_name());
            let names = names.filter_map(|name| Some(name.to_str()?.to_owned()));
            let (blobs, others): (Vec<_>, Vec<_>) =
                names.filter(|name| name.starts_with("0x")).partition(|name| layout::tid_of(name).is_some());
            format!("{name} has {}, {} blobs", others.len(), blobs.len())
        };
        SYNCED.with_borrow_mut(|synced| synced.push(what));
        let left = SUCCEED.get();
        SUCCEED.set(left.saturating_sub(1));
        if left == 0 { Err(io::Error::other("the disk is broken")) } else { Ok(()) }
    }
}

fn synced() -> Vec<String> {
    SYNCED.take()
}

fn over_file(path: &Path) -> Arc<BlobStorage> {
    let file = FileStorage::open(&FileOptions::new(path.join("Data.fs"))).expect("open the data file");
    let options = Options { path: path.join("blobs"), create: false, pack_keep_old: true };
    let mut storage = BlobStorage::open(Arc::new(file), &options).expect("open the blobs");
    let base = storage.directory.path().to_owned();
    let durable = Box::new(Watched(base.clone()));
    storage.directory.tree = Arc::new(Tree { durable, ..Tree::new(base) });
    Arc::new(storage)
}

/// Notes when others can see the transaction: the data is synced just before.
struct Watch;

impl Publisher for Watch {
    fn publish(&mut self, _tid: Tid, install: &mut dyn FnMut()) {
        SYNCED.with_borrow_mut(|synced| synced.push("published".to_owned()));
        install();
    }
}

/// The directories above that of an object in which something was made for it.
fn chain(first: usize) -> Vec<String> {
    let names = ["", "0x00", "0x00/0x00", "0x00/0x00/0x00", "0x00/0x00/0x00/0x00", "0x00/0x00/0x00/0x00/0x00"];
    let mut chain: Vec<_> = names.iter().map(|name| format!("{name} has 1, 0 blobs")).collect();
    chain.push("0x00/0x00/0x00/0x00/0x00/0x01 has 1, 0 blobs".to_owned());
    chain.push(format!("0x00/0x00/0x00/0x00/0x00/0x01/0x00 has {first}, 0 blobs"));
    chain
}

fn object(t: &Bench, oid: Oid) -> PathBuf {
    directory(t).object(oid)
}

/// Votes for one blob.
fn voted(t: &Bench, oid: Oid, serial: Tid, content: Arc<StagedBlob>) -> Box<dyn Commit> {
    let mut commit = t.begin();
    commit.store_blob(oid, serial, RECORD, content).expect("store");
    commit.vote().expect("vote");
    commit
}

const NAMED: [&str; 2] = ["0x00/0x00/0x00/0x00/0x00/0x01/0x00/0x02 has 0, 1 blobs", "published"];

#[test]
fn everything_is_durable_before_the_transaction() {
    let t = Bench::new(over_file);
    let mode = format!("content {:o}", 0o400 | base_mode(&t) & 0o444);
    let upload = staged(&t, b"content");
    assert_eq!(synced(), ["content 600"], "when it is complete");
    let commit = voted(&t, BLOB, Tid::ZERO, upload);
    let mut expected = chain(1);
    expected.push(mode.clone());
    assert_eq!(synced(), expected, "at the vote");
    let first = commit.finish(&mut Watch).expect("finish");
    assert_eq!(synced(), NAMED, "at the finish");

    // The directories are known to last; content need not have been complete.
    let mut upload = directory(&t).stage().expect("stage");
    upload.append(b"second").expect("append");
    let commit = voted(&t, BLOB, first, Arc::new(upload));
    assert_eq!(synced(), [mode]);
    commit.finish(&mut Watch).expect("finish");
    assert_eq!(synced(), ["0x00/0x00/0x00/0x00/0x00/0x01/0x00/0x02 has 0, 2 blobs", "published"]);
}

fn base_mode(t: &Bench) -> u32 {
    directory(t).path().metadata().expect("metadata").permissions().mode()
}

/// What a client puts there.
fn upload(t: &Bench, oid: Oid, name: &str) -> PathBuf {
    std::fs::create_dir_all(object(t, oid)).expect("make directories");
    std::fs::write(object(t, oid).join(name), b"a client's").expect("write");
    object(t, oid).join(name)
}

#[test]
fn directories_that_a_client_has_made_are_synced_too() {
    let t = Bench::new(over_file);
    upload(&t, BLOB, "x.tmp-");
    let adopted = directory(&t).adopt(BLOB, "x.tmp-").expect("adopt");
    assert_eq!(synced().len(), 1, "its content");
    let commit = voted(&t, BLOB, Tid::ZERO, Arc::new(adopted));
    assert_eq!(synced()[..8], chain(1));
    commit.finish(&mut Watch).expect("finish");
    assert_eq!(synced(), NAMED);

    std::fs::create_dir(object(&t, OTHER)).expect("make a directory");
    let upload = staged(&t, b"over the wire");
    synced();
    let commit = voted(&t, OTHER, Tid::ZERO, upload);
    assert_eq!(synced()[..8], chain(2));
    drop(commit);
    assert!(object(&t, OTHER).exists(), "a client's");
}

/// A pack may do so.
#[test]
fn directories_that_were_removed_after_the_vote_are_made_again() {
    let t = Bench::new(over_file);
    let commit = voted(&t, BLOB, Tid::ZERO, staged(&t, b"content"));
    directory(&t).prune(&object(&t, BLOB));
    assert!(!directory(&t).path().join("0x00").exists());
    synced();
    let tid = commit.finish(&mut Watch).expect("finish");
    let mut expected = chain(1);
    expected.extend(NAMED.map(str::to_owned));
    assert_eq!(synced(), expected);
    assert_eq!(content(&t, BLOB, tid).expect("content"), b"content");
}

#[test]
fn whatever_cannot_be_synced_fails_the_transaction() {
    for broken in 0.. {
        let t = Bench::new(over_file);
        let uploads = [staged(&t, b"one"), staged(&t, b"other")];
        SUCCEED.set(broken);
        let done = t.try_commit(Begin::default(), |commit| {
            let [one, other] = uploads;
            commit.store_blob(BLOB, Tid::ZERO, RECORD, one)?;
            commit.store_blob(OTHER, Tid::ZERO, RECORD, other)
        });
        SUCCEED.set(usize::MAX);
        if done.is_ok() {
            assert_eq!(broken, 12, "eight directories above, two contents, two directories");
            return;
        }
        assert!(contents(&t).is_empty(), "sync {broken}");
        assert!(!directory(&t).path().join("0x00").exists(), "sync {broken}");
        no_such(BLOB, t.load(BLOB));
        store(&t, BLOB, Tid::ZERO, b"next");
    }
}

#[test]
fn what_the_vote_has_made_goes_with_the_transaction() {
    let t = Bench::new(over_file);
    let commit = voted(&t, BLOB, Tid::ZERO, staged(&t, b"content"));
    assert!(object(&t, BLOB).exists());
    assert_eq!(contents(&t).len(), 2, "the content and a marker");
    drop(commit);
    assert!(contents(&t).is_empty());
    assert!(!directory(&t).path().join("0x00").exists());
}

#[test]
fn who_may_read_the_directory_may_read_the_blob() {
    let t = Bench::new(over_file);
    for (oid, mode) in [(BLOB, 0o700), (OTHER, 0o755), (Oid(5), 0o750)] {
        std::fs::create_dir_all(object(&t, oid)).expect("make directories");
        std::fs::set_permissions(object(&t, oid), Permissions::from_mode(mode)).expect("set the mode");
        let tid = store(&t, oid, Tid::ZERO, b"content");
        let file = directory(&t).open_revision(oid, tid).expect("open").0;
        assert_eq!(file.metadata().expect("metadata").permissions().mode() & 0o777, mode & 0o444);
    }
    // One that the server makes has the mode that is usual here, whatever the base has.
    std::fs::set_permissions(directory(&t).path(), Permissions::from_mode(0o700)).expect("set the mode");
    let tid = store(&t, Oid(0x7777), Tid::ZERO, b"content");
    let usual = object(&t, Oid(0x7777)).metadata().expect("metadata").permissions().mode();
    let file = directory(&t).open_revision(Oid(0x7777), tid).expect("open").0;
    assert_eq!(file.metadata().expect("metadata").permissions().mode() & 0o777, usual & 0o444);
}

#[test]
fn no_link_is_followed_and_no_pipe_waited_for() {
    let t = Bench::new(over_file);
    let tid = store(&t, BLOB, Tid::ZERO, b"content");
    let outside = TempDir::new().expect("make a directory");
    let secret = outside.path().join("0x03.blob");
    std::fs::write(&secret, b"secret").expect("write");
    symlink(&secret, object(&t, BLOB).join("0x01.blob")).expect("link");
    mknodat(CWD, object(&t, BLOB).join("0x02.blob"), FileType::Fifo, Mode::RUSR, 0).expect("make a pipe");
    symlink(outside.path(), object(&t, OTHER)).expect("link");
    for (oid, tid) in [(BLOB, Tid(1)), (BLOB, Tid(2)), (OTHER, Tid(3))] {
        let opened = directory(&t).open_revision(oid, tid);
        assert!(matches!(opened, Err(StorageError::Io { .. })), "{opened:?}");
    }
    for (oid, tid, link) in [(BLOB, 1, object(&t, BLOB).join("0x01.blob")), (OTHER, 3, object(&t, OTHER))] {
        let told = directory(&t).open_revision(oid, Tid(tid)).expect_err("a link").to_string();
        assert!(told.contains(&format!("{} is a link", link.display())), "{told}");
    }
    assert_eq!(content(&t, BLOB, tid).expect("content"), b"content");
    // Nor does the server write there.
    let refused = t.refused(|commit| commit.store_blob(OTHER, Tid::ZERO, RECORD, staged(&t, b"content")));
    assert!(matches!(refused, StorageError::Io { .. }), "{refused:?}");
    std::fs::write(outside.path().join("x.tmp"), b"secret").expect("write");
    refused_upload(&t, OTHER, "x.tmp");
    assert_eq!(outside.path().read_dir().expect("a directory").count(), 2);
}

#[track_caller]
fn refused_upload(t: &Bench, oid: Oid, name: &str) {
    match directory(t).adopt(oid, name) {
        Err(StorageError::BlobName(named)) => assert_eq!(named, name),
        other => panic!("{name:?}: {other:?}"),
    }
}

#[test]
fn an_upload_is_a_file_of_its_own() {
    let t = Bench::new(over_file);
    let path = upload(&t, BLOB, "x.tmp");
    let other_name = path.with_file_name("y.tmp");
    std::fs::hard_link(&path, &other_name).expect("link");
    refused_upload(&t, BLOB, "x.tmp");
    std::fs::remove_file(other_name).expect("remove");
    mknodat(CWD, path.with_file_name("z.tmp"), FileType::Fifo, Mode::RUSR, 0).expect("make a pipe");
    refused_upload(&t, BLOB, "z.tmp");

    let adopted = directory(&t).adopt(BLOB, "x.tmp").expect("adopt");
    let again = directory(&t).adopt(BLOB, "x.tmp");
    assert!(matches!(&again, Err(StorageError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound));
    let tid = voted(&t, BLOB, Tid::ZERO, Arc::new(adopted)).finish(&mut Direct).expect("finish");
    assert_eq!(content(&t, BLOB, tid).expect("content"), b"a client's");
    upload(&t, BLOB, "x.tmp");
    directory(&t).adopt(BLOB, "x.tmp").expect("the name is free again");
}

/// Whatever is in its place stays as it is, and no name leads there.
#[test]
fn an_upload_that_is_replaced_fails_the_transaction() {
    let t = Bench::new(over_file);
    let outside = TempDir::new().expect("make a directory");
    let secret = outside.path().join("x.tmp");
    std::fs::write(&secret, b"secret").expect("write");
    let mode = || secret.metadata().expect("metadata").mode();
    let before = mode();
    let replace = |path: &Path| {
        std::fs::rename(path, outside.path().join("aside")).expect("rename");
        symlink(&secret, path).expect("link");
    };

    upload(&t, BLOB, "x.tmp");
    let adopted = Arc::new(directory(&t).adopt(BLOB, "x.tmp").expect("adopt"));
    let path = adopted.path().to_owned();
    replace(&path);
    t.refused(|commit| commit.store_blob(BLOB, Tid::ZERO, RECORD, adopted));
    assert!(path.is_symlink(), "not what was adopted");
    std::fs::remove_file(&path).expect("remove");

    upload(&t, BLOB, "x.tmp");
    let adopted = Arc::new(directory(&t).adopt(BLOB, "x.tmp").expect("adopt"));
    let path = adopted.path().to_owned();
    let commit = voted(&t, BLOB, Tid::ZERO, adopted);
    replace(&path);
    commit.finish(&mut Direct).expect_err("another file");
    assert!(contents(&t).is_empty());
    no_such(BLOB, t.load(BLOB));
    assert_eq!((std::fs::read(&secret).expect("read"), mode()), (b"secret".to_vec(), before));

    // Nor is a file removed that a link in the place of the directory leads to.
    upload(&t, BLOB, "x.tmp");
    let adopted = directory(&t).adopt(BLOB, "x.tmp").expect("adopt");
    let same_name = outside.path().join(adopted.path().file_name().expect("a name"));
    std::fs::rename(adopted.path(), &same_name).expect("move");
    std::fs::remove_dir_all(directory(&t).temporary()).expect("remove");
    symlink(outside.path(), directory(&t).temporary()).expect("link");
    drop(adopted);
    assert!(same_name.exists());
}

#[test]
fn tmp_is_where_the_blobs_are() {
    let home = TempDir::new().expect("make a directory");
    std::fs::create_dir(home.path().join("elsewhere")).expect("make a directory");
    std::fs::write(home.path().join(".layout"), "bushy").expect("write");
    symlink(home.path().join("elsewhere"), home.path().join("tmp")).expect("link");
    let refused = BlobDirectory::open(home.path(), false, false).err();
    assert!(matches!(refused, Some(StorageError::Refused(_))), "{refused:?}");
    std::fs::remove_file(home.path().join("tmp")).expect("remove");
    BlobDirectory::open(home.path(), false, false).expect("open");
    // `/proc` is another file system everywhere.
    let tree = Tree::new(home.path().to_owned());
    let refused = tree.check_temporary(Path::new("/proc/self/task")).err();
    assert!(matches!(refused, Some(StorageError::Refused(_))), "{refused:?}");
}
