//! `FileStorage`: a database in one file, `Data.fs`, to which transactions are appended.
//!
//! The file, its index and its lock are the original's, byte for byte; either server opens what the other
//! left. In the order in which they come into play:
//!
//! - `lock`: `Data.fs.lock`, one process that writes
//! - `open`: finding or making the file, index and tail in order
//! - `format`, `io`: what the bytes mean; reading and writing them
//! - `index`, `index_file`, `index_legacy`, `index_check`, `scan`: oid to position in memory, in `Data.fs.index`,
//!   compared with the data, made anew
//! - `read`, `iterate`: revisions of one object; transactions in file order
//! - `commit`, `undo`, `oids`: writing; the oids for it
//! - `pack`: a new file without what nobody needs
//!
//! # Locks
//!
//! `state` (index, end, last tid) is held for the time of a look-up or of publishing one transaction, never
//! across I/O. `writing` says whether a transaction is active, and why none may be. `oids` is held while
//! a batch of oids is made durable, `saving` while `Data.fs.index` is written: neither is needed to read or
//! to finish a transaction. `saving` and `oids` come before `state` and `writing`; else none is taken under another.
//!
//! Whoever asks whether the path still names the open file must not meet the pack that is just putting another one there.
//! A transaction cannot: it has the one place that the last step of a pack takes as well. Saving the index is suspended
//! meanwhile. Oids are given out at any time, so a pack holds `oids` from before the first rename until the new file is
//! what everybody sees.

mod commit;
mod format;
mod index;
mod index_check;
mod index_file;
mod index_legacy;
mod io;
mod iterate;
mod lock;
mod oids;
mod open;
mod pack;
mod read;
mod scan;
mod undo;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use tracing::{error, warn};

use self::commit::FileCommit;
use self::index::Index;
use self::io::DataFile;
use self::lock::LockFile;
use self::oids::Oids;
use self::read::View;
use crate::ids::{Oid, Tid};
use crate::storage::{
    Begin, Capabilities, Commit, CurrentRecord, Invalidations, PackHost, PackReport, PackRequest, Result, Revision,
    Storage, StorageError, TransactionSummary, Transactions, must_be_loadable,
};
use crate::sync::{Mutex, RwLock};
use crate::sys;

/// How to open a data file.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "the keys of the original's configuration")]
pub struct Options {
    /// The data file.
    pub path: PathBuf,
    /// Take no lock, write nothing, see what is there at the moment of opening.
    pub read_only: bool,
    /// Begin with an empty file, whatever was there.
    pub create: bool,
    /// Refuse records that would begin behind this position.
    pub quota: Option<u64>,
    /// Whether a pack removes objects that nothing refers to, unless it is told otherwise.
    pub pack_gc: bool,
    /// Whether a pack keeps the old file as `Data.fs.old`.
    pub pack_keep_old: bool,
    /// Objects that a pack keeps, with all they refer to, beside those that the root refers to.
    pub pack_extra_roots: Vec<Oid>,
    /// How many bytes a pack may read or write in a second.
    pub pack_rate: Option<u64>,
}

impl Options {
    /// The original's defaults for a data file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            read_only: false,
            create: false,
            quota: None,
            pack_gc: true,
            pack_keep_old: true,
            pack_extra_roots: Vec::new(),
            pack_rate: None,
        }
    }
}

/// A database in one file.
pub struct FileStorage {
    name: String,
    read_only: bool,
    quota: Option<u64>,
    packing: pack::Settings,
    clock: fn() -> SystemTime,
    state: RwLock<Option<State>>,
    writing: Mutex<Writing>,
    oids: Mutex<Oids>,
    saving: Mutex<Saving>,
    /// How it was opened, for the log.
    opened: String,
}

/// What readers need, replaced as one.
struct State {
    file: Arc<DataFile>,
    index: Index,
    /// Where the next transaction begins.
    end: u64,
    last_tid: Tid,
}

/// What writers need.
struct Writing {
    /// None when read-only or closed.
    lock: Option<Arc<LockFile>>,
    active: bool,
    /// The last tid given, also to a transaction that was aborted since.
    last_given: Tid,
    /// Up to which transaction a pack goes that is under way.
    packing: Option<Tid>,
    /// Why there may be no more writes.
    poisoned: Option<String>,
}

/// What became of `Data.fs.index`.
struct Saving {
    /// Where the data file ended when the index was last saved, or could not be.
    end: u64,
    /// A pack is about to put another file in the place of the data file.
    suspended: bool,
}

/// Saving the index costs about eight bytes for each object, not saving it the reading of all that was written since.
const SAVE_AFTER_BYTES: u64 = 16 << 20;

impl FileStorage {
    /// Writes `Data.fs.index` as of now. Commits and loads go on meanwhile.
    pub fn save_index(&self) -> Result<()> {
        let mut saving = self.saving.lock();
        if saving.suspended {
            return Ok(());
        }
        let Ok(lock) = self.held_lock() else {
            return Ok(());
        };
        let (view, index) = self.with_state(|state| (state.view(), state.index.clone()))?;
        // Also when it fails: a full disk is not to be filled again with every round of housekeeping.
        saving.end = view.end;
        // It would belong to another data file.
        self.check_place(&lock, &view.file)?;
        index_file::save(&index, &view)
    }

    /// Whether so much was written since the index was saved that it is worth saving again.
    pub fn index_is_stale(&self) -> bool {
        let saved_end = self.saving.lock().end;
        let stale = self.with_state(|state| {
            let cost = state.index.len().saturating_mul(16);
            !self.read_only && state.end.saturating_sub(saved_end) > SAVE_AFTER_BYTES.max(cost)
        });
        stale.unwrap_or(false)
    }

    fn with_state<T>(&self, look: impl FnOnce(&State) -> T) -> Result<T> {
        self.state.read().as_ref().map(look).ok_or_else(|| self.closed())
    }

    fn closed(&self) -> StorageError {
        StorageError::Refused(format!("{} is closed", self.name))
    }

    fn view(&self) -> Result<View> {
        self.with_state(State::view)
    }

    /// The position of the current record of `oid`, and the view to read it from.
    fn locate(&self, oid: Oid) -> Result<(View, u64)> {
        let position = self.with_state(|state| Some((state.view(), state.index.get(oid)?)))?;
        position.ok_or(StorageError::NoSuchObject(oid))
    }

    /// The first object at or after `oid`, and the oid of the one after it.
    #[expect(clippy::type_complexity, reason = "three answers of one look-up")]
    fn locate_from(&self, oid: Oid) -> Result<(View, Option<(Oid, u64)>, Option<Oid>)> {
        self.with_state(|state| {
            let first = state.index.first_from(oid);
            let after = first.and_then(|(oid, _)| oid.0.checked_add(1));
            let next = after.and_then(|after| state.index.first_from(Oid(after)));
            (state.view(), first, next.map(|(oid, _)| oid))
        })
    }

    /// The position of the current record of `oid`, zero if there is none.
    fn position(&self, oid: Oid) -> Result<u64> {
        self.with_state(|state| state.index.get(oid).unwrap_or(0))
    }

    fn quota(&self) -> Option<u64> {
        self.quota
    }

    fn raise_oid(&self, oid: Oid) {
        self.oids.lock().raise(oid);
    }

    /// Takes the place of the active transaction, and gives it a tid.
    fn activate(&self, copied: Option<Tid>) -> Result<(Tid, View, Arc<LockFile>)> {
        let (tid, lock) = {
            let mut writing = self.writing.lock();
            writing.check(self.read_only)?;
            let Some(lock) = writing.lock.clone() else {
                return Err(self.closed());
            };
            if writing.active {
                return Err(StorageError::Transaction("another transaction is active".to_owned()));
            }
            // A copied transaction keeps its tid, whatever came before it.
            let now = Tid::from_time((self.clock)());
            let tid = copied.unwrap_or_else(|| now.later_than(writing.last_given));
            must_be_loadable(tid)?;
            writing.last_given = tid;
            writing.active = true;
            (tid, lock)
        };
        // Only now does the end of the file stay where it is.
        let view = self.view().and_then(|view| self.check_ours(&lock, &view.file, view.end).map(|()| view));
        let view = view.inspect_err(|_| self.deactivate())?;
        Ok((tid, view, lock))
    }

    fn deactivate(&self) {
        self.writing.lock().active = false;
    }

    fn check_writable(&self) -> Result<()> {
        self.writing.lock().check(self.read_only)
    }

    /// The lock, as long as there may be writes.
    fn held_lock(&self) -> Result<Arc<LockFile>> {
        let writing = self.writing.lock();
        writing.check(self.read_only)?;
        writing.lock.clone().ok_or_else(|| self.closed())
    }

    /// Makes sure that the file is still this storage's own and ends where it left it. Else it is being written by
    /// another process, and to write at the same place would destroy what that one has acknowledged.
    ///
    /// Asked before each step of a transaction: it costs a few calls to the system, a lost transaction more.
    fn check_ours(&self, lock: &LockFile, file: &DataFile, end: u64) -> Result<()> {
        self.check_place(lock, file)?;
        let len = file.len()?;
        if len == end {
            return Ok(());
        }
        self.poison(&format!(
            "{path} has {len} bytes, but what this server wrote ends at {end}: another process has changed it. Nothing \
             was written over that. Stop every process that writes to {path}, then start one server",
            path = file.path().display(),
        ));
        self.check_writable()
    }

    /// Makes sure that the paths of the data file and of its lock name the files that are open. Once they do not,
    /// another server may start, and would write the same file, or another one.
    ///
    /// Only for those who keep a pack from putting a new file there meanwhile: see the locks of this module.
    fn check_place(&self, lock: &LockFile, file: &DataFile) -> Result<()> {
        let path = file.path().display();
        if !file.is_at_path()? {
            self.poison(&format!(
                "{path} is no longer the file that this server has open; it was removed or replaced. What this server \
                 wrote is in the old file, which is gone when the server stops: copy it from /proc/{pid}/fd first, \
                 and see that only one server uses {path}",
                pid = std::process::id(),
            ));
        } else if !lock.is_at_path()? {
            self.poison(&format!(
                "{lock} is no longer the file that this server has locked; it was removed or replaced, so that \
                 another server may be writing to {path}. Stop every server that uses {path}, then start one; \
                 {lock} need never be removed",
                lock = lock.path().display(),
            ));
        } else {
            return Ok(());
        }
        self.check_writable()
    }

    /// Refuses all writes from now on.
    fn poison(&self, reason: &str) {
        let mut writing = self.writing.lock();
        if writing.poisoned.is_none() {
            error!(target: "ZODB.FileStorage", "{}: refusing all further writes: {reason}", self.name);
            writing.poisoned = Some(reason.to_owned());
        }
    }

    /// Makes a durable transaction visible.
    fn install(&self, tid: Tid, end: u64, positions: &BTreeMap<Oid, u64>) {
        if let Some(state) = self.state.write().as_mut() {
            for (&oid, &position) in positions {
                state.index.insert(oid, position);
            }
            state.end = end;
            state.last_tid = tid;
        }
    }
}

impl State {
    fn view(&self) -> View {
        View { file: Arc::clone(&self.file), end: self.end }
    }
}

impl Writing {
    fn check(&self, read_only: bool) -> Result<()> {
        if read_only {
            return Err(StorageError::ReadOnly);
        }
        match &self.poisoned {
            Some(reason) => Err(StorageError::Poisoned(reason.clone())),
            None => Ok(()),
        }
    }
}

impl Storage for FileStorage {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn describe(&self) -> String {
        format!("{} objects in {} bytes; {}", self.len(), self.size(), self.opened)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { undo: true, restore: true, external_gc: true, record_iternext: true, iteration: true }
    }

    fn len(&self) -> u64 {
        self.with_state(|state| state.index.len()).unwrap_or(0)
    }

    fn size(&self) -> u64 {
        self.with_state(|state| state.end).unwrap_or(0)
    }

    fn last_transaction(&self) -> Tid {
        self.with_state(|state| state.last_tid).unwrap_or(Tid::ZERO)
    }

    fn load_before(&self, oid: Oid, before: Tid) -> Result<Option<Revision>> {
        self.read_revision(oid, before)
    }

    fn load_serial(&self, oid: Oid, serial: Tid) -> Result<Bytes> {
        self.read_serial(oid, serial)
    }

    fn current_tid(&self, oid: Oid) -> Result<Tid> {
        self.read_current_tid(oid)
    }

    fn history(&self, oid: Oid, size: usize) -> Result<Vec<TransactionSummary>> {
        self.read_history(oid, size)
    }

    fn record_iternext(&self, next: Option<Oid>) -> Result<Option<CurrentRecord>> {
        self.read_next_current(next)
    }

    fn last_invalidations(&self, count: usize) -> Result<Option<Invalidations>> {
        self.read_last_invalidations(count).map(Some)
    }

    fn undo_log(
        &self,
        first: usize,
        last: usize,
        filter: &mut dyn FnMut(&TransactionSummary) -> bool,
    ) -> Result<Vec<TransactionSummary>> {
        self.search_undoable(first, last, filter)
    }

    fn iterate(self: Arc<Self>, start: Option<Tid>, stop: Option<Tid>) -> Result<Box<dyn Transactions>> {
        Ok(Box::new(self.transactions(start, stop)?))
    }

    fn new_oids(&self, count: usize) -> Result<Vec<Oid>> {
        let lock = self.held_lock()?;
        // No pack moves the file from here on.
        let mut oids = self.oids.lock();
        // Another server may be giving out the same ones.
        self.check_place(&lock, &self.view()?.file)?;
        oids.take(count)
    }

    fn begin(self: Arc<Self>, begin: Begin) -> Result<Box<dyn Commit>> {
        Ok(Box::new(FileCommit::begin(self, begin)?))
    }

    /// Saves the index while the server runs, so that one that is killed reads little at its next start.
    fn maintain(&self) -> Result<()> {
        if self.index_is_stale() { self.save_index() } else { Ok(()) }
    }

    fn pack(self: Arc<Self>, request: &PackRequest, host: &mut dyn PackHost) -> Result<PackReport> {
        let packed = self.pack_in(request, host, &pack::System);
        // The old index was freed, chunk by chunk, and what the marking had.
        sys::return_free_memory();
        packed
    }

    fn close(&self) -> Result<()> {
        if self.state.read().is_none() {
            return Ok(());
        }
        let saved = self
            .save_index()
            .and_then(|()| if self.check_writable().is_ok() { self.oids.lock().close() } else { Ok(()) });
        *self.state.write() = None;
        // An active transaction still holds the lock; it can no longer finish.
        let mut writing = self.writing.lock();
        writing.lock = None;
        writing.poisoned.get_or_insert_with(|| "the storage is closed".to_owned());
        if writing.active {
            warn!(target: "ZODB.FileStorage", "{} was closed during a transaction", self.name);
        }
        saved
    }
}
