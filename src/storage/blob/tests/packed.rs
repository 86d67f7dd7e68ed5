//! What a pack takes from a blob directory, and keeps beside it.

use std::os::unix::fs::MetadataExt as _;

use super::removal::Taken;
use super::*;
use crate::storage::battery::bench::Open;
use crate::storage::disk::with_suffix;
use crate::storage::{PackPhase, PackProgress};

/// A host that counts.
#[derive(Default)]
pub struct Host {
    told: Vec<(Oid, Tid, bool)>,
    sealed: Option<Vec<u8>>,
    list: PathBuf,
    stop: bool,
    stop_at_last_step: bool,
}

impl Host {
    /// One that stops before anything is removed.
    pub fn stopping() -> Self {
        Self { stop: true, ..Self::default() }
    }
}

impl PackHost for Host {
    fn exclusively(&mut self, last_step: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        self.sealed = std::fs::read(&self.list).ok();
        if self.stop_at_last_step { Err(StorageError::Refused("closing".to_owned())) } else { last_step() }
    }

    fn progress(&mut self, progress: PackProgress) -> Result<()> {
        let stop = self.stop && progress.phase == PackPhase::RemovingBlobs;
        if stop { Err(StorageError::Refused("the server is closing".to_owned())) } else { Ok(()) }
    }

    fn blob_removed(&mut self, oid: Oid, tid: Tid, whole_object: bool) -> Result<()> {
        self.told.push((oid, tid, whole_object));
        Ok(())
    }
}

#[test]
fn the_list_is_complete_before_the_last_step() {
    let packed = Packed::new(false);
    let list = packed.base().join(".removed");
    let mut host = Host { list: list.clone(), ..Host::default() };
    let mut removals = RemovalList::new(&packed.storage, false);
    let mut listing = ListingHost { host: &mut host, list: &mut removals };
    assert!(listing.has_blobs());
    listing.blob_removed(BLOB, GONE, false).expect("list");
    listing.blob_removed(OTHER, GONE, true).expect("list");
    assert!(std::fs::read(&list).expect("a list").starts_with(b"zeolite, removed after ................\n"));
    assert!(!listing.list.entered);
    listing.exclusively(&mut || Ok(())).expect("last step");
    let expected = format!(
        "zeolite, removed after {}\nbeside: of an earlier pack\n00000000000100020300000000000001\n0000000000020003\n",
        packed.tid
    );
    assert_eq!(host.sealed.as_deref(), Some(expected.as_bytes()));
    assert_eq!(host.told, [(BLOB, GONE, false), (OTHER, GONE, true)]);
    assert!(removals.entered);
    removals.discard();
    assert!(!list.exists());
}

#[test]
fn a_list_that_goes_on_keeps_its_lines() {
    let packed = Packed::new(false);
    let list = packed.base().join(".removed");
    let before = std::fs::read(&list).expect("a list");
    for is_packed in [false, true] {
        let mut removals = RemovalList::new(&packed.storage, true);
        let mut listing = ListingHost { host: &mut Host::default(), list: &mut removals };
        listing.blob_removed(OTHER, packed.tid, false).expect("list");
        listing.exclusively(&mut || Ok(())).expect("last step");
        if is_packed {
            let lines = format!("\nbeside: of an earlier pack\n{:016x}{}\n", OTHER.0, packed.tid);
            assert_eq!(std::fs::read(&list).expect("a list"), [&before, lines.as_bytes()].concat());
        } else {
            removals.discard();
            assert_eq!(std::fs::read(&list).expect("a list"), before);
        }
    }
}

/// Only a pack that came to its last step can have removed anything.
#[test]
fn a_pack_that_fails_early_leaves_no_list() {
    let t = Bench::new(over_file);
    let first = store(&t, BLOB, Tid::ZERO, b"first");
    store(&t, BLOB, first, b"second");
    let mut host = Host { stop_at_last_step: true, ..Host::default() };
    let request = PackRequest { stop: Tid::MAX, gc: Some(false) };
    Arc::clone(&t.storage).pack(&request, &mut host).expect_err("refused");
    assert_eq!(host.told, [(BLOB, first, false)]);
    assert!(!base(&t).join(".removed").exists());
    Arc::clone(&t.storage).pack(&request, &mut Host::default()).expect("pack");
    assert_eq!(files(&base(&t)).len(), 1);
}

/// What a pack leaves: two revisions of a blob, one of which is gone, and an object that is gone as a whole.
pub struct Packed {
    pub storage: BlobStorage,
    pub tid: Tid,
    pub gone: [PathBuf; 2],
    pub home: TempDir,
}

impl Packed {
    pub fn new(pack_keep_old: bool) -> Self {
        let home = TempDir::new().expect("make a directory");
        let file = Arc::new(FileStorage::open(&FileOptions::new(home.path().join("Data.fs"))).expect("open"));
        let options = Options { path: home.path().join("blobs"), create: false, pack_keep_old };
        let storage = BlobStorage::open(file, &options).expect("open");
        let storage = Arc::new(storage);
        let mut commit = Arc::clone(&storage).begin(Begin::default()).expect("begin");
        let mut staged = storage.directory.stage().expect("stage");
        staged.append(b"content").expect("append");
        commit.store_blob(BLOB, Tid::ZERO, b"data", Arc::new(staged)).expect("store");
        commit.vote().expect("vote");
        let tid = commit.finish(&mut Direct).expect("finish");
        let storage = Arc::into_inner(storage).expect("no commit has it");
        let base = &options.path;
        let gone = [plant(base, BLOB, "0x0300000000000001.blob"), plant(base, OTHER, "0x0300000000000001.blob")];
        let list = format!(
            "zeolite, removed after {tid}\nbeside: of an earlier pack\n{:016x}{GONE}\n\nnonsense\n{:016x}\n{:016x}{tid}\n",
            BLOB.0, OTHER.0, BLOB.0
        );
        std::fs::write(base.join(".removed"), list).expect("write");
        Self { storage, tid, gone, home }
    }

    /// Whether a list is still there.
    pub fn work_off(&self) -> bool {
        removal::remove_left_over(&self.storage, &mut |_, _| Ok(()))
    }

    pub fn base(&self) -> PathBuf {
        self.home.path().join("blobs")
    }

    pub fn kept(&self, path: &Path) -> PathBuf {
        with_suffix(&self.base(), ".old").join(path.strip_prefix(self.base()).expect("inside"))
    }

    /// Only what the storage still has is there, in directories that are not empty.
    pub fn check(&self) {
        let left = files(&self.base());
        assert_eq!(left.keys().collect::<Vec<_>>(), [&self.storage.directory.revision(BLOB, self.tid)]);
        assert!(!self.base().join("0x00/0x00/0x00/0x00/0x00/0x02").exists());
        assert!(self.base().join("tmp").is_dir());
    }
}

#[test]
fn removed_blobs_are_gone() {
    let packed = Packed::new(false);
    removal::remove_listed(&packed.storage, &mut Host::default());
    packed.check();
    assert!(!with_suffix(&packed.base(), ".old").exists());
}

#[test]
fn removed_blobs_are_kept_with_links_to_the_rest() {
    let packed = Packed::new(true);
    let old = with_suffix(&packed.base(), ".old");
    std::fs::create_dir(&old).expect("make a directory");
    std::fs::write(old.join("before"), b"of the pack before").expect("write");
    removal::remove_listed(&packed.storage, &mut Host::default());
    packed.check();
    let stays = packed.storage.directory.revision(BLOB, packed.tid);
    let mut expected: Vec<_> = packed.gone.iter().chain([&stays]).map(|path| packed.kept(path)).collect();
    expected.sort();
    assert_eq!(files(&old).into_keys().collect::<Vec<_>>(), expected);
    assert_eq!(std::fs::metadata(&stays).expect("metadata").nlink(), 2);
    assert_eq!(std::fs::read(old.join(".layout")).expect("the marker"), b"bushy");
}

#[test]
fn an_interrupted_removal_is_taken_up_again() {
    for keep_old in [false, true] {
        let packed = Packed::new(keep_old);
        removal::remove_listed(&packed.storage, &mut Host::stopping());
        assert!(packed.base().join(".removed").exists());
        assert!(packed.gone[1].exists(), "stopped before that");
        packed.work_off();
        packed.check();
        assert_eq!(packed.kept(&packed.gone[0]).exists(), keep_old);
        assert_eq!(packed.kept(&packed.gone[1]).exists(), keep_old);
    }
}

/// As after a pack that failed in its last step.
#[test]
fn a_list_of_what_the_storage_has_removes_nothing() {
    let packed = Packed::new(true);
    let list = format!("zeolite, removed after {}\n{:016x}{}\n", packed.tid, BLOB.0, packed.tid);
    for path in &packed.gone {
        std::fs::remove_file(path).expect("remove");
    }
    std::fs::write(packed.base().join(".removed"), list).expect("write");
    assert!(!packed.work_off());
    assert!(packed.storage.directory.open_revision(BLOB, packed.tid).is_ok());
    assert!(!packed.base().join(".removed").exists());
    assert!(!with_suffix(&packed.base(), ".old").exists(), "nothing was packed");
}

/// What a start makes of a list: worked off, or left where it is with all files.
#[test]
fn a_list_is_worked_off_only_for_its_own_database() {
    for (data, is_own) in [("Data.fs", true), ("Empty.fs", false), ("Other.fs", false)] {
        let packed = Packed::new(false);
        let (list, path) = (packed.base().join(".removed"), packed.home.path().join(data));
        packed.storage.close().expect("close");
        let other = Arc::new(FileStorage::open(&FileOptions::new(path)).expect("open"));
        if data == "Other.fs" {
            let mut commit = Arc::clone(&other).begin(Begin::default()).expect("begin");
            commit.store(BLOB, Tid::ZERO, b"data").expect("store");
            commit.vote().expect("vote");
            assert_ne!(commit.finish(&mut Direct).expect("finish"), packed.tid);
        }
        let before = files(&packed.base());
        let options = Options { path: packed.base(), create: false, pack_keep_old: false };
        let storage = BlobStorage::open(other, &options).expect("open");
        assert_eq!(files(&packed.base()), before, "{data}: no start waits for it");
        storage.maintain().expect("housekeeping");
        assert_eq!(list.exists(), !is_own, "{data}");
        if is_own {
            assert!(packed.gone.iter().all(|path| !path.exists()));
        } else {
            assert_eq!(files(&packed.base()), before, "{data}");
        }
        storage.close().expect("close");
    }
}

/// Python's form, and one whose pack was killed before the last step.
#[test]
fn lists_that_name_no_database_remove_nothing() {
    for (first, stays) in [("", true), ("zeolite, removed after ................\n", false)] {
        let packed = Packed::new(false);
        let lines = format!("{first}{:016x}{GONE}\n{:016x}\n", BLOB.0, OTHER.0);
        std::fs::write(packed.base().join(".removed"), lines).expect("write");
        assert!(!packed.work_off(), "the next pack may replace it");
        assert!(packed.gone.iter().all(|path| path.exists()));
        assert_eq!(packed.base().join(".removed").exists(), stays);
    }
}

#[test]
fn markers_are_of_their_own_database() {
    let mut t = Bench::new(over_file);
    store(&t, BLOB, Tid::ZERO, b"content");
    let [orphan, stray] =
        [BLOB, OTHER].map(|oid| (plant(&base(&t), oid, "0x0300000000000001.blob"), oid)).map(|(path, oid)| {
            let after = if oid == BLOB { Tid(7) } else { Tid::ZERO };
            let marker = base(&t).join(format!("tmp/zeolite-pending-{:016x}-{GONE}-{after}", oid.0));
            std::fs::write(&marker, b"").expect("write");
            (path, marker)
        });
    t.reopen();
    for path in [&orphan.0, &orphan.1, &stray.0, &stray.1] {
        assert!(path.exists(), "{}", path.display());
    }
    std::fs::remove_file(&orphan.0).expect("remove");
    t.reopen();
    assert!(!orphan.1.exists(), "there is nothing to ask about");
}

#[test]
fn odd_entries_do_not_stop_a_start() {
    let mut t = Bench::new(over_file);
    let tid = store(&t, BLOB, Tid::ZERO, b"content");
    let odd =
        [base(&t).join("tmp/zeolite-upload-x"), plant(&base(&t), OTHER, "x").with_file_name("0x0300000000000001.blob")];
    for path in &odd {
        std::fs::create_dir(path).expect("make a directory");
    }
    let marker = base(&t).join(format!("tmp/zeolite-pending-{:016x}-{GONE}-{tid}", OTHER.0));
    std::fs::write(&marker, b"").expect("write");
    t.reopen();
    assert!(odd.iter().chain([&marker]).all(|path| path.exists()));
    assert_eq!(content(&t, BLOB, tid).expect("content"), b"content");
}

/// A pack that keeps what it removes cannot link it into another file system.
#[test]
fn a_mount_point_cannot_be_packed_with_keep_old() {
    let (home, shared) = (TempDir::new().expect("a directory"), TempDir::new_in("/dev/shm").expect("a directory"));
    std::os::unix::fs::symlink(shared.path(), home.path().join("mounted")).expect("link");
    std::fs::create_dir(home.path().join("plain")).expect("a directory");
    for (name, fits) in [("plain", true), ("mounted", false)] {
        let directory = BlobDirectory::open(&home.path().join(name), false, false).expect("open");
        let checked = kept::Kept::beside(&directory).check(&directory);
        assert_eq!(checked.is_ok(), fits, "{checked:?}");
        assert!(fits || checked.is_err_and(|problem| problem.to_string().contains("pack-keep-old")));
    }
}

/// Nor below a mount point of the same file system, which only root can make.
#[test]
fn a_bind_mount_cannot_be_packed_with_keep_old() {
    struct Mounted<'a>(&'a Path);

    impl Drop for Mounted<'_> {
        fn drop(&mut self) {
            std::process::Command::new("umount").arg(self.0).status().expect("run umount");
        }
    }

    let home = TempDir::new().expect("make a directory");
    let [blobs, elsewhere] = ["blobs", "elsewhere"].map(|name| home.path().join(name));
    std::fs::create_dir(&blobs).expect("make a directory");
    std::fs::create_dir(&elsewhere).expect("make a directory");
    let mount = std::process::Command::new("mount").arg("--bind").args([&elsewhere, &blobs]).output();
    if !mount.is_ok_and(|done| done.status.success()) {
        return;
    }
    let _mounted = Mounted(&blobs);
    let directory = BlobDirectory::open(&blobs, false, false).expect("open");
    let checked = kept::Kept::beside(&directory).check(&directory);
    assert!(checked.is_err_and(|problem| problem.to_string().contains("pack-keep-old")));
}

/// A finish that has named its files, but is not visible yet, keeps them: the removal waits for it.
#[test]
fn a_removal_waits_for_the_names() {
    let packed = Packed::new(false);
    // The line of a blob is the first one of which the host is told.
    let list = packed.base().join(".removed");
    let lines = std::fs::read_to_string(&list).expect("a list");
    std::fs::write(&list, lines.replace("beside: of an earlier pack\n", "")).expect("write");
    let names = packed.storage.directory.names.lock();
    std::thread::scope(|scope| {
        let (storage, (said, asked)) = (&packed.storage, std::sync::mpsc::channel());
        scope.spawn(move || {
            let mut host = Telling(said);
            removal::remove_listed(storage, &mut host);
        });
        assert!(asked.recv_timeout(std::time::Duration::from_millis(200)).is_err(), "nothing is done without the lock");
        assert!(packed.gone.iter().all(|path| path.exists()));
        drop(names);
        asked.recv().expect("goes on");
    });
    packed.check();
}

#[test]
fn content_is_still_there_when_the_lock_is_free() {
    let packed = Packed::new(false);
    let mut removal = removal::Removal::new(&packed.storage, true);
    let Taken::Aside(taken) = removal.take_away(BLOB, GONE).expect("taken") else { panic!("it was there") };
    drop(packed.storage.directory.names.lock());
    assert!(!packed.gone[0].exists() && taken.exists());
    packed.storage.close().expect("close");
    BlobDirectory::open(&packed.base(), false, false).expect("open");
    assert!(!taken.exists(), "a start removes what a kill left");
}

/// A host that says how far the removal is.
struct Telling(std::sync::mpsc::Sender<u64>);

impl PackHost for Telling {
    fn exclusively(&mut self, last_step: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        last_step()
    }

    fn progress(&mut self, progress: PackProgress) -> Result<()> {
        self.0.send(progress.done).map_err(|_| StorageError::Refused("nobody listens".to_owned()))
    }
}

#[test]
fn what_cannot_be_removed_stays_on_the_list() {
    let packed = Packed::new(false);
    // A directory is no file that could be removed.
    std::fs::remove_file(&packed.gone[0]).expect("remove");
    std::fs::create_dir_all(packed.gone[0].join("x")).expect("make a directory");
    removal::remove_listed(&packed.storage, &mut Host::default());
    assert!(!packed.gone[1].exists());
    assert!(packed.base().join(".removed").exists());
    std::fs::remove_dir_all(&packed.gone[0]).expect("remove");
    packed.work_off();
    packed.check();
}

/// A storage whose packs keep nothing.
fn keeping_nothing(path: &Path) -> Arc<BlobStorage> {
    let options = FileOptions { pack_keep_old: false, ..FileOptions::new(path.join("Data.fs")) };
    let file = FileStorage::open(&options).expect("open the data file");
    let options = Options { path: path.join("blobs"), create: false, pack_keep_old: false };
    Arc::new(BlobStorage::open(Arc::new(file), &options).expect("open the blobs"))
}

/// The storage below packs, and tells which blobs it leaves out.
#[test]
fn a_pack_takes_the_blobs_that_are_gone() {
    // PersistentMapping({'a': blob})
    let root = b"\x80\x03cpersistent.mapping\nPersistentMapping\nq\x00.\x80\x03}q\x01X\x04\x00\x00\x00dataq\x02}q\x03\
        X\x01\x00\x00\x00aq\x04C\x08\x00\x00\x00\x00\x00\x01\x00\x02q\x05cZODB.blob\nBlob\nq\x06\x86q\x07Qss.";
    for (open, keeps_old) in [(over_file as Open<_>, true), (keeping_nothing, false)] {
        let mut t = Bench::new(open);
        t.store(Oid(0), Tid::ZERO, root);
        let first = store(&t, BLOB, Tid::ZERO, b"first");
        let second = store(&t, BLOB, first, b"second");
        store(&t, OTHER, Tid::ZERO, b"garbage");
        let undone = t.undo(second);
        let request = PackRequest { stop: undone, gc: None };
        let report = Arc::clone(&t.storage).pack(&request, &mut Host::default()).expect("pack");
        assert_eq!(report.outcome, PackOutcome::Packed);
        assert_eq!(files(&base(&t)).into_values().collect::<Vec<_>>(), [b"first".to_vec()]);
        let old = with_suffix(&base(&t), ".old");
        let kept = old.exists().then(|| files(&old));
        let contents = kept.as_ref().map(|kept| kept.values().map(Vec::as_slice).collect::<Vec<_>>());
        assert_eq!(contents, keeps_old.then(|| vec![&b"first"[..], b"second", b"first", b"garbage"]));
        // Nothing to pack is no reason to throw away what the pack before has kept.
        let report = Arc::clone(&t.storage).pack(&request, &mut Host::default()).expect("pack");
        assert_eq!(report.outcome, PackOutcome::NothingToDo);
        assert_eq!(old.exists().then(|| files(&old)), kept);
        assert!(!base(&t).join(".removed").exists());
        t.reopen();
        assert_eq!(content(&t, BLOB, undone).expect("what is current"), b"first");
    }
}
