//! What a storage is: one trait, and the storages behind it.
//!
//! A storage keeps revisions of object records, each written by one transaction. It knows nothing of
//! clients, sockets or async: its calls block, and the server decides on which thread they run.
//!
//! # Contract
//!
//! - Reads may come from any number of threads, at any time, also during a commit. They see exactly
//!   the transactions whose `install` step (see [`Publisher`]) has run.
//! - At most one [`Commit`] is active at a time; the server's commit lock sees to that, and
//!   [`Storage::begin`] refuses a second one.
//! - When [`Commit::finish`] returns, the transaction is durable. When it fails, the storage refuses
//!   every further write until it is opened again: what reached the disk is unknown.
//! - Dropping a [`Commit`] aborts it, and leaves no trace.

#[cfg(test)]
pub mod battery;
pub mod blob;
mod disk;
mod error;
pub mod file;
pub mod mapping;
mod pack;

use std::sync::Arc;

use bytes::Bytes;

pub use error::{StorageError, UndoFailure};
pub use pack::{FINDINGS_NAMED, PackHost, PackOutcome, PackPhase, PackProgress, PackReport, PackRequest};

use crate::ids::{Oid, Tid};
use crate::storage::blob::{BlobDirectory, StagedBlob};

/// The result of a storage call.
pub type Result<T, E = StorageError> = std::result::Result<T, E>;

/// A revision of an object, and until when it was current.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// The object record.
    pub data: Bytes,
    /// The transaction that wrote it.
    pub tid: Tid,
    /// The transaction that replaced or deleted it; `None` while it is current.
    pub end: Option<Tid>,
}

/// One step of [`Storage::record_iternext`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentRecord {
    /// The object.
    pub oid: Oid,
    /// The transaction that wrote its current revision.
    pub tid: Tid,
    /// The object record.
    pub data: Bytes,
    /// The next object in oid order, if there is one.
    pub next: Option<Oid>,
}

/// What an application says of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Raw bytes, by convention UTF-8. At most 65535, as the two below.
    pub user: Bytes,
    /// Raw bytes, by convention UTF-8.
    pub description: Bytes,
    /// A pickle of a dict, or nothing for an empty one.
    pub extension: Bytes,
}

/// How a transaction begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Begin {
    /// User, description, extension.
    pub metadata: Metadata,
    /// The tid and status of a transaction that is copied from another storage; otherwise the storage
    /// chooses the tid and the status is a space.
    pub copied: Option<(Tid, u8)>,
}

/// A transaction as `history`, `undoLog` and iterators tell of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionSummary {
    /// Its tid.
    pub tid: Tid,
    /// Its status byte: a space, or `p` after a pack.
    pub status: u8,
    /// User, description, extension.
    pub metadata: Metadata,
    /// `history`: bytes of the object record; `undoLog`: bytes of the transaction record less eight.
    pub size: u64,
}

/// One object revision of an iterated transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IteratedRecord {
    /// The object.
    pub oid: Oid,
    /// The revision's own tid.
    pub tid: Tid,
    /// The object record; `None` when the revision deletes the object.
    pub data: Option<Bytes>,
    /// For a record that points back to an earlier revision: the tid of that one.
    pub data_txn: Option<Tid>,
}

/// What an undo did to one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undone {
    /// The object.
    pub oid: Oid,
    /// The transaction whose record holds the state that the object has again; `None` when it exists no longer.
    pub source: Option<Tid>,
}

/// Transactions with the oids they wrote, oldest first.
pub type Invalidations = Vec<(Tid, Vec<Oid>)>;

/// Transactions in file order, from [`Storage::iterate`].
pub trait Transactions: Send {
    /// The next transaction and its records, or `None` at the end.
    fn next(&mut self) -> Result<Option<(TransactionSummary, Box<dyn Records>)>>;
}

/// The records of one iterated transaction.
pub trait Records: Send {
    /// The next record, or `None` at the end.
    fn next(&mut self) -> Result<Option<IteratedRecord>>;
}

/// What a storage can do beyond the basics. The server tells clients exactly this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is there or not, whatever the others are")]
pub struct Capabilities {
    /// `undoLog`, `undoInfo` and [`Commit::undo`] work.
    pub undo: bool,
    /// [`Commit::restore`] works.
    pub restore: bool,
    /// [`Commit::delete`] works (`IExternalGC`).
    pub external_gc: bool,
    /// [`Storage::record_iternext`] works.
    pub record_iternext: bool,
    /// [`Storage::iterate`] works.
    pub iteration: bool,
}

/// A storage behind the server.
pub trait Storage: Send + Sync {
    /// The name clients and logs see: for a file its path.
    fn name(&self) -> &str;

    /// What it holds and how it was opened: one line for the log.
    fn describe(&self) -> String;

    /// Whether every write is refused.
    fn is_read_only(&self) -> bool;

    /// What this storage can do.
    fn capabilities(&self) -> Capabilities;

    /// How many objects it holds.
    fn len(&self) -> u64;

    /// Whether it holds no object.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its size in bytes, as far as it has one.
    fn size(&self) -> u64;

    /// The newest transaction; zero when there is none.
    fn last_transaction(&self) -> Tid;

    /// The newest revision of `oid` older than `before`.
    ///
    /// `None` if the object has only newer ones; [`StorageError::NoSuchObject`] if the object is
    /// unknown or that revision deletes it.
    fn load_before(&self, oid: Oid, before: Tid) -> Result<Option<Revision>>;

    /// The record that transaction `serial` wrote for `oid`.
    fn load_serial(&self, oid: Oid, serial: Tid) -> Result<Bytes>;

    /// The tid of the current revision of `oid`.
    fn current_tid(&self, oid: Oid) -> Result<Tid>;

    /// Up to `size` revisions of `oid`, newest first.
    fn history(&self, oid: Oid, size: usize) -> Result<Vec<TransactionSummary>>;

    /// The current record of the first object at or after `next` (of all, if `None`); `None` when the
    /// storage holds no such object.
    fn record_iternext(&self, next: Option<Oid>) -> Result<Option<CurrentRecord>>;

    /// The newest `count` transactions; `None` if the storage cannot tell.
    fn last_invalidations(&self, count: usize) -> Result<Option<Invalidations>>;

    /// Transactions newest first, for undo: those the filter accepts, from the `first`-th to before
    /// the `last`-th of them.
    fn undo_log(
        &self,
        first: usize,
        last: usize,
        filter: &mut dyn FnMut(&TransactionSummary) -> bool,
    ) -> Result<Vec<TransactionSummary>>;

    /// The transactions with `start <= tid <= stop` that are there now.
    fn iterate(self: Arc<Self>, start: Option<Tid>, stop: Option<Tid>) -> Result<Box<dyn Transactions>>;

    /// `count` fresh oids, never handed out before, not even by an earlier process that was killed.
    fn new_oids(&self, count: usize) -> Result<Vec<Oid>>;

    /// Starts the one active transaction.
    fn begin(self: Arc<Self>, begin: Begin) -> Result<Box<dyn Commit>>;

    /// Housekeeping that may take a while and needs no transaction; called now and then.
    fn maintain(&self) -> Result<()> {
        Ok(())
    }

    /// Drops what nobody needs as of a time: older revisions and, if asked for, objects that nothing refers to.
    /// Loads and commits go on meanwhile, but for one short step that the host arranges ([`PackHost::exclusively`]).
    /// When it fails, nothing has changed.
    fn pack(self: Arc<Self>, request: &PackRequest, host: &mut dyn PackHost) -> Result<PackReport>;

    /// Where the blobs are, if this storage has any.
    fn blobs(&self) -> Option<&BlobDirectory> {
        None
    }

    /// Makes everything as quick to open as it can be, and gives up the files. Later calls fail.
    fn close(&self) -> Result<()>;
}

/// One transaction, from its begin to finish or abort.
///
/// The calls between [`Storage::begin`] and [`vote`](Commit::vote) check and collect; nothing of them
/// is visible to readers. Any error ends the transaction: drop the commit. Only after a conflict may
/// more be stored, to learn of further conflicts; there is no vote then.
pub trait Commit: Send {
    /// Writes a revision. `serial` is the revision it was derived from; it must still be the current
    /// one unless the object is new.
    fn store(&mut self, oid: Oid, serial: Tid, data: &[u8]) -> Result<()>;

    /// Writes a revision as it is in another storage, without a conflict check; `None` deletes.
    /// `same_as` names an earlier transaction with the same data, to point back to.
    fn restore(&mut self, oid: Oid, serial: Tid, data: Option<&[u8]>, same_as: Option<Tid>) -> Result<()>;

    /// Deletes an object.
    fn delete(&mut self, oid: Oid, serial: Tid) -> Result<()>;

    /// Fails unless `serial` is the current revision of `oid`.
    fn check_current(&mut self, oid: Oid, serial: Tid) -> Result<()>;

    /// Undoes transaction `tid`; returns the objects it touched.
    fn undo(&mut self, tid: Tid) -> Result<Vec<Undone>>;

    /// [`store`](Self::store) of a blob's record, with the file that is the blob's content.
    ///
    /// The file stays the caller's until a finish takes it; a commit that is dropped leaves it where it is.
    fn store_blob(&mut self, _oid: Oid, _serial: Tid, _data: &[u8], _content: Arc<StagedBlob>) -> Result<()> {
        Err(StorageError::Unsupported("storeBlob"))
    }

    /// The tid that this transaction has, or will have when it is finished.
    fn tid(&self) -> Tid;

    /// Promises that [`finish`](Commit::finish) will succeed unless the disk fails. Returns the oids
    /// whose conflicts were resolved, in other words whose records differ from what was stored.
    fn vote(&mut self) -> Result<Vec<Oid>>;

    /// Makes the voted transaction durable, then visible through `publisher`, and returns its tid.
    fn finish(self: Box<Self>, publisher: &mut dyn Publisher) -> Result<Tid>;
}

/// Whoever has to hear of a transaction in the moment in which readers first see it.
pub trait Publisher {
    /// Called once, when transaction `tid` is durable. Runs `install`, which makes the transaction
    /// visible and does no I/O, inside the publisher's own critical section.
    fn publish(&mut self, tid: Tid, install: &mut dyn FnMut());
}

/// Refuses a tid that loads of the current revision do not reach, and after which later tids would start again at zero.
fn must_be_loadable(tid: Tid) -> Result<()> {
    if tid < Tid::MAX {
        return Ok(());
    }
    Err(StorageError::Refused(format!("clients could not load what has the tid {tid}: it must be below {}", Tid::MAX)))
}
