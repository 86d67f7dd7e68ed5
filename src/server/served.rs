//! A storage as the server serves it: the storage itself and what its clients share.

use std::sync::Arc;
use std::time::Duration;

use super::ServerOptions;
use super::commit_lock::CommitLock;
use super::hub::Hub;
use super::invalidation::InvalidationQueue;
use super::packing::Packs;
use super::stats::Stats;
use super::transaction_log::OnConflict;
use crate::pickle::Value;
use crate::storage::{Result, Storage};

/// A storage and everything that its clients share.
pub struct Served {
    /// The name by which clients ask for it.
    pub name: String,
    /// The storage.
    pub storage: Arc<dyn Storage>,
    /// Clients and invalidations.
    pub hub: Hub,
    /// Whose turn it is to commit.
    pub commit_lock: CommitLock,
    /// The pack under way.
    pub packs: Packs,
    /// Counters.
    pub stats: Stats,
    /// When the server began to serve it, as `time.ctime()` says it.
    started: String,
    /// How long a client may hold the commit lock.
    pub transaction_timeout: Option<Duration>,
    /// Whether clients resolve their conflicts.
    pub on_conflict: OnConflict,
    /// How far back cache verification may reach by reading the storage.
    pub invalidation_age: Option<Duration>,
}

impl Served {
    /// Prepares a storage for its clients.
    pub fn new(name: String, storage: Arc<dyn Storage>, options: &ServerOptions) -> Result<Self> {
        // A storage that cannot tell serves at least those clients that are exactly up to date.
        let newest = storage
            .last_invalidations(options.invalidation_queue_size)?
            .unwrap_or_else(|| vec![(storage.last_transaction(), vec![])]);
        Ok(Self {
            name,
            hub: Hub::new(InvalidationQueue::new(options.invalidation_queue_size, newest)),
            commit_lock: CommitLock::default(),
            packs: Packs::default(),
            stats: Stats::default(),
            started: crate::logging::ctime_now(),
            storage,
            transaction_timeout: options.transaction_timeout,
            on_conflict: if options.client_conflict_resolution { OnConflict::AskClient } else { OnConflict::Fail },
            invalidation_age: options.invalidation_age,
        })
    }

    /// The numbers that every client is told after a change of size.
    pub fn size_info(&self) -> Value {
        Value::Dict(vec![
            (Value::native("length"), integer(self.storage.len())),
            (Value::native("size"), integer(self.storage.size())),
        ])
    }

    /// The fields of `server_status` and `ruok`.
    pub fn status(&self) -> Vec<(&'static str, Value)> {
        let stats = &self.stats;
        let mut status = vec![
            ("loads", integer(stats.loads.value())),
            ("stores", integer(stats.stores.value())),
            ("commits", integer(stats.commits.value())),
            ("aborts", integer(stats.aborts.value())),
            ("active_txns", integer(stats.active_transactions.value())),
            ("lock_time", self.commit_lock.held_since().map_or(Value::None, Value::Float)),
            ("conflicts", integer(stats.conflicts.value())),
            ("conflicts_resolved", Value::Int(0)),
            ("start", Value::native(&self.started)),
            ("connections", integer(self.hub.client_count() as u64)),
            ("waiting", integer(self.commit_lock.waiting() as u64)),
            (
                "timeout-thread-is-alive",
                // No thread watches over transactions here; sites' monitors compare with these two.
                if self.transaction_timeout.is_some() { Value::Bool(true) } else { Value::native("stub") },
            ),
            ("last-transaction", Value::native(&self.storage.last_transaction().to_string())),
        ];
        // Only then: monitors know the other keys from Python's server.
        status.extend(self.packs.status().map(|packing| ("packing", packing)));
        status
    }

    /// [`status`](Self::status) for `ruok`, which answers in JSON.
    pub fn status_json(&self) -> serde_json::Value {
        self.status().iter().map(|(key, value)| ((*key).to_owned(), json(value))).collect()
    }
}

fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::Bool(flag) => (*flag).into(),
        Value::Int(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
        Value::Text(text) | Value::Native(text) => String::from_utf8_lossy(text).into(),
        Value::Dict(items) => items
            .iter()
            .filter_map(|(key, value)| Some((String::from_utf8_lossy(key.as_string()?).into_owned(), json(value))))
            .collect(),
        _ => serde_json::Value::Null,
    }
}

/// A count as a Python int.
pub fn integer(number: u64) -> Value {
    Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
}
