//! Blobs that a pack leaves over.
//!
//! The storage below names them while it copies what stays. They are written to `.removed`, which is durable before
//! the packed data takes its place; only then they go. A server that is killed in between leaves the list, and the
//! next start or pack works it off.
//!
//! The first line says which database a list is of: it has the tid of a transaction. A storage without that transaction
//! is another one, or an older state, and may lack what the list names for other reasons than a pack. Then nothing goes;
//! nor does anything by a list without such a line, as Python's server leaves it (and never reads it again). A further
//! line is the oid of an object that is gone as a whole, or the oid and the tid of a revision, in hex digits. Even so
//! nothing goes that the storage still has.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::directory::{BlobDirectory, STAGED, entries};
use super::layout::{self, MARKER};
use super::{BlobStorage, LOGGER, has_transaction};
use crate::ids::{Oid, Tid};
use crate::storage::disk::{io_error, sync_directory_of, with_suffix};
use crate::storage::{PackHost, PackPhase, PackProgress, Result, StorageError};

const LIST: &str = ".removed";

/// What the first line begins with. A tid follows.
const HEAD: &str = "zeolite, removed after ";

/// Stands for the tid as long as the list is not complete.
const INCOMPLETE: &str = "................";

/// Warnings about single files; what is more is only counted.
const MOST_WARNINGS: u64 = 10;

const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// The list, while a pack writes it.
pub(super) struct RemovalList<'a> {
    storage: &'a BlobStorage,
    path: PathBuf,
    /// Whether a list of this storage is there, of files that could not be removed. It goes on.
    goes_on: bool,
    /// How long that list is.
    earlier: u64,
    /// Opened when there is something to write.
    file: Option<BufWriter<File>>,
    /// Whether the last step of the pack was begun. Before, nothing has been packed.
    pub entered: bool,
}

impl<'a> RemovalList<'a> {
    pub fn new(storage: &'a BlobStorage, goes_on: bool) -> Self {
        let path = storage.directory.path().join(LIST);
        Self { storage, path, goes_on, earlier: 0, file: None, entered: false }
    }

    fn add(&mut self, oid: Oid, tid: Option<Tid>) -> Result<()> {
        let file = self.file()?;
        let written = match tid {
            Some(tid) => writeln!(file, "{:016x}{tid}", oid.0),
            None => writeln!(file, "{:016x}", oid.0),
        };
        written.map_err(|source| io_error("write", &self.path, source))
    }

    fn file(&mut self) -> Result<&mut BufWriter<File>> {
        match &mut self.file {
            Some(file) => Ok(file),
            none => {
                let opened = OpenOptions::new().write(true).create(true).truncate(!self.goes_on).open(&self.path);
                let begun = opened.and_then(|mut file| {
                    self.earlier = file.seek(SeekFrom::End(0))?;
                    // The last line of an earlier list may not be whole.
                    let first = if self.earlier == 0 { head(&INCOMPLETE) } else { "\n".to_owned() };
                    file.write_all(first.as_bytes())?;
                    Ok(BufWriter::new(file))
                });
                Ok(none.insert(begun.map_err(|source| io_error("open", &self.path, source))?))
            }
        }
    }

    /// Makes the list durable, and then valid.
    fn seal(&mut self) -> Result<()> {
        let head = head(&self.storage.inner.last_transaction());
        let file = self.file()?;
        let written = file.flush().and_then(|()| {
            let file = file.get_ref();
            file.sync_all()?;
            file.write_all_at(head.as_bytes(), 0)?;
            file.sync_all()
        });
        written.map_err(|source| io_error("write", &self.path, source))?;
        sync_directory_of(&self.path)
    }

    /// Nothing has been packed.
    pub fn discard(self) {
        // Without what is not written yet.
        let Some((file, _)) = self.file.map(BufWriter::into_parts) else { return };
        if self.earlier == 0 {
            remove_list(&self.path);
        } else if let Err(error) = file.set_len(self.earlier) {
            warn!(target: LOGGER, "{}: cannot be cut: {error}", self.path.display());
        }
    }
}

/// Listens to a pack for its host, and writes the list.
pub(super) struct ListingHost<'a, 'list> {
    pub host: &'a mut dyn PackHost,
    pub list: &'a mut RemovalList<'list>,
}

impl PackHost for ListingHost<'_, '_> {
    fn exclusively(&mut self, last_step: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        self.list.seal()?;
        let entered = &mut self.list.entered;
        self.host.exclusively(&mut || {
            *entered = true;
            last_step()
        })
    }

    fn progress(&mut self, progress: PackProgress) -> Result<()> {
        self.host.progress(progress)
    }

    fn has_blobs(&self) -> bool {
        true
    }

    fn blob_removed(&mut self, oid: Oid, tid: Tid, whole_object: bool) -> Result<()> {
        self.list.add(oid, (!whole_object).then_some(tid))?;
        self.host.blob_removed(oid, tid, whole_object)
    }
}

/// Whether the directory beside, where a pack keeps what it removes, can have links to files of this one.
pub(super) fn check_beside(directory: &BlobDirectory) -> Result<()> {
    let base = directory.path();
    let device = |path: &Path| path.metadata().map(|it| it.dev()).map_err(|source| io_error("examine", path, source));
    let beside = base.parent().unwrap_or(base);
    if device(base)? == device(beside)? {
        return Ok(());
    }
    Err(StorageError::Refused(format!(
        "{} is another file system than {}, so that a pack cannot keep blobs in {}; set pack-keep-old to false, or move \
         the blobs to a directory below the mount point and change blob-dir",
        base.display(),
        beside.display(),
        with_suffix(base, ".old").display()
    )))
}

/// Removes what a pack has listed, right after it. Nothing here makes a pack fail.
pub(super) fn remove_listed(storage: &BlobStorage, host: &mut dyn PackHost) {
    let old = storage.keeps_old.then(|| with_suffix(storage.directory.path(), ".old"));
    if let Some(old) = &old {
        // What the pack before this one has kept. Now that this one is done, and not before.
        match std::fs::remove_dir_all(old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!(target: LOGGER, "{}: cannot be removed: {error}", old.display());
            }
            _ => {}
        }
    }
    let mut told: Option<Instant> = None;
    let mut progress = |done, total| {
        if told.is_some_and(|told| told.elapsed() < PROGRESS_INTERVAL) {
            return Ok(());
        }
        told = Some(Instant::now());
        host.progress(PackProgress { phase: PackPhase::RemovingBlobs, done, total })
    };
    Removal::new(storage, old, true).run(&mut progress);
}

/// Works off a list that an earlier server has left. Whether a list of this storage is still there.
pub(super) fn remove_left_over(storage: &BlobStorage) -> bool {
    let old = storage.keeps_old.then(|| with_suffix(storage.directory.path(), ".old"));
    Removal::new(storage, old, false).run(&mut |_, _| Ok(()))
}

/// How the work on a list ended.
enum Ended {
    Done,
    /// Nothing was removed, for this reason.
    NotOurs(String),
}

/// Working off a list. It may be done again after an interruption at any point.
pub(super) struct Removal<'a> {
    storage: &'a BlobStorage,
    directory: &'a BlobDirectory,
    /// Where what is removed is kept, together with what stays.
    old: Option<PathBuf>,
    /// Whether the storage was packed as the list says. Of a list that was left over this is not known before the storage
    /// turns out to have lost something that is on it.
    packed: bool,
    removed: u64,
    problems: u64,
}

impl<'a> Removal<'a> {
    pub fn new(storage: &'a BlobStorage, old: Option<PathBuf>, packed: bool) -> Self {
        Self { storage, directory: &storage.directory, old, packed, removed: 0, problems: 0 }
    }

    /// Whether there is something left to do.
    fn run(mut self, progress: &mut dyn FnMut(u64, u64) -> Result<()>) -> bool {
        let list = self.directory.path().join(LIST);
        let worked_off = match self.work_off(&list, progress) {
            Ok(Ended::Done) if self.problems == 0 => {
                remove_list(&list);
                true
            }
            Ok(Ended::Done) => {
                warn!(
                    target: LOGGER,
                    "{}: {} blobs could not be removed; the next start or pack tries again",
                    list.display(), self.problems
                );
                false
            }
            Ok(Ended::NotOurs(reason)) => {
                warn!(
                    target: LOGGER,
                    "{}: {reason}; no blob on it is removed. The next pack replaces the list",
                    list.display()
                );
                true
            }
            Err(StorageError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => true,
            Err(error) => {
                warn!(target: LOGGER, "{}: to be worked off later: {error}", list.display());
                false
            }
        };
        if self.removed > 0 {
            info!(target: LOGGER, "{}: removed {} blobs", self.directory.path().display(), self.removed);
        }
        !worked_off
    }

    fn work_off(&mut self, list: &Path, progress: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<Ended> {
        let opened = File::open(list).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (total, file) = opened.map_err(|source| io_error("open", list, source))?;
        let mut lines = BufReader::new(file).split(b'\n');
        let first = lines.next().transpose().map_err(|source| io_error("read", list, source))?.unwrap_or_default();
        let Some(last) = std::str::from_utf8(&first).ok().and_then(|first| first.strip_prefix(HEAD)) else {
            return Ok(Ended::NotOurs("does not say which database it is of".to_owned()));
        };
        if last == INCOMPLETE {
            // Its pack did not come to the last step.
            return Ok(Ended::Done);
        }
        let last = u64::from_str_radix(last, 16).map_or(Tid::ZERO, Tid);
        // An error is no answer: the list stays for the next time.
        if !has_transaction(&self.storage.inner, last)? {
            let name = self.storage.inner.name();
            let reason = format!("is of a database with the transaction {last}, which {name} does not have");
            return Ok(Ended::NotOurs(reason));
        }
        let mut done = first.len() as u64 + 1;
        for line in lines {
            let line = line.map_err(|source| io_error("read", list, source))?;
            match parse(&line) {
                _ if line.is_empty() => {}
                Some((oid, Some(tid))) => self.remove(oid, tid),
                Some((oid, None)) => self.revisions(oid).into_iter().for_each(|tid| self.remove(oid, tid)),
                None => {
                    warn!(target: LOGGER, "{}: neither oid nor oid and tid: '{}'", list.display(), line.escape_ascii());
                }
            }
            done += line.len() as u64 + 1;
            progress(done, total)?;
        }
        if let Some(old) = self.old.clone().filter(|_| self.packed) {
            self.keep_rest(&old, &mut || progress(total, total))?;
        }
        Ok(Ended::Done)
    }

    /// The revisions of an object that have files.
    fn revisions(&self, oid: Oid) -> Vec<Tid> {
        let object = self.directory.object(oid);
        let files = entries(&object).into_iter().flatten().flatten();
        files.filter_map(|file| layout::tid_of(file.file_name().to_str()?)).collect()
    }

    /// Removes a revision if the storage has it no longer.
    fn remove(&mut self, oid: Oid, tid: Tid) {
        let path = self.directory.revision(oid, tid);
        match self.take_away(oid, tid, &path) {
            Ok(None) => {}
            Ok(Some(taken)) => {
                // Outside of the lock: with much content it takes long.
                match if self.old.is_some() { Ok(()) } else { std::fs::remove_file(&taken) } {
                    Ok(()) => self.removed += 1,
                    Err(error) => self.problem(&taken, &error),
                }
            }
            Err(error) => self.problem(&path, &error),
        }
    }

    /// Takes the name of a revision's file away, which is all that is done under the lock; where the file is then.
    pub fn take_away(&mut self, oid: Oid, tid: Tid, path: &Path) -> Result<Option<PathBuf>> {
        let there = path.symlink_metadata();
        if there.as_ref().is_ok_and(std::fs::Metadata::is_dir) {
            return Err(io_error("remove", path, io::ErrorKind::IsADirectory.into()));
        }
        let kept = self.kept(path);
        let to = kept.unwrap_or_else(|| self.directory.temporary().join(format!("{STAGED}removed")));
        // A transaction that is being finished has files that the storage does not know yet.
        let _names = self.directory.names.lock();
        match self.storage.inner.load_serial(oid, tid) {
            Err(StorageError::NoSuchObject(_)) => self.packed = true,
            Ok(_) => return Ok(None),
            Err(error) => return Err(error),
        }
        if let (Ok(_), Some(parent)) = (there, to.parent()) {
            std::fs::create_dir_all(parent).map_err(|source| io_error("create", parent, source))?;
        }
        let renamed = match std::fs::rename(path, &to) {
            Ok(()) => Ok(Some(to)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io_error("remove", path, source)),
        };
        self.directory.prune(&self.directory.object(oid));
        renamed
    }

    /// Where a file is kept.
    fn kept(&self, path: &Path) -> Option<PathBuf> {
        Some(self.old.as_ref()?.join(path.strip_prefix(self.directory.path()).ok()?))
    }

    /// Links the layout and all that stays, so that together with the old data file there is all that was.
    fn keep_rest(&self, old: &Path, progress: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let mut failed = 0_u64;
        let mut link = |path: &Path, kept: &Path| match link(path, kept) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                if failed == 0 {
                    warn!(target: LOGGER, "{}: cannot be linked to {}: {error}", path.display(), kept.display());
                }
                failed += 1;
            }
            _ => {}
        };
        link(&self.directory.path().join(MARKER), &old.join(MARKER));
        let mut directories = vec![self.directory.path().to_owned()];
        while let Some(directory) = directories.pop() {
            progress()?;
            for entry in entries(&directory)? {
                let entry = entry?;
                let path = entry.path();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    if path != self.directory.temporary() {
                        directories.push(path);
                    }
                } else if entry.file_name().to_str().and_then(layout::tid_of).is_some()
                    && let Some(kept) = self.kept(&path)
                {
                    link(&path, &kept);
                }
            }
        }
        if failed > 0 {
            // To be tried again it would have to be now: later on there are other files.
            warn!(target: LOGGER, "{}: without {failed} files that stay in the blob directory", old.display());
        }
        Ok(())
    }

    fn problem(&mut self, path: &Path, problem: &dyn std::fmt::Display) {
        self.problems += 1;
        if self.problems <= MOST_WARNINGS {
            let aim = if self.old.is_some() { "kept beside the old data" } else { "removed" };
            warn!(target: LOGGER, "{}: cannot be {aim}: {problem}", path.display());
        }
    }
}

fn link(path: &Path, kept: &Path) -> io::Result<()> {
    kept.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    std::fs::hard_link(path, kept)
}

/// The first line.
fn head(last: &dyn std::fmt::Display) -> String {
    format!("{HEAD}{last}\n")
}

/// What one line names: an object, or one revision of it.
fn parse(line: &[u8]) -> Option<(Oid, Option<Tid>)> {
    let digits = std::str::from_utf8(line).ok()?;
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let number = |digits| u64::from_str_radix(digits, 16).ok();
    match digits.len() {
        16 => Some((Oid(number(digits)?), None)),
        32 => {
            let (oid, tid) = digits.split_at(16);
            Some((Oid(number(oid)?), Some(Tid(number(tid)?))))
        }
        _ => None,
    }
}

fn remove_list(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        warn!(target: LOGGER, "{}: cannot be removed: {error}", path.display());
    }
}
