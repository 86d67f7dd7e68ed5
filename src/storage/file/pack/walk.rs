//! Reading the data file forward, in large steps, the headers where they lie.
//!
//! Every length is checked against what encloses it before it is followed. What the original's pack takes for damage
//! is damage here, too, but for tids that do not grow and a wrong `previous`: neither is needed to pack, and the
//! second is made anew.

use super::super::format::{
    BACK_POINTER_LEN, DataHeader, STATUS_COMMITTED, STATUS_PACKED, STATUS_UNDONE, TRAILER_LEN, TransactionHeader,
};
use super::super::io::Window;
use super::super::read::{View, data_header_within};
use crate::storage::Result;

/// How much is read at a time.
pub(super) const READ_AHEAD: u64 = 1 << 20;

/// A window that moves forward over the finished part of a file.
pub(super) struct Walk {
    pub window: Window,
}

/// A transaction record, by its positions.
#[derive(Clone, Copy)]
pub(super) struct TransactionAt {
    pub start: u64,
    pub header: TransactionHeader,
    /// Where its records begin.
    pub first: u64,
    /// Where its records end.
    pub end: u64,
    /// Where the next transaction begins.
    pub next: u64,
}

/// A data record, by its position.
#[derive(Clone, Copy)]
pub(super) struct RecordAt {
    pub position: u64,
    pub header: DataHeader,
    /// The back pointer; zero if there is data instead, or no object.
    pub back: u64,
    /// Where the next record begins.
    pub next: u64,
}

impl RecordAt {
    /// Whether the object does not exist as of this revision.
    pub fn is_deletion(&self) -> bool {
        self.header.data_len == 0 && self.back == 0
    }

    /// Where the data or the back pointer is.
    pub fn state_position(&self) -> u64 {
        self.position + DataHeader::SIZE
    }
}

impl Walk {
    pub fn new(view: &View) -> Self {
        let mut window = Window::new(view.file.clone(), view.end);
        window.set_read_ahead(READ_AHEAD);
        Self { window }
    }

    /// The transaction that begins at `start`.
    pub fn transaction(&mut self, start: u64) -> Result<TransactionAt> {
        let header = TransactionHeader::parse(self.window.bytes(start, TransactionHeader::SIZE)?);
        let header = header.expect("as many bytes as the header has were read");
        let damaged = |problem: String| Err(self.window.file().corrupted(start, problem));
        if ![STATUS_COMMITTED, STATUS_PACKED, STATUS_UNDONE].contains(&header.status) {
            return damaged(format!("invalid transaction status: {}", header.status.escape_ascii()));
        }
        let next = header.next_position(start).filter(|&next| next <= self.window.limit());
        let Some(next) = next.filter(|_| header.len >= header.full_len()) else {
            return damaged(format!("invalid transaction header: its length is {}", header.len));
        };
        Ok(TransactionAt { start, header, first: start + header.full_len(), end: next - TRAILER_LEN, next })
    }

    /// The record of `transaction` at `position`.
    pub fn record(&mut self, transaction: &TransactionAt, position: u64) -> Result<RecordAt> {
        let (header, next) = data_header_within(&mut self.window, position, transaction.start, transaction.end)?;
        let back = if header.data_len > 0 { 0 } else { self.number(position + DataHeader::SIZE)? };
        if back >= position {
            return Err(self.window.file().corrupted(position, format!("invalid back pointer: {back}")));
        }
        Ok(RecordAt { position, header, back, next })
    }

    /// Makes sure that the length behind the transaction is the one at its beginning.
    pub fn check_end(&mut self, transaction: &TransactionAt) -> Result<()> {
        let repeated = self.number(transaction.end)?;
        if repeated == transaction.header.len {
            return Ok(());
        }
        let problem = format!(
            "redundant transaction length does not match initial transaction length: {repeated} != {}",
            transaction.header.len
        );
        Err(self.window.file().corrupted(transaction.end, problem))
    }

    fn number(&mut self, position: u64) -> Result<u64> {
        let bytes = self.window.bytes(position, BACK_POINTER_LEN)?;
        Ok(bytes.try_into().map(u64::from_be_bytes).unwrap_or_default())
    }
}
