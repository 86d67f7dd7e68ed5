//! What the tests of the battery work with: a storage in a directory of its own, and short words for
//! whole commits.

use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;

use crate::ids::{Oid, Tid};
use crate::storage::{
    Begin, Commit, Invalidations, IteratedRecord, Metadata, Publisher, Result, Storage, StorageError,
};
use crate::storage::{Revision, TransactionSummary};

/// Opens the storage under test in a directory.
pub type Open<S> = fn(&Path) -> Arc<S>;

type OpenAny = dyn Fn(&Path) -> Arc<dyn Storage>;

/// A transaction as iteration shows it, with all its records.
pub type Iterated = (TransactionSummary, Vec<IteratedRecord>);

/// A storage under test.
pub struct Bench {
    /// The storage.
    pub storage: Arc<dyn Storage>,
    open: Box<OpenAny>,
    directory: TempDir,
}

impl Bench {
    /// A fresh storage.
    pub fn new<S: Storage + 'static>(open: Open<S>) -> Self {
        let directory = TempDir::new().expect("make a directory");
        let open = Box::new(move |path: &Path| open(path) as Arc<dyn Storage>);
        Self { storage: open(directory.path()), open, directory }
    }

    /// Closes the storage and opens it again.
    pub fn reopen(&mut self) {
        self.storage.close().expect("close");
        self.storage = (self.open)(self.directory.path());
    }

    /// Begins a transaction of this storage's own.
    pub fn begin(&self) -> Box<dyn Commit> {
        self.try_begin(Begin::default()).expect("begin")
    }

    /// Begins a transaction.
    pub fn try_begin(&self, begin: Begin) -> Result<Box<dyn Commit>> {
        Arc::clone(&self.storage).begin(begin)
    }

    /// A whole commit, from begin to finish.
    pub fn try_commit(&self, begin: Begin, steps: impl FnOnce(&mut dyn Commit) -> Result<()>) -> Result<Tid> {
        let mut commit = self.try_begin(begin)?;
        steps(commit.as_mut())?;
        commit.vote()?;
        commit.finish(&mut Direct)
    }

    /// A whole commit that succeeds.
    pub fn commit(&self, steps: impl FnOnce(&mut dyn Commit) -> Result<()>) -> Tid {
        self.try_commit(Begin::default(), steps).expect("commit")
    }

    /// A whole commit that fails before it is finished; says why.
    pub fn refused(&self, steps: impl FnOnce(&mut dyn Commit) -> Result<()>) -> StorageError {
        let mut commit = self.begin();
        match steps(commit.as_mut()).and_then(|()| commit.vote()) {
            Err(error) => error,
            Ok(_) => panic!("the vote succeeded"),
        }
    }

    /// Commits one record.
    pub fn store(&self, oid: Oid, serial: Tid, data: &[u8]) -> Tid {
        self.commit(|commit| commit.store(oid, serial, data))
    }

    /// Commits an undo.
    pub fn undo(&self, tid: Tid) -> Tid {
        self.commit(|commit| commit.undo(tid).map(drop))
    }

    /// The current revision.
    pub fn load(&self, oid: Oid) -> Result<Revision> {
        let revision = self.storage.load_before(oid, Tid::MAX)?;
        Ok(revision.expect("every revision is older than the latest tid"))
    }

    /// The data of the current revision.
    pub fn data(&self, oid: Oid) -> Vec<u8> {
        self.load(oid).expect("load").data.to_vec()
    }

    /// All transactions between two bounds.
    pub fn iterate(&self, start: Option<Tid>, stop: Option<Tid>) -> Vec<Iterated> {
        let mut transactions = Arc::clone(&self.storage).iterate(start, stop).expect("iterate");
        let mut found = Vec::new();
        while let Some((summary, mut records)) = transactions.next().expect("next transaction") {
            let mut of_this = Vec::new();
            while let Some(record) = records.next().expect("next record") {
                of_this.push(record);
            }
            found.push((summary, of_this));
        }
        found
    }

    /// The tids of all transactions between two bounds.
    pub fn tids(&self, start: Option<Tid>, stop: Option<Tid>) -> Vec<Tid> {
        self.iterate(start, stop).into_iter().map(|(summary, _)| summary.tid).collect()
    }

    /// All that can be seen of the storage from outside, for the objects given.
    pub fn snapshot(&self, oids: &[Oid]) -> Snapshot {
        let capabilities = self.storage.capabilities();
        Snapshot {
            len: self.storage.len(),
            size: self.storage.size(),
            last: self.storage.last_transaction(),
            objects: oids
                .iter()
                .map(|&oid| (self.load(oid).ok(), self.storage.history(oid, usize::MAX).unwrap_or_default()))
                .collect(),
            transactions: if capabilities.iteration { self.iterate(None, None) } else { Vec::new() },
            invalidations: self.storage.last_invalidations(100).expect("last invalidations"),
        }
    }
}

/// See [`Bench::snapshot`].
#[derive(Debug, PartialEq, Eq)]
pub struct Snapshot {
    len: u64,
    size: u64,
    last: Tid,
    objects: Vec<(Option<Revision>, Vec<TransactionSummary>)>,
    transactions: Vec<Iterated>,
    invalidations: Option<Invalidations>,
}

/// A publisher with nobody to tell.
pub struct Direct;

impl Publisher for Direct {
    fn publish(&mut self, _tid: Tid, install: &mut dyn FnMut()) {
        install();
    }
}

/// How a transaction begins that says something of itself.
pub fn told(user: &[u8], description: &[u8], extension: &[u8]) -> Begin {
    let metadata = Metadata {
        user: user.to_vec().into(),
        description: description.to_vec().into(),
        extension: extension.to_vec().into(),
    };
    Begin { metadata, copied: None }
}

/// How a transaction begins that another storage has finished before.
pub fn copied(tid: Tid, status: u8) -> Begin {
    Begin { metadata: Metadata::default(), copied: Some((tid, status)) }
}

/// The tid just after another one.
pub fn after(tid: Tid) -> Tid {
    Tid(tid.0 + 1)
}

/// Asserts that a call said that there is no such object.
#[track_caller]
pub fn no_such<T: std::fmt::Debug>(oid: Oid, result: Result<T>) {
    match result {
        Err(StorageError::NoSuchObject(named)) => assert_eq!(named, oid),
        other => panic!("expected that {oid} does not exist, got {other:?}"),
    }
}

/// Asserts that a call said that the storage has no such operation.
#[track_caller]
pub fn unsupported<T>(result: Result<T>) {
    match result {
        Err(StorageError::Unsupported(_)) => {}
        Err(error) => panic!("expected an unsupported operation, got {error:?}"),
        Ok(_) => panic!("expected an unsupported operation, but it succeeded"),
    }
}
