//! Transactional undo: new records that take back what one earlier transaction did.
//!
//! Where the object has not changed since, in effect, the new record points back to the revision
//! before the undone one; where that one created the object, it says that there is none. Equal data
//! decides, not equal history. Merging later changes needs conflict resolution, which is not part of
//! this module: such an object fails, with the original's words.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tracing::error;

use super::FileStorage;
use super::commit::{FileCommit, NewState, OwnState};
use super::format::{DataHeader, STATUS_COMMITTED, STATUS_PACKED};
use super::io::Window;
use super::read::{HEAD_READ, data_header_within};
use crate::ids::{Oid, Tid};
use crate::storage::{Result, StorageError, TransactionSummary, UndoFailure, Undone};

/// The original looks for transactions only as long as they end at or behind this position. An empty first
/// transaction may end before it, and is not found.
const SEARCH_LIMIT: u64 = 39;

impl FileCommit {
    pub(super) fn undo_transaction(&mut self, tid: Tid) -> Result<Vec<Undone>> {
        let start = self.find_transaction(tid)?.ok_or_else(|| refusal(None, "Invalid transaction id"))?;
        let (header, _) = self.view.transaction(start)?;
        // It is about to become a packed one. To undo it could bring back references to what is being left out.
        if self.storage.is_being_packed(tid) {
            return Err(refusal(None, "Undo is currently disabled for database maintenance.<p>"));
        }
        if header.status != STATUS_COMMITTED {
            return Err(refusal(None, "non-undoable transaction"));
        }
        let end = start + header.len;
        let mut window = Window::new(Arc::clone(&self.view.file), end);
        let mut position = start + header.full_len();
        // In the order in which the objects first come, as the original answers them.
        let mut undone = Vec::new();
        // An object may come twice. The second record must not meet what this undo wrote for the first.
        let mut positions = BTreeMap::new();
        let mut failures = BTreeMap::new();
        while position < end {
            let (record, next) = data_header_within(&mut window, position, start, end)?;
            // A later record of the same object may succeed where an earlier one failed.
            failures.remove(&record.oid);
            match self.undo_record(position, &record) {
                Ok(undo) => {
                    if positions.insert(record.oid, undo).is_none() {
                        undone.push(record.oid);
                    }
                }
                Err(StorageError::Undo(failure)) => drop(failures.insert(record.oid, (position, failure))),
                Err(error) => return Err(error),
            }
            position = next;
        }
        if failures.is_empty() {
            self.positions.extend(positions);
            return undone.into_iter().map(|oid| self.undone(oid)).collect();
        }
        let mut failures: Vec<_> = failures.into_values().collect();
        failures.sort_by_key(|(position, _)| *position);
        Err(StorageError::MultipleUndo(failures.into_iter().map(|(_, failure)| failure).collect()))
    }

    /// What has become of an object that this transaction undid.
    fn undone(&mut self, oid: Oid) -> Result<Undone> {
        let own = self.positions.get(&oid).copied().unwrap_or(0);
        let mut position = match self.own_state(own)? {
            OwnState::Data(_) => return Ok(Undone { oid, source: Some(self.tid) }),
            OwnState::Back(back) => back,
        };
        let mut buffer = [0; HEAD_READ];
        while position != 0 {
            let head = self.view.head(position, oid, &mut buffer)?;
            if head.header.data_len > 0 {
                return Ok(Undone { oid, source: Some(head.header.tid) });
            }
            position = head.back;
        }
        Ok(Undone { oid, source: None })
    }

    /// Writes what takes back one record; answers where.
    fn undo_record(&mut self, position: u64, undone: &DataHeader) -> Result<u64> {
        let oid = undone.oid;
        let previous = self.view.previous(position, undone)?;
        let committed = self.committed_position(oid)?;
        let current = self.positions.get(&oid).copied();
        if current.unwrap_or(committed) != position {
            let (source, data) = self.current_state(oid, committed, current)?;
            if source != position && !self.is_same(oid, position, source, data)? {
                let reason = if previous == 0 {
                    "Can't undo an add transaction followed by conflicting transactions."
                } else if self.view.data_at(previous, oid)?.is_none() {
                    "_loadBack() failed"
                } else {
                    "Some data were modified by a later transaction"
                };
                return Err(refusal(Some(oid), reason));
            }
        }
        // A zero here undoes the creation: there is no such object any more.
        self.append(oid, self.tid, committed, &NewState::Back(previous))
    }

    /// Where the data of the current record is, and the data itself if it is there without looking.
    fn current_state(&mut self, oid: Oid, committed: u64, current: Option<u64>) -> Result<(u64, Option<Bytes>)> {
        if let Some(position) = current {
            return Ok(match self.own_state(position)? {
                OwnState::Data(data) => (position, Some(data.into())),
                OwnState::Back(back) => (back, None),
            });
        }
        let mut buffer = [0; HEAD_READ];
        let head = self.view.head(committed, oid, &mut buffer)?;
        Ok((if head.header.data_len == 0 { head.back } else { committed }, None))
    }

    /// Whether the undone record and the current one stand for the same data.
    fn is_same(&self, oid: Oid, undone: u64, source: u64, current: Option<Bytes>) -> Result<bool> {
        let undone = self.view.data_at(undone, oid)?;
        let current = match current {
            Some(data) => Some(data),
            None => self.view.data_at(source, oid)?,
        };
        match (undone, current) {
            (Some(undone), Some(current)) => Ok(undone == current),
            _ => Err(refusal(Some(oid), "_loadBack() failed")),
        }
    }

    /// Where transaction `tid` begins.
    fn find_transaction(&self, tid: Tid) -> Result<Option<u64>> {
        let mut position = self.view.end;
        while position > SEARCH_LIMIT {
            position = self.view.transaction_before(position)?;
            if self.view.file.read_u64_at(position)? == tid.0 {
                return Ok(Some(position));
            }
        }
        Ok(None)
    }

    /// The position to point back to instead of writing `data` again; zero if there is none.
    ///
    /// `tid` is a hint: when that transaction is not here, perhaps packed away, the data is written. The original
    /// refuses then, although it calls it a hint, too. Without data there is nothing to fall back on.
    pub(super) fn find_same(&self, oid: Oid, tid: Tid, data: Option<&[u8]>) -> Result<u64> {
        let Some(start) = self.find_transaction(tid)? else {
            return match data {
                Some(_) => Ok(0),
                None => Err(refusal(None, "Invalid transaction id")),
            };
        };
        let (header, _) = self.view.transaction(start)?;
        let end = start + header.len;
        let mut window = Window::new(Arc::clone(&self.view.file), end);
        let mut position = start + header.full_len();
        let mut found = None;
        while position < end {
            let (record, next) = data_header_within(&mut window, position, start, end)?;
            if record.oid == oid {
                found = Some((position, record));
            }
            position = next;
        }
        let Some((position, DataHeader { data_len, .. })) = found else {
            return Ok(0);
        };
        match data {
            _ if data_len == 0 => Ok(position),
            None => Err(StorageError::Refused(format!(
                "{oid} was to be deleted as in transaction {tid}, which has data for it"
            ))),
            Some(data) if data.len() as u64 != data_len => {
                let path = self.view.file.path().display();
                error!(target: "ZODB.FileStorage", "{path}: Mismatch between data and backpointer at {position}");
                Ok(0)
            }
            Some(data) => {
                Ok(if self.view.data_at(position, oid)?.is_some_and(|same| same == data) { position } else { 0 })
            }
        }
    }
}

fn refusal(oid: Option<Oid>, reason: &str) -> StorageError {
    StorageError::Undo(UndoFailure { oid, reason: reason.to_owned() })
}

impl FileStorage {
    pub(super) fn search_undoable(
        &self,
        first: usize,
        last: usize,
        filter: &mut dyn FnMut(&TransactionSummary) -> bool,
    ) -> Result<Vec<TransactionSummary>> {
        let view = self.view()?;
        let mut found = Vec::new();
        let mut accepted = 0;
        let mut position = view.end;
        while accepted < last && position >= SEARCH_LIMIT {
            position = view.transaction_before(position)?;
            let (header, metadata) = view.transaction(position)?;
            match header.status {
                STATUS_COMMITTED => {}
                STATUS_PACKED => break,
                _ => continue,
            }
            let summary = TransactionSummary { tid: header.tid, status: header.status, metadata, size: header.len };
            if filter(&summary) {
                if accepted >= first {
                    found.push(summary);
                }
                accepted += 1;
            }
        }
        Ok(found)
    }
}
