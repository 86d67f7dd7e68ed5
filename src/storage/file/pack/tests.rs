//! What stays and what goes, what may happen meanwhile, and a stop at every step.

mod failing;
mod history;
mod meanwhile;

use std::sync::Arc;

use super::super::tests::{Direct, Place, begin, data, store};
use super::*;
use crate::storage::{Begin, Commit, PackProgress, Storage};

const ROOT: Oid = Oid::ZERO;

/// An object record that refers to other objects.
fn record(note: &str, references: &[u64]) -> Vec<u8> {
    let mut record = b"\x80\x03cmodule\nClass\n.\x80\x03(".to_vec();
    for oid in references {
        record.extend_from_slice(b"C\x08");
        record.extend_from_slice(&oid.to_be_bytes());
        record.push(b'Q');
    }
    record.extend_from_slice(b"X");
    record.extend_from_slice(&u32::try_from(note.len()).expect("short").to_le_bytes());
    record.extend_from_slice(note.as_bytes());
    record.extend_from_slice(b"t.");
    record
}

fn put(storage: &Arc<FileStorage>, oid: u64, note: &str, references: &[u64]) -> Tid {
    store(storage, Oid(oid), &record(note, references))
}

/// One transaction with the current revisions of all these objects replaced.
fn put_all(storage: &Arc<FileStorage>, records: &[(u64, &str, &[u64])]) -> Tid {
    let mut commit = begin(storage);
    for (oid, note, references) in records {
        let serial = storage.current_tid(Oid(*oid)).unwrap_or(Tid::ZERO);
        commit.store(Oid(*oid), serial, &record(note, references)).expect("store");
    }
    finish(commit)
}

fn finish(mut commit: Box<dyn Commit>) -> Tid {
    commit.vote().expect("vote");
    commit.finish(&mut Direct).expect("finish")
}

fn undo(storage: &Arc<FileStorage>, tid: Tid) -> Tid {
    let mut commit = begin(storage);
    commit.undo(tid).expect("undo");
    finish(commit)
}

fn delete(storage: &Arc<FileStorage>, oid: u64) -> Tid {
    let mut commit = begin(storage);
    commit.delete(Oid(oid), storage.current_tid(Oid(oid)).expect("there")).expect("delete");
    finish(commit)
}

fn holds(storage: &FileStorage, oid: u64, note: &str, references: &[u64]) -> bool {
    data(storage, Oid(oid)) == record(note, references)
}

fn is_there(storage: &FileStorage, oid: u64) -> bool {
    storage.load_before(Oid(oid), Tid::MAX).is_ok()
}

/// A host that does something at each word of progress, and before the last step.
#[derive(Default)]
struct Host<'a> {
    progress: Option<Box<dyn FnMut(PackProgress) -> Result<()> + 'a>>,
    before_last_step: Option<Box<dyn FnMut() + 'a>>,
    has_blobs: bool,
    blobs: Vec<(u64, Tid, bool)>,
}

impl PackHost for Host<'_> {
    fn exclusively(&mut self, last_step: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        self.before_last_step.iter_mut().for_each(|before| before());
        last_step()
    }

    fn progress(&mut self, progress: PackProgress) -> Result<()> {
        self.progress.as_mut().map_or(Ok(()), |tell| tell(progress))
    }

    fn has_blobs(&self) -> bool {
        self.has_blobs
    }

    fn blob_removed(&mut self, oid: Oid, tid: Tid, whole_object: bool) -> Result<()> {
        self.blobs.push((oid.0, tid, whole_object));
        Ok(())
    }
}

fn until(stop: Tid) -> PackRequest {
    PackRequest { stop, gc: None }
}

fn try_pack(storage: &Arc<FileStorage>, stop: Tid) -> Result<PackReport> {
    Arc::clone(storage).pack(&until(stop), &mut Host::default())
}

fn pack(storage: &Arc<FileStorage>, stop: Tid) -> PackReport {
    try_pack(storage, stop).expect("pack")
}

/// A transaction: tid, status, and the records' oids with whether there is data.
type Told = (Tid, u8, Vec<(u64, bool)>);

fn transactions(storage: &Arc<FileStorage>) -> Vec<Told> {
    let mut found = Vec::new();
    let mut transactions = Arc::clone(storage).iterate(None, None).expect("iterate");
    while let Some((summary, mut records)) = transactions.next().expect("next") {
        let mut oids = Vec::new();
        while let Some(record) = records.next().expect("next") {
            oids.push((record.oid.0, record.data.is_some()));
        }
        found.push((summary.tid, summary.status, oids));
    }
    found
}

/// Closes the storage, makes sure that the index that is there is taken, and that one made anew says the same.
fn reopened(storage: Arc<FileStorage>, place: &Place) -> Arc<FileStorage> {
    let seen = |storage: &Arc<FileStorage>| {
        let mut objects = Vec::new();
        let mut next = None;
        while let Some((oid, position)) = storage.locate_from(next.unwrap_or(ROOT)).expect("walk").1 {
            objects.push((oid, position, storage.history(oid, usize::MAX).expect("history")));
            next = Some(Oid(oid.0 + 1));
        }
        (objects, transactions(storage), storage.last_transaction(), storage.size())
    };
    let before = seen(&storage);
    storage.close().expect("close");
    drop(storage);
    let opened = place.open();
    assert_eq!(seen(&opened), before);
    drop(opened);
    std::fs::remove_file(place.path().with_extension("fs.index")).expect("remove the index");
    let opened = place.open();
    assert_eq!(seen(&opened), before);
    opened
}
