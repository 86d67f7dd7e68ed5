//! `<blob-dir>.old`: what a pack has removed, and links to all that stayed, so that together with the old data file
//! there is all that was.
//!
//! Files go from one tree to the other by their names. Content is never copied, and no link is followed in either.

use std::io;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::LOGGER;
use super::directory::BlobDirectory;
use super::layout::{self, MARKER};
use super::tree::{Entry, Tree, rename_nothing};
use crate::storage::disk::{io_error, with_suffix};
use crate::storage::{Result, StorageError};

/// The directory beside a blob directory.
#[derive(Debug)]
pub(super) struct Kept {
    tree: Tree,
}

impl Kept {
    pub fn beside(directory: &BlobDirectory) -> Self {
        Self { tree: Tree::new(with_suffix(directory.path(), ".old")) }
    }

    /// Whether it can have links to files of the blob directory.
    pub fn check(&self, directory: &BlobDirectory) -> Result<()> {
        let base = directory.path();
        let beside = base.parent().unwrap_or(base);
        match rename_nothing(base, beside) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => Err(StorageError::Refused(format!(
                "no file of {} can be renamed or linked to {}, which another file system or mount point parts from it, so \
                 that a pack cannot keep blobs in {}; set pack-keep-old to false, or move the blobs to a directory below \
                 the mount point and change blob-dir",
                base.display(),
                beside.display(),
                self.tree.base.display()
            ))),
            // That nothing is there, or something of which the pack hears in time.
            _ => Ok(()),
        }
    }

    /// Removes what an earlier pack has kept. May be broken off anywhere, and begun again.
    pub fn clear(&self, go_on: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let base = &self.tree.base;
        let refused = |path: &Path| {
            let path = path.to_owned();
            move |source| io_error("remove", &path, source)
        };
        match base.symlink_metadata() {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return std::fs::remove_file(base).map_err(refused(base)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(refused(base)(source)),
        }
        // The last one is looked at; those before it are what it is in, and others that are there.
        let mut directories = vec![base.clone()];
        while let Some(directory) = directories.last().cloned() {
            let known = directories.len();
            for entry in self.tree.entries(&directory)? {
                go_on()?;
                let Entry { path, is_directory, .. } = entry?;
                if is_directory {
                    directories.push(path);
                } else {
                    self.tree.remove(&path).map_err(refused(&path))?;
                }
            }
            if directories.len() == known {
                directories.pop();
                let is_base = directories.is_empty();
                let removed = if is_base { std::fs::remove_dir(base) } else { self.tree.remove_directory(&directory) };
                removed.map_err(refused(&directory))?;
            }
        }
        Ok(())
    }

    /// Takes a file over. The directories for it are made.
    pub fn take(&self, blobs: &Tree, path: &Path) -> io::Result<()> {
        let kept = self.make_room(blobs, path)?;
        // To rename one name of a file to another one of it does nothing.
        if self.tree.identity(&kept).is_ok_and(|it| blobs.identity(path).is_ok_and(|found| found == it)) {
            return blobs.remove(path);
        }
        blobs.rename(path, &self.tree, &kept)
    }

    /// Links the layout and all that stays.
    pub fn link_rest(&self, directory: &BlobDirectory, progress: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let blobs = &directory.tree;
        let mut failed = 0_u64;
        let mut link = |path: &Path| match self.make_room(blobs, path).and_then(|to| blobs.link(path, &self.tree, &to))
        {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                if failed == 0 {
                    let old = self.tree.base.display();
                    warn!(target: LOGGER, "{}: cannot be linked to {old}: {error}", path.display());
                }
                failed += 1;
            }
            _ => {}
        };
        link(&blobs.base.join(MARKER));
        let mut directories = vec![blobs.base.clone()];
        while let Some(directory_path) = directories.pop() {
            progress()?;
            let entries = match blobs.entries(&directory_path) {
                // It went with an aborted transaction.
                Err(StorageError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                if entry.may_hold_blobs() {
                    directories.push(entry.path);
                } else if entry.name().and_then(layout::tid_of).is_some() {
                    link(&entry.path);
                }
            }
        }
        if failed > 0 {
            // To be tried again it would have to be now: later on there are other files.
            let old = self.tree.base.display();
            warn!(target: LOGGER, "{old}: without {failed} files that stay in the blob directory");
        }
        Ok(())
    }

    /// Makes the directories for a file of the blob directory; where it is to be.
    fn make_room(&self, blobs: &Tree, path: &Path) -> io::Result<PathBuf> {
        let kept = self.tree.base.join(path.strip_prefix(&blobs.base).map_err(io::Error::other)?);
        match std::fs::create_dir(&self.tree.base) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        self.tree.make_directory(kept.parent().unwrap_or(&self.tree.base), &mut Vec::new())?;
        Ok(kept)
    }
}
