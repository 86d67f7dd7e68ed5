//! Counters of a storage, as `server_status` and `ruok` report them.

use std::sync::atomic::{AtomicU64, Ordering};

/// One number that only grows, or goes up and down, read without stopping anybody.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn up(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn down(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// The number now.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What has happened at a storage since the server started.
#[derive(Debug, Default)]
pub struct Stats {
    /// Loads answered.
    pub loads: Counter,
    /// Revisions sent by clients, committed or not.
    pub stores: Counter,
    /// Transactions finished.
    pub commits: Counter,
    /// Transactions aborted by their clients, or by the loss of them.
    pub aborts: Counter,
    /// Transactions begun and not ended.
    pub active_transactions: Counter,
    /// Votes that failed because of a conflict.
    pub conflicts: Counter,
}
