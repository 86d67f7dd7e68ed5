//! Files as this storage uses them: positional reads and writes, explicit syncs, errors with the path.
//!
//! [`RawFile`] is the whole of what `Data.fs` needs from the system, so that a test can put a disk behind it
//! that fails, tears or forgets.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) use crate::storage::disk::{io_error, sync_directory_of, with_suffix};
use crate::storage::{Result, StorageError};

/// What a data file must be able to do.
pub(super) trait RawFile: Send + Sync {
    /// Reads at most `buffer.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;
    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Returns when all that was written, and the length, would survive a power failure.
    fn sync_data(&self) -> io::Result<()>;
    /// Device and inode, to notice when the path comes to name another file.
    fn identity(&self) -> io::Result<(u64, u64)>;
}

impl RawFile for File {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut read = 0;
        while let Some(rest) = buffer.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match FileExt::read_at(self, rest, position.saturating_add(read as u64)) {
                Ok(0) => break,
                Ok(count) => read += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, position)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn identity(&self) -> io::Result<(u64, u64)> {
        let metadata = self.metadata()?;
        Ok((metadata.dev(), metadata.ino()))
    }
}

/// An open data file and its path.
pub(super) struct DataFile {
    raw: Box<dyn RawFile>,
    path: PathBuf,
}

impl DataFile {
    pub fn new(raw: Box<dyn RawFile>, path: PathBuf) -> Self {
        Self { raw, path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same file, which is going to have another name.
    pub fn renamed(self, path: PathBuf) -> Self {
        Self { path, ..self }
    }

    /// As many bytes as the file has there, at most `buffer.len()`.
    pub fn read_at(&self, buffer: &mut [u8], position: u64) -> Result<usize> {
        self.raw.read_at(buffer, position).map_err(|source| self.error("read", source))
    }

    pub fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> Result<()> {
        if self.read_at(buffer, position)? < buffer.len() {
            return Err(self.corrupted(position, "the file ends inside of a record"));
        }
        Ok(())
    }

    /// The big-endian number at `position`.
    pub fn read_u64_at(&self, position: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        self.read_exact_at(&mut bytes, position)?;
        Ok(u64::from_be_bytes(bytes))
    }

    pub fn write_all_at(&self, bytes: &[u8], position: u64) -> Result<()> {
        self.raw.write_all_at(bytes, position).map_err(|source| self.error("write", source))
    }

    pub fn len(&self) -> Result<u64> {
        self.raw.len().map_err(|source| self.error("find the size", source))
    }

    pub fn set_len(&self, len: u64) -> Result<()> {
        self.raw.set_len(len).map_err(|source| self.error("truncate", source))
    }

    pub fn sync(&self) -> Result<()> {
        self.raw.sync_data().map_err(|source| self.error("sync", source))
    }

    /// Whether the path still names this very file.
    pub fn is_at_path(&self) -> Result<bool> {
        let identity = self.raw.identity().map_err(|source| self.error("look at", source))?;
        names(&self.path, identity)
    }

    pub fn error(&self, action: &'static str, source: io::Error) -> StorageError {
        io_error(action, &self.path, source)
    }

    pub fn corrupted(&self, position: u64, problem: impl Into<String>) -> StorageError {
        StorageError::Corrupted { path: self.path.clone(), position, problem: problem.into() }
    }
}

/// A window over a data file for reading forward in small steps.
///
/// Reads ahead, but neither beyond `limit` nor, when asked for much at once, before knowing that the
/// file may have it.
pub(super) struct Window {
    file: Arc<DataFile>,
    limit: u64,
    read_ahead: u64,
    buffer: Vec<u8>,
    /// Where the buffer begins in the file, and how much of it is filled.
    start: u64,
    filled: usize,
}

impl Window {
    /// Large enough that the cost of a system call vanishes, small enough to skip over big records.
    const READ_AHEAD: u64 = 64 * 1024;

    pub fn new(file: Arc<DataFile>, limit: u64) -> Self {
        Self { file, limit, read_ahead: Self::READ_AHEAD, buffer: Vec::new(), start: 0, filled: 0 }
    }

    /// Reads this much at a time from now on.
    pub fn set_read_ahead(&mut self, bytes: u64) {
        self.read_ahead = bytes;
    }

    pub fn file(&self) -> &Arc<DataFile> {
        &self.file
    }

    /// Where what may be read ends.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The `len` bytes at `position`.
    pub fn bytes(&mut self, position: u64, len: u64) -> Result<&[u8]> {
        let end = position.checked_add(len).filter(|&end| end <= self.limit);
        let Some(end) = end else {
            return Err(self.file.corrupted(position, "a length leads beyond the end of the file"));
        };
        if position < self.start || end > self.start + self.filled as u64 {
            let wanted = in_memory(len.max(self.read_ahead).min(self.limit - position));
            if self.buffer.len() < wanted {
                self.buffer.resize(wanted, 0);
            }
            self.start = position;
            self.filled = 0;
            self.file.read_exact_at(self.buffer.get_mut(..wanted).unwrap_or_default(), position)?;
            self.filled = wanted;
        }
        let offset = in_memory(position - self.start);
        let bytes = self.buffer.get(offset..offset + in_memory(len));
        Ok(bytes.expect("the window was just filled with these bytes"))
    }
}

/// A length that was checked against the file, as the size of a buffer.
pub(super) fn in_memory(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

/// Writes a file beside `path` and puts it in its place, durably: after a crash there is either the old
/// file or the new one, whole.
pub(super) fn replace_durably(
    path: &Path,
    temporary: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let attempt = || -> Result<()> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(temporary);
        let file = file.map_err(|source| io_error("create", temporary, source))?;
        let mut buffered = io::BufWriter::with_capacity(1 << 16, file);
        let written = write(&mut buffered).and_then(|()| buffered.flush());
        written.map_err(|source| io_error("write", temporary, source))?;
        buffered.get_ref().sync_all().map_err(|source| io_error("sync", temporary, source))?;
        std::fs::rename(temporary, path).map_err(|source| io_error("rename to", path, source))?;
        sync_directory_of(path)
    };
    attempt().inspect_err(|_| {
        // Best effort: the error that is reported is the one that matters.
        let _ = std::fs::remove_file(temporary);
    })
}

/// Whether `path` names the file with this device and inode. Of a file that is open these are not given to another.
pub(super) fn names(path: &Path, identity: (u64, u64)) -> Result<bool> {
    match path.metadata() {
        Ok(metadata) => Ok((metadata.dev(), metadata.ino()) == identity),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(io_error("look at", path, source)),
    }
}
