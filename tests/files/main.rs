//! Files that Python's `FileStorage` wrote, opened with ours, and what ours writes, beside what Python writes; object
//! records, and what they refer to.
//!
//! `fixtures/README.md` says what there is and how it was made.

mod answers;
mod broken;
mod damaged;
mod fixtures;
mod histories;
mod indexes;
mod odd;
mod records;
