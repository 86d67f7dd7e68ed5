//! What every storage on disk needs of the file system: errors that name the path, and directories that are durable.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::{Result, StorageError};

/// Makes the creation, renaming or removal of `path` durable.
pub fn sync_directory_of(path: &Path) -> Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    sync_directory(directory)
}

/// Makes the names in `directory` durable.
pub fn sync_directory(directory: &Path) -> Result<()> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|source| io_error("sync the directory", directory, source))
}

/// `path` with `suffix` appended to its last component.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// What the system refused to do with `path`.
pub fn io_error(action: &'static str, path: &Path, source: io::Error) -> StorageError {
    StorageError::Io { action, path: path.to_path_buf(), source }
}
