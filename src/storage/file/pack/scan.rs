//! What the database was at the pack time, and what came after it.
//!
//! The scan makes one table, oid to position of the record that was current then. It stays the only table: what is not
//! reached is removed from it, and the copy writes the new positions over the old ones, until it is the new index.

use std::collections::BTreeMap;

use tracing::warn;

use super::super::format::{FIRST_TRANSACTION, STATUS_PACKED, STATUS_UNDONE};
use super::super::index::Index;
use super::super::read::{HEAD_READ, View};
use super::pace::Pace;
use super::walk::{RecordAt, Walk};
use crate::ids::{Oid, Tid};
use crate::storage::{FINDINGS_NAMED, PackPhase, Result};

/// The database as of the pack time.
pub(super) struct AsOf {
    /// Where the record of each object is that was current; deleted objects are not there.
    pub table: Index,
    /// Where the first later transaction begins.
    pub end: u64,
    /// It was packed to a later time before, or nothing has changed since.
    pub redundant: bool,
    /// There are only records with data, in transactions that have some: to copy all would change nothing.
    pub plain: bool,
    /// How many records there are.
    pub records: u64,
    /// How many transactions, and the bytes of them that are no records.
    pub transactions: u64,
    pub transaction_bytes: u64,
}

/// Reads all transactions up to the pack time.
pub(super) fn scan(view: &View, stop: Tid, pace: &mut Pace<'_>) -> Result<AsOf> {
    let mut walk = Walk::new(view);
    let mut found = AsOf {
        table: Index::default(),
        end: FIRST_TRANSACTION,
        redundant: false,
        plain: true,
        records: 0,
        transactions: 0,
        transaction_bytes: 0,
    };
    let mut unpacked = false;
    let mut last_status = None;
    let (mut last_tid, mut reductions) = (Tid::ZERO, 0);
    let path = view.file.path().display();
    pace.begin(PackPhase::Scanning, view.end)?;
    while found.end < view.end {
        let transaction = walk.transaction(found.end)?;
        let header = transaction.header;
        last_status = Some(header.status);
        if header.tid > stop {
            break;
        }
        if header.tid <= last_tid {
            reductions += 1;
            if reductions <= FINDINGS_NAMED {
                warn!(target: "ZODB.FileStorage", "{path} time-stamp reduction at {}", found.end);
            }
        }
        last_tid = header.tid;
        unpacked |= header.status != STATUS_PACKED;
        found.transactions += 1;
        found.transaction_bytes += transaction.next - transaction.end + header.full_len();
        // Undone in place by a very old version: it does not count, neither when the file is opened.
        let counts = header.status != STATUS_UNDONE;
        found.plain &= counts && transaction.first < transaction.end;
        let mut position = transaction.first;
        while counts && position < transaction.end {
            let record = walk.record(&transaction, position)?;
            found.records += 1;
            found.plain &= record.header.data_len > 0;
            if record.is_deletion() {
                found.table.remove(record.header.oid);
            } else {
                found.table.insert(record.header.oid, position);
            }
            position = record.next;
            pace.step(position, record.next - record.position)?;
        }
        walk.check_end(&transaction)?;
        found.end = transaction.next;
    }
    if reductions > FINDINGS_NAMED {
        warn!(target: "ZODB.FileStorage", "{path}: {reductions} time-stamp reductions in all");
    }
    found.redundant = !unpacked && last_status == Some(STATUS_PACKED);
    Ok(found)
}

/// Revisions before the pack time that later ones point back to, by their positions.
pub(super) type Targets = BTreeMap<u64, Target>;

/// One of them.
pub(super) struct Target {
    pub oid: Oid,
    /// Where it is in the new file, once it is there.
    pub copied_to: Option<u64>,
}

/// Reads the transactions after the pack time: notes what they point back to, and shows each record that has data.
pub(super) fn scan_later(
    view: &View,
    from: u64,
    pace: &mut Pace<'_>,
    mut data: impl FnMut(Oid, &[u8]),
) -> Result<Targets> {
    let mut walk = Walk::new(view);
    let mut targets = Targets::new();
    let mut start = from;
    while start < view.end {
        let transaction = walk.transaction(start)?;
        let mut position = transaction.first;
        while transaction.header.status != STATUS_UNDONE && position < transaction.end {
            let record @ RecordAt { back, .. } = walk.record(&transaction, position)?;
            let oid = record.header.oid;
            if record.header.data_len > 0 {
                data(oid, walk.window.bytes(record.state_position(), record.header.data_len)?);
            } else if back > 0 && back < from && !targets.contains_key(&back) {
                view.head(back, oid, &mut [0; HEAD_READ])?;
                targets.insert(back, Target { oid, copied_to: None });
            }
            position = record.next;
            pace.step(position, record.next - record.position)?;
        }
        walk.check_end(&transaction)?;
        start = transaction.next;
    }
    Ok(targets)
}
