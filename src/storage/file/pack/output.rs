//! The new file while it is written: one large buffer, and one place to come back to.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::super::format::{DataHeader, POSITION_LIMIT, TransactionHeader};
use super::super::io::DataFile;
use crate::storage::{Result, StorageError};

/// How much is written at a time.
const BUFFER: usize = 1 << 20;
/// After so much the file is synced. Else a commit that syncs meanwhile would wait for all of it, since the file system
/// orders what is written to both files.
const SYNC_AFTER: u64 = 32 << 20;
/// Where the length is in a transaction header.
const LEN_OFFSET: u64 = 8;

/// A file that is written from its beginning to its end.
pub(super) struct Output {
    file: Arc<DataFile>,
    /// Not yet written; begins at `flushed`.
    buffer: Vec<u8>,
    flushed: u64,
    /// Synced up to here, or going to be.
    synced: u64,
    syncing: Option<JoinHandle<Result<()>>>,
}

impl Output {
    pub fn new(file: DataFile) -> Self {
        Self { file: Arc::new(file), buffer: Vec::with_capacity(BUFFER), flushed: 0, synced: 0, syncing: None }
    }

    /// Where the next byte goes.
    pub fn position(&self) -> u64 {
        self.flushed + self.buffer.len() as u64
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() < BUFFER {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        self.file.write_all_at(bytes, self.flushed)?;
        self.flushed += bytes.len() as u64;
        Ok(())
    }

    /// Writes a record's header; the data or the back pointer is to follow.
    pub fn record(&mut self, header: &DataHeader) -> Result<()> {
        if header.next_position(self.position()).is_none_or(|next| next >= POSITION_LIMIT) {
            return Err(StorageError::Refused("the data file has reached its largest size".to_owned()));
        }
        self.write(&header.to_bytes())
    }

    /// Ends the transaction that begins at `start`: its length is known now.
    pub fn end_transaction(&mut self, start: u64, header: &TransactionHeader) -> Result<()> {
        let len = self.position() - start;
        if len != header.len {
            self.patch(start + LEN_OFFSET, &len.to_be_bytes())?;
        }
        self.write(&len.to_be_bytes())
    }

    fn patch(&mut self, position: u64, bytes: &[u8]) -> Result<()> {
        let offset = position.checked_sub(self.flushed).and_then(|offset| usize::try_from(offset).ok());
        let place = offset.and_then(|offset| self.buffer.get_mut(offset..offset + bytes.len()));
        if let Some(place) = place {
            place.copy_from_slice(bytes);
            return Ok(());
        }
        // A header is written in one piece, so it is wholly there or wholly here.
        self.file.write_all_at(bytes, position)
    }

    pub fn flush(&mut self) -> Result<()> {
        self.file.write_all_at(&self.buffer, self.flushed)?;
        self.flushed += self.buffer.len() as u64;
        self.buffer.clear();
        if self.flushed - self.synced >= SYNC_AFTER {
            self.end_syncing()?;
            let file = Arc::clone(&self.file);
            self.syncing = Some(std::thread::spawn(move || file.sync()));
            self.synced = self.flushed;
        }
        Ok(())
    }

    /// Waits for the sync that is under way. The system tells of an error only once, so it must be taken here.
    fn end_syncing(&mut self) -> Result<()> {
        let outcome = self.syncing.take().map_or(Ok(Ok(())), JoinHandle::join);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Returns when all that was written would survive a power failure.
    pub fn sync(&mut self) -> Result<()> {
        self.flush()?;
        self.end_syncing()?;
        self.file.sync()
    }

    /// The file, which has been synced and given another name.
    pub fn into_file(self, path: PathBuf) -> DataFile {
        Arc::into_inner(self.file).expect("no sync is under way after a sync").renamed(path)
    }
}
