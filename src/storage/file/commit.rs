//! One transaction, from begin to finish or abort.
//!
//! Records are collected beside the data file, with the very positions they will have there. A vote appends
//! them in one go under a header whose status is `c`; a finish turns that byte and syncs once. So Python's way of
//! writing is kept, on which live readers of the file rely: whatever is after a `c` is not there yet.
//!
//! A crash before the sync leaves a tail that is recognized: either its status is `c`, or the file ends
//! before the transaction does, since a file system does not let a file grow over blocks that it has not written.
//! A vote that fails, and an abort, cut the file back. Where that fails, or a sync, what is on disk is unknown:
//! the storage refuses every later write, and a failed sync is never tried again.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use tempfile::{SpooledTempFile, spooled_tempfile_in};
use tracing::{debug, error};

use super::FileStorage;
use super::format::{
    DataHeader, POSITION_LIMIT, STATUS_COMMITTED, STATUS_OFFSET, STATUS_VOTED, TRAILER_LEN, TransactionHeader,
};
use super::io::{in_memory, io_error};
use super::lock::LockFile;
use super::read::{HEAD_READ, View};
use crate::ids::{Oid, Tid};
use crate::pickle::record::class_name;
use crate::storage::{Begin, Commit, Metadata, Publisher, Result, StorageError, Undone};

/// Transactions that are larger wait in an unlinked file.
const SPOOL_MEMORY: usize = 8 << 20;
/// How much of a transaction is written to the data file at a time.
const WRITE_CHUNK: usize = 1 << 20;

/// The one active transaction of a [`FileStorage`].
pub(super) struct FileCommit {
    pub(super) storage: Arc<FileStorage>,
    /// Keeps the file ours until the transaction is gone, also when the storage is closed meanwhile.
    lock: Arc<LockFile>,
    /// The finished part of the file, which does not change while this transaction is active.
    pub(super) view: View,
    pub(super) tid: Tid,
    status: u8,
    metadata: Metadata,
    /// Bytes before the first record.
    header_len: u64,
    records: Records,
    /// Where the last record of each object is going to be.
    pub(super) positions: BTreeMap<Oid, u64>,
    /// Where the transaction after this one will begin; set by a vote.
    voted_end: Option<u64>,
}

/// Data records in the making.
struct Records {
    spool: SpooledTempFile,
    len: u64,
}

impl FileCommit {
    /// Takes the storage's one place for an active transaction.
    pub fn begin(storage: Arc<FileStorage>, begin: Begin) -> Result<Self> {
        let Begin { metadata, copied } = begin;
        let chosen = copied.map(|(tid, _)| tid);
        let (tid, view, lock) = storage.activate(chosen)?;
        // Beside the data file, where there must be room for the transaction anyway.
        let directory = view.file.path().parent().unwrap_or(Path::new("/")).to_owned();
        let commit = Self {
            storage,
            lock,
            view,
            tid,
            status: copied.map_or(STATUS_COMMITTED, |(_, status)| status),
            header_len: TransactionHeader::SIZE
                + (metadata.user.len() + metadata.description.len() + metadata.extension.len()) as u64,
            metadata,
            records: Records { spool: spooled_tempfile_in(SPOOL_MEMORY, directory), len: 0 },
            positions: BTreeMap::new(),
            voted_end: None,
        };
        // After the place is taken: dropping the commit gives it back.
        commit.header(STATUS_VOTED)?;
        Ok(commit)
    }

    /// The header as it will be in the file, or the original's complaint about what does not fit it.
    fn header(&self, status: u8) -> Result<TransactionHeader> {
        let len = |field: &[u8], complaint: &str| {
            u16::try_from(field.len()).map_err(|_| StorageError::Refused(complaint.to_owned()))
        };
        Ok(TransactionHeader {
            tid: self.tid,
            len: self.header_len + self.records.len,
            status,
            user_len: len(&self.metadata.user, "user name too long")?,
            description_len: len(&self.metadata.description, "description too long")?,
            extension_len: len(&self.metadata.extension, "too much extension data")?,
        })
    }

    /// Where the next record is going to be.
    fn next_position(&self) -> u64 {
        self.view.end + self.header_len + self.records.len
    }

    /// Where the current record of `oid` is in the finished part of the file; zero if there is none.
    pub(super) fn committed_position(&self, oid: Oid) -> Result<u64> {
        self.storage.position(oid)
    }

    /// The revision of `oid` that is current in the finished part of the file.
    fn committed_tid(&self, oid: Oid, position: u64) -> Result<Tid> {
        let mut buffer = [0; HEAD_READ];
        Ok(self.view.head(position, oid, &mut buffer)?.header.tid)
    }

    /// Appends a record: its data, or a back pointer. Answers its position.
    pub(super) fn append(&mut self, oid: Oid, tid: Tid, previous: u64, state: &NewState<'_>) -> Result<u64> {
        let position = self.next_position();
        let data_len = match state {
            NewState::Data(data) => data.len() as u64,
            NewState::Back(_) => 0,
        };
        let header = DataHeader { oid, tid, previous, transaction: self.view.end, version_len: 0, data_len };
        if header.next_position(position).is_none_or(|next| next >= POSITION_LIMIT) {
            return Err(StorageError::Refused("the data file has reached its largest size".to_owned()));
        }
        self.records.append(&header.to_bytes()).map_err(|source| self.spool_error(source))?;
        let appended = match state {
            NewState::Data(data) => self.records.append(data),
            NewState::Back(back) => self.records.append(&back.to_be_bytes()),
        };
        appended.map_err(|source| self.spool_error(source))?;
        Ok(position)
    }

    /// Appends a record and makes it the object's current one in this transaction.
    fn append_current(&mut self, oid: Oid, tid: Tid, previous: u64, state: &NewState<'_>) -> Result<u64> {
        let position = self.append(oid, tid, previous, state)?;
        self.positions.insert(oid, position);
        Ok(position)
    }

    /// The state of a record of this transaction, by its position.
    pub(super) fn own_state(&mut self, position: u64) -> Result<OwnState> {
        let offset = position.saturating_sub(self.view.end + self.header_len);
        let mut read = || -> std::io::Result<OwnState> {
            let mut header = [0; DataHeader::LEN];
            self.records.read_at(&mut header, offset)?;
            let header = DataHeader::parse(&header).ok_or(std::io::ErrorKind::UnexpectedEof)?;
            let state = offset + DataHeader::SIZE;
            if header.data_len == 0 {
                let mut back = [0; 8];
                self.records.read_at(&mut back, state)?;
                return Ok(OwnState::Back(u64::from_be_bytes(back)));
            }
            let mut data = vec![0; in_memory(header.data_len)];
            self.records.read_at(&mut data, state)?;
            Ok(OwnState::Data(data))
        };
        read().map_err(|source| self.spool_error(source))
    }

    fn spool_error(&self, source: std::io::Error) -> StorageError {
        io_error("keep the transaction in a temporary file", self.view.file.path(), source)
    }

    fn check_quota(&self, position: u64) -> Result<()> {
        match self.storage.quota() {
            Some(quota) if position > quota => Err(StorageError::Quota),
            _ => Ok(()),
        }
    }

    /// Writes header, records and the repeated length behind the finished part of the file.
    fn write_voted(&mut self) -> Result<u64> {
        let header = self.header(STATUS_VOTED)?;
        let end = header.next_position(self.view.end).filter(|&end| end < POSITION_LIMIT);
        let end = end.ok_or_else(|| StorageError::Refused("the data file has reached its largest size".to_owned()))?;
        let whole = in_memory(header.len + TRAILER_LEN);
        let mut chunk = Vec::with_capacity(whole.min(WRITE_CHUNK));
        chunk.extend_from_slice(&header.to_bytes());
        for field in [&self.metadata.user, &self.metadata.description, &self.metadata.extension] {
            chunk.extend_from_slice(field);
        }
        let mut position = self.view.end;
        let mut offset = 0;
        while offset < self.records.len {
            if chunk.len() >= WRITE_CHUNK {
                self.view.file.write_all_at(&chunk, position)?;
                position += chunk.len() as u64;
                chunk.clear();
            }
            let filled = chunk.len();
            let room = WRITE_CHUNK.saturating_sub(filled).min(in_memory(self.records.len - offset));
            chunk.resize(filled + room, 0);
            let read = self.records.read_at(chunk.get_mut(filled..).unwrap_or_default(), offset);
            read.map_err(|source| self.spool_error(source))?;
            offset += room as u64;
        }
        chunk.extend_from_slice(&header.len.to_be_bytes());
        self.view.file.write_all_at(&chunk, position)?;
        Ok(end)
    }

    /// Makes sure that nobody else has touched the file, which ends at `end` by now.
    fn check_ours(&self, end: u64) -> Result<()> {
        self.storage.check_ours(&self.lock, &self.view.file, end)
    }

    /// Removes what a vote wrote, or tried to write; nothing that another process may have written.
    fn cut_back(&mut self) {
        self.voted_end = None;
        if let Err(problem) = self.try_cut_back() {
            let reason = format!(
                "a transaction could not be removed from the end of the file: {problem}; restart the server to recover"
            );
            self.storage.poison(&reason);
        }
    }

    fn try_cut_back(&self) -> Result<()> {
        let (file, begin) = (&self.view.file, self.view.end);
        // A tail that was only voted does no harm where it is: the next start cuts it off.
        self.storage.check_place(&self.lock, file)?;
        let voted_end = self.next_position() + TRAILER_LEN;
        let len = file.len()?;
        if !(begin..=voted_end).contains(&len) {
            return self.check_ours(voted_end);
        }
        file.set_len(begin)
    }

    /// Ends all writing after a finish that may or may not have happened.
    fn fail_finish(&self, problem: &StorageError) {
        error!(target: "ZODB.FileStorage", "Failure in tpc_finish of transaction {}: {problem}", self.tid);
        self.storage.poison(&format!("{problem}; restart the server to recover"));
    }

    fn must_not_be_voted(&self, call: &str) -> Result<()> {
        if self.voted_end.is_some() {
            return Err(StorageError::Transaction(format!("{call} called after tpc_vote")));
        }
        Ok(())
    }
}

/// What a new record says of its object.
pub(super) enum NewState<'d> {
    Data(&'d [u8]),
    /// A position with the same state, or zero for "no longer".
    Back(u64),
}

/// What a record of the transaction itself says of its object.
pub(super) enum OwnState {
    Data(Vec<u8>),
    Back(u64),
}

impl Records {
    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.spool.seek(SeekFrom::Start(self.len))?;
        self.spool.write_all(bytes)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.spool.seek(SeekFrom::Start(offset))?;
        self.spool.read_exact(buffer)
    }
}

impl Commit for FileCommit {
    fn store(&mut self, oid: Oid, serial: Tid, data: &[u8]) -> Result<()> {
        self.must_not_be_voted("store")?;
        if data.is_empty() {
            // A record without data and without a back pointer would make all that follow unreadable.
            return Err(StorageError::Refused(format!("an empty record was stored for {oid}")));
        }
        self.storage.raise_oid(oid);
        let previous = self.committed_position(oid)?;
        if previous != 0 {
            let committed = self.committed_tid(oid, previous)?;
            if committed != serial {
                let class_name = class_name(data);
                return Err(StorageError::Conflict { oid, committed, read: serial, class_name });
            }
        }
        let position = self.append_current(oid, self.tid, previous, &NewState::Data(data))?;
        self.check_quota(position)
    }

    fn restore(&mut self, oid: Oid, serial: Tid, data: Option<&[u8]>, same_as: Option<Tid>) -> Result<()> {
        self.must_not_be_voted("restore")?;
        if data.is_some_and(<[u8]>::is_empty) {
            return Err(StorageError::Refused(format!("an empty record was restored for {oid}")));
        }
        self.storage.raise_oid(oid);
        let back = match same_as {
            Some(tid) => self.find_same(oid, tid, data)?,
            None => 0,
        };
        let previous = self.committed_position(oid)?;
        let state = match data {
            Some(data) if back == 0 => NewState::Data(data),
            _ => NewState::Back(back),
        };
        self.append_current(oid, serial, previous, &state).map(drop)
    }

    fn delete(&mut self, oid: Oid, serial: Tid) -> Result<()> {
        self.must_not_be_voted("deleteObject")?;
        let previous = self.committed_position(oid)?;
        if previous == 0 {
            return Err(StorageError::NoSuchObject(oid));
        }
        let committed = self.committed_tid(oid, previous)?;
        if committed != serial {
            return Err(StorageError::Conflict { oid, committed, read: serial, class_name: None });
        }
        let position = self.append_current(oid, self.tid, previous, &NewState::Back(0))?;
        self.check_quota(position)
    }

    fn check_current(&mut self, oid: Oid, serial: Tid) -> Result<()> {
        let committed = self.storage.read_current_tid(oid)?;
        if committed != serial {
            return Err(StorageError::ReadConflict { oid, committed, read: serial });
        }
        Ok(())
    }

    fn tid(&self) -> Tid {
        self.tid
    }

    fn undo(&mut self, tid: Tid) -> Result<Vec<Undone>> {
        self.must_not_be_voted("undo")?;
        self.undo_transaction(tid)
    }

    fn vote(&mut self) -> Result<Vec<Oid>> {
        self.must_not_be_voted("tpc_vote")?;
        self.storage.check_writable()?;
        self.check_ours(self.view.end)?;
        match self.write_voted() {
            Ok(end) => self.voted_end = Some(end),
            Err(error) => {
                self.cut_back();
                return Err(error);
            }
        }
        Ok(Vec::new())
    }

    fn finish(mut self: Box<Self>, publisher: &mut dyn Publisher) -> Result<Tid> {
        let Some(end) = self.voted_end else {
            return Err(StorageError::Transaction("tpc_finish called before tpc_vote".to_owned()));
        };
        self.storage.check_writable()?;
        self.check_ours(end).inspect_err(|problem| self.fail_finish(problem))?;
        let file = &self.view.file;
        let durable = file
            .write_all_at(&[self.status], self.view.end + STATUS_OFFSET)
            .and_then(|()| file.sync())
            // A server that started since the last look has seen the vote only, and cut it off.
            .and_then(|()| self.check_ours(end));
        // Whatever became of it, the drop must not cut it off: a reader may have seen the status.
        self.voted_end = None;
        if let Err(problem) = durable {
            self.fail_finish(&problem);
            return Err(problem);
        }
        let mut positions = Some(std::mem::take(&mut self.positions));
        let (storage, tid) = (Arc::clone(&self.storage), self.tid);
        let mut install = || {
            if let Some(positions) = positions.take() {
                storage.install(tid, end, &positions);
            }
        };
        publisher.publish(tid, &mut install);
        // A publisher that forgot would make the next transaction overwrite this one.
        install();
        Ok(tid)
    }
}

impl Drop for FileCommit {
    fn drop(&mut self) {
        if self.voted_end.is_some() {
            self.cut_back();
            debug!(target: "ZODB.FileStorage", "transaction {} aborted after its vote", self.tid);
        }
        self.storage.deactivate();
    }
}
