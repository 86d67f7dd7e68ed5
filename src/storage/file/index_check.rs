//! Whether an index agrees with its data file: by our judgement, and by that of Python, which is stricter.
//!
//! Both look at the first records of the newest transaction before the position that the index was saved with.
//! Where it stored an object twice, as clients with blobs do, the index names the second record. Python expects it
//! to name both, and scans the whole file at every start until another transaction is there. So such an index
//! is not saved, but an earlier one that Python takes: both then read only what came since.
//!
//! This module decides and takes back; it reads the data file, and writes nothing.

use super::format::{
    DataHeader, FIRST_TRANSACTION, STATUS_COMMITTED, STATUS_PACKED, STATUS_UNDONE, TRAILER_LEN, TransactionHeader,
};
use super::index::Index;
use super::index_file::Saved;
use super::io::Window;
use super::read::{View, data_header_within};
use crate::ids::Tid;
use crate::storage::Result;

/// The original rebuilds rather than trust an index of so small a file.
pub(super) const SMALLEST_END: u64 = 100;
/// How many records of the newest transaction are compared with the index.
const CHECKED_RECORDS: usize = 5;
/// How far an index is taken back: what takes seconds to read, as against minutes for a file of some size.
const REWIND_BYTES: u64 = 1 << 30;
/// How many transactions back, each of which costs a few reads.
const REWIND_TRANSACTIONS: usize = 10_000;

/// An index that agrees with its data file.
#[derive(Debug)]
pub(super) struct Sane {
    /// The tid of the newest transaction that the index covers.
    pub last_tid: Tid,
    /// Whether Python agrees, too.
    pub python_agrees: bool,
}

/// Looks at the newest records that the index covers; `None` if they are not as it says.
pub(super) fn check(saved: &Saved, view: &View) -> Result<Option<Sane>> {
    if saved.end < SMALLEST_END || view.file.len()? < saved.end {
        return Ok(None);
    }
    let mut window = Window::new(view.file.clone(), saved.end);
    let mut last_tid = None;
    let mut end = saved.end;
    while end > FIRST_TRANSACTION {
        let Some(Covered { start, header }) = transaction_before(view, &mut window, end)? else {
            return Ok(None);
        };
        let last_tid = *last_tid.get_or_insert(header.tid);
        if header.status != STATUS_UNDONE {
            if ![STATUS_COMMITTED, STATUS_PACKED].contains(&header.status) || header.len < header.full_len() {
                return Ok(None);
            }
            if header.len > header.full_len() {
                let agreed = compare(&saved.index, &mut window, start, &header)?;
                return Ok(agreed.map(|python_agrees| Sane { last_tid, python_agrees }));
            }
        }
        end = start;
    }
    Ok(None)
}

/// The index as of an earlier position, from which Python takes it. `None` if it takes it as it is, and where
/// none is to be had: the file may be too small, or all of it written in this way.
pub(super) fn rewound_for_python(index: &Index, view: &View) -> Result<Option<Saved>> {
    // Shares nearly all with the original, whose readers notice nothing.
    let mut saved = Saved { index: index.clone(), end: view.end };
    let mut judge = true;
    for _ in 0..REWIND_TRANSACTIONS {
        // Without records a transaction makes no difference; there may be many of them.
        if judge {
            match check(&saved, view)? {
                Some(Sane { python_agrees: true, .. }) => return Ok((saved.end < view.end).then_some(saved)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
        let mut window = Window::new(view.file.clone(), saved.end);
        let Some(newest) = transaction_before(view, &mut window, saved.end)? else {
            return Ok(None);
        };
        if view.end - newest.start > REWIND_BYTES || !take_back(&mut saved.index, &mut window, &newest)? {
            return Ok(None);
        }
        saved.end = newest.start;
        judge = newest.header.status != STATUS_UNDONE && newest.header.len > newest.header.full_len();
    }
    Ok(None)
}

/// A transaction within the part of the file that an index covers.
struct Covered {
    start: u64,
    header: TransactionHeader,
}

/// The transaction that ends at `end`, if there is one whose two lengths are the same.
fn transaction_before(view: &View, window: &mut Window, end: u64) -> Result<Option<Covered>> {
    let start = view.transaction_before(end)?;
    let len = end - TRAILER_LEN - start;
    if len < TransactionHeader::SIZE {
        return Ok(None);
    }
    let header = TransactionHeader::parse(window.bytes(start, TransactionHeader::SIZE)?);
    Ok(header.filter(|header| header.len == len).map(|header| Covered { start, header }))
}

/// Whether Python agrees that the index names the first records of a transaction. `None` if not even we do, who
/// are content with the last record of each object.
fn compare(index: &Index, window: &mut Window, start: u64, header: &TransactionHeader) -> Result<Option<bool>> {
    let (mut position, end) = (start + header.full_len(), start + header.len);
    let mut python_agrees = true;
    for _ in 0..CHECKED_RECORDS {
        if position >= end {
            break;
        }
        let (DataHeader { oid, .. }, next) = data_header_within(window, position, start, end)?;
        match index.get(oid) {
            Some(indexed) if indexed == position => {}
            // Stored again later in the same transaction: the last record counts.
            Some(indexed) if indexed > position && indexed < end => {
                let (later, _) = data_header_within(window, indexed, start, end)?;
                if later.oid != oid {
                    return Ok(None);
                }
                python_agrees = false;
            }
            _ => return Ok(None),
        }
        position = next;
    }
    Ok(Some(python_agrees))
}

/// Makes the index forget the newest transaction; `false` if its records do not say how.
///
/// A wrong `previous` that damage left in the file does no harm here: whoever takes the index reads this very
/// transaction next, and sets the positions of its objects anew.
fn take_back(index: &mut Index, window: &mut Window, covered: &Covered) -> Result<bool> {
    let &Covered { start, ref header } = covered;
    if header.status == STATUS_UNDONE {
        return Ok(true);
    }
    let (mut position, end) = (start + header.full_len(), start + header.len);
    while position < end {
        let (record, next) = data_header_within(window, position, start, end)?;
        match record.previous {
            0 => index.remove(record.oid),
            previous if (FIRST_TRANSACTION + TransactionHeader::SIZE..start).contains(&previous) => {
                index.insert(record.oid, previous);
            }
            _ => return Ok(false),
        }
        position = next;
    }
    Ok(true)
}
