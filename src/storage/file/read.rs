//! Reading revisions: one positional read for a current record, no lock held meanwhile.
//!
//! A [`View`] is a data file up to some position. Everything below that position is finished and never
//! changes, so a view stays right however many commits follow. Positions and lengths in the file
//! are checked against the view before they are followed or allocated.

use std::sync::Arc;

use bytes::Bytes;

use super::FileStorage;
use super::format::{BACK_POINTER_LEN, DataHeader, FIRST_TRANSACTION, TRAILER_LEN, TransactionHeader};
use super::io::{DataFile, Window, in_memory};
use crate::ids::{Oid, Tid};
use crate::storage::{CurrentRecord, Invalidations, Metadata, Result, Revision, StorageError, TransactionSummary};

/// Most records fit the first read; those that do not cost a second one.
const FIRST_READ: usize = 4096;
/// Header and back pointer, for whoever does not want the data.
pub(super) const HEAD_READ: usize = DataHeader::LEN + 8;

/// The finished part of a data file.
#[derive(Clone)]
pub(super) struct View {
    pub file: Arc<DataFile>,
    pub end: u64,
}

/// A data record's header, and what of the record came with the same read.
pub(super) struct Head<'b> {
    pub position: u64,
    pub header: DataHeader,
    /// The back pointer; zero if there is data instead, or no object.
    pub back: u64,
    data: &'b [u8],
}

impl Head<'_> {
    /// Whether the object does not exist as of this revision.
    pub fn is_deletion(&self) -> bool {
        self.header.data_len == 0 && self.back == 0
    }
}

impl View {
    /// The data record at `position`, which must be one of `oid`.
    pub fn head<'b>(&self, position: u64, oid: Oid, buffer: &'b mut [u8]) -> Result<Head<'b>> {
        let available = self.end.saturating_sub(position);
        let wanted = in_memory(available).min(buffer.len());
        let buffer = buffer.get_mut(..wanted).unwrap_or_default();
        let read = self.file.read_at(buffer, position)?;
        let bytes = buffer.get(..read).unwrap_or_default();

        let header = DataHeader::parse(bytes)
            .ok_or_else(|| self.file.corrupted(position, "the file ends inside of a data record"))?;
        if header.oid != oid {
            let problem = format!("a data record of {} instead of {oid}", header.oid);
            return Err(self.file.corrupted(position, problem));
        }
        check_version(&self.file, position, &header)?;
        if header.next_position(position).is_none_or(|next| next > self.end) {
            return Err(self.file.corrupted(position, "a data record leads beyond the end of the file"));
        }
        let data = bytes.get(DataHeader::LEN..).unwrap_or_default();
        let back = match (header.data_len, data.first_chunk()) {
            (0, Some(&back)) => u64::from_be_bytes(back),
            (0, None) => {
                return Err(self.file.corrupted(position, "the file ends inside of a back pointer"));
            }
            _ => 0,
        };
        if back >= position {
            return Err(self.file.corrupted(position, "the back pointer does not lead back"));
        }
        Ok(Head { position, header, back, data })
    }

    /// Where the revision before this one is; zero if there is none. Checked here and not in [`head`](Self::head):
    /// a record is good even if damage or an old recovery tool left it a wrong past.
    pub fn previous(&self, position: u64, header: &DataHeader) -> Result<u64> {
        if header.previous >= position {
            return Err(self.file.corrupted(position, "the previous revision is not before this one"));
        }
        Ok(header.previous)
    }

    /// The object record of a revision, through its back pointers; `None` if they end in a deletion.
    pub fn data(&self, head: &Head<'_>) -> Result<Option<Bytes>> {
        if head.header.data_len > 0 {
            return self.own_data(head).map(Some);
        }
        self.data_at(head.back, head.header.oid)
    }

    /// The object record that a back pointer of `oid` to `position` means.
    pub fn data_at(&self, mut position: u64, oid: Oid) -> Result<Option<Bytes>> {
        let mut buffer = [0; FIRST_READ];
        while position != 0 {
            let head = self.head(position, oid, &mut buffer)?;
            if head.header.data_len > 0 {
                return self.own_data(&head).map(Some);
            }
            // Smaller with each step, or head() had refused: this ends.
            position = head.back;
        }
        Ok(None)
    }

    fn own_data(&self, head: &Head<'_>) -> Result<Bytes> {
        let len = in_memory(head.header.data_len);
        if let Some(data) = head.data.get(..len) {
            return Ok(Bytes::copy_from_slice(data));
        }
        let mut data = vec![0; len];
        let (start, rest) = data.split_at_mut(head.data.len());
        start.copy_from_slice(head.data);
        let rest_position = head.position + DataHeader::SIZE + start.len() as u64;
        self.file.read_exact_at(rest, rest_position)?;
        Ok(data.into())
    }

    /// The transaction that begins at `position`, with its metadata.
    pub fn transaction(&self, position: u64) -> Result<(TransactionHeader, Metadata)> {
        // The metadata is nearly always short enough to come along.
        let mut buffer = [0; 512];
        let available = in_memory(self.end.saturating_sub(position)).min(buffer.len());
        let buffer = buffer.get_mut(..available).unwrap_or_default();
        let read = self.file.read_at(buffer, position)?;
        let bytes = buffer.get(..read).unwrap_or_default();
        let header = TransactionHeader::parse(bytes)
            .ok_or_else(|| self.file.corrupted(position, "the file ends inside of a transaction header"))?;
        if header.full_len() > header.len || header.next_position(position).is_none_or(|next| next > self.end) {
            return Err(self.file.corrupted(position, "a transaction length that cannot be"));
        }
        let mut strings = vec![0; in_memory(header.metadata_len())];
        match bytes.get(TransactionHeader::LEN..TransactionHeader::LEN + strings.len()) {
            Some(read) => strings.copy_from_slice(read),
            None => self.file.read_exact_at(&mut strings, position + TransactionHeader::SIZE)?,
        }
        let mut description = Bytes::from(strings);
        let user = description.split_to(usize::from(header.user_len));
        let extension = description.split_off(usize::from(header.description_len));
        Ok((header, Metadata { user, description, extension }))
    }

    /// Where the transaction begins that ends at `end`.
    pub fn transaction_before(&self, end: u64) -> Result<u64> {
        let trailer = end.saturating_sub(TRAILER_LEN);
        let len = self.file.read_u64_at(trailer)?;
        let start = trailer.checked_sub(len).filter(|&start| start >= FIRST_TRANSACTION && len > 0);
        start.ok_or_else(|| self.file.corrupted(trailer, "a transaction length that cannot be"))
    }
}

/// Refuses records of the versions that ZODB 3.8 still had.
pub(super) fn check_version(file: &DataFile, position: u64, header: &DataHeader) -> Result<()> {
    if header.version_len == 0 {
        return Ok(());
    }
    let problem = "a record with a version, which ZODB has not supported since 3.9; \
                   strip_versions of ZODB 3.8 converts such files";
    Err(file.corrupted(position, problem))
}

impl FileStorage {
    pub(super) fn read_revision(&self, oid: Oid, before: Tid) -> Result<Option<Revision>> {
        let (view, mut position) = self.locate(oid)?;
        let mut buffer = [0; FIRST_READ];
        let mut end = None;
        loop {
            let head = view.head(position, oid, &mut buffer)?;
            let tid = head.header.tid;
            if tid < before {
                let data = view.data(&head)?.ok_or(StorageError::NoSuchObject(oid))?;
                return Ok(Some(Revision { data, tid, end }));
            }
            end = Some(tid);
            position = view.previous(position, &head.header)?;
            if position == 0 {
                return Ok(None);
            }
        }
    }

    pub(super) fn read_serial(&self, oid: Oid, serial: Tid) -> Result<Bytes> {
        let (view, mut position) = self.locate(oid)?;
        let mut buffer = [0; FIRST_READ];
        loop {
            let head = view.head(position, oid, &mut buffer)?;
            let tid = head.header.tid;
            if tid == serial {
                return view.data(&head)?.ok_or(StorageError::NoSuchObject(oid));
            }
            position = view.previous(position, &head.header)?;
            if tid < serial || position == 0 {
                return Err(StorageError::NoSuchObject(oid));
            }
        }
    }

    pub(super) fn read_current_tid(&self, oid: Oid) -> Result<Tid> {
        let (view, position) = self.locate(oid)?;
        let mut buffer = [0; HEAD_READ];
        let head = view.head(position, oid, &mut buffer)?;
        if head.is_deletion() {
            return Err(StorageError::NoSuchObject(oid));
        }
        Ok(head.header.tid)
    }

    pub(super) fn read_history(&self, oid: Oid, size: usize) -> Result<Vec<TransactionSummary>> {
        let (view, mut position) = self.locate(oid)?;
        let mut buffer = [0; HEAD_READ];
        let mut revisions = Vec::new();
        while position != 0 && revisions.len() < size {
            let record = view.head(position, oid, &mut buffer)?.header;
            let (header, metadata) = view.transaction(record.transaction)?;
            let (tid, size) = (record.tid, record.data_len);
            revisions.push(TransactionSummary { tid, status: header.status, metadata, size });
            position = view.previous(position, &record)?;
        }
        Ok(revisions)
    }

    /// A deleted object ends the traversal with an error, as in the original: the record has no place for
    /// an object without data, and a client cannot be told to skip an oid it does not see.
    pub(super) fn read_next_current(&self, from: Option<Oid>) -> Result<Option<CurrentRecord>> {
        let (view, first, next) = self.locate_from(from.unwrap_or(Oid::ZERO))?;
        let Some((oid, position)) = first else {
            return Ok(None);
        };
        let mut buffer = [0; FIRST_READ];
        let head = view.head(position, oid, &mut buffer)?;
        let data = view.data(&head)?.ok_or(StorageError::NoSuchObject(oid))?;
        Ok(Some(CurrentRecord { oid, tid: head.header.tid, data, next }))
    }

    pub(super) fn read_last_invalidations(&self, count: usize) -> Result<Invalidations> {
        let view = self.view()?;
        let mut position = view.end;
        for _ in 0..count {
            if position <= FIRST_TRANSACTION {
                break;
            }
            position = view.transaction_before(position)?;
        }
        let mut transactions = super::iterate::FileTransactions::from_position(view, position);
        let mut invalidations = Vec::new();
        while let Some((summary, mut records)) = transactions.next()? {
            let mut oids = Vec::new();
            while let Some(oid) = records.next_oid()? {
                oids.push(oid);
            }
            invalidations.push((summary.tid, oids));
        }
        Ok(invalidations)
    }
}

/// Reads the data header at `position` of a transaction that begins at `transaction` and ends at `end`.
/// Answers the header and where the next record begins.
pub(super) fn data_header_within(
    window: &mut Window,
    position: u64,
    transaction: u64,
    end: u64,
) -> Result<(DataHeader, u64)> {
    let header = match position.checked_add(DataHeader::SIZE) {
        Some(header_end) if header_end <= end => DataHeader::parse(window.bytes(position, DataHeader::SIZE)?),
        _ => None,
    };
    let exceeds = |file: &DataFile| file.corrupted(position, "the data record exceeds its transaction record");
    let Some(header) = header else {
        return Err(exceeds(window.file()));
    };
    check_version(window.file(), position, &header)?;
    match header.next_position(position) {
        Some(next) if next <= end && header.transaction == transaction => Ok((header, next)),
        _ => Err(exceeds(window.file())),
    }
}

const _: () = assert!(HEAD_READ as u64 == DataHeader::SIZE + BACK_POINTER_LEN);
