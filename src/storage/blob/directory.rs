//! The blob directory: where the file of each revision of a blob is, and where content waits that is no blob yet.
//!
//! Opened by one storage at a time. A storage that is read-only opens whatever is there and makes nothing.

use std::collections::VecDeque;
use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use tempfile::Builder;
use tracing::{info, warn};

use super::layout::{self, Layout, MARKER};
use super::tree::{Entry, Identity, IsLink, Tree, is_misleading};
use super::{LOGGER, StagedBlob};
use crate::ids::{Oid, Tid};
use crate::storage::disk::{io_error, sync_directory_of, with_suffix};
use crate::storage::{Result, StorageError};
use crate::sync::Mutex;

/// Names of content that waits in `tmp`. Clients with a shared directory have names of their own there.
pub(super) const STAGED: &str = "zeolite-upload-";

/// The file with the lock. Hidden, so that a directory with nothing else in it is empty for ZODB, and not the directory
/// itself: some network file systems lock only what is open for writing.
const LOCK: &str = ".zeolite-lock";

/// Among how many entries a start looks for links, those next to the base first. More would delay it.
const LOOKED_AT: usize = 10_000;

/// A directory of blobs.
#[derive(Debug)]
pub struct BlobDirectory {
    base: PathBuf,
    pub(super) tree: Arc<Tree>,
    layout: Layout,
    /// Held from the first file of a transaction that gets its name to the end of the transaction, and while a file
    /// that a pack has left over loses its name, with the directories that are empty then.
    pub(super) names: Mutex<()>,
    /// A lock on a file in the directory; `None` once it is closed, or if it is read-only.
    lock: Mutex<Option<File>>,
}

impl BlobDirectory {
    /// Opens the directory, or makes one. `create` removes first whatever is there.
    pub(super) fn open(path: &Path, read_only: bool, create: bool) -> Result<Self> {
        let absolute = std::path::absolute(path).map_err(|source| io_error("find", path, source))?;
        // Without a slash at the end.
        let base: PathBuf = absolute.components().collect();
        if read_only {
            let layout = Layout::detect(&base)?;
            let tree = Arc::new(Tree::new(base.clone()));
            return Ok(Self { base, tree, layout, names: Mutex::default(), lock: Mutex::default() });
        }
        make_directory(&base)?;
        let lock = lock(&base)?;
        if create {
            empty(&base)?;
        }
        let layout = Layout::detect(&base)?;
        let tree = Arc::new(Tree::new(base.clone()));
        let directory = Self { base, tree, layout, names: Mutex::default(), lock: Mutex::new(lock) };
        // First of all: with another entry and without it, the next to open the directory takes it for a lawn.
        directory.mark()?;
        make_directory(&directory.temporary())?;
        directory.tree.check_temporary(&directory.temporary())?;
        directory.sweep()?;
        directory.look_for_links();
        Ok(directory)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.base
    }

    pub(super) fn layout_name(&self) -> &'static str {
        self.layout.name()
    }

    /// A new empty file for content that is about to arrive.
    pub fn stage(&self) -> Result<StagedBlob> {
        let (path, file) = self.named(|name| self.tree.create(name, 0o600))?;
        StagedBlob::empty(Arc::clone(&self.tree), path, file)
            .map_err(|source| io_error("look at a file in", &self.temporary(), source))
    }

    /// The content of a revision, to become that of another one.
    pub(super) fn stage_revision(&self, oid: Oid, tid: Tid) -> Result<StagedBlob> {
        let (mut source, metadata) = self.open_file(oid, tid)?;
        let path = self.revision(oid, tid);
        // Content never changes, so that a second name does as well as a copy.
        if let Ok((linked, ())) = self.named(|name| self.tree.link(&path, &self.tree, name)) {
            let content = StagedBlob::whole(Arc::clone(&self.tree), linked, Identity::of(&metadata));
            let found = self.tree.identity(content.path()).and_then(|found| content.recognize(found));
            return found.map(|()| content).map_err(|source| io_error("link", &path, source));
        }
        let mut copy = self.stage()?;
        copy.fill(&mut source).map_err(|source| io_error("write", copy.path(), source))?;
        Ok(copy)
    }

    /// Makes something with a new name in `tmp`.
    fn named<T>(&self, make: impl FnMut(&Path) -> io::Result<T>) -> Result<(PathBuf, T)> {
        let temporary = self.temporary();
        let made = Builder::new().prefix(STAGED).suffix(".tmp").make_in(&temporary, make);
        let kept = made.and_then(|made| {
            let (made, path) = made.into_parts();
            Ok((path.keep()?, made))
        });
        kept.map_err(|source| io_error("create a file in", &temporary, source))
    }

    /// A file that a client with a shared blob directory has put beside the revisions of `oid`. It moves to `tmp`.
    ///
    /// A name that is not one of those that clients give is [`StorageError::BlobName`].
    pub fn adopt(&self, oid: Oid, name: &str) -> Result<StagedBlob> {
        let bad_name = || StorageError::BlobName(name.to_owned());
        if !is_upload_name(name) {
            return Err(bad_name());
        }
        let upload = self.object(oid).join(name);
        let (file, metadata) = self.tree.open(&upload).map_err(|source| match source {
            misleading if is_misleading(&misleading) => bad_name(),
            source => io_error("open", &upload, source),
        })?;
        // Under another name it may be a file of the server's, or be changed.
        if metadata.nlink() != 1 {
            return Err(bad_name());
        }
        // From now on it is the server's, also at its next start if it is killed, and the content of one revision.
        let (path, ()) = self.named(|name| self.tree.rename_to_new(&upload, name))?;
        let identity = Identity::of(&metadata);
        if self.tree.identity(&path).is_ok_and(|found| found != identity) {
            // The client has replaced it meanwhile: then this is none of the server's business.
            let returned = self.tree.rename_to_new(&path, &upload);
            returned.map_err(|source| io_error("rename", &path, source))?;
            return Err(bad_name());
        }
        let content = StagedBlob::whole(Arc::clone(&self.tree), path, identity);
        let synced = self.tree.durable.sync(&file, content.path());
        synced.map_err(|source| io_error("sync", content.path(), source))?;
        Ok(content)
    }

    /// The content of a revision, and its length.
    pub fn open_revision(&self, oid: Oid, tid: Tid) -> Result<(File, u64)> {
        self.open_file(oid, tid).map(|(file, metadata)| (file, metadata.len()))
    }

    fn open_file(&self, oid: Oid, tid: Tid) -> Result<(File, Metadata)> {
        let path = self.revision(oid, tid);
        self.tree.open(&path).map_err(|source| match source {
            error if error.kind() == io::ErrorKind::NotFound => StorageError::NoBlobFile { path, oid, tid },
            source => io_error("open", &path, source),
        })
    }

    /// The directory of an object.
    pub(super) fn object(&self, oid: Oid) -> PathBuf {
        self.base.join(self.layout.object(oid))
    }

    /// The file of a revision.
    pub(super) fn revision(&self, oid: Oid, tid: Tid) -> PathBuf {
        self.object(oid).join(layout::file_name(tid))
    }

    /// Where content waits: on the same file system as the blobs, so that it need not be copied.
    pub(super) fn temporary(&self) -> PathBuf {
        self.base.join("tmp")
    }

    /// Removes an object's directory and those above it, as far as they are empty. The caller holds `names`.
    pub(super) fn prune(&self, object: &Path) {
        for path in object.ancestors().take_while(|path| *path != self.base) {
            if self.tree.remove_directory(path).is_err() {
                break;
            }
        }
    }

    /// Gives the directory up for another storage.
    pub(super) fn close(&self) {
        *self.lock.lock() = None;
    }

    fn mark(&self) -> Result<()> {
        let marker = self.base.join(MARKER);
        if marker.exists() {
            return Ok(());
        }
        // Half a marker would be worse than none. The name aside is hidden: it says nothing about the layout.
        let aside = with_suffix(&marker, ".new");
        let written = self.tree.create_again(&aside, 0o666).and_then(|mut file| {
            io::Write::write_all(&mut file, self.layout.name().as_bytes())?;
            file.sync_all()?;
            self.tree.rename(&aside, &self.tree, &marker)
        });
        written.map_err(|source| io_error("write", &marker, source))?;
        sync_directory_of(&marker)
    }

    /// Says of links below the directory that none is followed. Python's server does so, and sites have spread blobs
    /// that way.
    fn look_for_links(&self) {
        let mut directories = VecDeque::from([self.base.clone()]);
        let (mut seen, mut first, mut links) = (0, None, 0_u64);
        while let Some(directory) = directories.pop_front() {
            // What cannot be read is no reason not to start, and clients with a shared directory may remove some.
            for entry in self.tree.entries(&directory).into_iter().flatten().map_while(Result::ok) {
                seen += 1;
                if seen > LOOKED_AT {
                    directories.clear();
                    break;
                }
                if entry.may_hold_blobs() {
                    directories.push_back(entry.path);
                } else if entry.is_link {
                    links += 1;
                    first.get_or_insert(entry.path);
                }
            }
        }
        if let Some(first) = first {
            let others = if links > 1 { format!("; there are {} more links", links - 1) } else { String::new() };
            warn!(target: LOGGER, "{}{others}", IsLink(first));
        }
    }

    /// Removes what was on its way when an earlier server was killed. What others have put there stays.
    fn sweep(&self) -> Result<()> {
        let mut removed = 0_u64;
        for entry in self.tree.entries(&self.temporary())? {
            let entry = entry?;
            if entry.name().is_some_and(|name| name.starts_with(STAGED)) {
                match self.tree.remove(&entry.path) {
                    Ok(()) => removed += 1,
                    Err(error) => warn!(target: LOGGER, "{}: cannot be removed: {error}", entry.path.display()),
                }
            }
        }
        if removed > 0 {
            let base = self.base.display();
            info!(target: LOGGER, "{base}: removed {removed} files whose transactions were never finished from tmp");
        }
        Ok(())
    }
}

/// Whether clients give such names to their uploads: no way out of the directory, `.tmp` at the end, and perhaps one
/// character more, which says that the content is the server's.
fn is_upload_name(name: &str) -> bool {
    let mut without_mark = name.chars();
    without_mark.next_back();
    !name.contains(['/', '\0']) && [name, without_mark.as_str()].iter().any(|name| name.strip_suffix(".tmp").is_some())
}

fn make_directory(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(path).map_err(|source| io_error("create", path, source))?;
    info!(target: LOGGER, "{}: made a new directory", path.display());
    sync_directory_of(path)
}

/// Takes the directory, or says that somebody has it. Files that one storage cannot explain are another one's blobs.
fn lock(base: &Path) -> Result<Option<File>> {
    let path = base.join(LOCK);
    let no_link = OFlags::NOFOLLOW.bits().cast_signed();
    let opened = OpenOptions::new().write(true).create(true).truncate(false).custom_flags(no_link).open(&path);
    let file = opened.map_err(|source| io_error("open", &path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            let holder = "another storage uses this blob directory; each needs one of its own".to_owned();
            Err(StorageError::Locked { path: base.to_path_buf(), holder })
        }
        Err(TryLockError::Error(error)) => {
            warn!(
                target: LOGGER,
                "{}: cannot be locked: {error}. Nothing keeps another storage from using this blob directory",
                path.display()
            );
            Ok(None)
        }
    }
}

/// Removes everything but the lock in a directory, which may be a mount point.
fn empty(base: &Path) -> Result<()> {
    for entry in Tree::new(base.to_owned()).entries(base)? {
        let Entry { path, is_directory, .. } = entry?;
        if path == base.join(LOCK) {
            continue;
        }
        let removed = if is_directory { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.map_err(|source| io_error("remove", &path, source))?;
    }
    Ok(())
}
