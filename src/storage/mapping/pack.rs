//! Pack of the storage in memory.
//!
//! What is kept is what the original keeps, and more in three cases. Whatever was written after the
//! pack time stays, with all that it refers to, since a client may be about to link it. A reference to
//! an object that is not there leaves nothing out, where the original fails halfway and loses what it
//! held. A record whose references cannot be read may refer to anything: then all objects stay, and
//! only older revisions go. To pack to an earlier time than before is no error; there is nothing to do.
//!
//! Marking takes the lock for one object at a time, so that loads and commits go on. What they write
//! meanwhile is noted in [`State::packing`] and followed in the last step.

use std::collections::btree_map::{BTreeMap, Entry};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use tracing::warn;

use super::{BYTES_PER_OBJECT, BYTES_PER_REVISION, MappingStorage, State, Transaction};
use crate::ids::{Oid, Tid};
use crate::pickle::record::is_blob_record;
use crate::pickle::references::ReferenceScanner;
use crate::storage::{
    FINDINGS_NAMED, PackHost, PackOutcome, PackPhase, PackProgress, PackReport, PackRequest, Result, Storage,
    StorageError,
};

/// Progress is told after so many objects.
const OBJECTS_PER_PROGRESS: u64 = 1 << 12;

/// The storage while it is packed; dropping this ends the pack.
pub(super) struct Pack<'a>(&'a MappingStorage);

impl<'a> Pack<'a> {
    pub fn start(storage: &'a MappingStorage) -> Result<Self> {
        let mut state = storage.state.write();
        state.opened()?;
        if state.packing.is_some() {
            return Err(StorageError::Refused("Already packing".to_owned()));
        }
        state.packing = Some(Vec::new());
        Ok(Self(storage))
    }

    pub fn run(&self, request: &PackRequest, host: &mut dyn PackHost) -> Result<PackReport> {
        let storage = self.0;
        // What comes from now on stays as it is, however late the pack time.
        let stop = request.stop.min(storage.last_transaction());
        let mut report = PackReport {
            outcome: PackOutcome::NothingToDo,
            bytes_before: storage.size(),
            bytes_after: storage.size(),
            objects_before: storage.len(),
            objects_after: storage.len(),
            dangling: 0,
            undecodable: 0,
        };
        if storage.is_empty() {
            return Ok(report);
        }
        let mut marking = request.gc.unwrap_or(true).then(|| Marking::new(storage, stop)).transpose()?;
        if let Some(marking) = &mut marking {
            marking.follow(host)?;
        }
        if host.has_blobs() {
            // Objects that the last step still reaches are named in vain: before a file goes, the storage is asked once more.
            let gone = storage.state.read().blobs_left_out(stop, marking.as_ref().and_then(Marking::reached));
            gone.into_iter().try_for_each(|(oid, tid, whole_object)| host.blob_removed(oid, tid, whole_object))?;
        }
        host.exclusively(&mut || {
            let mut state = storage.state.write();
            state.opened()?;
            if let Some(marking) = &mut marking {
                marking.follow_again(&state);
            }
            if state.leave_out(stop, marking.as_ref().and_then(Marking::reached)) {
                report.outcome = PackOutcome::Packed;
            }
            (report.bytes_after, report.objects_after) = (state.size, state.objects.len() as u64);
            Ok(())
        })?;
        if let Some(marking) = marking {
            (report.dangling, report.undecodable) = (marking.dangling, marking.undecodable);
        }
        Ok(report)
    }
}

impl Drop for Pack<'_> {
    fn drop(&mut self) {
        self.0.state.write().packing = None;
    }
}

/// Which objects can be reached.
struct Marking<'a> {
    storage: &'a MappingStorage,
    stop: Tid,
    scanner: ReferenceScanner,
    reached: HashSet<Oid>,
    pending: Vec<Oid>,
    dangling: u64,
    undecodable: u64,
}

impl<'a> Marking<'a> {
    /// Begins with the root and with what was written after the pack time.
    fn new(storage: &'a MappingStorage, stop: Tid) -> Result<Self> {
        let state = storage.state.read();
        if !state.objects.contains_key(&Oid::ZERO) {
            return Err(StorageError::Refused(format!(
                "{}: there is no root object {}, so that every object would be left out. Pack without garbage \
                 collection",
                storage.name,
                Oid::ZERO
            )));
        }
        let later = state.objects.iter().filter(|(_, revisions)| revisions.keys().next_back() > Some(&stop));
        let mut pending: Vec<Oid> = later.map(|(&oid, _)| oid).collect();
        pending.push(Oid::ZERO);
        Ok(Self {
            storage,
            stop,
            scanner: ReferenceScanner::default(),
            reached: HashSet::new(),
            pending,
            dangling: 0,
            undecodable: 0,
        })
    }

    fn follow(&mut self, host: &mut dyn PackHost) -> Result<()> {
        let mut done = 0;
        while let Some(oid) = self.pending.pop() {
            let state = self.storage.state.read();
            state.opened()?;
            self.reach(&state, oid);
            let total = state.objects.len() as u64;
            drop(state);
            if done % OBJECTS_PER_PROGRESS == 0 {
                host.progress(PackProgress { phase: PackPhase::Marking, done, total })?;
            }
            done += 1;
        }
        Ok(())
    }

    /// Follows what was written since the pack began.
    fn follow_again(&mut self, state: &State) {
        for &oid in state.packing.iter().flatten() {
            self.reached.remove(&oid);
            self.pending.push(oid);
        }
        while let Some(oid) = self.pending.pop() {
            self.reach(state, oid);
        }
    }

    fn reach(&mut self, state: &State, oid: Oid) {
        let Self { storage, scanner, reached, pending, .. } = self;
        if !reached.insert(oid) {
            return;
        }
        let Some(revisions) = state.objects.get(&oid) else {
            self.dangling += 1;
            if self.dangling <= FINDINGS_NAMED {
                warn!(target: "ZODB.MappingStorage", "{}: {oid} is referred to and does not exist", storage.name);
            }
            return;
        };
        for (tid, data) in revisions.range(first_kept(revisions, self.stop)..) {
            let scanned = scanner.scan(data, |to| {
                if !reached.contains(&to) {
                    pending.push(to);
                }
            });
            if let Err(problem) = scanned {
                self.undecodable += 1;
                if self.undecodable <= FINDINGS_NAMED {
                    warn!(
                        target: "ZODB.MappingStorage",
                        "{}: the references of {oid} in transaction {tid} cannot be read, so that no object is left \
                         out: {problem}",
                        storage.name
                    );
                }
            }
        }
    }

    /// The objects that stay; `None` if all do.
    fn reached(&self) -> Option<&HashSet<Oid>> {
        (self.undecodable == 0).then_some(&self.reached)
    }
}

/// From which revision on an object is kept.
fn first_kept(revisions: &BTreeMap<Tid, Bytes>, stop: Tid) -> Tid {
    revisions.range(..=stop).next_back().map_or(Tid::ZERO, |(&tid, _)| tid)
}

impl State {
    /// Revisions of blobs that [`leave_out`](Self::leave_out) is going to leave out, and whether with the whole object.
    fn blobs_left_out(&self, stop: Tid, stay: Option<&HashSet<Oid>>) -> Vec<(Oid, Tid, bool)> {
        let mut gone = Vec::new();
        for (&oid, revisions) in &self.objects {
            let stays = stay.is_none_or(|stay| stay.contains(&oid));
            let end = if stays { first_kept(revisions, stop) } else { Tid::MAX };
            let blobs = revisions.range(..end).filter(|(_, data)| is_blob_record(data));
            gone.extend(blobs.map(|(&tid, _)| (oid, tid, !stays)));
        }
        gone
    }

    /// Leaves out what was replaced by `stop`, and all objects but those given; whether that was anything.
    fn leave_out(&mut self, stop: Tid, stay: Option<&HashSet<Oid>>) -> bool {
        let mut gone: HashMap<Tid, HashSet<Oid>> = HashMap::new();
        let size = &mut self.size;
        self.objects.retain(|oid, revisions| {
            let stays = stay.is_none_or(|stay| stay.contains(oid));
            let kept = if stays { revisions.split_off(&first_kept(revisions, stop)) } else { BTreeMap::new() };
            for (tid, data) in std::mem::replace(revisions, kept) {
                *size -= BYTES_PER_REVISION + data.len() as u64;
                gone.entry(tid).or_default().insert(*oid);
            }
            if !stays {
                *size -= BYTES_PER_OBJECT;
            }
            stays
        });
        let any = !gone.is_empty();
        for (tid, oids) in gone {
            let Entry::Occupied(mut entry) = self.transactions.entry(tid) else { continue };
            let records =
                entry.get().records.iter().filter(|(oid, _)| !oids.contains(oid)).cloned().collect::<Vec<_>>();
            if records.is_empty() {
                entry.remove();
            } else {
                // Iterators go on with the transaction as it was.
                let metadata = entry.get().metadata.clone();
                entry.insert(Arc::new(Transaction { tid, status: b'p', metadata, records }));
            }
        }
        any
    }
}
