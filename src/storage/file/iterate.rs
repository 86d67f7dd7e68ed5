//! Transactions and their records in file order.
//!
//! An iterator sees what was finished when it was made: later transactions come after its end, and a
//! voted tail was never before it. It holds the data file open, so it also survives a pack.

use std::sync::Arc;

use tracing::warn;

use super::FileStorage;
use super::format::{
    BACK_POINTER_LEN, DataHeader, FIRST_TRANSACTION, STATUS_COMMITTED, STATUS_PACKED, STATUS_UNDONE, STATUS_VOTED,
};
use super::io::Window;
use super::read::{HEAD_READ, View, data_header_within};
use crate::ids::{Oid, Tid};
use crate::storage::{IteratedRecord, Records, Result, TransactionSummary, Transactions};

/// The transactions of a [`View`].
pub(super) struct FileTransactions {
    view: View,
    position: u64,
    stop: Tid,
    last_tid: Tid,
}

impl FileTransactions {
    /// From the transaction that begins at `position`.
    pub fn from_position(view: View, position: u64) -> Self {
        Self { view, position, stop: Tid(u64::MAX), last_tid: Tid::ZERO }
    }

    /// The next transaction that counts, its records, or `None` at the end.
    pub fn next(&mut self) -> Result<Option<(TransactionSummary, FileRecords)>> {
        while self.position < self.view.end {
            let start = self.position;
            let (header, metadata) = self.view.transaction(start)?;
            let path = self.view.file.path().display();
            if header.tid <= self.last_tid {
                warn!(target: "ZODB.FileStorage", "{path} time-stamp reduction at {start}");
            }
            self.last_tid = header.tid;
            if header.tid > self.stop || header.status == STATUS_VOTED {
                break;
            }
            let end = start + header.len;
            if self.view.file.read_u64_at(end)? != header.len {
                return Err(self.view.file.corrupted(end, "redundant transaction length check failed"));
            }
            self.position = header.next_position(start).unwrap_or(self.view.end);
            if header.status == STATUS_UNDONE {
                continue;
            }
            if ![STATUS_COMMITTED, STATUS_PACKED].contains(&header.status) {
                let status = header.status.escape_ascii();
                warn!(target: "ZODB.FileStorage", "{path} has invalid status, {status}, at {start}");
            }
            let records = FileRecords {
                window: Window::new(Arc::clone(&self.view.file), end),
                view: self.view.clone(),
                position: start + header.full_len(),
                transaction: start,
                end,
            };
            let summary = TransactionSummary { tid: header.tid, status: header.status, metadata, size: header.len };
            return Ok(Some((summary, records)));
        }
        self.position = self.view.end;
        Ok(None)
    }

    /// Goes to the first transaction at or after `start`, from the end of the file that is nearer in time.
    fn skip_to(&mut self, start: Tid) -> Result<()> {
        if self.view.end <= FIRST_TRANSACTION {
            return Ok(());
        }
        let newest = self.view.transaction_before(self.view.end)?;
        let (first_tid, newest_tid) = (self.tid_at(FIRST_TRANSACTION)?, self.tid_at(newest)?);
        let since_first = start.to_unix_seconds() - first_tid.to_unix_seconds();
        let until_newest = newest_tid.to_unix_seconds() - start.to_unix_seconds();
        if since_first < until_newest {
            while self.position < self.view.end && self.tid_at(self.position)? < start {
                let (header, _) = self.view.transaction(self.position)?;
                self.position = header.next_position(self.position).unwrap_or(self.view.end);
            }
        } else {
            self.position = self.view.end;
            while self.position > FIRST_TRANSACTION {
                let before = self.view.transaction_before(self.position)?;
                if self.tid_at(before)? < start {
                    break;
                }
                self.position = before;
            }
        }
        Ok(())
    }

    fn tid_at(&self, position: u64) -> Result<Tid> {
        self.view.file.read_u64_at(position).map(Tid)
    }
}

impl Transactions for FileTransactions {
    fn next(&mut self) -> Result<Option<(TransactionSummary, Box<dyn Records>)>> {
        let next = FileTransactions::next(self)?;
        Ok(next.map(|(summary, records)| (summary, Box::new(records) as Box<dyn Records>)))
    }
}

/// The records of one transaction.
pub(super) struct FileRecords {
    window: Window,
    view: View,
    position: u64,
    transaction: u64,
    end: u64,
}

impl FileRecords {
    /// The object of the next record, which is passed over.
    pub fn next_oid(&mut self) -> Result<Option<Oid>> {
        Ok(self.next_header()?.map(|(_, header)| header.oid))
    }

    fn next_header(&mut self) -> Result<Option<(u64, DataHeader)>> {
        let position = self.position;
        if position >= self.end {
            return Ok(None);
        }
        let (header, next) = data_header_within(&mut self.window, position, self.transaction, self.end)?;
        self.position = next;
        Ok(Some((position, header)))
    }
}

impl Records for FileRecords {
    fn next(&mut self) -> Result<Option<IteratedRecord>> {
        let Some((position, DataHeader { oid, tid, data_len, .. })) = self.next_header()? else {
            return Ok(None);
        };
        let state_position = position + DataHeader::SIZE;
        if data_len > 0 {
            let data = self.window.bytes(state_position, data_len)?;
            let data = Some(bytes::Bytes::copy_from_slice(data));
            return Ok(Some(IteratedRecord { oid, tid, data, data_txn: None }));
        }
        let back = self.window.bytes(state_position, BACK_POINTER_LEN)?;
        let back = back.try_into().map(u64::from_be_bytes).unwrap_or_default();
        if back == 0 {
            return Ok(Some(IteratedRecord { oid, tid, data: None, data_txn: None }));
        }
        // Only one step back is told, as in the original: a copy then points to the same revision.
        let mut buffer = [0; HEAD_READ];
        let target = self.view.head(back, oid, &mut buffer)?;
        let data_txn = Some(target.header.tid);
        Ok(Some(IteratedRecord { oid, tid, data: self.view.data(&target)?, data_txn }))
    }
}

impl FileStorage {
    pub(super) fn transactions(&self, start: Option<Tid>, stop: Option<Tid>) -> Result<FileTransactions> {
        let mut transactions = FileTransactions::from_position(self.view()?, FIRST_TRANSACTION);
        if let Some(start) = start {
            transactions.skip_to(start)?;
        }
        transactions.stop = stop.unwrap_or(Tid(u64::MAX));
        Ok(transactions)
    }
}
