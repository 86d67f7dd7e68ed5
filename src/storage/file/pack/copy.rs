//! Copies what stays of the transactions up to the pack time.
//!
//! A record that stays has its data itself, no past, and the tid that it had. A transaction of which nothing stays
//! vanishes; but the newest of all is kept, empty, so that the last tid of the storage does not go back at the next
//! start, and clients find their caches newer than the server.

use std::collections::{BTreeSet, HashMap};

use super::super::format::{DataHeader, STATUS_PACKED, STATUS_UNDONE, TransactionHeader};
use super::super::index::Index;
use super::super::read::{HEAD_READ, View};
use super::output::Output;
use super::pace::Pace;
use super::scan::Targets;
use super::walk::{READ_AHEAD, RecordAt, TransactionAt, Walk};
use crate::ids::Oid;
use crate::pickle::record::{MAX_CLASS_PICKLE, is_blob_record};
use crate::storage::{PackPhase, Result};

/// What is known while the first part is copied.
pub(super) struct Copier<'a, 'h> {
    pub view: &'a View,
    /// Old positions of what stays, which become the new ones.
    pub table: &'a mut Index,
    pub targets: &'a mut Targets,
    pub output: &'a mut Output,
    pub pace: &'a mut Pace<'h>,
}

impl Copier<'_, '_> {
    /// Copies the transactions from `start` to the pack time, where `end` is.
    pub fn copy(&mut self, mut start: u64, end: u64) -> Result<()> {
        let mut walk = Walk::new(self.view);
        // Objects of which only older revisions stay. They come into the table at the end, where new positions
        // cannot be taken for old ones.
        let mut only_older = HashMap::new();
        let older = self.pace.has_blobs().then(|| Older::of(self.targets));
        self.pace.begin(PackPhase::Copying, end)?;
        while start < end {
            let transaction = walk.transaction(start)?;
            let mut copied_to = None;
            let mut position = transaction.first;
            while transaction.header.status != STATUS_UNDONE && position < transaction.end {
                let record = walk.record(&transaction, position)?;
                let oid = record.header.oid;
                let written_before = self.output.position();
                let is_current = self.table.get(oid) == Some(position);
                if is_current || self.targets.contains_key(&position) {
                    let begun = match copied_to {
                        Some(begun) => begun,
                        None => *copied_to.insert(self.begin(&mut walk, &transaction)?),
                    };
                    let new_position = self.record(&mut walk, &record, begun)?;
                    if let Some(target) = self.targets.get_mut(&position) {
                        target.copied_to = Some(new_position);
                    }
                    if is_current {
                        self.table.insert(oid, new_position);
                    } else if self.table.get(oid).is_none() {
                        only_older.insert(oid, new_position);
                    }
                } else if let Some(older) = &older {
                    self.leave_out_blob(&mut walk, &record, older)?;
                }
                position = record.next;
                let written = self.output.position() - written_before;
                self.pace.step(position, record.next - record.position + written)?;
            }
            walk.check_end(&transaction)?;
            if copied_to.is_none() && transaction.next == self.view.end {
                copied_to = Some(self.begin(&mut walk, &transaction)?);
            }
            if let Some(begun) = copied_to {
                self.output.end_transaction(begun, &transaction.header)?;
            }
            start = transaction.next;
        }
        for (oid, position) in only_older {
            self.table.insert(oid, position);
        }
        Ok(())
    }

    /// Writes the head of a transaction; answers where.
    fn begin(&mut self, walk: &mut Walk, transaction: &TransactionAt) -> Result<u64> {
        let begun = self.output.position();
        let header = TransactionHeader { status: STATUS_PACKED, ..transaction.header };
        self.output.write(&header.to_bytes())?;
        let metadata = transaction.start + TransactionHeader::SIZE;
        self.output.write(walk.window.bytes(metadata, header.metadata_len())?)?;
        Ok(begun)
    }

    /// Writes a record with its data; answers where.
    fn record(&mut self, walk: &mut Walk, record: &RecordAt, transaction: u64) -> Result<u64> {
        let new_position = self.output.position();
        let header = DataHeader { previous: 0, transaction, ..record.header };
        if header.data_len > 0 {
            self.output.record(&header)?;
            copy_data(walk, record, self.output)?;
        } else {
            write_state(self.output, header, self.view.data_at(record.back, header.oid)?.as_deref())?;
        }
        Ok(new_position)
    }

    /// Tells of a revision that is left out if it is one of a blob.
    fn leave_out_blob(&mut self, walk: &mut Walk, record: &RecordAt, older: &Older) -> Result<()> {
        let DataHeader { oid, tid, data_len, .. } = record.header;
        let is_blob = if data_len > 0 {
            is_blob_record(walk.window.bytes(record.state_position(), data_len.min(MAX_CLASS_PICKLE as u64))?)
        } else {
            self.view.data_at(record.back, oid)?.is_some_and(|data| is_blob_record(&data))
        };
        if !is_blob {
            return Ok(());
        }
        // Clients store a blob twice in one transaction; both records stand for one file. The current one is not
        // copied yet: nothing that has data comes between it and the pack time.
        let current = self.table.get(oid);
        for position in current.into_iter().chain(older.of_object(oid)) {
            if self.view.head(position, oid, &mut [0; HEAD_READ])?.header.tid == tid {
                return Ok(());
            }
        }
        let whole_object = current.is_none() && older.of_object(oid).next().is_none();
        self.pace.blob_removed(oid, tid, whole_object)
    }
}

/// The positions of targets by their objects.
struct Older(BTreeSet<(Oid, u64)>);

impl Older {
    fn of(targets: &Targets) -> Self {
        Self(targets.iter().map(|(&position, target)| (target.oid, position)).collect())
    }

    fn of_object(&self, oid: Oid) -> impl Iterator<Item = u64> {
        self.0.range((oid, 0)..=(oid, u64::MAX)).map(|&(_, position)| position)
    }
}

/// Copies the data of a record, piece by piece if it is long.
pub(super) fn copy_data(walk: &mut Walk, record: &RecordAt, output: &mut Output) -> Result<()> {
    let mut position = record.state_position();
    while position < record.next {
        let len = READ_AHEAD.min(record.next - position);
        output.write(walk.window.bytes(position, len)?)?;
        position += len;
    }
    Ok(())
}

/// Writes a record that had a back pointer, with the data that it led to; `None` for a deletion.
pub(super) fn write_state(output: &mut Output, header: DataHeader, data: Option<&[u8]>) -> Result<()> {
    output.record(&DataHeader { data_len: data.map_or(0, |data| data.len() as u64), ..header })?;
    output.write(data.unwrap_or(&0_u64.to_be_bytes()))
}
