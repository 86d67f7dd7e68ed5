//! Puts the new file in the place of the old one, so that there is a whole `Data.fs` at every moment.
//!
//! The old file is linked to `Data.fs.swap`, then the new one renamed over `Data.fs`. Where there are no hard links,
//! the old file has to go aside first; after a crash in between, the next open puts it back. Until the rename nothing has
//! changed, so every error before it only ends the pack.
//!
//! Only when commits go on does the old file become `Data.fs.old`, in the place of an earlier one: to free that takes the
//! system seconds if it is large.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::super::io::{RawFile, io_error, names as is_named, sync_directory_of, with_suffix};
use crate::storage::{Result, StorageError};

/// What a pack does beside writing its file, so that a test can stop it at each step.
pub(in super::super) trait Directory {
    /// Makes a file with the permissions of another one.
    fn create(&self, path: &Path, like: &Path) -> io::Result<Box<dyn RawFile>>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Returns when the names in the directory of `path` would survive a power failure.
    fn sync(&self, path: &Path) -> Result<()>;
    /// How many bytes may be written beside `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// The directory as the system has it.
pub(in super::super) struct System;

impl Directory for System {
    fn create(&self, path: &Path, like: &Path) -> io::Result<Box<dyn RawFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        file.set_permissions(like.metadata()?.permissions())?;
        Ok(Box::new(file))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn sync(&self, path: &Path) -> Result<()> {
        sync_directory_of(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let system = rustix::fs::statvfs(path.parent().unwrap_or(path))?;
        Ok(system.f_bavail.saturating_mul(system.f_frsize))
    }
}

/// The files of a pack.
pub(super) struct Names {
    pub data: PathBuf,
    pub pack: PathBuf,
    pub old: PathBuf,
    pub index: PathBuf,
    /// Where the old file is for a moment.
    pub aside: PathBuf,
}

impl Names {
    pub fn of(data: &Path) -> Self {
        let beside = |suffix| with_suffix(data, suffix);
        let (pack, old, index, aside) = (beside(".pack"), beside(".old"), beside(".index"), beside(".swap"));
        Self { data: data.to_owned(), pack, old, index, aside }
    }
}

/// Removes a file that need not be there.
pub(super) fn remove(directory: &dyn Directory, path: &Path) -> Result<()> {
    match directory.remove(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(io_error("remove", path, source)),
        _ => Ok(()),
    }
}

/// Gives the new file its name, and the old one another or none. When this fails, nothing has changed; when it
/// succeeds, the directory is still to be synced, and then the old file put away.
pub(super) fn swap(directory: &dyn Directory, names: &Names, keep_old: bool) -> Result<()> {
    let Names { data, pack, aside, .. } = names;
    if !keep_old {
        return rename(directory, pack, data);
    }
    if directory.link(data, aside).is_ok() {
        return rename(directory, pack, data).inspect_err(|_| drop(directory.remove(aside)));
    }
    rename(directory, data, aside)?;
    if let Err(problem) = rename(directory, pack, data) {
        rename(directory, aside, data)?;
        return Err(problem);
    }
    Ok(())
}

/// Removes the old file of an earlier pack, and gives its name to the one that the swap has left. After a crash in between,
/// the next open goes on here.
pub(super) fn put_away(directory: &dyn Directory, names: &Names, keep_old: bool) -> Result<()> {
    // To rename over a large file would let all wait that need the directory until it is freed.
    remove(directory, &names.old)?;
    if keep_old { rename(directory, &names.aside, &names.old) } else { Ok(()) }
}

fn rename(directory: &dyn Directory, from: &Path, to: &Path) -> Result<()> {
    directory.rename(from, to).map_err(|source| io_error("rename to", to, source))
}

/// Ends what a crash during a pack left half done.
///
/// The original has no data file between the two renames with which its pack ends. If it was killed there, an empty
/// database must not take the place: a person decides which of the two files is good.
pub(in super::super) fn recover(data: &Path) -> Result<()> {
    let names @ Names { pack, old, aside, .. } = &Names::of(data);
    let exists = |path: &Path| path.try_exists().map_err(|source| io_error("look at", path, source));
    if exists(aside)? {
        let metadata = aside.metadata().map_err(|source| io_error("look at", aside, source))?;
        if is_named(data, (metadata.dev(), metadata.ino()))? {
            // A second name, for a new file that did not come.
            remove(&System, aside)?;
        } else {
            let to = if exists(data)? { old } else { &names.data };
            warn!(
                target: "ZODB.FileStorage",
                "a pack was interrupted in its last step: {} becomes {}", aside.display(), to.display()
            );
            rename(&System, aside, to)?;
        }
        sync_directory_of(data)?;
    }
    if !exists(pack)? {
        return Ok(());
    }
    if exists(data)? {
        info!(target: "ZODB.FileStorage", "a pack was interrupted: {} is removed", pack.display());
        return remove(&System, pack);
    }
    if exists(old)? {
        let [data, pack, old] = [data, pack, old].map(|path| path.display());
        return Err(StorageError::Refused(format!(
            "{data} is missing: a pack by Python's server was interrupted in its last step. Rename {pack} to {data}, or, \
             if it is damaged, {old}, which is the database before the pack"
        )));
    }
    Ok(())
}
