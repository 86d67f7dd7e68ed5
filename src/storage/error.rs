//! What can go wrong in a storage. Variants answer what the caller asks: tell the client and go on,
//! or refuse further writes.

use std::io;
use std::path::PathBuf;

use crate::ids::{Oid, Tid};

/// Why one object of a transaction cannot be undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UndoFailure {
    /// The object, if one is to blame.
    pub oid: Option<Oid>,
    /// The original's words for the reason.
    pub reason: String,
}

/// An error of a storage call.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// No such object, or no longer, or not in that revision.
    #[error("{0}: no such object or revision")]
    NoSuchObject(Oid),
    /// The record of a blob is there, its file is not.
    #[error("No blob file at {} (oid {oid}, tid {tid})", .path.display())]
    NoBlobFile {
        /// Where it should be.
        path: PathBuf,
        /// The blob.
        oid: Oid,
        /// The revision.
        tid: Tid,
    },
    /// No name that a client may give to the content of a blob in a shared directory.
    #[error("{0:?} is no name for the content of a blob")]
    BlobName(String),
    /// An object was stored that another transaction changed meanwhile.
    #[error("database conflict error (oid {oid}, class {class_name:?}, committed {committed}, read {read})")]
    Conflict {
        /// The object.
        oid: Oid,
        /// Its current revision.
        committed: Tid,
        /// The revision the client worked on.
        read: Tid,
        /// `module.Class` of the record, if it can be told.
        class_name: Option<String>,
    },
    /// An object that was only read has changed meanwhile.
    #[error("database read conflict error (oid {oid}, committed {committed}, read {read})")]
    ReadConflict {
        /// The object.
        oid: Oid,
        /// Its current revision.
        committed: Tid,
        /// The revision the client read.
        read: Tid,
    },
    /// A write to a read-only storage.
    #[error("storage is read-only")]
    ReadOnly,
    /// A call outside of, or not fitting, the transaction.
    #[error("{0}")]
    Transaction(String),
    /// Undo is not possible.
    #[error("undo refused: {}", .0.reason)]
    Undo(UndoFailure),
    /// Undo is not possible for several objects.
    #[error("undo refused for {} objects", .0.len())]
    MultipleUndo(Vec<UndoFailure>),
    /// The storage's quota is used up.
    #[error("the storage quota has been exceeded")]
    Quota,
    /// The original's `FileStorageError`: a request that cannot be met.
    #[error("{0}")]
    Refused(String),
    /// The storage has no such operation.
    #[error("{0} is not supported by this storage")]
    Unsupported(&'static str),
    /// The file contradicts its format.
    #[error("{}: damaged at {position}: {problem}", .path.display())]
    Corrupted {
        /// The data file.
        path: PathBuf,
        /// Where.
        position: u64,
        /// What is wrong there.
        problem: String,
    },
    /// The file is of another kind.
    #[error("{}: {problem}", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Why it cannot be used, and what to do.
        problem: String,
    },
    /// Another process has the file.
    #[error("Couldn't lock {:?}: {holder}", .path.display().to_string())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// What the lock file says of its owner.
        holder: String,
    },
    /// The system refused to read or write.
    #[error("{}: cannot {action}: {source}", .path.display())]
    Io {
        /// What was to be done, as a verb phrase.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// What is on disk is unknown, or not this storage's alone: no writes until it is reopened. The reason says what
    /// to do first.
    #[error("refusing to write: {0}")]
    Poisoned(String),
}
