//! What a client has asked of a transaction before its vote.
//!
//! Nothing is checked and nothing is locked while a client stores; its requests wait here, first in
//! memory, then in an unlinked temporary file, so a transaction may be larger than memory.
//!
//! Each entry is one tag byte, then eight-byte numbers, then for data a length and the bytes. The content of
//! blobs is in files of its own, which live as long as the log or a storage's transaction has them.

use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use byteorder::{BigEndian, ReadBytesExt, WriteBytesExt};
use tempfile::SpooledTempFile;

use crate::ids::{Oid, Tid};
use crate::storage::blob::StagedBlob;
use crate::storage::{Commit, StorageError, UndoFailure};
use crate::wire::legacy::Stored;

/// A transaction below this size never touches the disk before its vote.
const MEMORY_BYTES: usize = 8 << 20;

const STORE: u8 = b's';
const STORE_BLOB: u8 = b'b';
const RESTORE: u8 = b'r';
const DELETE: u8 = b'd';
const CHECK_CURRENT: u8 = b'c';
const UNDO: u8 = b'u';

/// Marks an absent optional number or data; no record is that long and no tid that large.
const ABSENT: u64 = u64::MAX;

/// The requests of one transaction, in their order.
#[derive(Debug)]
pub struct TransactionLog {
    file: SpooledTempFile,
    entries: u64,
    bytes: u64,
    /// Where the entries of blobs begin, with their contents.
    blobs: Vec<(u64, Arc<StagedBlob>)>,
    /// The transaction cannot be voted, because of this object and for this reason.
    failure: Option<(Oid, StorageError)>,
}

impl Default for TransactionLog {
    fn default() -> Self {
        Self { file: tempfile::spooled_tempfile(MEMORY_BYTES), entries: 0, bytes: 0, blobs: Vec::new(), failure: None }
    }
}

/// What replaying a log brought.
#[derive(Debug, Default)]
pub struct Replayed {
    /// The objects that other clients must hear of.
    pub written: Vec<Oid>,
    /// How each store went; objects that were undone have a state that the committing client does not know.
    pub stores: Vec<(Oid, Stored)>,
    /// Stores in conflict that the client may resolve; if there are any, the transaction cannot be
    /// voted. Always empty under [`OnConflict::Fail`].
    pub conflicts: Vec<Unresolved>,
}

/// What a store in conflict means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// The transaction fails.
    Fail,
    /// The client is asked; the replay goes on, so that it hears of all conflicts at once.
    AskClient,
}

/// A store in conflict, for the client to resolve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    /// The object.
    pub oid: Oid,
    /// Its current revision.
    pub committed: Tid,
    /// The revision the client worked on.
    pub read: Tid,
    /// What the client stored.
    pub data: Vec<u8>,
}

impl TransactionLog {
    /// How many requests there are.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// How many bytes they take.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// [`Commit::store`], later.
    pub fn store(&mut self, oid: Oid, serial: Tid, data: &[u8]) -> io::Result<()> {
        self.append(STORE, &[oid.0, serial.0, length(Some(data))], data)
    }

    /// [`Commit::store_blob`], later: after all other requests, and the last blob first, as the original does it.
    pub fn store_blob(&mut self, oid: Oid, serial: Tid, data: &[u8], content: Arc<StagedBlob>) -> io::Result<()> {
        let begin = self.bytes;
        self.append(STORE_BLOB, &[oid.0, serial.0, length(Some(data))], data)?;
        self.blobs.push((begin, content));
        Ok(())
    }

    /// A request for object `oid` cannot be met, but the client is to hear of it at the vote.
    pub fn fail_later(&mut self, oid: Oid, failure: StorageError) {
        self.failure.get_or_insert((oid, failure));
    }

    /// [`Commit::restore`], later.
    pub fn restore(&mut self, oid: Oid, serial: Tid, data: Option<&[u8]>, same_as: Option<Tid>) -> io::Result<()> {
        let same_as = same_as.map_or(ABSENT, |tid| tid.0);
        self.append(RESTORE, &[oid.0, serial.0, same_as, length(data)], data.unwrap_or_default())
    }

    /// [`Commit::delete`], later.
    pub fn delete(&mut self, oid: Oid, serial: Tid) -> io::Result<()> {
        self.append(DELETE, &[oid.0, serial.0], b"")
    }

    /// [`Commit::check_current`], later.
    pub fn check_current(&mut self, oid: Oid, serial: Tid) -> io::Result<()> {
        self.append(CHECK_CURRENT, &[oid.0, serial.0], b"")
    }

    /// [`Commit::undo`], later; of no transaction if the client named none.
    pub fn undo(&mut self, tid: Option<Tid>) -> io::Result<()> {
        self.append(UNDO, &[tid.map_or(ABSENT, |tid| tid.0)], b"")
    }

    fn append(&mut self, tag: u8, numbers: &[u64], data: &[u8]) -> io::Result<()> {
        let mut head = Vec::with_capacity(1 + 8 * 4);
        head.push(tag);
        for number in numbers {
            head.write_u64::<BigEndian>(*number)?;
        }
        self.file.write_all(&head)?;
        self.file.write_all(data)?;
        self.entries += 1;
        self.bytes += (head.len() + data.len()) as u64;
        Ok(())
    }

    /// Makes the requests, in their order, of a storage that is ready for them, up to the first that fails. More requests
    /// may follow, and another replay.
    pub fn replay(
        &mut self,
        commit: &mut dyn Commit,
        on_conflict: OnConflict,
        replayed: &mut Replayed,
    ) -> Result<(), ReplayError> {
        self.file.seek(SeekFrom::Start(0))?;
        self.replay_entries(commit, on_conflict, replayed)?;
        self.file.seek(SeekFrom::End(0))?;
        Ok(())
    }

    fn replay_entries(
        &mut self,
        commit: &mut dyn Commit,
        on_conflict: OnConflict,
        replayed: &mut Replayed,
    ) -> Result<(), ReplayError> {
        let mut file = BufReader::with_capacity(64 << 10, &mut self.file);
        let mut data = Vec::new();
        for _ in 0..self.entries {
            let tag = file.read_u8()?;
            let number = file.read_u64::<BigEndian>()?;
            if tag == UNDO {
                if number == ABSENT {
                    let reason = "Invalid transaction id".to_owned();
                    return Err(ReplayError::storage(Oid::ZERO)(StorageError::Undo(UndoFailure { oid: None, reason })));
                }
                let undone = commit.undo(Tid(number)).map_err(ReplayError::storage(Oid::ZERO))?;
                replayed.written.extend(undone.iter().map(|undone| undone.oid));
                replayed.stores.extend(undone.iter().map(|undone| (undone.oid, Stored::Changed)));
                continue;
            }
            let (oid, serial) = (Oid(number), Tid(file.read_u64::<BigEndian>()?));
            let failed = ReplayError::storage(oid);
            match tag {
                STORE => {
                    read_data(&mut file, &mut data)?;
                    let outcome = commit.store(oid, serial, &data);
                    replayed.stored(oid, &data, outcome, on_conflict).map_err(failed)?;
                    continue;
                }
                STORE_BLOB => {
                    read_data(&mut file, &mut data)?;
                    continue;
                }
                RESTORE => {
                    let same_as = Some(file.read_u64::<BigEndian>()?).filter(|tid| *tid != ABSENT).map(Tid);
                    let present = read_data(&mut file, &mut data)?;
                    commit.restore(oid, serial, present.then_some(&data), same_as).map_err(failed)?;
                }
                DELETE => commit.delete(oid, serial).map_err(failed)?,
                CHECK_CURRENT => {
                    commit.check_current(oid, serial).map_err(failed)?;
                    continue;
                }
                _ => return Err(io::Error::other(format!("transaction log has an entry of kind {tag}")).into()),
            }
            replayed.written.push(oid);
        }
        if let Some((oid, failure)) = self.failure.take() {
            return Err(ReplayError::storage(oid)(failure));
        }
        for (begin, content) in self.blobs.iter().rev() {
            file.seek(SeekFrom::Start(begin + 1))?;
            let (oid, serial) = (Oid(file.read_u64::<BigEndian>()?), Tid(file.read_u64::<BigEndian>()?));
            read_data(&mut file, &mut data)?;
            let outcome = commit.store_blob(oid, serial, &data, Arc::clone(content));
            replayed.stored(oid, &data, outcome, on_conflict).map_err(ReplayError::storage(oid))?;
        }
        Ok(())
    }
}

impl Replayed {
    /// Takes note of how the storage took a revision.
    fn stored(
        &mut self,
        oid: Oid,
        data: &[u8],
        outcome: Result<(), StorageError>,
        on_conflict: OnConflict,
    ) -> Result<(), StorageError> {
        // What came before it is replaced: by a new conflict, or the client has resolved it and stored again.
        self.conflicts.retain(|earlier| earlier.oid != oid);
        match outcome {
            Err(StorageError::Conflict { committed, read, .. }) if on_conflict == OnConflict::AskClient => {
                self.conflicts.push(Unresolved { oid, committed, read, data: data.to_vec() });
            }
            outcome => {
                outcome?;
                self.written.push(oid);
                self.stores.push((oid, Stored::AsSent));
            }
        }
        Ok(())
    }
}

fn length(data: Option<&[u8]>) -> u64 {
    data.map_or(ABSENT, |data| data.len() as u64)
}

/// Reads the data of an entry into `data`; `false` if there is none.
fn read_data(file: &mut impl Read, data: &mut Vec<u8>) -> io::Result<bool> {
    data.clear();
    let len = file.read_u64::<BigEndian>()?;
    if len == ABSENT {
        return Ok(false);
    }
    if file.take(len).read_to_end(data)? as u64 != len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(true)
}

/// Why a replay ended early.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The storage refused a request.
    #[error("{source}")]
    Storage {
        /// The object that the request was for; the root for an undo.
        oid: Oid,
        /// Why.
        source: StorageError,
    },
    /// The log itself could not be read back.
    #[error("cannot read the transaction log: {0}")]
    Log(#[from] io::Error),
}

impl ReplayError {
    fn storage(oid: Oid) -> impl Fn(StorageError) -> Self {
        move |source| Self::Storage { oid, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::blob::{BlobStorage, Options};
    use crate::storage::mapping::MappingStorage;
    use crate::storage::{Publisher, Result, Storage, Undone};

    /// Remembers what is asked of it.
    #[derive(Default)]
    struct Recorder(Vec<String>);

    impl Commit for Recorder {
        fn store(&mut self, oid: Oid, serial: Tid, data: &[u8]) -> Result<()> {
            self.0.push(format!("store {oid} {serial} {}", data.len()));
            Ok(())
        }
        fn store_blob(&mut self, oid: Oid, serial: Tid, data: &[u8], content: Arc<StagedBlob>) -> Result<()> {
            let content = std::fs::read_to_string(content.path()).expect("the content is there");
            self.0.push(format!("blob {oid} {serial} {} {content}", data.len()));
            if oid == Oid(99) {
                return Err(StorageError::Conflict { oid, committed: Tid(2), read: serial, class_name: None });
            }
            Ok(())
        }
        fn restore(&mut self, oid: Oid, serial: Tid, data: Option<&[u8]>, same_as: Option<Tid>) -> Result<()> {
            self.0.push(format!("restore {oid} {serial} {data:?} {same_as:?}"));
            Ok(())
        }
        fn delete(&mut self, oid: Oid, serial: Tid) -> Result<()> {
            self.0.push(format!("delete {oid} {serial}"));
            Ok(())
        }
        fn check_current(&mut self, oid: Oid, serial: Tid) -> Result<()> {
            self.0.push(format!("check {oid} {serial}"));
            Ok(())
        }
        fn undo(&mut self, tid: Tid) -> Result<Vec<Undone>> {
            self.0.push(format!("undo {tid}"));
            Ok(vec![Undone { oid: Oid(9), source: None }])
        }
        fn tid(&self) -> Tid {
            Tid::ZERO
        }
        fn vote(&mut self) -> Result<Vec<Oid>> {
            Ok(vec![])
        }
        fn finish(self: Box<Self>, _publisher: &mut dyn Publisher) -> Result<Tid> {
            Ok(Tid::ZERO)
        }
    }

    #[test]
    fn requests_come_back_in_order_from_memory_and_from_disk() -> std::result::Result<(), Box<dyn std::error::Error>> {
        for size in [3, MEMORY_BYTES + 1] {
            let mut log = TransactionLog::default();
            log.store(Oid(1), Tid(2), &vec![0; size])?;
            log.restore(Oid(2), Tid(3), None, None)?;
            log.restore(Oid(2), Tid(3), Some(b""), Some(Tid(1)))?;
            log.delete(Oid(3), Tid(4))?;
            log.check_current(Oid(4), Tid(5))?;
            log.undo(Some(Tid(6)))?;
            assert_eq!(log.entries(), 6);
            let mut recorder = Recorder::default();
            let mut replayed = Replayed::default();
            log.replay(&mut recorder, OnConflict::Fail, &mut replayed)?;
            assert_eq!(replayed.written, [Oid(1), Oid(2), Oid(2), Oid(3), Oid(9)]);
            assert_eq!(replayed.stores, [(Oid(1), Stored::AsSent), (Oid(9), Stored::Changed)]);
            assert_eq!(
                recorder.0,
                [
                    format!("store 0x01 0000000000000002 {size}"),
                    "restore 0x02 0000000000000003 None None".into(),
                    format!("restore 0x02 0000000000000003 Some([]) {:?}", Some(Tid(1))),
                    "delete 0x03 0000000000000004".into(),
                    "check 0x04 0000000000000005".into(),
                    "undo 0000000000000006".into(),
                ]
            );
        }
        Ok(())
    }

    fn staged(storage: &BlobStorage, content: &str) -> Arc<StagedBlob> {
        let mut staged = storage.blobs().expect("blobs").stage().expect("a new file");
        staged.append(content.as_bytes()).expect("write");
        Arc::new(staged)
    }

    #[test]
    fn blobs_come_last_and_backwards_in_every_replay_and_go_with_the_log()
    -> std::result::Result<(), Box<dyn std::error::Error>> {
        let directory = tempfile::tempdir()?;
        let options = Options { path: directory.path().join("blobs"), create: false, pack_keep_old: false };
        let storage = BlobStorage::open(MappingStorage::new("memory".to_owned()), &options)?;
        let mut log = TransactionLog::default();
        log.store(Oid(1), Tid(1), b"record")?;
        log.store_blob(Oid(99), Tid(1), b"as it was", staged(&storage, "in conflict"))?;
        log.store_blob(Oid(2), Tid(1), b"record", staged(&storage, "content"))?;
        log.store(Oid(3), Tid(1), b"record")?;
        for _ in 0..2 {
            let mut recorder = Recorder::default();
            let mut replayed = Replayed::default();
            log.replay(&mut recorder, OnConflict::AskClient, &mut replayed)?;
            assert_eq!(
                recorder.0,
                [
                    "store 0x01 0000000000000001 6",
                    "store 0x03 0000000000000001 6",
                    "blob 0x02 0000000000000001 6 content",
                    "blob 0x63 0000000000000001 9 in conflict",
                ]
            );
            assert_eq!(replayed.written, [Oid(1), Oid(3), Oid(2)]);
            let conflict = Unresolved { oid: Oid(99), committed: Tid(2), read: Tid(1), data: b"as it was".to_vec() };
            assert_eq!(replayed.conflicts, [conflict]);
        }
        log.fail_later(Oid(5), StorageError::Quota);
        let mut recorder = Recorder::default();
        assert!(matches!(
            log.replay(&mut recorder, OnConflict::AskClient, &mut Replayed::default()),
            Err(ReplayError::Storage { oid: Oid(5), source: StorageError::Quota })
        ));
        assert_eq!(recorder.0.len(), 2, "what is checked before is checked first");
        drop(log);
        assert_eq!(std::fs::read_dir(options.path.join("tmp"))?.count(), 0);
        Ok(())
    }
}
