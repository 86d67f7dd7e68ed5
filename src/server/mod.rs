//! The server: clients on one side, storages on the other.
//!
//! In the order in which a request meets them: [`listener`] accepts whom [`access`] and [`tls`] let in, [`connection`] moves
//! bytes, [`session`] holds the conversation, [`auth`] knows who may have one, [`calls`] answers, [`hub`] sees to the order in
//! which clients hear of changes, [`outbox`] holds what is to be sent. Transactions wait in a [`transaction_log`]
//! until [`commit_lock`] lets them vote; a pack ([`packing`]) waits there for its last step.

mod access;
pub mod auth;
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
mod packing;
mod served;
mod session;
mod stats;
pub mod tls;
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
use access::Access;
use auth::Authenticator;
use ipnet::IpNet;
use listener::Listener;
use served::Served;
use tls::Tls;

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
    /// Where to listen, and what holds there.
    pub listeners: Vec<ListenerOptions>,
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
    /// Who may connect; everybody if there is none.
    pub authenticator: Option<Arc<Authenticator>>,
}

/// An address to listen on, and what holds for all who come there.
#[derive(Clone)]
pub struct ListenerOptions {
    /// Where to listen.
    pub address: Address,
    /// Refuse every write.
    pub read_only: bool,
    /// Announce msgpack instead of pickle.
    pub msgpack: bool,
    /// The networks that peers may come from; none: any. Unix sockets have none.
    pub allow: Vec<IpNet>,
    /// TLS from the first byte.
    pub tls: Option<Arc<Tls>>,
}

impl ListenerOptions {
    /// A listener that anybody may use, in plain text.
    pub fn new(address: Address) -> Self {
        Self { address, read_only: false, msgpack: false, allow: Vec::new(), tls: None }
    }
}

/// A server that listens.
pub struct Server {
    listeners: Vec<Listener>,
    shared: Arc<Shared>,
}

/// What all connections share.
struct Shared {
    storages: BTreeMap<String, Arc<Served>>,
    read_only: bool,
    authenticator: Option<Arc<Authenticator>>,
}

impl Shared {
    fn storage(&self, name: &str) -> Option<&Arc<Served>> {
        self.storages.get(name)
    }

    /// The answer to `ruok`, about the storages that the peer may know of.
    fn status_json(&self, access: &Access) -> serde_json::Value {
        let known = self.storages.iter().filter(|(name, _)| access.covers(name));
        known.map(|(name, served)| (name.clone(), served.status_json())).collect()
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
        if let Some(authenticator) = &options.authenticator {
            info!(
                target: "ZEO.StorageServer",
                "using auth protocol: {}, realm {:?}, {} users", auth::PROTOCOL, authenticator.realm(), authenticator.user_count()
            );
        }
        let mut listeners = Vec::with_capacity(options.listeners.len());
        for options in &options.listeners {
            match Listener::bind(options, &listeners) {
                Ok(listener) => listeners.push(listener),
                Err(source) => {
                    listeners.iter().for_each(Listener::clean_up);
                    return Err(StartError::Listen { address: options.address.clone(), source });
                }
            }
        }
        // Whoever sees one of these lines may use all of the addresses.
        for listener in &listeners {
            info!(target: "ZEO.asyncio.server", "listening on {}", listener.address);
        }
        let authenticator = options.authenticator.clone();
        Ok(Self { listeners, shared: Arc::new(Shared { storages, read_only: options.read_only, authenticator }) })
    }

    /// Serves until `stop` resolves, then closes connections and storages.
    pub async fn run<T>(self, stop: impl Future<Output = T>) -> T {
        let housekeeping = tokio::spawn(housekeeping(Arc::clone(&self.shared)));
        let storages = Arc::clone(&self.shared);
        let stop = async move {
            let why = stop.await;
            // Before the connections end: a client that goes gives a pack its turn for the last step.
            storages.storages.values().for_each(|served| served.packs.give_up());
            why
        };
        let why = listener::serve(self.listeners, &self.shared, stop).await;
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

/// Closes a storage once its last commit is on the disk; a pack is given up. Every connection has gone, so nobody
/// begins a new one.
async fn close(served: &Arc<Served>) {
    if tokio::time::timeout(STOP_TIME, served.packs.stop()).await.is_err() {
        error!(target: "ZEO.StorageServer", "a pack does not come to its end; storage {:?} is left as it is", served.name);
        return;
    }
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
