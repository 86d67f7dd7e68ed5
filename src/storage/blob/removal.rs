//! Blobs that a pack leaves over.
//!
//! The storage below names them while it copies what stays. They are written to `.removed`, which is durable before
//! the packed data takes its place; only then they go. A server that is killed in between leaves the list, and the
//! next one works it off beside its other work, or before it packs.
//!
//! The first line says which database a list is of: it has the tid of a transaction. A storage without that transaction
//! is another one, or an older state, and may lack what the list names for other reasons than a pack. Then nothing goes;
//! nor does anything by a list without such a line, as Python's server leaves it (and never reads it again). A further
//! line is the oid of an object that is gone as a whole, or the oid and the tid of a revision, in hex digits. Even so
//! nothing goes that the storage still has.
//!
//! What each pack has added begins with a line that says whose the directory beside is: an earlier pack's, until that
//! one's files have been removed from it, and then this pack's. So none of the two is taken for the other, whenever the
//! server is killed.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::directory::{BlobDirectory, STAGED};
use super::kept::Kept;
use super::layout;
use super::tree::is_misleading;
use super::{Beside, BlobStorage, LOGGER, has_transaction};
use crate::ids::{Oid, Tid};
use crate::storage::disk::io_error;
use crate::storage::{PackHost, PackPhase, PackProgress, Result, StorageError};

const LIST: &str = ".removed";

/// What the first line begins with. A tid follows.
const HEAD: &str = "zeolite, removed after ";

/// Stands for the tid as long as the list is not complete.
const INCOMPLETE: &str = "................";

/// Whose the directory beside is. The second line takes the place of the first one.
const BESIDE: [&str; 2] = ["beside: of an earlier pack", "beside: of this pack      "];

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
                let tree = &self.storage.directory.tree;
                let opened = if self.goes_on { tree.write(&self.path) } else { tree.create_again(&self.path, 0o666) };
                let begun = opened.and_then(|mut file| {
                    self.earlier = file.seek(SeekFrom::End(0))?;
                    // The last line of an earlier list may not be whole.
                    let first = if self.earlier == 0 { head(&INCOMPLETE) } else { "\n".to_owned() };
                    writeln!(file, "{first}{}", BESIDE[0])?;
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
        let directory = &self.storage.directory;
        directory.tree.sync_directory(directory.path())
    }

    /// Nothing has been packed.
    pub fn discard(self) {
        // Without what is not written yet.
        let Some((file, _)) = self.file.map(BufWriter::into_parts) else { return };
        if self.earlier == 0 {
            remove_list(&self.storage.directory, &self.path);
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

/// Removes what a pack has listed, right after it. Nothing here makes a pack fail.
pub(super) fn remove_listed(storage: &BlobStorage, host: &mut dyn PackHost) {
    Removal::new(storage, true).run(&mut telling(host));
}

/// Works off a list that an earlier pack has left. Whether a list of this storage is still there.
pub(super) fn remove_left_over(storage: &BlobStorage, progress: &mut dyn FnMut(u64, u64) -> Result<()>) -> bool {
    Removal::new(storage, false).run(progress)
}

/// Tells a host now and then how far the removal is.
pub(super) fn telling(host: &mut dyn PackHost) -> impl FnMut(u64, u64) -> Result<()> {
    let mut told: Option<Instant> = None;
    move |done, total| {
        if told.is_some_and(|told| told.elapsed() < PROGRESS_INTERVAL) {
            return Ok(());
        }
        told = Some(Instant::now());
        host.progress(PackProgress { phase: PackPhase::RemovingBlobs, done, total })
    }
}

/// How the work on a list ended.
enum Ended {
    Done,
    /// Nothing was removed, for this reason.
    NotOurs(String),
}

/// Where the file of a revision is after it has lost its name.
#[derive(Debug)]
pub(super) enum Taken {
    /// There was none, or the storage has the revision.
    Nothing,
    /// Beside, to stay there.
    Kept,
    /// In `tmp`, to be removed.
    Aside(PathBuf),
}

/// Working off a list. It may be done again after an interruption at any point.
pub(super) struct Removal<'a> {
    storage: &'a BlobStorage,
    directory: &'a BlobDirectory,
    /// Where what is removed may be kept, together with what stays.
    beside: Option<Kept>,
    /// Whether the list is of a pack that has just ended.
    is_fresh: bool,
    /// Whether the storage was packed as the list says. Of a list that was left over this is not known before the storage
    /// turns out to have lost something that is on it.
    packed: bool,
    /// Where the list says that the directory beside is an earlier pack's, if it is.
    earlier: Option<u64>,
    removed: u64,
    problems: u64,
}

impl<'a> Removal<'a> {
    pub fn new(storage: &'a BlobStorage, is_fresh: bool) -> Self {
        let directory = &storage.directory;
        let beside = (storage.beside != Beside::Untouched).then(|| Kept::beside(directory));
        Self { storage, directory, beside, is_fresh, packed: is_fresh, earlier: None, removed: 0, problems: 0 }
    }

    /// Whether there is something left to do.
    pub fn run(mut self, progress: &mut dyn FnMut(u64, u64) -> Result<()>) -> bool {
        let list = self.directory.path().join(LIST);
        let worked_off = match self.work_off(&list, progress) {
            Ok(Ended::Done) if self.problems == 0 => {
                remove_list(self.directory, &list);
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
            Err(StorageError::Refused(reason)) => {
                info!(target: LOGGER, "{}: to be worked off later: {reason}", list.display());
                false
            }
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
        let (file, metadata) = match self.directory.tree.open(list) {
            Err(error) if is_misleading(&error) => return Ok(Ended::NotOurs("is no regular file".to_owned())),
            opened => opened.map_err(|source| io_error("open", list, source))?,
        };
        let total = metadata.len();
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
        // A fresh list is of this storage, which may have left out that very transaction: FileStorage does not, MappingStorage
        // does. An error is no answer: the list stays for the next time.
        if !self.is_fresh && !has_transaction(&self.storage.inner, last)? {
            let name = self.storage.inner.name();
            let reason = format!("is of a database with the transaction {last}, which {name} does not have");
            return Ok(Ended::NotOurs(reason));
        }
        let mut done = first.len() as u64 + 1;
        for line in lines {
            let line = line.map_err(|source| io_error("read", list, source))?;
            let go_on = &mut || progress(done, total);
            match parse(&line) {
                _ if line.is_empty() => {}
                _ if line == BESIDE[0].as_bytes() => {
                    (self.earlier, self.packed) = (Some(done), self.is_fresh);
                    if self.packed {
                        self.clear_beside(list, go_on)?;
                    }
                }
                _ if line == BESIDE[1].as_bytes() => (self.earlier, self.packed) = (None, true),
                Some((oid, Some(tid))) => self.remove(oid, tid, list, go_on)?,
                Some((oid, None)) => self.remove_object(oid, list, go_on)?,
                None => {
                    warn!(target: LOGGER, "{}: neither oid nor oid and tid: '{}'", list.display(), line.escape_ascii());
                }
            }
            done += line.len() as u64 + 1;
            progress(done, total)?;
        }
        if let Some(kept) = self.kept().filter(|_| self.packed) {
            kept.link_rest(self.directory, &mut || progress(total, total))?;
        }
        Ok(Ended::Done)
    }

    /// Removes the revisions of an object that have files.
    fn remove_object(&mut self, oid: Oid, list: &Path, go_on: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        match self.revisions(oid) {
            Ok(revisions) => revisions.into_iter().try_for_each(|tid| self.remove(oid, tid, list, go_on))?,
            Err(StorageError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.problem(&self.directory.object(oid), &error),
        }
        Ok(())
    }

    fn revisions(&self, oid: Oid) -> Result<Vec<Tid>> {
        let files = self.directory.tree.entries(&self.directory.object(oid))?;
        files.filter_map(|file| file.map(|file| layout::tid_of(file.name()?)).transpose()).collect()
    }

    /// Removes a revision if the storage has it no longer.
    fn remove(&mut self, oid: Oid, tid: Tid, list: &Path, go_on: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        if self.earlier.is_some()
            && matches!(self.storage.inner.load_serial(oid, tid), Err(StorageError::NoSuchObject(_)))
        {
            self.clear_beside(list, go_on)?;
        }
        match self.take_away(oid, tid) {
            Ok(Taken::Nothing) => {}
            Ok(Taken::Kept) => self.removed += 1,
            // Outside of the lock: with much content it takes long.
            Ok(Taken::Aside(aside)) => match self.directory.tree.remove(&aside) {
                Ok(()) => self.removed += 1,
                Err(error) => self.problem(&aside, &error),
            },
            Err(error) => self.problem(&self.directory.revision(oid, tid), &error),
        }
        Ok(())
    }

    /// Removes what an earlier pack has kept, now that this one is done and not before. The list says when that is over.
    fn clear_beside(&mut self, list: &Path, go_on: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let Some(position) = self.earlier.take() else { return Ok(()) };
        let Some(beside) = &self.beside else { return Ok(()) };
        match beside.clear(go_on) {
            Err(error @ StorageError::Io { .. }) => warn!(target: LOGGER, "{error}"),
            cleared => cleared?,
        }
        let noted = self.directory.tree.write(list).and_then(|file| {
            file.write_all_at(BESIDE[1].as_bytes(), position)?;
            file.sync_data()
        });
        noted.map_err(|source| io_error("write", list, source))
    }

    /// Takes the name of a revision's file away, which is all that is done under the lock.
    pub fn take_away(&mut self, oid: Oid, tid: Tid) -> Result<Taken> {
        let path = self.directory.revision(oid, tid);
        let tree = &self.directory.tree;
        let refused = |source| io_error("remove", &path, source);
        let is_there = match tree.is_directory(&path) {
            Ok(true) => return Err(refused(io::ErrorKind::IsADirectory.into())),
            Ok(false) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(refused(error)),
        };
        // A transaction that is being finished has files that the storage does not know yet.
        let _names = self.directory.names.lock();
        match self.storage.inner.load_serial(oid, tid) {
            Err(StorageError::NoSuchObject(_)) => self.packed = true,
            Ok(_) => return Ok(Taken::Nothing),
            Err(error) => return Err(error),
        }
        let taken = match self.kept() {
            _ if !is_there => Ok(Taken::Nothing),
            Some(kept) => kept.take(tree, &path).map(|()| Taken::Kept),
            None => {
                let aside = self.directory.temporary().join(format!("{STAGED}removed"));
                tree.rename(&path, tree, &aside).map(|()| Taken::Aside(aside))
            }
        };
        self.directory.prune(&self.directory.object(oid));
        taken.map_err(refused)
    }

    /// Where what is removed is kept, if it is.
    fn kept(&self) -> Option<&Kept> {
        self.beside.as_ref().filter(|_| self.storage.beside == Beside::Kept)
    }

    fn problem(&mut self, path: &Path, problem: &dyn std::fmt::Display) {
        self.problems += 1;
        if self.problems <= MOST_WARNINGS {
            let aim = if self.kept().is_some() { "kept beside the old data" } else { "removed" };
            warn!(target: LOGGER, "{}: cannot be {aim}: {problem}", path.display());
        }
    }
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

fn remove_list(directory: &BlobDirectory, path: &Path) {
    if let Err(error) = directory.tree.remove(path) {
        warn!(target: LOGGER, "{}: cannot be removed: {error}", path.display());
    }
}
