//! What a client hears of a storage's error. Python's names for it are in [`crate::wire::fault`].

use std::io;

use tracing::error;

use super::transaction_log::ReplayError;
use crate::storage::{StorageError, UndoFailure};
use crate::wire::fault::{Collision, Fault, UndoRefusal};

impl From<StorageError> for Fault {
    /// What tells a client of `error`. What a person must look into is logged here.
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::NoSuchObject(oid) => Fault::PosKey(oid),
            StorageError::NoBlobFile { path, oid, tid } => {
                Fault::NoBlobFile { path: path.to_string_lossy().into_owned(), oid, serial: tid }
            }
            StorageError::BlobName(name) => Fault::Value(name),
            StorageError::Conflict { oid, committed, read, class_name } => {
                Fault::Conflict(Collision { oid, class_name, committed, read })
            }
            StorageError::ReadConflict { oid, committed, read } => {
                Fault::ReadConflict(Collision { oid, class_name: None, committed, read })
            }
            StorageError::ReadOnly => Fault::ReadOnly,
            StorageError::Transaction(text) => Fault::StorageTransaction(text),
            StorageError::Undo(failure) => Fault::Undo(refusal(failure)),
            StorageError::MultipleUndo(failures) => {
                let failures = failures.into_iter();
                Fault::MultipleUndo(
                    failures.map(|failure| (failure.oid.unwrap_or_default(), refusal(failure))).collect(),
                )
            }
            StorageError::Quota => Fault::FileStorageQuota(error.to_string()),
            StorageError::Refused(text) => Fault::FileStorage(text),
            StorageError::Unsupported(_) => Fault::Unsupported(error.to_string()),
            StorageError::Corrupted { .. } => {
                error!(target: "ZEO.StorageServer", "{error}");
                Fault::Corrupted(error.to_string())
            }
            StorageError::Poisoned(_) => Fault::StorageSystem(error.to_string()),
            StorageError::Format { .. } | StorageError::Locked { .. } | StorageError::Io { .. } => {
                error!(target: "ZEO.StorageServer", "{error}");
                Fault::StorageSystem(error.to_string())
            }
        }
    }
}

fn refusal(failure: UndoFailure) -> UndoRefusal {
    UndoRefusal { oid: failure.oid, reason: failure.reason }
}

impl From<ReplayError> for Fault {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::Storage { source, .. } => source.into(),
            ReplayError::Log(error) => temporary_file(&error),
        }
    }
}

/// The fault for a transaction that cannot be kept until its vote.
pub fn temporary_file(error: &io::Error) -> Fault {
    error!(target: "ZEO.StorageServer", "cannot keep a transaction in {}: {error}", std::env::temp_dir().display());
    Fault::Os {
        errno: error.raw_os_error().unwrap_or(0),
        message: format!("the server's temporary directory: {error}"),
    }
}
