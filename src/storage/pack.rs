//! What a pack is asked, what it needs of whoever runs it, and what it tells.

use super::Result;
use crate::ids::{Oid, Tid};

/// What to pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackRequest {
    /// As of the end of this transaction, or of the newest one before it.
    pub stop: Tid,
    /// Whether objects that nothing refers to are removed; `None` leaves it to the storage's configuration.
    pub gc: Option<bool>,
}

/// What a pack needs of whoever runs it.
pub trait PackHost {
    /// Runs `last_step` while no transaction is between its vote and its end, and only once for each call. A storage that
    /// finds too much left to do gives the turn back and asks again, a few times; transactions that wait go first
    /// each time. Whoever runs the pack may refuse, which ends it.
    fn exclusively(&mut self, last_step: &mut dyn FnMut() -> Result<()>) -> Result<()>;

    /// How far the pack is; called several times a second. An error ends the pack, and nothing has changed.
    fn progress(&mut self, progress: PackProgress) -> Result<()>;

    /// Whether there are blobs, so that it is worth looking for those that are left out.
    fn has_blobs(&self) -> bool {
        false
    }

    /// A revision of a blob is left out: of an object that stays, or with the whole object. Called before the last step.
    fn blob_removed(&mut self, _oid: Oid, _tid: Tid, _whole_object: bool) -> Result<()> {
        Ok(())
    }
}

/// What a pack is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackPhase {
    /// Looks for the revisions that were current at the pack time.
    Scanning,
    /// Follows references.
    Marking,
    /// Copies what stays.
    Copying,
    /// Copies what was committed meanwhile.
    CatchingUp,
    /// Removes the files of blobs.
    RemovingBlobs,
}

/// How far a pack is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackProgress {
    /// What it is doing.
    pub phase: PackPhase,
    /// Bytes, objects or files of this phase that are done.
    pub done: u64,
    /// Out of how many.
    pub total: u64,
}

/// How a pack ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackOutcome {
    /// The storage is smaller now.
    Packed,
    /// It was packed to this time already, or there was nothing to leave out.
    NothingToDo,
}

/// Of each kind of finding a pack names so many in the log; all are counted.
pub const FINDINGS_NAMED: u64 = 20;

/// What a pack did, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackReport {
    /// How it ended.
    pub outcome: PackOutcome,
    /// Bytes before.
    pub bytes_before: u64,
    /// Bytes after.
    pub bytes_after: u64,
    /// Objects before.
    pub objects_before: u64,
    /// Objects after.
    pub objects_after: u64,
    /// Objects that are referred to and not there; the pack went on without them.
    pub dangling: u64,
    /// Records whose references could not be read. If there are any, all objects are kept.
    pub undecodable: u64,
}
