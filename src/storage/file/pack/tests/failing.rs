//! Every step fails once, or is the last before a crash.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::super::io::{RawFile, with_suffix};
use super::*;

/// What happens at a step, by the step's name.
type Hook<'a> = Box<dyn Fn(&str) + 'a>;

/// A directory that counts what is done to it.
#[derive(Default)]
struct Watched<'a> {
    steps: Mutex<Vec<&'static str>>,
    /// Which step fails.
    failing: Option<usize>,
    no_links: bool,
    free_bytes: Option<u64>,
    /// Where each step leaves a copy of all files, as they are before it.
    snapshots: Option<PathBuf>,
    output_is_synced: Arc<AtomicBool>,
    output_fails: bool,
    /// Happens before each step, and after each rename.
    meanwhile: Option<Hook<'a>>,
}

impl Watched<'_> {
    fn step(&self, what: &'static str, near: &Path) -> io::Result<()> {
        self.meanwhile.iter().for_each(|meanwhile| meanwhile(what));
        let mut steps = self.steps.lock().expect("not poisoned");
        if let Some(snapshots) = &self.snapshots {
            let copy = snapshots.join(steps.len().to_string());
            std::fs::create_dir(&copy)?;
            // Two names of one file stay that.
            let mut copied = HashMap::new();
            for entry in near.parent().expect("in a directory").read_dir()? {
                let (entry, inode) = entry.and_then(|entry| entry.metadata().map(|found| (entry, found.ino())))?;
                let to = copy.join(entry.file_name());
                match copied.get(&inode) {
                    Some(first) => std::fs::hard_link(first, &to)?,
                    None => drop(std::fs::copy(entry.path(), &to)?),
                }
                copied.insert(inode, to);
            }
        }
        steps.push(what);
        if self.failing == Some(steps.len() - 1) { Err(io::Error::other("it is broken")) } else { Ok(()) }
    }
}

impl Directory for Watched<'_> {
    fn create(&self, path: &Path, like: &Path) -> io::Result<Box<dyn RawFile>> {
        self.step("create", path)?;
        let raw = System.create(path, like)?;
        let is_synced = Arc::clone(&self.output_is_synced);
        Ok(Box::new(Watcher { raw, is_synced, fails: self.output_fails }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step("remove", path)?;
        System.remove(path)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step("link", to)?;
        if self.no_links { Err(io::ErrorKind::Unsupported.into()) } else { System.link(from, to) }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step("rename", to)?;
        let is_swap = to.extension().is_none_or(|extension| extension != "old");
        assert!(
            !is_swap || self.output_is_synced.load(Ordering::Relaxed),
            "a name for what a power failure would take"
        );
        assert!(!to.with_extension("fs.index").exists(), "an index of the old file beside the new one");
        System.rename(from, to)?;
        self.meanwhile.iter().for_each(|meanwhile| meanwhile("renamed"));
        Ok(())
    }

    fn sync(&self, path: &Path) -> Result<()> {
        self.step("sync", path).map_err(|source| io_error("sync", path, source))
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.free_bytes.map_or_else(|| System.free_bytes(path), Ok)
    }
}

struct Watcher {
    raw: Box<dyn RawFile>,
    is_synced: Arc<AtomicBool>,
    fails: bool,
}

impl RawFile for Watcher {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.raw.read_at(buffer, position)
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.is_synced.store(false, Ordering::Relaxed);
        if self.fails { Err(io::ErrorKind::StorageFull.into()) } else { self.raw.write_all_at(bytes, position) }
    }

    fn len(&self) -> io::Result<u64> {
        self.raw.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.raw.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.raw.sync_data()?;
        self.is_synced.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn identity(&self) -> io::Result<(u64, u64)> {
        self.raw.identity()
    }
}

/// Something to pack, in a file that was open before, with the old file of an earlier pack beside it.
fn prepared(place: &Place, keep_old: bool) -> (Arc<FileStorage>, Tid) {
    let options = Options { pack_keep_old: keep_old, ..Options::new(place.path()) };
    let storage = Arc::new(FileStorage::open(&options).expect("open"));
    put_all(&storage, &[(0, "old", &[1]), (1, "a", &[]), (9, "garbage", &[])]);
    let stop = put(&storage, 0, "new", &[1]);
    put(&storage, 1, "later", &[]);
    storage.save_index().expect("save the index");
    std::fs::write(with_suffix(&place.path(), ".old"), b"earlier").expect("write");
    (storage, stop)
}

/// All that was acknowledged is there, and the file can be written and packed.
fn check(storage: &Arc<FileStorage>, stop: Tid, last: &str, when: &str) {
    assert!(holds(storage, 0, "new", &[1]) && holds(storage, 1, last, &[]), "{when}");
    let tid = storage.last_transaction();
    assert!(put(storage, 1, "goes on", &[]) > tid, "{when}");
    pack(storage, stop);
    assert!(holds(storage, 1, "goes on", &[]) && !is_there(storage, 9), "{when}");
}

fn pack_with(storage: &FileStorage, stop: Tid, directory: &Watched<'_>) -> Result<PackReport> {
    storage.pack_in(&until(stop), &mut Host::default(), directory)
}

#[test]
fn a_crash_at_any_step_keeps_what_was_acknowledged() {
    for (keep_old, no_links) in [(true, false), (true, true), (false, false)] {
        let place = Place::new();
        let (storage, stop) = prepared(&place, keep_old);
        let snapshots = tempfile::tempdir().expect("make a directory");
        let directory = Watched { no_links, snapshots: Some(snapshots.path().to_owned()), ..Watched::default() };
        let commit = || assert!(put(&storage, 1, "last", &[]) > stop);
        let mut host = Host { before_last_step: Some(Box::new(commit)), ..Host::default() };
        storage.pack_in(&until(stop), &mut host, &directory).expect("pack");
        drop(host);
        let steps = directory.steps.lock().expect("not poisoned").clone();
        assert!(steps.len() >= 7, "{steps:?}");
        let (first_rename, mut whole) = (steps.iter().position(|&step| step == "rename").expect("one"), 0);
        for number in 0..steps.len() {
            let when = format!("keep_old {keep_old}, no_links {no_links}, before step {number} of {steps:?}");
            let path = snapshots.path().join(number.to_string()).join("Data.fs");
            let has_old = with_suffix(&path, ".old").exists() || with_suffix(&path, ".swap").exists();
            whole += usize::from(path.exists());
            let opened = Arc::new(FileStorage::open(&Options::new(&path)).expect(&when));
            // The last transaction comes before the swap, after the index is gone.
            let last = if is_last(&opened) { "last" } else { "later" };
            assert!(last == "last" || number < first_rename, "{when}");
            assert!(!with_suffix(&path, ".swap").exists() && !with_suffix(&path, ".pack").exists(), "{when}");
            match std::fs::read(with_suffix(&path, ".old")) {
                Ok(old) if old == b"earlier" => {}
                Ok(old) => assert!(keep_old && number > first_rename && old.starts_with(b"FS30"), "{when}"),
                Err(_) => assert!(!has_old, "{when}"),
            }
            let links = std::fs::metadata(&path).expect("it is there").nlink();
            assert_eq!(links, 1, "what is written must not show in the old file: {when}");
            check(&opened, stop, last, &when);
        }
        assert_eq!(whole, if no_links { steps.len() - 1 } else { steps.len() }, "{steps:?}");
        let old = std::fs::read(with_suffix(&place.path(), ".old"));
        assert_eq!(old.is_ok_and(|old| old.starts_with(b"FS30")), keep_old);
        check(&storage, stop, "last", "not at all");
        reopened(storage, &place);
    }
}

fn is_last(storage: &FileStorage) -> bool {
    holds(storage, 1, "last", &[])
}

#[test]
fn whatever_fails_before_the_swap_changes_nothing() {
    for no_links in [false, true] {
        for failing in 0.. {
            let place = Place::new();
            let (storage, stop) = prepared(&place, true);
            let before = place.bytes();
            let directory = Watched { failing: Some(failing), no_links, ..Watched::default() };
            let result = pack_with(&storage, stop, &directory);
            let steps = directory.steps.lock().expect("not poisoned").clone();
            let when = format!("no_links {no_links}, step {failing} of {steps:?}");
            if steps.len() <= failing {
                result.expect("pack");
                break;
            }
            let synced = steps.iter().rposition(|&step| step == "sync").unwrap_or(0);
            if result.is_ok() {
                // Without a link the old file went another way, or was not put away.
                assert!(steps[failing] == "link" || failing > synced, "{when}");
            } else if storage.check_writable().is_err() {
                assert_eq!((failing, synced), (steps.len() - 1, failing), "{when}");
                continue;
            } else {
                assert_eq!(place.bytes(), before, "{when}");
                assert_eq!(
                    std::fs::read(with_suffix(&place.path(), ".old")).expect("still there"),
                    b"earlier",
                    "{when}"
                );
                assert!(!with_suffix(&place.path(), ".swap").exists(), "{when}");
                assert!(!with_suffix(&place.path(), ".pack").exists() || steps[failing] == "remove", "{when}");
            }
            check(&storage, stop, "later", &when);
            // What could not be put away goes before the next swap, and is not in its way.
            let look = |_: &str| assert!(no_links || place.path().exists(), "{when}");
            let next = Watched { no_links, meanwhile: Some(Box::new(look)), ..Watched::default() };
            pack_with(&storage, Tid::MAX, &next).expect(&when);
            drop(next);
            assert!(!with_suffix(&place.path(), ".swap").exists(), "{when}");
            reopened(storage, &place);
        }
    }
}

/// The directory may or may not have the new file after a power failure, so nothing more may be acknowledged.
#[test]
fn a_failed_sync_after_the_swap_ends_all_writing() {
    let place = Place::new();
    let (storage, stop) = prepared(&place, true);
    let whole = Watched::default();
    let synced = {
        let place = Place::new();
        let (storage, stop) = prepared(&place, true);
        pack_with(&storage, stop, &whole).expect("pack");
        whole.steps.lock().expect("not poisoned").iter().rposition(|&step| step == "sync")
    };
    let directory = Watched { failing: synced, ..Watched::default() };
    pack_with(&storage, stop, &directory).expect_err("unknown");
    assert!(matches!(storage.check_writable(), Err(StorageError::Poisoned(_))));
    assert!(holds(&storage, 1, "later", &[]) && !is_there(&storage, 9));
}

#[test]
fn a_full_disk_ends_the_pack_only() {
    let place = Place::new();
    let (storage, stop) = prepared(&place, true);
    let before = place.names();
    let little = Watched { free_bytes: Some(1000), ..Watched::default() };
    let problem = pack_with(&storage, stop, &little).expect_err("refused").to_string();
    assert!(problem.contains("1000 are free") && problem.contains(".old"), "{problem}");
    assert!(little.steps.lock().expect("not poisoned").iter().all(|&step| step == "remove"));
    let full = Watched { output_fails: true, ..Watched::default() };
    assert!(matches!(pack_with(&storage, stop, &full), Err(StorageError::Io { .. })));
    assert_eq!(place.names(), before);
    check(&storage, stop, "later", "afterwards");
}

/// What is needed is the room for what stays, also where no references are followed, or not all of them.
#[test]
fn little_room_is_enough_for_little() {
    for (gc, odd) in [(true, false), (false, false), (true, true)] {
        let place = Place::new();
        let storage = place.open();
        put(&storage, 0, &"long".repeat(1 << 18), &[1]);
        put_all(&storage, &[(0, "now", &[1]), (1, "a", &[])]);
        if odd {
            store(&storage, Oid(2), b"no pickle");
        }
        let stop = storage.last_transaction();
        let room = |free_bytes| Watched { free_bytes: Some(free_bytes), ..Watched::default() };
        let try_with = |directory| {
            let request = PackRequest { stop, gc: Some(gc) };
            storage.pack_in(&request, &mut Host::default(), &directory)
        };
        let problem = try_with(room((16 << 20) + 100)).expect_err("refused").to_string();
        assert!(problem.contains("16777316 are free"), "{problem}");
        try_with(room((16 << 20) + 1000)).expect("there is room for what stays");
        assert!(storage.size() < 1000 && holds(&storage, 0, "now", &[1]), "{gc} {odd}");
    }
}

#[test]
fn a_host_may_end_it_at_every_word() {
    let mut words = 0;
    loop {
        let place = Place::new();
        let (storage, stop) = prepared(&place, true);
        let before = (place.names(), place.bytes());
        let mut left = words;
        let tell = |_| {
            left -= 1;
            if left < 0 { Err(StorageError::Refused("enough".to_owned())) } else { Ok(()) }
        };
        let mut host = Host { progress: Some(Box::new(tell)), ..Host::default() };
        if Arc::clone(&storage).pack(&until(stop), &mut host).is_ok() {
            break;
        }
        assert_eq!((place.names(), place.bytes()), before);
        check(&storage, stop, "later", "afterwards");
        words += 1;
    }
    assert!(words >= 5, "scanning, marking, copying, catching up twice");
}

/// Housekeeping may come at any moment; the directory sees to it that no index is there when the files change places.
#[test]
fn no_index_is_saved_while_the_files_change_places() {
    let place = Place::new();
    let (storage, stop) = prepared(&place, true);
    let save = |_: &str| storage.save_index().expect("save the index");
    let directory = Watched { meanwhile: Some(Box::new(save)), ..Watched::default() };
    pack_with(&storage, stop, &directory).expect("pack");
    drop(directory);
    assert!(with_suffix(&place.path(), ".index").exists());
    reopened(storage, &place);
}

/// They look whether the data file is still there, and it changes just then.
#[test]
fn oids_are_given_out_while_the_files_change_places() {
    for no_links in [false, true] {
        let place = Place::new();
        let (storage, stop) = prepared(&place, true);
        let (waited, answers) = (Mutex::new(0), Mutex::new(Vec::new()));
        let (storage, waited, answers) = (&storage, &waited, &answers);
        std::thread::scope(|scope| {
            let ask = move || {
                let answer = storage.new_oids(1);
                answers.lock().expect("not poisoned").push(answer);
            };
            let ask = move |_: &str| {
                if storage.oids.try_lock().is_some() {
                    ask();
                } else {
                    *waited.lock().expect("not poisoned") += 1;
                    scope.spawn(ask);
                }
            };
            let directory = Watched { no_links, meanwhile: Some(Box::new(ask)), ..Watched::default() };
            pack_with(storage, stop, &directory).expect("pack");
        });
        assert!(*waited.lock().expect("not poisoned") > 0, "nobody asks between the renames");
        answers.lock().expect("not poisoned").drain(..).for_each(|answer| drop(answer.expect("oids")));
        check(storage, stop, "later", "afterwards");
        std::fs::remove_file(place.path()).expect("remove");
        storage.new_oids(1).expect_err("what others do to the file is still seen");
    }
}

/// To free a large file takes the system seconds, whatever its last name or handle was.
#[test]
fn no_file_is_freed_while_commits_wait() {
    for keep_old in [true, false] {
        let place = Place::new();
        let (storage, stop) = prepared(&place, keep_old);
        let in_turn = AtomicBool::new(false);
        let data = std::fs::metadata(place.path()).expect("it is there").ino();
        let old = std::fs::File::open(with_suffix(&place.path(), ".old")).expect("open");
        let look = |_: &str| {
            let links = old.metadata().expect("it is open").nlink();
            assert!(links == 1 || !in_turn.load(Ordering::Relaxed), "an earlier file is removed");
        };
        let directory = Watched { meanwhile: Some(Box::new(look)), ..Watched::default() };
        let mut host = InTurn { in_turn: &in_turn, after: || assert!(is_open(data), "the old file is closed") };
        storage.pack_in(&until(stop), &mut host, &directory).expect("pack");
        assert_eq!(old.metadata().expect("it is open").nlink(), 0, "it is removed in the end");
        assert!(!is_open(data));
    }
}

/// Whether this process has a file open, by its inode.
fn is_open(inode: u64) -> bool {
    let handles = std::fs::read_dir("/proc/self/fd").expect("handles");
    handles.filter_map(|handle| handle.ok()?.path().metadata().ok()).any(|found| found.ino() == inode)
}

/// A host that knows when commits wait, and looks around before they go on.
struct InTurn<'a, F> {
    in_turn: &'a AtomicBool,
    after: F,
}

impl<F: Fn()> PackHost for InTurn<'_, F> {
    fn exclusively(&mut self, last_step: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        self.in_turn.store(true, Ordering::Relaxed);
        let done = last_step();
        (self.after)();
        self.in_turn.store(false, Ordering::Relaxed);
        done
    }

    fn progress(&mut self, _progress: PackProgress) -> Result<()> {
        Ok(())
    }
}

/// A crash left it.
#[test]
fn a_half_written_file_does_no_harm() {
    let place = Place::new();
    let (storage, stop) = prepared(&place, true);
    std::fs::write(with_suffix(&place.path(), ".pack"), b"FS30 and half").expect("write");
    drop(storage);
    let storage = place.open();
    pack(&storage, stop);
    assert!(!with_suffix(&place.path(), ".pack").exists());
    reopened(storage, &place);
}

/// The checks of ownership look at the new file now.
#[test]
fn the_new_file_is_guarded_as_the_old_one_was() {
    let place = Place::new();
    let (storage, stop) = prepared(&place, true);
    pack(&storage, stop);
    put(&storage, 1, "fine", &[]);
    std::fs::rename(with_suffix(&place.path(), ".old"), place.path()).expect("rename");
    let refused = Arc::clone(&storage).begin(Begin::default()).map(drop);
    assert!(matches!(refused, Err(StorageError::Poisoned(_))));
}
