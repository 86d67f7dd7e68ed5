//! The tree of files below a blob directory, in which clients with a shared directory may write as well.
//!
//! No link is followed below the base, and nothing but regular files is opened: what a client puts there must not lead
//! the server to its other files, nor make it wait for what a pipe has to say.

use std::ffi::{OsStr, OsString};
use std::fmt::Debug;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::fs::{linkat, mkdirat, openat, renameat, renameat_with, statat, unlinkat};
use rustix::io::Errno;

use crate::storage::disk::io_error;
use crate::storage::{Result, StorageError};

/// The one step that nobody misses when it is left out, so that a test can watch it, or make it fail.
pub(super) trait Durable: Debug + Send + Sync {
    /// Returns when a file, or the names in a directory, would survive a power failure.
    fn sync(&self, file: &File, path: &Path) -> io::Result<()>;
}

/// The disk as the system has it.
#[derive(Debug)]
struct Disk;

impl Durable for Disk {
    fn sync(&self, file: &File, _path: &Path) -> io::Result<()> {
        file.sync_all()
    }
}

/// Which file it is, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    pub fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// What a directory has.
#[derive(Debug)]
pub(super) struct Entry {
    pub path: PathBuf,
    pub is_directory: bool,
    pub is_link: bool,
}

impl Entry {
    /// Whether it is a directory of those with blobs. A mount point has `lost+found`, too, which only root may read.
    pub fn may_hold_blobs(&self) -> bool {
        self.is_directory && self.name().is_some_and(|name| name.starts_with("0x"))
    }

    /// Its last component, if it is text, as all names of blobs are.
    pub fn name(&self) -> Option<&str> {
        self.path.file_name()?.to_str()
    }
}

/// The entries of a directory, which may be many.
struct Entries {
    path: PathBuf,
    directory: Dir,
}

impl Entries {
    fn step(&mut self) -> io::Result<Option<Entry>> {
        while let Some(entry) = self.directory.read() {
            let entry = entry?;
            let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.file_type() {
                // Not every file system tells here.
                FileType::Unknown => {
                    let stat = statat(self.directory.fd()?, &name, AtFlags::SYMLINK_NOFOLLOW)?;
                    FileType::from_raw_mode(stat.st_mode)
                }
                told => told,
            };
            let (is_directory, is_link) = (kind == FileType::Directory, kind == FileType::Symlink);
            return Ok(Some(Entry { path: self.path.join(name), is_directory, is_link }));
        }
        Ok(None)
    }
}

impl Iterator for Entries {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().map_err(|source| io_error("read", &self.path, source)).transpose()
    }
}

/// A link where none is followed.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} is a link, and none is followed in a blob directory: put what it leads to in its place. Only the blob directory \
     itself may be a link, or a mount point",
    .0.display()
)]
pub(super) struct IsLink(pub PathBuf);

/// All that is below a blob directory. Paths begin with that of the directory.
#[derive(Debug)]
pub(super) struct Tree {
    pub base: PathBuf,
    pub durable: Box<dyn Durable>,
}

impl Tree {
    pub fn new(base: PathBuf) -> Self {
        Self { base, durable: Box::new(Disk) }
    }

    /// Opens a directory. That there is a link on the way is an error like any other, see [`is_misleading`].
    pub fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        self.walk(path, None)
    }

    /// Opens a directory, and makes those on the way that are missing. `made` tells which.
    pub fn make_directory(&self, path: &Path, made: &mut Vec<PathBuf>) -> io::Result<OwnedFd> {
        self.walk(path, Some(made))
    }

    fn walk(&self, path: &Path, mut made: Option<&mut Vec<PathBuf>>) -> io::Result<OwnedFd> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut directory = OwnedFd::from(File::open(&self.base)?);
        let mut reached = self.base.clone();
        for name in path.strip_prefix(&self.base).map_err(io::Error::other)? {
            reached.push(name);
            let mut opened = openat(&directory, name, flags, Mode::empty());
            if let (Err(Errno::NOENT), Some(made)) = (&opened, &mut made) {
                match mkdirat(&directory, name, Mode::from_raw_mode(0o777)) {
                    Ok(()) => made.push(reached.clone()),
                    // A client with a shared directory was faster.
                    Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                opened = openat(&directory, name, flags, Mode::empty());
            }
            directory = opened.map_err(|error| explain(error, &directory, &reached))?;
        }
        Ok(directory)
    }

    /// Opens a regular file for reading.
    pub fn open(&self, path: &Path) -> io::Result<(File, Metadata)> {
        self.open_regular(path, OFlags::RDONLY)
    }

    /// Opens a regular file for writing.
    pub fn write(&self, path: &Path) -> io::Result<File> {
        self.open_regular(path, OFlags::WRONLY).map(|(file, _)| file)
    }

    fn open_regular(&self, path: &Path, access: OFlags) -> io::Result<(File, Metadata)> {
        let (directory, name) = self.locate(path)?;
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = openat(&directory, name, flags, Mode::empty());
        let file = File::from(opened.map_err(|error| explain(error, &directory, path))?);
        let metadata = file.metadata()?;
        // As the system says of a link.
        if metadata.is_file() { Ok((file, metadata)) } else { Err(Errno::LOOP.into()) }
    }

    /// Makes a file.
    pub fn create(&self, path: &Path, mode: u32) -> io::Result<File> {
        let (directory, name) = self.locate(path)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        Ok(File::from(openat(&directory, name, flags, Mode::from_raw_mode(mode))?))
    }

    /// Makes a file in the place of one that is there.
    pub fn create_again(&self, path: &Path, mode: u32) -> io::Result<File> {
        // Not written to: it may be a link, or a second name of somebody else's file.
        match self.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.create(path, mode),
        }
    }

    /// What is in a directory.
    pub fn entries(&self, path: &Path) -> Result<impl Iterator<Item = Result<Entry>> + use<>> {
        let opened = self.directory(path).and_then(|directory| Ok(Dir::new(directory)?));
        let directory = opened.map_err(|source| io_error("read", path, source))?;
        Ok(Entries { path: path.to_owned(), directory })
    }

    /// Whether a name is that of a directory; a link is none.
    pub fn is_directory(&self, path: &Path) -> io::Result<bool> {
        let (directory, name) = self.locate(path)?;
        let stat = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    }

    /// Which file has a name; a link is itself one.
    pub fn identity(&self, path: &Path) -> io::Result<Identity> {
        let (directory, name) = self.locate(path)?;
        let stat = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Identity { device: stat.st_dev, inode: stat.st_ino })
    }

    /// Renames, but not to a name that is taken.
    pub fn rename_to_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        let ((from_directory, from), (to_directory, to)) = (self.locate(from)?, self.locate(to)?);
        match renameat_with(&from_directory, from, &to_directory, to, RenameFlags::NOREPLACE) {
            // The file system cannot do it in one step. It need not: all names are given under one lock, in a directory
            // that is one storage's own.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                match statat(&to_directory, to, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => Ok(renameat(&from_directory, from, &to_directory, to)?),
                    taken => Err(taken.err().unwrap_or(Errno::EXIST).into()),
                }
            }
            renamed => Ok(renamed?),
        }
    }

    /// Renames to a name in a tree, which may be another one. What has the name is replaced.
    pub fn rename(&self, from: &Path, target: &Self, to: &Path) -> io::Result<()> {
        let ((from_directory, from), (to_directory, to)) = (self.locate(from)?, target.locate(to)?);
        Ok(renameat(&from_directory, from, &to_directory, to)?)
    }

    /// Gives a file a second name in a tree, which may be another one.
    pub fn link(&self, from: &Path, target: &Self, to: &Path) -> io::Result<()> {
        let ((from_directory, from), (to_directory, to)) = (self.locate(from)?, target.locate(to)?);
        Ok(linkat(&from_directory, from, &to_directory, to, AtFlags::empty())?)
    }

    /// Removes a name.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        let (directory, name) = self.locate(path)?;
        Ok(unlinkat(&directory, name, AtFlags::empty())?)
    }

    /// Removes an empty directory.
    pub fn remove_directory(&self, path: &Path) -> io::Result<()> {
        let (directory, name) = self.locate(path)?;
        Ok(unlinkat(&directory, name, AtFlags::REMOVEDIR)?)
    }

    /// Makes the names in a directory durable.
    pub fn sync_directory(&self, path: &Path) -> Result<()> {
        let synced = self.directory(path).and_then(|directory| self.durable.sync(&File::from(directory), path));
        synced.map_err(|source| io_error("sync the directory", path, source))
    }

    /// Refuses to work with a `tmp` from which files could not be renamed: they would have to be copied when their
    /// transaction may not fail any more.
    pub fn check_temporary(&self, temporary: &Path) -> Result<()> {
        let unreadable = |source| io_error("look at", temporary, source);
        let found = temporary.symlink_metadata().map_err(unreadable)?;
        let base = self.base.metadata().map_err(unreadable)?;
        let renamed = rename_nothing(temporary, &self.base);
        let is_elsewhere = renamed.is_err_and(|error| error.kind() == io::ErrorKind::CrossesDevices);
        if !found.is_dir() || found.dev() != base.dev() || is_elsewhere {
            return Err(StorageError::Refused(format!(
                "{} must be a directory on the file system of {}, and no link: content waits there until it is renamed. \
                 Move it there, or remove it while no server runs",
                temporary.display(),
                self.base.display()
            )));
        }
        Ok(())
    }

    fn locate<'a>(&self, path: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
        let (parent, name) = path.parent().zip(path.file_name()).ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.directory(parent)?, name))
    }
}

/// Renames what is not there from one directory to another one. That they are on different file systems, or that a mount
/// point is in between, is noticed before the system looks for the name.
pub(super) fn rename_nothing(from: &Path, to: &Path) -> io::Result<()> {
    let nothing = "zeolite-upload-";
    std::fs::rename(from.join(nothing), to.join(nothing))
}

/// Says of a link that it is one. The system says that it is no directory.
fn explain(error: Errno, directory: &OwnedFd, path: &Path) -> io::Error {
    let look = || statat(directory, path.file_name()?, AtFlags::SYMLINK_NOFOLLOW).ok();
    let is_link = || look().is_some_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Symlink);
    if matches!(error, Errno::LOOP | Errno::NOTDIR) && is_link() {
        io::Error::new(io::ErrorKind::NotADirectory, IsLink(path.to_owned()))
    } else {
        error.into()
    }
}

/// Whether a path did not lead to a regular file, but to or through a link, or to something else.
pub(super) fn is_misleading(error: &io::Error) -> bool {
    // A socket cannot be opened.
    let is_link = error.get_ref().and_then(|reason| reason.downcast_ref::<IsLink>()).is_some();
    is_link || matches!(Errno::from_io_error(error), Some(Errno::LOOP | Errno::NOTDIR | Errno::NXIO))
}
