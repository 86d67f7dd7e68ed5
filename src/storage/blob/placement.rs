//! Final names: the moment in which content becomes a blob.
//!
//! A file has its name before the transaction is durable, so that no transaction is without its blobs. Should the
//! transaction then not become durable, nobody would miss the file, and nobody would find it: so a marker in `tmp`,
//! an empty file with the ids in its name, says from the vote on which file depends on a transaction. The next
//! start asks the storage whether there was such a transaction, and removes the file if there was none.
//!
//! A transaction that was voted for must not fail: the vote makes markers and directories, and looks whether the name
//! is free. A rename on one file system is left, which needs nothing that could run out but room for a name.
//!
//! A storage that has not even the transaction before is another one, or an older state: it says nothing about the file,
//! which stays, and so does the marker. The first transaction of a storage has none before it, and an empty data file is
//! what a wrong path looks like, so that its files stay, too.
//!
//! Markers are not synced: what makes the file's name durable comes later, and file systems keep the order of names.
//! If one does not, what a power failure may leave is a file too many.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::{info, warn};

use super::commit::Contents;
use super::directory::BlobDirectory;
use super::tree::Tree;
use super::{BlobStorage, LOGGER, has_transaction, layout};
use crate::ids::{Oid, Tid};
use crate::storage::disk::io_error;
use crate::storage::{Result, Storage, StorageError};

const MARKER: &str = "zeolite-pending-";

/// What one transaction has in the directory, from its vote on. Dropping it takes all of that back.
pub(super) struct Placement {
    storage: Arc<BlobStorage>,
    markers: Vec<PathBuf>,
    made_directories: Vec<PathBuf>,
    files: Vec<PathBuf>,
    unsynced: BTreeSet<PathBuf>,
}

impl Placement {
    /// At the vote: does all that may fail, so that only renaming is left.
    pub fn prepare(storage: Arc<BlobStorage>, contents: &Contents) -> Result<Self> {
        let (markers, made_directories, files, unsynced) = Default::default();
        let mut placement = Self { storage, markers, made_directories, files, unsynced };
        let storage = Arc::clone(&placement.storage);
        let mut readers = Vec::with_capacity(contents.len());
        {
            let _names = storage.directory.names.lock();
            for &(oid, tid) in contents.keys() {
                let marker = marker(&storage.directory, oid, tid, storage.inner.last_transaction());
                let made = storage.directory.tree.create_again(&marker, 0o666);
                made.map_err(|source| io_error("create", &marker, source))?;
                placement.markers.push(marker);
                let object = storage.directory.object(oid);
                readers.push(placement.make_directory(&object)?);
                // Whoever made the directories for the first blob of an object need not have seen to it that they last.
                if !has_revisions(&storage.directory.tree, &object)? {
                    placement.sync_later_above(&object);
                }
                placement.remove_orphan(oid, tid)?;
            }
            placement.sync()?;
        }
        for (content, readers) in contents.values().zip(readers) {
            content.settle(readers).map_err(|source| io_error("settle", content.path(), source))?;
        }
        Ok(placement)
    }

    /// At the finish: makes content the files of its revisions, and that durable. Never replaces a file. The caller holds
    /// `names`.
    pub fn place(&mut self, contents: &Contents) -> Result<()> {
        let storage = Arc::clone(&self.storage);
        for (&(oid, tid), content) in contents {
            let (object, file) = (storage.directory.object(oid), storage.directory.revision(oid, tid));
            // Since the vote a pack may have found the directory empty, and removed it.
            self.make_directory(&object)?;
            let renamed = content.rename(&file).and_then(|()| {
                self.files.push(file.clone());
                content.recognize(storage.directory.tree.identity(&file)?)
            });
            renamed.map_err(|source| io_error("give the content of a blob the name", &file, source))?;
            self.unsynced.insert(object);
        }
        self.sync()
    }

    /// Makes the directory of an object, if it is not there, and tells who may read it, as mode bits.
    fn make_directory(&mut self, object: &Path) -> Result<u32> {
        let failed = |source| io_error("create", object, source);
        let tree = &self.storage.directory.tree;
        let made_before = self.made_directories.len();
        let directory = tree.make_directory(object, &mut self.made_directories).map_err(failed)?;
        if self.made_directories.len() > made_before {
            self.sync_later_above(object);
        }
        Ok(File::from(directory).metadata().map_err(failed)?.permissions().mode() & 0o444)
    }

    fn sync_later_above(&mut self, object: &Path) {
        let base = self.storage.directory.path();
        self.unsynced.extend(object.ancestors().skip(1).take_while(|path| path.starts_with(base)).map(Path::to_owned));
    }

    /// Removes the file of a revision that no record goes with. Python's server leaves such files when it is killed, and
    /// no marker with them; they are in the way when a transaction is copied again, with the tid that it had.
    fn remove_orphan(&self, oid: Oid, tid: Tid) -> Result<()> {
        let BlobStorage { directory, inner: records, .. } = self.storage.as_ref();
        let file = directory.revision(oid, tid);
        let taken = match directory.tree.identity(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => Err(error),
            Ok(_) if matches!(records.load_serial(oid, tid), Err(StorageError::NoSuchObject(_))) => {
                info!(target: LOGGER, "{}: removed, it was of a transaction that was not finished", file.display());
                directory.tree.remove(&file)
            }
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        };
        taken.map_err(|source| io_error("give the content of a blob the name", &file, source))
    }

    /// Makes all names durable.
    fn sync(&mut self) -> Result<()> {
        let tree = &self.storage.directory.tree;
        std::mem::take(&mut self.unsynced).iter().try_for_each(|directory| tree.sync_directory(directory))
    }

    /// The transaction is durable.
    pub fn committed(mut self) {
        self.files.clear();
        self.made_directories.clear();
        self.remove_markers();
    }

    /// Only the next start can tell whether the transaction is durable.
    pub fn undecided(mut self) {
        self.files.clear();
        self.made_directories.clear();
        self.markers.clear();
    }

    fn remove_markers(&mut self) {
        for marker in self.markers.drain(..) {
            if let Err(error) = self.storage.directory.tree.remove(&marker) {
                warn!(target: LOGGER, "{}: cannot be removed: {error}", marker.display());
            }
        }
    }
}

impl Drop for Placement {
    fn drop(&mut self) {
        for file in self.files.drain(..) {
            if let Err(error) = self.storage.directory.tree.remove(&file) {
                warn!(
                    target: LOGGER,
                    "{}: of a transaction that was aborted, but cannot be removed before the next start: {error}",
                    file.display()
                );
                // All are looked at again; what is gone by then is no trouble.
                self.markers.clear();
            }
        }
        for directory in self.made_directories.drain(..).rev() {
            // One that is not empty any more is somebody else's, too.
            let _ = self.storage.directory.tree.remove_directory(&directory);
        }
        self.remove_markers();
    }
}

/// Whether any revision of an object has a file.
fn has_revisions(tree: &Tree, object: &Path) -> Result<bool> {
    for entry in tree.entries(object)? {
        if entry?.name().and_then(layout::tid_of).is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes the files of transactions that an earlier server began to finish, and that `records` does not have.
pub(super) fn remove_pending(directory: &BlobDirectory, records: &Arc<dyn Storage>) -> Result<()> {
    let mut known = BTreeMap::new();
    let mut removed = 0_u64;
    for entry in directory.tree.entries(&directory.temporary())? {
        let entry = entry?;
        let Some((oid, tid, after)) = entry.name().and_then(ids) else {
            continue;
        };
        let marker = &entry.path;
        let file = directory.revision(oid, tid);
        let kept = |problem: &dyn std::fmt::Display| {
            warn!(
                target: LOGGER,
                "{}: kept, since it may be needed: {problem}. If it is not, remove it and {}",
                file.display(), marker.display()
            );
        };
        let is_known = match known.get(&after) {
            Some(&is_known) => is_known,
            None => *known.entry(after).or_insert(has_transaction(records, after)?),
        };
        match records.load_serial(oid, tid) {
            Ok(_) => {}
            Err(StorageError::NoSuchObject(_)) if !is_known && directory.tree.identity(&file).is_ok() => {
                kept(&format_args!("{} does not have the transaction {after} that came before", records.name()));
                continue;
            }
            Err(StorageError::NoSuchObject(_)) => {
                match directory.tree.remove(&file) {
                    Ok(()) => removed += 1,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => {
                        kept(&format_args!("it cannot be removed: {error}"));
                        continue;
                    }
                }
                directory.prune(&directory.object(oid));
            }
            Err(problem) => {
                kept(&problem);
                continue;
            }
        }
        if let Err(error) = directory.tree.remove(marker) {
            warn!(target: LOGGER, "{}: cannot be removed: {error}", marker.display());
        }
    }
    if removed > 0 {
        let base = directory.path().display();
        info!(target: LOGGER, "{base}: removed {removed} blobs of a transaction that was not finished");
    }
    Ok(())
}

/// The marker of a revision in the transaction that comes `after` another one.
fn marker(directory: &BlobDirectory, oid: Oid, tid: Tid, after: Tid) -> PathBuf {
    directory.temporary().join(format!("{MARKER}{:016x}-{tid}-{after}", oid.0))
}

/// The ids in the name of a marker.
fn ids(name: &str) -> Option<(Oid, Tid, Tid)> {
    let mut numbers = name.strip_prefix(MARKER)?.split('-').map(|digits| u64::from_str_radix(digits, 16).ok());
    let ids = (Oid(numbers.next()??), Tid(numbers.next()??), Tid(numbers.next()??));
    numbers.next().is_none().then_some(ids)
}
