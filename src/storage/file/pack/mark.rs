//! Which objects can be reached: from the root, from what the configuration names, and from everything that was written
//! after the pack time.
//!
//! The last is more than the original does: a client that still had an object which was garbage at the pack time may
//! have linked it anew, and nothing may be left out that such a transaction refers to.
//!
//! What cannot be followed never ends a pack. A reference to an object that is not there leaves nothing out. A record
//! whose references cannot be read may refer to anything, so then no object is left out, only older revisions. Both are
//! counted, and the first ones are named in the log.

use roaring::RoaringTreemap;
use tracing::warn;

use super::super::FileStorage;
use super::super::format::DataHeader;
use super::super::io::Window;
use super::super::read::View;
use super::agenda::Agenda;
use super::pace::Pace;
use super::scan::AsOf;
use crate::ids::Oid;
use crate::pickle::references::ReferenceScanner;
use crate::storage::{FINDINGS_NAMED, PackPhase, Result, StorageError};

/// To read on to a position that is no farther away takes no longer than to begin anew there.
const NEAR: u64 = 8 << 10;
/// Most records are not longer than this.
const SHORT_RECORD: u64 = 2 << 10;

/// What is reached so far.
pub(super) struct Marking<'a> {
    storage: &'a FileStorage,
    view: View,
    as_of: &'a AsOf,
    scanner: ReferenceScanner,
    reached: RoaringTreemap,
    agenda: Agenda,
    found: Found,
}

/// What marking tells.
#[derive(Default)]
pub(super) struct Found {
    /// Objects that are referred to and not there; each counts once.
    pub dangling: u64,
    /// Records whose references could not be read.
    pub undecodable: u64,
    /// About how many bytes the records have that stay, and how many transactions they are in.
    pub record_bytes: u64,
    pub transactions: u64,
    /// The transaction of the record that was counted last.
    transaction: u64,
}

impl Found {
    /// Counts a record that stays, with so much data; answers how long it is going to be.
    pub fn count(&mut self, header: &DataHeader, data_len: u64) -> u64 {
        if header.transaction != self.transaction {
            self.transaction = header.transaction;
            self.transactions += 1;
        }
        let bytes = DataHeader::SIZE + data_len;
        self.record_bytes += bytes;
        bytes
    }
}

impl<'a> Marking<'a> {
    pub fn new(storage: &'a FileStorage, view: View, as_of: &'a AsOf) -> Self {
        let agenda = Agenda::new(view.end);
        Self {
            storage,
            view,
            as_of,
            scanner: ReferenceScanner::default(),
            reached: RoaringTreemap::new(),
            agenda,
            found: Found::default(),
        }
    }

    /// Begins with the root and with what the configuration names.
    ///
    /// Without any of them everything would go; the original dies of a `KeyError` then.
    pub fn roots(&mut self, extra: &[Oid]) -> Result<()> {
        let is_there = |oid: &Oid| self.as_of.table.get(*oid).is_some();
        if self.as_of.table.len() > 0 && !is_there(&Oid::ZERO) && !extra.iter().any(is_there) {
            return Err(StorageError::Refused(format!(
                "{}: there is no root object {} as of the pack time, so that every object would be left out. Pack \
                 without garbage collection (pack-gc false)",
                self.view.file.path().display(),
                Oid::ZERO
            )));
        }
        for &oid in extra.iter().chain([&Oid::ZERO]) {
            if let Some(position) = self.as_of.table.get(oid).filter(|_| self.reached.insert(oid.0)) {
                self.agenda.push(position);
            }
        }
        Ok(())
    }

    /// Reaches all that a record refers to.
    pub fn references(&mut self, from: Oid, data: &[u8]) {
        let Self { scanner, reached, as_of, agenda, found, storage, .. } = self;
        let scanned = scanner.scan(data, |to: Oid| {
            if !reached.insert(to.0) {
                return;
            }
            match as_of.table.get(to) {
                Some(position) => agenda.push(position),
                // One that was made after the pack time is kept anyway.
                None if storage.position(to).is_ok_and(|position| position >= as_of.end) => {}
                None => {
                    found.dangling += 1;
                    if found.dangling <= FINDINGS_NAMED {
                        let name = &storage.name;
                        warn!(target: "ZODB.FileStorage", "{name}: {from} refers to {to}, which does not exist");
                    }
                }
            }
        });
        if let Err(problem) = scanned {
            found.undecodable += 1;
            if found.undecodable <= FINDINGS_NAMED {
                let name = &storage.name;
                warn!(
                    target: "ZODB.FileStorage",
                    "{name}: the references of {from} cannot be read, so that no object is left out: {problem}"
                );
            }
        }
    }

    /// Reaches what the record at `position` refers to, by and by.
    pub fn revision(&mut self, position: u64) {
        self.agenda.push(position);
    }

    /// Follows all references to their end. Answers the objects that are reached, and what was found.
    pub fn follow(mut self, pace: &mut Pace<'_>) -> Result<(RoaringTreemap, Found)> {
        pace.begin(PackPhase::Marking, self.as_of.table.len())?;
        let mut window = Window::new(self.view.file.clone(), self.view.end);
        let mut done = 0;
        while let Some(positions) = self.agenda.take() {
            for run in positions.chunk_by(|one, next| next - one <= NEAR) {
                let end = run.last().map_or(0, |last| last + SHORT_RECORD);
                for &position in run {
                    window.set_read_ahead(end - position);
                    done += 1;
                    pace.step(done, self.read(&mut window, position)?)?;
                }
            }
        }
        for (count, what) in [
            (self.found.dangling, "objects that are referred to and do not exist"),
            (self.found.undecodable, "records whose references cannot be read"),
        ] {
            if count > FINDINGS_NAMED {
                warn!(target: "ZODB.FileStorage", "{}: {count} {what} in all", self.storage.name);
            }
        }
        Ok((self.reached, self.found))
    }

    /// Reads one record; answers how long it is going to be.
    fn read(&mut self, window: &mut Window, position: u64) -> Result<u64> {
        let header = DataHeader::parse(window.bytes(position, DataHeader::SIZE)?);
        let header = header.expect("as many bytes as the header has were read");
        let state = position + DataHeader::SIZE;
        let len = if header.data_len > 0 {
            self.references(header.oid, window.bytes(state, header.data_len)?);
            header.data_len
        } else {
            let data = self.view.data_at(position, header.oid)?.unwrap_or_default();
            if !data.is_empty() {
                self.references(header.oid, &data);
            }
            data.len() as u64
        };
        Ok(self.found.count(&header, len))
    }
}
