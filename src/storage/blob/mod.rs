//! Blobs: large values in files of their own, beside any storage that keeps the records.
//!
//! [`BlobStorage`] is one layer over a storage that knows nothing of blobs. In the order in which they come into play:
//!
//! - `tree`: no link is followed in a blob directory, and names are made durable there
//! - `layout`, `directory`: names in a blob directory; the directory itself, and content that waits in its `tmp`
//! - `staged`: one such content
//! - `commit`, `placement`: a transaction with blobs; how content gets its final name, and loses it again
//! - `removal`: what a pack leaves over
//! - `kept`: the directory beside, where a pack may keep that
//!
//! Names and bytes are those of ZODB's own blob directories; what is ours are the names in `tmp`. A path is never what
//! a client says it is.

mod commit;
mod directory;
mod kept;
mod layout;
#[cfg(test)]
mod names_tests;
mod placement;
mod removal;
mod staged;
#[cfg(test)]
mod tests;
mod tree;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

pub use self::directory::BlobDirectory;
pub use self::staged::StagedBlob;

use self::commit::BlobCommit;
use self::kept::Kept;
use self::removal::{ListingHost, RemovalList};
use super::{
    Begin, Capabilities, Commit, CurrentRecord, Invalidations, PackHost, PackOutcome, PackReport, PackRequest, Result,
    Revision, Storage, StorageError, TransactionSummary, Transactions,
};
use crate::ids::{Oid, Tid};
use crate::sync::Mutex;

const LOGGER: &str = "ZODB.blob";

/// How to open a blob directory.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory.
    pub path: PathBuf,
    /// Begin with an empty directory, whatever was there.
    pub create: bool,
    /// Whether a pack keeps what it removes, and links to the rest, beside the directory with `.old` at the end. If not,
    /// what an earlier one has kept there goes.
    pub pack_keep_old: bool,
}

/// What packs do with `<blob-dir>.old`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    /// They keep there what they remove.
    Kept,
    /// What an earlier pack has kept goes.
    Emptied,
    /// Nothing: it is somebody else's.
    Untouched,
}

/// A storage with blobs.
pub struct BlobStorage {
    inner: Arc<dyn Storage>,
    directory: BlobDirectory,
    beside: Beside,
    packing: AtomicBool,
    /// Held by a pack, and by whoever works off what an earlier one has left over.
    removing: Mutex<()>,
    /// Whether an earlier server may have left something over.
    left_over: AtomicBool,
    /// Asks the housekeeping, which works that off, to give `removing` up.
    give_way: AtomicBool,
}

impl BlobStorage {
    /// Gives blobs to a storage, which is read-only with them if it was without.
    pub fn open(inner: Arc<dyn Storage>, options: &Options) -> Result<Self> {
        if inner.blobs().is_some() {
            return Err(StorageError::Refused(format!(
                "{} cannot hold the blobs of {}, which has a blob directory of its own",
                options.path.display(),
                inner.name()
            )));
        }
        let read_only = inner.is_read_only();
        let directory = BlobDirectory::open(&options.path, read_only, options.create)?;
        let beside = if options.pack_keep_old { Beside::Kept } else { Beside::Emptied };
        if !read_only {
            placement::remove_pending(&directory, &inner)?;
        }
        Ok(Self {
            inner,
            directory,
            beside,
            packing: AtomicBool::new(false),
            removing: Mutex::default(),
            left_over: AtomicBool::new(!read_only),
            give_way: AtomicBool::new(false),
        })
    }

    /// Has nothing to do with `<blob-dir>.old`: packs remove blobs for good, and leave alone what is there.
    #[must_use]
    pub fn leaving_old(self) -> Self {
        Self { beside: Beside::Untouched, ..self }
    }

    fn pack_now(&self, request: &PackRequest, host: &mut dyn PackHost) -> Result<PackReport> {
        if self.beside == Beside::Kept {
            Kept::beside(&self.directory).check(&self.directory)?;
        }
        self.give_way.store(true, Ordering::Relaxed);
        let _removing = self.removing.lock();
        self.give_way.store(false, Ordering::Relaxed);
        self.left_over.store(false, Ordering::Relaxed);
        let goes_on = removal::remove_left_over(self, &mut removal::telling(host));
        let mut list = RemovalList::new(self, goes_on);
        let packed = Arc::clone(&self.inner).pack(request, &mut ListingHost { host, list: &mut list });
        match &packed {
            Ok(report) if report.outcome == PackOutcome::Packed => removal::remove_listed(self, host),
            // The packed data may have taken its place all the same. Then the next start or pack needs the list.
            Err(_) if list.entered => {}
            _ => list.discard(),
        }
        packed
    }
}

/// Whether a storage has a transaction. If it has not, it is not the database that somebody remembers, or not in that
/// state.
fn has_transaction(records: &Arc<dyn Storage>, tid: Tid) -> Result<bool> {
    Ok(Arc::clone(records).iterate(Some(tid), Some(tid))?.next()?.is_some())
}

impl Storage for BlobStorage {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn describe(&self) -> String {
        let (inner, path, layout) = (self.inner.describe(), self.directory.path(), self.directory.layout_name());
        format!("{inner}; blobs in {} ({layout})", path.display())
    }

    fn is_read_only(&self) -> bool {
        self.inner.is_read_only()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn last_transaction(&self) -> Tid {
        self.inner.last_transaction()
    }

    fn load_before(&self, oid: Oid, before: Tid) -> Result<Option<Revision>> {
        self.inner.load_before(oid, before)
    }

    fn load_serial(&self, oid: Oid, serial: Tid) -> Result<Bytes> {
        self.inner.load_serial(oid, serial)
    }

    fn current_tid(&self, oid: Oid) -> Result<Tid> {
        self.inner.current_tid(oid)
    }

    fn history(&self, oid: Oid, size: usize) -> Result<Vec<TransactionSummary>> {
        self.inner.history(oid, size)
    }

    fn record_iternext(&self, next: Option<Oid>) -> Result<Option<CurrentRecord>> {
        self.inner.record_iternext(next)
    }

    fn last_invalidations(&self, count: usize) -> Result<Option<Invalidations>> {
        self.inner.last_invalidations(count)
    }

    fn undo_log(
        &self,
        first: usize,
        last: usize,
        filter: &mut dyn FnMut(&TransactionSummary) -> bool,
    ) -> Result<Vec<TransactionSummary>> {
        self.inner.undo_log(first, last, filter)
    }

    fn iterate(self: Arc<Self>, start: Option<Tid>, stop: Option<Tid>) -> Result<Box<dyn Transactions>> {
        Arc::clone(&self.inner).iterate(start, stop)
    }

    fn new_oids(&self, count: usize) -> Result<Vec<Oid>> {
        self.inner.new_oids(count)
    }

    fn begin(self: Arc<Self>, begin: Begin) -> Result<Box<dyn Commit>> {
        Ok(Box::new(BlobCommit::begin(self, begin)?))
    }

    /// What an earlier server has left over may be much. So it is worked off here, and no start waits for it.
    fn maintain(&self) -> Result<()> {
        let maintained = self.inner.maintain();
        let gives_way = || self.give_way.load(Ordering::Relaxed);
        // A pack that has the lock does the same.
        if self.left_over.swap(false, Ordering::Relaxed)
            && let Some(_removing) = self.removing.try_lock()
            && !gives_way()
        {
            removal::remove_left_over(self, &mut |_, _| {
                let other = || StorageError::Refused("a pack comes first, or the server stops".to_owned());
                if gives_way() { Err(other()) } else { Ok(()) }
            });
        }
        maintained
    }

    /// A second pack would overwrite the list of the first one, whatever the storage below thinks of it.
    fn pack(self: Arc<Self>, request: &PackRequest, host: &mut dyn PackHost) -> Result<PackReport> {
        if self.is_read_only() {
            return Arc::clone(&self.inner).pack(request, host);
        }
        if self.packing.swap(true, Ordering::AcqRel) {
            return Err(StorageError::Refused("Already packing".to_owned()));
        }
        let packed = self.pack_now(request, host);
        self.packing.store(false, Ordering::Release);
        packed
    }

    fn blobs(&self) -> Option<&BlobDirectory> {
        Some(&self.directory)
    }

    fn close(&self) -> Result<()> {
        self.give_way.store(true, Ordering::Relaxed);
        let _removing = self.removing.lock();
        let closed = self.inner.close();
        self.directory.close();
        closed
    }
}
