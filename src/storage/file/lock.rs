//! `Data.fs.lock`: one process writes a data file.
//!
//! The lock is an exclusive `flock` on the whole file, the very one that Python's servers take. The file
//! holds the owner's process id, and stays behind when the owner goes. Whoever removes it lets another process take
//! a lock of the same name, so an owner that is about to write asks whether the path still names its own.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::io::{RawFile, io_error, names, with_suffix};
use crate::storage::{Result, StorageError};

/// Held as long as it lives.
pub(super) struct LockFile {
    _file: File,
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl LockFile {
    /// Takes the lock of a data file, or says who has it.
    pub fn acquire(data_file: &Path) -> Result<Self> {
        let path = with_suffix(data_file, ".lock");
        // Without truncation: until the lock is ours, the content is the owner's.
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = file.map_err(|source| io_error("open the lock file", &path, source))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = holder(&file);
                return Err(StorageError::Locked { path, holder });
            }
            Err(TryLockError::Error(source)) => return Err(io_error("lock", &path, source)),
        }
        let written = file
            .rewind()
            .and_then(|()| writeln!(file, " {}", std::process::id()))
            .and_then(|()| file.stream_position())
            .and_then(|len| file.set_len(len));
        written.map_err(|source| io_error("write the lock file", &path, source))?;
        let identity = file.identity().map_err(|source| io_error("look at", &path, source))?;
        Ok(Self { _file: file, path, identity })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the path still names the file that is locked.
    pub fn is_at_path(&self) -> Result<bool> {
        names(&self.path, self.identity)
    }
}

fn holder(file: &File) -> String {
    let mut content = String::new();
    match file.take(64).read_to_string(&mut content) {
        Ok(_) if !content.trim().is_empty() => format!("in use by process {}", content.trim()),
        _ => "in use by another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_owner_is_told_of_the_first() {
        let directory = tempfile::tempdir().expect("make a directory");
        let path = directory.path().join("Data.fs");
        let lock = LockFile::acquire(&path).expect("lock");
        let content = std::fs::read(with_suffix(&path, ".lock")).expect("read the lock file");
        assert_eq!(content, format!(" {}\n", std::process::id()).into_bytes());

        let error = LockFile::acquire(&path).err().expect("locked").to_string();
        assert!(error.starts_with("Couldn't lock") && error.contains(&std::process::id().to_string()), "{error}");
        drop(lock);
        LockFile::acquire(&path).expect("lock");
    }
}
