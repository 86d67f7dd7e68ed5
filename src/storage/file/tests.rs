//! The battery that every storage passes, and what only a file can show: recovery, poisoning, the files
//! beside it.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::storage::battery::battery;

battery!(
    file,
    |directory: &Path| Arc::new(open(&directory.join("Data.fs"))),
    [reading, committing, iterating, threads, deleting, reopening, restoring, undoing, walking]
);

fn open(path: &Path) -> FileStorage {
    FileStorage::open(&Options::new(path)).expect("open the data file")
}
