//! The server: clients on one side, storages on the other.
//!
//! In the order in which a request meets them: [`listener`] accepts, [`connection`] moves bytes,
//! [`session`] holds the conversation, [`calls`] answers, [`hub`] sees to the order in which clients
//! hear of changes, [`outbox`] holds what is to be sent. Transactions wait in a [`transaction_log`]
//! until [`commit_lock`] lets them vote.

mod calls;
mod commit_lock;
mod connection;
mod fault;
mod hub;
mod invalidation;
mod listener;
#[cfg(all(test, shuttle))]
mod model;
mod outbox;
mod served;
mod session;
mod stats;
mod transaction_log;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use crate::storage::{Storage, StorageError};
use crate::wire::dialect::Encoding;
use listener::Listener;
use served::Served;

/// How long a stop may take: for transactions on their way to the disk.
const STOP_TIME: Duration = Duration::from_secs(30);

/// How often storages are asked to do their housekeeping.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(10);

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A host name or address (all interfaces if empty) and a port (any free one if 0).
    Tcp {
        /// Host.
        host: String,
        /// Port.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    /// As Python shows an address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => write!(f, "('{host}', {port})"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What to serve, and how.
pub struct ServerOptions {
    /// Where to listen.
    pub address: Address,
    /// Storages by the names under which clients ask for them.
    pub storages: Vec<(String, Arc<dyn Storage>)>,
    /// Refuse every write.
    pub read_only: bool,
    /// How many transactions back a returning client's cache can be verified quickly.
    pub invalidation_queue_size: usize,
    /// How old a returning client's cache may be to be verified by reading the storage.
    pub invalidation_age: Option<Duration>,
    /// How long a client may hold the commit lock.
    pub transaction_timeout: Option<Duration>,
    /// Hand conflicts to the client that runs into them.
    pub client_conflict_resolution: bool,
    /// Announce msgpack instead of pickle.
    pub msgpack: bool,
}

/// A server that listens.
pub struct Server {
    listener: Listener,
    shared: Arc<Shared>,
}

/// What all connections share.
struct Shared {
    storages: BTreeMap<String, Arc<Served>>,
    read_only: bool,
    encoding: Encoding,
}

impl Shared {
    fn storage(&self, name: &str) -> Option<&Arc<Served>> {
        self.storages.get(name)
    }

    /// The answer to `ruok`.
    fn status_json(&self) -> serde_json::Value {
        self.storages.iter().map(|(name, served)| (name.clone(), served.status_json())).collect()
    }
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: Address,
        /// The system's reason.
        source: io::Error,
    },
    /// A storage cannot say what it holds.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Server {
    /// Listens; nobody is served before [`run`](Self::run).
    pub fn bind(options: &ServerOptions) -> Result<Self, StartError> {
        let mut storages = BTreeMap::new();
        for (name, storage) in &options.storages {
            let served = Served::new(name.clone(), Arc::clone(storage), options)?;
            storages.insert(name.clone(), Arc::new(served));
        }
        let mode = |read_only| if read_only { "RO" } else { "RW" };
        let names: Vec<String> = storages
            .values()
            .map(|served| format!("{}:{}:{}", served.name, mode(served.storage.is_read_only()), served.storage.name()))
            .collect();
        info!(
            target: "ZEO.StorageServer",
            "StorageServer created {} with storages: {}", mode(options.read_only), names.join(", ")
        );
        for (name, storage) in &options.storages {
            info!(target: "ZEO.StorageServer", "storage {name:?}: {}", storage.describe());
        }
        let listener = Listener::bind(&options.address)
            .map_err(|source| StartError::Listen { address: options.address.clone(), source })?;
        info!(target: "ZEO.asyncio.server", "listening on {}", listener.address());
        let encoding = if options.msgpack { Encoding::Msgpack } else { Encoding::Pickle };
        Ok(Self { listener, shared: Arc::new(Shared { storages, read_only: options.read_only, encoding }) })
    }

    /// Serves until `stop` resolves, then closes connections and storages.
    pub async fn run<T>(self, stop: impl Future<Output = T>) -> T {
        let housekeeping = tokio::spawn(housekeeping(Arc::clone(&self.shared)));
        let why = self.listener.serve(&self.shared, stop).await;
        housekeeping.abort();
        for served in self.shared.storages.values() {
            close(served).await;
        }
        why
    }
}

/// Lets every storage do now and then what need not be done within a commit.
async fn housekeeping(shared: Arc<Shared>) {
    let mut interval = tokio::time::interval(HOUSEKEEPING_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        for served in shared.storages.values() {
            let served = Arc::clone(served);
            let done = tokio::task::spawn_blocking(move || {
                if let Err(error) = served.storage.maintain() {
                    warn!(target: "ZEO.StorageServer", "housekeeping of storage {:?}: {error}", served.name);
                }
            });
            if done.await.is_err() {
                return;
            }
        }
    }
}

/// Closes a storage once its last commit is on the disk. Every connection has gone, so nobody begins
/// a new one.
async fn close(served: &Arc<Served>) {
    let Ok(_turn) = tokio::time::timeout(STOP_TIME, served.commit_lock.ask().turn()).await else {
        error!(target: "ZEO.StorageServer", "a commit does not come to its end; storage {:?} is left as it is", served.name);
        return;
    };
    info!(target: "ZEO.StorageServer", "closing storage '{}'", served.name);
    let storage = Arc::clone(&served.storage);
    match tokio::task::spawn_blocking(move || storage.close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => error!(target: "ZEO.StorageServer", "closing storage {:?}: {error}", served.name),
        Err(_panicked) => error!(target: "ZEO.StorageServer", "closing storage {:?} failed", served.name),
    }
}
