//! Everything in memory: the storage for tests and for data that may vanish.
//!
//! Keeps every revision of every object, so that it can serve the past as a file can. No undo, no
//! deletion, no walk over current records: a client is told so and does not ask. It must never touch the
//! disk. Behaves as `ZODB.MappingStorage`, but that an oid that was stored is not handed out as new
//! afterwards, since that would let two objects share it, and that more survives a pack (`pack`).

mod pack;

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use self::pack::Pack;
use super::{
    Begin, Capabilities, Commit, CurrentRecord, Invalidations, IteratedRecord, Metadata, PackHost, PackReport,
    PackRequest, Publisher, Records, Result, Revision, Storage, StorageError, TransactionSummary, Transactions, Undone,
    must_be_loadable,
};
use crate::ids::{Oid, Tid};
use crate::pickle::record::class_name;
use crate::sync::RwLock;

/// What the original adds to the reported size for each object and for each revision.
const BYTES_PER_OBJECT: u64 = 50;
const BYTES_PER_REVISION: u64 = 100;

/// A storage in memory.
#[derive(Debug)]
pub struct MappingStorage {
    name: String,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    objects: HashMap<Oid, BTreeMap<Tid, Bytes>>,
    transactions: BTreeMap<Tid, Arc<Transaction>>,
    /// The transaction finished last; a copied one may be older than others.
    last: Tid,
    highest_oid: Oid,
    size: u64,
    committing: bool,
    /// While a pack is on: which objects were written since it began.
    packing: Option<Vec<Oid>>,
    closed: bool,
}

/// A finished transaction, shared with iterators.
#[derive(Debug)]
struct Transaction {
    tid: Tid,
    status: u8,
    metadata: Metadata,
    records: Vec<(Oid, Bytes)>,
}

impl MappingStorage {
    /// An empty storage.
    pub fn new(name: String) -> Arc<Self> {
        Arc::new(Self { name, state: RwLock::default() })
    }
}

impl Storage for MappingStorage {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn describe(&self) -> String {
        format!("{} objects in memory", self.len())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { iteration: true, ..Capabilities::default() }
    }

    fn len(&self) -> u64 {
        self.state.read().objects.len() as u64
    }

    fn size(&self) -> u64 {
        self.state.read().size
    }

    fn last_transaction(&self) -> Tid {
        self.state.read().last
    }

    fn load_before(&self, oid: Oid, before: Tid) -> Result<Option<Revision>> {
        let state = self.state.read();
        let revisions = state.revisions(oid)?;
        let Some((&tid, data)) = revisions.range(..before).next_back() else {
            return Ok(None);
        };
        let end = revisions.range(before..).next().map(|(&tid, _)| tid);
        Ok(Some(Revision { data: data.clone(), tid, end }))
    }

    fn load_serial(&self, oid: Oid, serial: Tid) -> Result<Bytes> {
        let state = self.state.read();
        state.revisions(oid)?.get(&serial).cloned().ok_or(StorageError::NoSuchObject(oid))
    }

    fn current_tid(&self, oid: Oid) -> Result<Tid> {
        self.state.read().current_tid(oid)
    }

    fn history(&self, oid: Oid, size: usize) -> Result<Vec<TransactionSummary>> {
        let state = self.state.read();
        let revisions = state.revisions(oid)?.iter().rev().take(size);
        let entries = revisions.filter_map(|(tid, data)| {
            let transaction = state.transactions.get(tid)?;
            Some(TransactionSummary { size: data.len() as u64, ..transaction.summary() })
        });
        Ok(entries.collect())
    }

    fn record_iternext(&self, _next: Option<Oid>) -> Result<Option<CurrentRecord>> {
        Err(StorageError::Unsupported("record_iternext"))
    }

    fn last_invalidations(&self, _count: usize) -> Result<Option<Invalidations>> {
        self.state.read().opened()?;
        Ok(None)
    }

    fn undo_log(
        &self,
        _first: usize,
        _last: usize,
        _filter: &mut dyn FnMut(&TransactionSummary) -> bool,
    ) -> Result<Vec<TransactionSummary>> {
        Err(StorageError::Unsupported("undoLog"))
    }

    fn iterate(self: Arc<Self>, start: Option<Tid>, stop: Option<Tid>) -> Result<Box<dyn Transactions>> {
        let state = self.state.read();
        state.opened()?;
        let end = stop.map_or(Bound::Unbounded, Bound::Included);
        let start = start.unwrap_or(Tid::ZERO);
        // A range that ends before it starts makes BTreeMap panic; here it is empty.
        let found: Vec<_> = if stop.is_some_and(|stop| stop < start) {
            Vec::new()
        } else {
            state.transactions.range((Bound::Included(start), end)).map(|(_, txn)| Arc::clone(txn)).collect()
        };
        Ok(Box::new(MappingTransactions(found.into_iter())))
    }

    fn new_oids(&self, count: usize) -> Result<Vec<Oid>> {
        let mut state = self.state.write();
        state.opened()?;
        let first = state.highest_oid.0;
        let last = u64::try_from(count)
            .ok()
            .and_then(|count| first.checked_add(count))
            .ok_or_else(|| StorageError::Refused("the storage has run out of object ids".to_owned()))?;
        state.highest_oid = Oid(last);
        Ok((first..last).map(|oid| Oid(oid + 1)).collect())
    }

    fn begin(self: Arc<Self>, begin: Begin) -> Result<Box<dyn Commit>> {
        let mut state = self.state.write();
        state.opened()?;
        if state.committing {
            return Err(StorageError::Transaction("another transaction is being committed".to_owned()));
        }
        let (tid, status) = match begin.copied {
            Some(copied) => copied,
            None => (Tid::from_time(SystemTime::now()).later_than(state.newest()), b' '),
        };
        must_be_loadable(tid)?;
        state.committing = true;
        drop(state);
        Ok(Box::new(MappingCommit {
            storage: self,
            tid,
            status,
            metadata: begin.metadata,
            records: Vec::new(),
            places: HashMap::new(),
            voted: false,
        }))
    }

    fn pack(self: Arc<Self>, request: &PackRequest, host: &mut dyn PackHost) -> Result<PackReport> {
        Pack::start(&self)?.run(request, host)
    }

    fn close(&self) -> Result<()> {
        self.state.write().closed = true;
        Ok(())
    }
}

impl State {
    fn opened(&self) -> Result<()> {
        if self.closed {
            return Err(StorageError::Refused("the storage is closed".to_owned()));
        }
        Ok(())
    }

    /// All revisions of `oid`; at least one.
    fn revisions(&self, oid: Oid) -> Result<&BTreeMap<Tid, Bytes>> {
        self.opened()?;
        self.objects.get(&oid).ok_or(StorageError::NoSuchObject(oid))
    }

    fn current_tid(&self, oid: Oid) -> Result<Tid> {
        let newest = self.revisions(oid)?.last_key_value();
        newest.map(|(&tid, _)| tid).ok_or(StorageError::NoSuchObject(oid))
    }

    /// The tid that the next one must be later than. A pack may have left out the last transaction.
    fn newest(&self) -> Tid {
        self.transactions.last_key_value().map_or(Tid::ZERO, |(&tid, _)| tid).max(self.last)
    }

    fn install(&mut self, transaction: Transaction) {
        let tid = transaction.tid;
        if let Some(written) = &mut self.packing {
            written.extend(transaction.records.iter().map(|(oid, _)| oid));
        }
        for (oid, data) in &transaction.records {
            let revisions = self.objects.entry(*oid).or_insert_with(|| {
                self.size += BYTES_PER_OBJECT;
                BTreeMap::new()
            });
            self.size += BYTES_PER_REVISION + data.len() as u64;
            if let Some(replaced) = revisions.insert(tid, data.clone()) {
                self.size -= BYTES_PER_REVISION + replaced.len() as u64;
            }
        }
        self.last = tid;
        self.transactions.insert(tid, Arc::new(transaction));
    }
}

impl Transaction {
    /// What iterators tell; the size is for `history` to fill in.
    fn summary(&self) -> TransactionSummary {
        TransactionSummary { tid: self.tid, status: self.status, metadata: self.metadata.clone(), size: 0 }
    }
}

/// The one transaction that is being committed.
struct MappingCommit {
    storage: Arc<MappingStorage>,
    tid: Tid,
    status: u8,
    metadata: Metadata,
    /// In the order in which the objects were stored first; of one stored twice the later record.
    records: Vec<(Oid, Bytes)>,
    places: HashMap<Oid, usize>,
    voted: bool,
}

impl MappingCommit {
    fn must_not_be_voted(&self, call: &str) -> Result<()> {
        if self.voted {
            return Err(StorageError::Transaction(format!("{call} called after tpc_vote")));
        }
        Ok(())
    }
}

impl Commit for MappingCommit {
    fn store(&mut self, oid: Oid, serial: Tid, data: &[u8]) -> Result<()> {
        self.must_not_be_voted("store")?;
        let mut state = self.storage.state.write();
        match state.current_tid(oid) {
            Ok(committed) if committed != serial => {
                return Err(StorageError::Conflict { oid, committed, read: serial, class_name: class_name(data) });
            }
            Ok(_) | Err(StorageError::NoSuchObject(_)) => {}
            Err(error) => return Err(error),
        }
        state.highest_oid = state.highest_oid.max(oid);
        drop(state);
        let record = (oid, Bytes::copy_from_slice(data));
        let place = *self.places.entry(oid).or_insert(self.records.len());
        if let Some(earlier) = self.records.get_mut(place) {
            *earlier = record;
        } else {
            self.records.push(record);
        }
        Ok(())
    }

    fn restore(&mut self, _oid: Oid, _serial: Tid, _data: Option<&[u8]>, _same_as: Option<Tid>) -> Result<()> {
        Err(StorageError::Unsupported("restore"))
    }

    fn delete(&mut self, _oid: Oid, _serial: Tid) -> Result<()> {
        Err(StorageError::Unsupported("deleteObject"))
    }

    fn check_current(&mut self, oid: Oid, serial: Tid) -> Result<()> {
        let committed = self.storage.current_tid(oid)?;
        if committed != serial {
            return Err(StorageError::ReadConflict { oid, committed, read: serial });
        }
        Ok(())
    }

    fn undo(&mut self, _tid: Tid) -> Result<Vec<Undone>> {
        Err(StorageError::Unsupported("undo"))
    }

    fn tid(&self) -> Tid {
        self.tid
    }

    fn vote(&mut self) -> Result<Vec<Oid>> {
        self.must_not_be_voted("tpc_vote")?;
        self.storage.state.read().opened()?;
        self.voted = true;
        Ok(Vec::new())
    }

    fn finish(mut self: Box<Self>, publisher: &mut dyn Publisher) -> Result<Tid> {
        if !self.voted {
            return Err(StorageError::Transaction("tpc_finish called before tpc_vote".to_owned()));
        }
        self.storage.state.read().opened()?;
        let tid = self.tid;
        let mut transaction = Some(Transaction {
            tid,
            status: self.status,
            metadata: std::mem::take(&mut self.metadata),
            records: std::mem::take(&mut self.records),
        });
        publisher.publish(tid, &mut || {
            if let Some(transaction) = transaction.take() {
                self.storage.state.write().install(transaction);
            }
        });
        Ok(tid)
    }
}

impl Drop for MappingCommit {
    fn drop(&mut self) {
        self.storage.state.write().committing = false;
    }
}

struct MappingTransactions(std::vec::IntoIter<Arc<Transaction>>);

impl Transactions for MappingTransactions {
    fn next(&mut self) -> Result<Option<(TransactionSummary, Box<dyn Records>)>> {
        Ok(self.0.next().map(|transaction| {
            let summary = transaction.summary();
            (summary, Box::new(MappingRecords { transaction, next: 0 }) as Box<dyn Records>)
        }))
    }
}

struct MappingRecords {
    transaction: Arc<Transaction>,
    next: usize,
}

impl Records for MappingRecords {
    fn next(&mut self) -> Result<Option<IteratedRecord>> {
        let record = self.transaction.records.get(self.next);
        self.next += 1;
        Ok(record.map(|(oid, data)| IteratedRecord {
            oid: *oid,
            tid: self.transaction.tid,
            data: Some(data.clone()),
            data_txn: None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::battery::battery;
    use crate::storage::battery::bench::Bench;
    use crate::storage::battery::packing::{pack, record};

    battery!(mapping, |_| MappingStorage::new("memory".to_owned()), [reading, committing, iterating, packing, threads]);

    #[test]
    fn a_pack_gives_back_what_things_took() {
        let t = Bench::new(|_| MappingStorage::new("memory".to_owned()));
        let first = t.store(Oid::ZERO, Tid::ZERO, &record(&[]));
        let alone = t.storage.size();
        t.store(Oid(1), Tid::ZERO, &record(&[]));
        let last = t.store(Oid::ZERO, first, &record(&[]));
        pack(&t, last, true);
        assert_eq!(t.storage.size(), alone);
    }
}
