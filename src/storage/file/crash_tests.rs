//! A disk that fails, and a machine that stops at any moment. Acknowledged transactions are all there
//! afterwards, and the file can be opened and written again.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::Mutex as StdMutex;
use std::time::SystemTime;

use tempfile::TempDir;

use super::io::RawFile;
use super::*;
use crate::storage::Publisher;

/// What a storage did to its file, in order.
#[derive(Clone)]
enum Step {
    Write { position: usize, bytes: Vec<u8> },
    SetLen(usize),
    Sync,
}

/// A file that remembers every step, and refuses some.
struct Disk {
    file: File,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    steps: StdMutex<Vec<Step>>,
    /// Which kind of step fails from now on.
    broken: StdMutex<Option<&'static str>>,
    /// Happens during the next sync.
    meanwhile: StdMutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Shared {
    fn note(&self, kind: &'static str, step: Step) -> io::Result<()> {
        if *self.broken.lock().expect("not poisoned") == Some(kind) {
            return Err(io::Error::other("the disk is broken"));
        }
        self.steps.lock().expect("not poisoned").push(step);
        Ok(())
    }

    fn break_down(&self, kind: Option<&'static str>) {
        *self.broken.lock().expect("not poisoned") = kind;
    }

    fn count(&self) -> usize {
        self.steps.lock().expect("not poisoned").len()
    }
}

impl RawFile for Disk {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        RawFile::read_at(&self.file, buffer, position)
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        let position_in_memory = usize::try_from(position).expect("small");
        let step = Step::Write { position: position_in_memory, bytes: bytes.to_vec() };
        self.shared.note("write", step).inspect_err(|_| {
            // A disk that is full takes what it can.
            let half = bytes.get(..bytes.len() / 2).unwrap_or_default();
            RawFile::write_all_at(&self.file, half, position).expect("write half of it");
        })?;
        RawFile::write_all_at(&self.file, bytes, position)
    }

    fn len(&self) -> io::Result<u64> {
        RawFile::len(&self.file)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.shared.note("truncate", Step::SetLen(usize::try_from(len).expect("small")))?;
        RawFile::set_len(&self.file, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if let Some(meanwhile) = self.shared.meanwhile.lock().expect("not poisoned").take() {
            meanwhile();
        }
        self.shared.note("sync", Step::Sync)
    }

    fn identity(&self) -> io::Result<(u64, u64)> {
        RawFile::identity(&self.file)
    }
}

/// A storage on such a disk.
struct Machine {
    storage: Arc<FileStorage>,
    shared: Arc<Shared>,
    directory: TempDir,
}

impl Machine {
    fn new() -> Self {
        let directory = TempDir::new().expect("make a directory");
        let shared = Arc::new(Shared::default());
        let disk = |file| Box::new(Disk { file, shared: Arc::clone(&shared) }) as Box<dyn RawFile>;
        let options = Options::new(directory.path().join("Data.fs"));
        let storage = FileStorage::open_with(&options, SystemTime::now, disk).expect("open");
        Self { storage: Arc::new(storage), shared, directory }
    }

    fn vote(&self, oid: Oid, data: &[u8]) -> Result<Box<dyn Commit>> {
        let serial = self.storage.current_tid(oid).unwrap_or(Tid::ZERO);
        let mut commit = Arc::clone(&self.storage).begin(Begin::default())?;
        commit.store(oid, serial, data)?;
        commit.vote()?;
        Ok(commit)
    }

    fn store(&self, oid: Oid, data: &[u8]) -> Result<Tid> {
        self.vote(oid, data)?.finish(&mut Direct)
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.directory.path().join("Data.fs")).expect("read the data file")
    }

    fn data(&self, oid: Oid) -> Vec<u8> {
        data(&self.storage, oid)
    }
}

struct Direct;

impl Publisher for Direct {
    fn publish(&mut self, _tid: Tid, install: &mut dyn FnMut()) {
        install();
    }
}

fn data(storage: &FileStorage, oid: Oid) -> Vec<u8> {
    let revision = storage.load_before(oid, Tid::MAX).expect("load");
    revision.expect("older than the latest tid").data.to_vec()
}

#[test]
fn a_full_disk_at_vote_leaves_no_trace() {
    let machine = Machine::new();
    machine.store(Oid(1), b"kept").expect("commit");
    let before = machine.bytes();
    machine.shared.break_down(Some("write"));
    assert!(matches!(machine.store(Oid(1), b"lost"), Err(StorageError::Io { .. })));
    assert_eq!(machine.bytes(), before);
    machine.shared.break_down(None);
    machine.store(Oid(1), b"room again").expect("commit");
    assert_eq!(machine.data(Oid(1)), b"room again");
}

#[test]
fn a_failed_finish_ends_all_writing() {
    for kind in ["write", "sync"] {
        let machine = Machine::new();
        let kept = machine.store(Oid(1), b"kept").expect("commit");
        let commit = machine.vote(Oid(1), b"unknown").expect("vote");
        machine.shared.break_down(Some(kind));
        assert!(matches!(commit.finish(&mut Direct), Err(StorageError::Io { .. })), "{kind}");
        machine.shared.break_down(None);
        let steps = machine.shared.count();

        assert!(matches!(machine.store(Oid(1), b"more"), Err(StorageError::Poisoned(_))));
        assert!(matches!(machine.storage.new_oids(1), Err(StorageError::Poisoned(_))));
        assert_eq!((machine.data(Oid(1)), machine.storage.last_transaction()), (b"kept".to_vec(), kept));
        machine.storage.close().expect("close");
        assert_eq!(machine.shared.count(), steps, "nothing is tried again");
    }
}

/// A server that finds no lock file starts in the moment of the sync, and cuts off what it takes for a vote.
#[test]
fn what_another_server_cut_off_is_not_acknowledged() {
    let machine = Machine::new();
    let kept = machine.store(Oid(1), b"kept").expect("commit");
    let end = machine.storage.size();
    let commit = machine.vote(Oid(1), b"cut off").expect("vote");
    let path = machine.directory.path().join("Data.fs");
    let intrude = move || {
        std::fs::remove_file(path.with_extension("fs.lock")).expect("remove the lock file");
        let file = File::options().write(true).open(&path).expect("open the data file");
        file.set_len(end).expect("truncate");
    };
    *machine.shared.meanwhile.lock().expect("not poisoned") = Some(Box::new(intrude));
    assert!(matches!(commit.finish(&mut Direct), Err(StorageError::Poisoned(_))));
    assert_eq!(machine.storage.last_transaction(), kept);
    assert_eq!(machine.bytes().len() as u64, end);
}

#[test]
fn a_tail_that_cannot_be_removed_ends_all_writing() {
    let machine = Machine::new();
    machine.store(Oid(1), b"kept").expect("commit");
    let commit = machine.vote(Oid(1), b"aborted").expect("vote");
    machine.shared.break_down(Some("truncate"));
    drop(commit);
    machine.shared.break_down(None);
    assert!(matches!(machine.store(Oid(1), b"more"), Err(StorageError::Poisoned(_))));
    assert_eq!(machine.data(Oid(1)), b"kept");
}

/// Plays the first steps on an empty file.
fn image(steps: &[Step]) -> Vec<u8> {
    let mut image = Vec::new();
    for step in steps {
        match step {
            Step::Write { position, bytes } => {
                let end = position + bytes.len();
                image.resize(image.len().max(end), 0);
                image.get_mut(*position..end).expect("just made").copy_from_slice(bytes);
            }
            Step::SetLen(len) => image.resize(*len, 0),
            Step::Sync => {}
        }
    }
    image
}

/// Opens what a crash left, and looks for what was acknowledged.
fn check(image: &[u8], acknowledged: &[(Tid, u8)], when: &str) {
    let directory = TempDir::new().expect("make a directory");
    let path = directory.path().join("Data.fs");
    std::fs::write(&path, image).expect("write the image");
    let storage = FileStorage::open(&Options::new(&path)).unwrap_or_else(|error| panic!("{when}: {error}"));
    let storage = Arc::new(storage);
    for (tid, content) in acknowledged {
        let record = storage.load_serial(Oid(u64::from(content % 3)), *tid);
        assert_eq!(record.expect("an acknowledged revision"), vec![*content; 700], "{when}");
    }
    let last = acknowledged.last().map_or(Tid::ZERO, |(tid, _)| *tid);
    assert!(storage.last_transaction() >= last, "{when}");
    let mut commit = Arc::clone(&storage).begin(Begin::default()).expect("begin");
    commit.store(Oid(99), Tid::ZERO, b"goes on").expect("store");
    commit.vote().expect("vote");
    assert!(commit.finish(&mut Direct).expect("finish") > last, "{when}");
}

#[test]
fn a_crash_at_any_step_keeps_what_was_acknowledged() {
    let machine = Machine::new();
    let mut acknowledged = Vec::new();
    for content in 1..8_u8 {
        let commit = machine.vote(Oid(u64::from(content % 3)), &[content; 700]).expect("vote");
        if content % 4 == 0 {
            drop(commit);
        } else {
            let tid = commit.finish(&mut Direct).expect("finish");
            acknowledged.push((machine.shared.count(), (tid, content)));
        }
    }
    let steps = machine.shared.steps.lock().expect("not poisoned").clone();
    for at in 0..=steps.len() {
        let (done, rest) = steps.split_at(at);
        let known: Vec<_> =
            acknowledged.iter().take_while(|(step, _)| *step <= at).map(|(_, commit)| *commit).collect();
        if at >= 1 {
            check(&image(done), &known, &format!("killed after step {at}"));
        }
        if let Some(Step::Write { position, bytes }) = rest.first() {
            let torn = Step::Write { position: *position, bytes: bytes[..bytes.len() / 2].to_vec() };
            let torn = image(&[done, &[torn]].concat());
            // Half of the magic is no data file: nothing was acknowledged then.
            if torn.len() >= 4 {
                check(&torn, &known, &format!("torn at step {at}"));
            }
        }
        let synced = done.iter().rposition(|step| matches!(step, Step::Sync)).unwrap_or(0);
        check(&image(&done[..synced]), &known, &format!("power lost after step {at}"));
    }
}
