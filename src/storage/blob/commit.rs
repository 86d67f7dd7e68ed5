//! A transaction with blobs: that of the storage below, and a file for each blob of it.
//!
//! Content is synced and made read-only when it is voted for, and all that its final name needs is made. It gets that
//! name when the transaction is finished, before that makes it durable. A transaction without blobs costs nothing here.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::placement::Placement;
use super::{BlobStorage, StagedBlob};
use crate::ids::{Oid, Tid};
use crate::pickle::record::is_blob_record;
use crate::storage::{Begin, Commit, Publisher, Result, StorageError, Undone};

/// The one active transaction of a [`BlobStorage`].
pub(super) struct BlobCommit {
    storage: Arc<BlobStorage>,
    /// The transaction of the storage below.
    inner: Box<dyn Commit>,
    /// Of a revision that is stored twice the later content.
    contents: Contents,
    /// Since the vote, if there are contents.
    placement: Option<Placement>,
}

/// The content of each revision.
pub(super) type Contents = BTreeMap<(Oid, Tid), Arc<StagedBlob>>;

impl BlobCommit {
    pub fn begin(storage: Arc<BlobStorage>, begin: Begin) -> Result<Self> {
        let inner = Arc::clone(&storage.inner).begin(begin)?;
        Ok(Self { storage, inner, contents: Contents::new(), placement: None })
    }
}

impl Commit for BlobCommit {
    fn store(&mut self, oid: Oid, serial: Tid, data: &[u8]) -> Result<()> {
        self.inner.store(oid, serial, data)
    }

    fn restore(&mut self, oid: Oid, serial: Tid, data: Option<&[u8]>, same_as: Option<Tid>) -> Result<()> {
        self.inner.restore(oid, serial, data, same_as)
    }

    fn delete(&mut self, oid: Oid, serial: Tid) -> Result<()> {
        self.inner.delete(oid, serial)
    }

    fn check_current(&mut self, oid: Oid, serial: Tid) -> Result<()> {
        self.inner.check_current(oid, serial)
    }

    fn undo(&mut self, tid: Tid) -> Result<Vec<Undone>> {
        let undone = self.inner.undo(tid)?;
        for &Undone { oid, source } in &undone {
            let revision = (oid, self.tid());
            match source {
                Some(source) if is_blob_record(&self.storage.inner.load_serial(oid, source)?) => {
                    let content = self.storage.directory.stage_revision(oid, source)?;
                    self.contents.insert(revision, Arc::new(content));
                }
                _ => drop(self.contents.remove(&revision)),
            }
        }
        Ok(undone)
    }

    fn store_blob(&mut self, oid: Oid, serial: Tid, data: &[u8], content: Arc<StagedBlob>) -> Result<()> {
        self.inner.store(oid, serial, data)?;
        self.contents.insert((oid, self.tid()), content);
        Ok(())
    }

    fn tid(&self) -> Tid {
        self.inner.tid()
    }

    fn vote(&mut self) -> Result<Vec<Oid>> {
        let to_prepare = !self.contents.is_empty() && self.placement.is_none();
        let placement =
            to_prepare.then(|| Placement::prepare(Arc::clone(&self.storage), &self.contents)).transpose()?;
        let resolved = self.inner.vote()?;
        self.placement = placement;
        Ok(resolved)
    }

    fn finish(self: Box<Self>, publisher: &mut dyn Publisher) -> Result<Tid> {
        let Self { storage, inner, contents, placement } = *self;
        if contents.is_empty() {
            return inner.finish(publisher);
        }
        let Some(mut placement) = placement else {
            return Err(StorageError::Transaction("tpc_finish called before tpc_vote".to_owned()));
        };
        // No pack removes what it does not know, nor a directory that is to get a file.
        let _names = storage.directory.names.lock();
        // Whatever fails before the storage below is asked: no name stays, and that transaction is aborted.
        placement.place(&contents)?;
        let finished = inner.finish(publisher);
        match finished {
            Ok(_) => placement.committed(),
            // The transaction may be on disk all the same, and then it needs its blobs.
            Err(_) => placement.undecided(),
        }
        finished
    }
}
