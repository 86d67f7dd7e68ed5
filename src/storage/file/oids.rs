//! Fresh oids, never handed out twice, not even by an earlier process that was killed.
//!
//! Python's server counts on from the largest oid in the index. An oid that a client holds but has not yet
//! stored is not there, so a restarted server hands it out again, and two clients collide. Nothing in
//! `Data.fs` can remember such oids without changing the format; hence a side file, `Data.fs.oids`:
//!
//! ```text
//! zeolite oids 1 00000000000027d8\n
//! ```
//!
//! The number is a mark: every oid ever handed out is at or below it. It is raised in steps of
//! [`BATCH`] and made durable before the first oid of a batch leaves; a clean close lowers it to the last oid
//! handed out, so that only a crash skips some. A missing or foreign file is no error: then the index alone
//! decides, as in Python. Python does not know the file and leaves it alone; a mark that is higher than
//! an older `Data.fs` put back in its place needs is harmless.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::io::{replace_durably, with_suffix};
use crate::ids::Oid;
use crate::storage::{Result, StorageError};

/// Oids reserved by one durable write.
const BATCH: u64 = 10_000;
const INTRODUCTION: &str = "zeolite oids 1 ";
/// The largest mark that is written, and believed: no oid could come after a higher one.
const MARK_LIMIT: u64 = u64::MAX - BATCH;

/// The source of fresh oids.
pub(super) struct Oids {
    path: PathBuf,
    last: u64,
    mark: u64,
}

impl Oids {
    /// Counts on from the largest oid in the index and from the mark, whichever is higher.
    pub fn open(data_file: &Path, largest: Oid) -> Self {
        let path = with_suffix(data_file, ".oids");
        let mark = read_mark(&path).unwrap_or(0);
        if mark > largest.0 {
            info!(
                target: "ZODB.FileStorage",
                "{}: oids up to {} may be in the hands of clients, counting on from there",
                data_file.display(), Oid(mark)
            );
        }
        Self { path, last: largest.0.max(mark), mark }
    }

    /// `count` oids that nobody has had.
    pub fn take(&mut self, count: usize) -> Result<Vec<Oid>> {
        let last = self.last.checked_add(count as u64).filter(|&last| last <= MARK_LIMIT - BATCH);
        let last = last.ok_or_else(|| StorageError::Refused("no oids are left".to_owned()))?;
        if last > self.mark {
            self.write_mark(last + BATCH)?;
        }
        let first = self.last + 1;
        self.last = last;
        Ok((first..=last).map(Oid).collect())
    }

    /// `oid` was stored: those handed out later come after it.
    pub fn raise(&mut self, oid: Oid) {
        self.last = self.last.max(oid.0);
    }

    /// Makes the mark as high as every oid that was handed out or stored, since the largest ones may leave the index.
    pub fn remember(&mut self) -> Result<()> {
        if self.mark < self.last && self.last <= MARK_LIMIT { self.write_mark(self.last) } else { Ok(()) }
    }

    /// Gives back what was reserved and not handed out.
    pub fn close(&mut self) -> Result<()> {
        if self.mark > self.last { self.write_mark(self.last) } else { Ok(()) }
    }

    fn write_mark(&mut self, mark: u64) -> Result<()> {
        let temporary = with_suffix(&self.path, ".tmp");
        replace_durably(&self.path, &temporary, |file| writeln!(file, "{INTRODUCTION}{mark:016x}"))?;
        self.mark = mark;
        Ok(())
    }
}

fn read_mark(path: &Path) -> Option<u64> {
    let content = match std::fs::read(path) {
        Ok(content) => content,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => {
            warn!(target: "ZODB.FileStorage", "ignoring {}: {error}", path.display());
            return None;
        }
    };
    let mark = parse_mark(&content);
    if mark.is_none() {
        warn!(target: "ZODB.FileStorage", "ignoring {}: not a file of this server", path.display());
    }
    mark
}

fn parse_mark(content: &[u8]) -> Option<u64> {
    let digits = str::from_utf8(content).ok()?.strip_prefix(INTRODUCTION)?.strip_suffix('\n')?;
    let mark = u64::from_str_radix(digits, 16).ok()?;
    (digits.len() == 16 && mark <= MARK_LIMIT).then_some(mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_directory(test: impl FnOnce(&Path)) {
        let directory = tempfile::tempdir().expect("make a directory");
        test(&directory.path().join("Data.fs"));
    }

    #[test]
    fn a_killed_process_leaves_its_oids_behind() {
        in_directory(|data_file| {
            let mut killed = Oids::open(data_file, Oid::ZERO);
            assert_eq!(killed.take(2).expect("oids"), [Oid(1), Oid(2)]);
            let taken = killed.take(100).expect("oids");
            drop(killed);
            let mut restarted = Oids::open(data_file, Oid(50));
            assert!(restarted.take(1).expect("oids")[0] > taken[99]);
        });
    }

    #[test]
    fn a_clean_close_skips_none() {
        in_directory(|data_file| {
            let mut closed = Oids::open(data_file, Oid(7));
            closed.take(3).expect("oids");
            closed.close().expect("oids");
            assert_eq!(Oids::open(data_file, Oid(7)).take(1).expect("oids"), [Oid(11)]);
        });
    }

    #[test]
    fn stored_oids_raise_the_count() {
        in_directory(|data_file| {
            let mut oids = Oids::open(data_file, Oid::ZERO);
            oids.raise(Oid(70_000));
            oids.raise(Oid(3));
            assert_eq!(oids.take(1).expect("oids"), [Oid(70_001)]);
            oids.raise(Oid(u64::MAX));
            assert!(matches!(oids.take(1), Err(StorageError::Refused(_))));
        });
    }

    #[test]
    fn every_mark_that_is_written_is_believed() {
        for (stored, there_are_more) in [(1 << 63, true), (MARK_LIMIT, false)] {
            in_directory(|data_file| {
                let mut oids = Oids::open(data_file, Oid(7));
                oids.raise(Oid(stored));
                oids.remember().expect("oids");
                let given = oids.take(1);
                drop(oids);
                let later = Oids::open(data_file, Oid(7)).take(1);
                assert_eq!((given.is_ok(), later.is_ok()), (there_are_more, there_are_more));
                assert!(later.is_err() || later.ok() > given.ok(), "{stored}");
            });
        }
        in_directory(|data_file| {
            let mut oids = Oids::open(data_file, Oid(7));
            let given = oids.take(1).expect("oids");
            oids.raise(Oid(u64::MAX));
            oids.remember().expect("oids");
            // Once it has left the index, there are oids again, and no others twice.
            assert!(Oids::open(data_file, Oid(7)).take(1).expect("oids") > given);
        });
    }

    #[test]
    fn foreign_content_is_ignored() {
        for content in
            ["", "zeolite oids 1 ff\n", "zeolite oids 2 00000000000000ff\n", "zeolite oids 1 ffffffffffffffff\n"]
        {
            assert_eq!(parse_mark(content.as_bytes()), None, "{content:?}");
        }
        assert_eq!(parse_mark(b"zeolite oids 1 00000000000000ff\n"), Some(255));
    }
}
