//! Rebuilding the index from the data file, and cutting off what a crash left at its end.
//!
//! The rules are the original's, row by row, but for one: the last tid is that of the last transaction that
//! is kept. Python goes on from the one that it has just cut off, which for a garbage tail may lie a
//! thousand years ahead.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::format::{
    DataHeader, STATUS_COMMITTED, STATUS_PACKED, STATUS_UNDONE, STATUS_VOTED, TRAILER_LEN, TransactionHeader,
};
use super::index::Index;
use super::io::{DataFile, Window, io_error, sync_directory_of, with_suffix};
use super::read::data_header_within;
use crate::ids::{Oid, Tid};
use crate::storage::Result;

/// What a scan found.
pub(super) struct Scanned {
    /// Where the next transaction will begin.
    pub end: u64,
    /// The last transaction before that.
    pub last_tid: Tid,
    /// How many transactions were passed.
    pub transactions: u64,
}

/// Reads all transactions from `start` on into `index`. Unless `read_only`, cuts off a damaged or unfinished
/// tail, keeping a copy.
pub(super) fn scan(
    file: &Arc<DataFile>,
    index: &mut Index,
    start: u64,
    last_tid: Tid,
    read_only: bool,
) -> Result<Scanned> {
    let size = file.len()?;
    let mut scan =
        Scan { window: Window::new(Arc::clone(file), size), size, index, updates: Vec::new(), wrong_pointers: 0 };
    let mut progress = Progress::new(start, size);
    let mut scanned = Scanned { end: start, last_tid, transactions: 0 };
    let path = file.path().display();
    let tail = loop {
        progress.tell(file, scanned.end);
        match scan.transaction(scanned.end, scanned.last_tid)? {
            Step::Next { end, tid } => {
                scanned.end = end;
                scanned.last_tid = tid;
                scanned.transactions += 1;
            }
            Step::Tail(tail) => break tail,
        }
    };
    if scan.wrong_pointers > Scan::LOGGED_POINTERS {
        error!(target: "ZODB.FileStorage", "{path}: {} incorrect previous pointers in all", scan.wrong_pointers);
    }
    let position = scanned.end;
    match tail {
        Tail::None => return Ok(scanned),
        Tail::Scrap => warn!(target: "ZODB.FileStorage", "{path} truncated at {position}"),
        Tail::Unfinished => warn!(
            target: "ZODB.FileStorage",
            "{path} truncated, possibly due to damaged records at {position}"
        ),
        Tail::Garbage => error!(
            target: "ZODB.FileStorage",
            "{path} has invalid transaction header at {position}: there is invalid data at the end of the file, \
             possibly due to a system crash"
        ),
    }
    if !read_only {
        if !matches!(tail, Tail::Scrap) {
            save_tail(file, position, size)?;
        }
        file.set_len(position)?;
        file.sync()?;
    }
    Ok(scanned)
}

enum Step {
    Next { end: u64, tid: Tid },
    Tail(Tail),
}

/// What is at the end of the file.
enum Tail {
    None,
    /// Less than a transaction header: cut off without a copy.
    Scrap,
    /// A transaction that was not finished, or not written to its end.
    Unfinished,
    /// No transaction at all.
    Garbage,
}

struct Scan<'i> {
    window: Window,
    size: u64,
    index: &'i mut Index,
    updates: Vec<(Oid, u64)>,
    wrong_pointers: u64,
}

impl Scan<'_> {
    /// A database with one wrong pointer may have millions of them.
    const LOGGED_POINTERS: u64 = 20;

    fn transaction(&mut self, start: u64, last_tid: Tid) -> Result<Step> {
        let file = Arc::clone(self.window.file());
        let path = file.path().display();
        if start == self.size {
            return Ok(Step::Tail(Tail::None));
        }
        if self.size - start < TransactionHeader::SIZE {
            return Ok(Step::Tail(Tail::Scrap));
        }
        let header = TransactionHeader::parse(self.window.bytes(start, TransactionHeader::SIZE)?);
        let header = header.expect("as many bytes as the header has were read");
        let next = header.next_position(start).filter(|&next| next <= self.size);
        let Some(next) = next.filter(|_| header.status != STATUS_VOTED) else {
            return Ok(Step::Tail(Tail::Unfinished));
        };
        if header.len < header.full_len() {
            // Damage in the middle is for a person to look at; after the last transaction it is a tail.
            let last_len = file.read_u64_at(self.size - TRAILER_LEN)?;
            if last_len > self.size - start || last_len < TransactionHeader::SIZE {
                return Ok(Step::Tail(Tail::Garbage));
            }
            return Err(file.corrupted(start, "invalid transaction header"));
        }
        if header.tid <= last_tid {
            warn!(target: "ZODB.FileStorage", "{path} time-stamp reduction at {start}");
        }
        if ![STATUS_COMMITTED, STATUS_PACKED, STATUS_UNDONE].contains(&header.status) {
            let status = header.status.escape_ascii();
            warn!(target: "ZODB.FileStorage", "{path} has invalid status, {status}, at {start}");
        }
        let end = start + header.len;
        if header.status != STATUS_UNDONE {
            self.records(start, start + header.full_len(), end)?;
        }
        let trailer = self.window.bytes(end, TRAILER_LEN)?;
        if trailer != header.len.to_be_bytes() {
            return Err(file.corrupted(end, "redundant transaction length check failed"));
        }
        for (oid, position) in self.updates.drain(..) {
            self.index.insert(oid, position);
        }
        Ok(Step::Next { end: next, tid: header.tid })
    }

    fn records(&mut self, transaction: u64, mut position: u64, end: u64) -> Result<()> {
        while position < end {
            let (header, next) = data_header_within(&mut self.window, position, transaction, end)?;
            self.check_previous(position, &header);
            self.updates.push((header.oid, position));
            position = next;
        }
        Ok(())
    }

    fn check_previous(&mut self, position: u64, header: &DataHeader) {
        if self.index.get(header.oid).unwrap_or(0) == header.previous {
            return;
        }
        self.wrong_pointers += 1;
        if self.wrong_pointers > Self::LOGGED_POINTERS {
            return;
        }
        let path = self.window.file().path().display();
        if header.previous == 0 {
            warn!(target: "ZODB.FileStorage", "{path} incorrect previous pointer at {position}");
        } else {
            error!(target: "ZODB.FileStorage", "{path} incorrect previous pointer at {position}");
        }
    }
}

/// Copies everything from `position` on to the first unused of `Data.fs.tr0`, `Data.fs.tr1`...
fn save_tail(file: &Arc<DataFile>, position: u64, size: u64) -> Result<()> {
    for number in 0_u64.. {
        let path = with_suffix(file.path(), &format!(".tr{number}"));
        let mut copy = match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(copy) => copy,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(source) => return Err(io_error("save the truncated data", &path, source)),
        };
        warn!(
            target: "ZODB.FileStorage",
            "Writing truncated data from {} to {}", file.path().display(), path.display()
        );
        let mut window = Window::new(Arc::clone(file), size);
        let mut at = position;
        while at < size {
            let len = (size - at).min(1 << 16);
            let written = copy.write_all(window.bytes(at, len)?);
            written.map_err(|source| io_error("save the truncated data", &path, source))?;
            at += len;
        }
        copy.sync_all().map_err(|source| io_error("sync the truncated data", &path, source))?;
        return sync_directory_of(&path);
    }
    Ok(())
}

/// Says how far a long scan is.
struct Progress {
    start: u64,
    size: u64,
    begun: Instant,
    told: Instant,
}

impl Progress {
    const INTERVAL: Duration = Duration::from_secs(5);

    fn new(start: u64, size: u64) -> Self {
        let now = Instant::now();
        Self { start, size, begun: now, told: now }
    }

    #[expect(clippy::cast_precision_loss, reason = "an estimate for a person")]
    fn tell(&mut self, file: &DataFile, position: u64) {
        let now = Instant::now();
        if now - self.told < Self::INTERVAL {
            return;
        }
        self.told = now;
        let done = (position - self.start).max(1) as f64;
        let left = self.size.saturating_sub(position) as f64;
        info!(
            target: "ZODB.FileStorage",
            "{}: {:.0}% of the file scanned, about {:.0} seconds left",
            file.path().display(),
            100.0 * done / (done + left),
            (now - self.begun).as_secs_f64() / done * left,
        );
    }
}
