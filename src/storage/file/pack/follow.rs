//! Copies the transactions after the pack time, in as many rounds as there are: those that were there when the pack
//! began, those that came meanwhile, and the last few while no transaction can come.
//!
//! They are copied whole, so positions move by a constant. `previous` is taken from the table, as it grows. A back
//! pointer to a revision before the pack time needs that one's new position. One that came during the pack may point to
//! a revision that is left out; then the data takes its place, and from there on positions move by another constant.
//!
//! A transaction that came during the pack may also refer to an object that is left out, whose record is not copied
//! any more. So the pack fails as soon as that is seen, and with the next one the reference is seen in time. It does
//! not help that the object was written after the pack time: an undo of that would find nothing to bring back, and
//! delete it. Only what one transaction both refers to and writes may go, since its undo takes back both.

use roaring::RoaringTreemap;

use super::super::format::{DataHeader, STATUS_UNDONE, TransactionHeader};
use super::super::index::Index;
use super::super::read::View;
use super::copy::{copy_data, write_state};
use super::output::Output;
use super::pace::Pace;
use super::scan::Targets;
use super::walk::{RecordAt, Walk};
use crate::ids::{Oid, Tid};
use crate::pickle::references::ReferenceScanner;
use crate::storage::{Result, StorageError};

/// Copies what follows the pack time.
pub(super) struct Follower {
    /// Where the pack time is.
    from: u64,
    /// Up to where all is copied.
    copied: u64,
    /// Up to here references were roots of the marking.
    marked: u64,
    pub table: Index,
    targets: Targets,
    pub output: Output,
    /// Old and new position of each stretch within which positions move by a constant.
    stretches: Vec<(u64, u64)>,
    /// Objects that were there at the pack time, and whose records of that time are not copied.
    left_out: RoaringTreemap,
    scanner: ReferenceScanner,
}

/// A reference to an object that is left out.
struct Relinked {
    by: Oid,
    to: Oid,
}

impl Follower {
    /// Goes on from the pack time, where `from` is. The references of what is in `marked` were looked at already.
    pub fn new(
        (from, marked): (u64, &View),
        (table, targets): (Index, Targets),
        output: Output,
        left_out: RoaringTreemap,
    ) -> Self {
        Self {
            from,
            copied: from,
            marked: marked.end,
            table,
            targets,
            stretches: vec![(from, output.position())],
            output,
            left_out,
            scanner: ReferenceScanner::default(),
        }
    }

    /// How many bytes of `view` are not copied yet.
    pub fn left(&self, view: &View) -> u64 {
        view.end.saturating_sub(self.copied)
    }

    /// Copies all that is in `view` by now.
    pub fn copy(&mut self, view: &View, mut pace: Option<&mut Pace<'_>>) -> Result<()> {
        let mut walk = Walk::new(view);
        let begun_at = self.copied;
        while self.copied < view.end {
            let transaction = walk.transaction(self.copied)?;
            let counts = transaction.header.status != STATUS_UNDONE;
            let begun = self.output.position();
            self.output.write(&transaction.header.to_bytes())?;
            let metadata = transaction.start + TransactionHeader::SIZE;
            self.output.write(walk.window.bytes(metadata, transaction.header.metadata_len())?)?;
            let mut updates = Vec::new();
            let mut relinked = Vec::new();
            let mut position = transaction.first;
            while position < transaction.end {
                let record = walk.record(&transaction, position)?;
                let written_to = self.output.position();
                updates.push((record.header.oid, written_to));
                self.record(view, &mut walk, &record, begun)?;
                if counts && position >= self.marked && !self.left_out.is_empty() {
                    self.references(view, &mut walk, &record, &mut relinked)?;
                }
                position = record.next;
                if let Some(pace) = &mut pace {
                    let written = self.output.position() - written_to;
                    pace.step(position - begun_at, record.next - record.position + written)?;
                }
            }
            walk.check_end(&transaction)?;
            self.output.end_transaction(begun, &transaction.header)?;
            if counts {
                for (oid, position) in updates {
                    self.table.insert(oid, position);
                }
            }
            self.check_relinked(&relinked, begun, transaction.header.tid)?;
            self.copied = transaction.next;
        }
        Ok(())
    }

    fn record(&mut self, view: &View, walk: &mut Walk, record: &RecordAt, transaction: u64) -> Result<()> {
        let previous = self.table.get(record.header.oid).unwrap_or(0);
        let header = DataHeader { previous, transaction, ..record.header };
        if header.data_len > 0 {
            self.output.record(&header)?;
            return copy_data(walk, record, &mut self.output);
        }
        if let Some(back) = self.new_position(record.back) {
            self.output.record(&header)?;
            return self.output.write(&back.to_be_bytes());
        }
        write_state(&mut self.output, header, view.data_at(record.back, header.oid)?.as_deref())?;
        self.stretches.push((record.next, self.output.position()));
        Ok(())
    }

    /// Where a record is that is copied already. `None` if it is left out; zero stays zero.
    fn new_position(&self, position: u64) -> Option<u64> {
        if position < self.from {
            return if position == 0 { Some(0) } else { self.targets.get(&position)?.copied_to };
        }
        let after = self.stretches.partition_point(|(old, _)| *old <= position);
        let (old, new) = self.stretches.get(after.checked_sub(1)?)?;
        Some(new + (position - old))
    }

    /// Notes what the record refers to and is left out.
    fn references(
        &mut self,
        view: &View,
        walk: &mut Walk,
        record: &RecordAt,
        relinked: &mut Vec<Relinked>,
    ) -> Result<()> {
        let Self { scanner, left_out, .. } = self;
        let by = record.header.oid;
        let note = |to: Oid| {
            if left_out.contains(to.0) {
                relinked.push(Relinked { by, to });
            }
        };
        let scanned = if record.header.data_len > 0 {
            scanner.scan(walk.window.bytes(record.state_position(), record.header.data_len)?, note)
        } else {
            view.data_at(record.back, by)?.map_or(Ok(()), |data| scanner.scan(&data, note))
        };
        scanned.map_err(|problem| {
            StorageError::Refused(format!(
                "the references of {by}, written in transaction {} during the pack, cannot be read: {problem}. Nothing \
                 has changed; the next pack will leave no object out",
                record.header.tid
            ))
        })
    }

    /// Fails if a transaction, copied to where it `begun`, refers to what is left out and does not write it itself.
    fn check_relinked(&self, relinked: &[Relinked], begun: u64, tid: Tid) -> Result<()> {
        let writes = |to: Oid| self.table.get(to).is_some_and(|position| position > begun);
        match relinked.iter().find(|relinked| !writes(relinked.to)) {
            None => Ok(()),
            Some(Relinked { by, to }) => Err(StorageError::Refused(format!(
                "nothing has changed, pack again: transaction {tid}, which came during the pack, made {by} refer to \
                 {to}, to which nothing had referred at the pack time, so that it would be left out"
            ))),
        }
    }
}
