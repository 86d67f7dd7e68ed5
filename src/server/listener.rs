//! The listening sockets, and a task for each connection they accept: who may come, the TLS handshake, the service.

use std::fs;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use socket2::{Domain, Protocol, Type};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tracing::{error, warn};

use super::access::{Access, Refusals, is_allowed};
use super::connection::{self, Stream};
use super::hub::ClientId;
use super::session::printable;
use super::tls::Tls;
use super::{Address, ListenerOptions, Shared};
use crate::wire::dialect::Encoding;

/// Connections served at a time; more wait to be accepted.
const MOST_CONNECTIONS: usize = 10_000;

/// Handshakes of TLS under way at a time on one address; who comes then is closed. So those that never end, of strangers,
/// are far from filling what all listeners have together.
const MOST_HANDSHAKES: usize = 1_000;

/// Connections that the system keeps for us until we accept them.
const BACKLOG: i32 = 1024;

/// After a failure to accept, such as having no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// How long the goodbye of TLS may take.
const GOODBYE_TIME: Duration = Duration::from_secs(1);

/// Sockets that listen. They belong to the runtime in which they were made.
pub struct Listener {
    /// The address, with the port that was chosen.
    pub address: Address,
    sockets: Vec<Socket>,
    gate: Arc<Gate>,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// What is asked of a connection before it is served, and what it may do then.
struct Gate {
    address: Address,
    allow: Vec<IpNet>,
    tls: Option<Arc<Tls>>,
    /// Room for handshakes.
    handshakes: Semaphore,
    access: Access,
}

impl Listener {
    /// Listens on every interface that the address of `options` names. `others` listen already.
    pub fn bind(options: &ListenerOptions, others: &[Self]) -> io::Result<Self> {
        let (address, sockets) = match &options.address {
            Address::Tcp { host, port } => bind_tcp(host, *port)?,
            Address::Unix(path) => {
                // However the path is spelled: to remove the other's socket would give its place to the rights of this one.
                if let Some(socket) = identity(path)
                    && others.iter().filter_map(Self::unix_path).any(|other| identity(&other) == Some(socket))
                {
                    return Err(io::ErrorKind::AddrInUse.into());
                }
                bind_unix(path)?
            }
        };
        let encoding = if options.msgpack { Encoding::Msgpack } else { Encoding::Pickle };
        let gate = Gate {
            address: address.clone(),
            allow: options.allow.clone(),
            tls: options.tls.clone(),
            handshakes: Semaphore::new(MOST_HANDSHAKES),
            access: Access { encoding, read_only: options.read_only, storages: None },
        };
        Ok(Self { address, sockets, gate: Arc::new(gate) })
    }

    /// Removes what a listener that will not be served leaves in the file system.
    pub fn clean_up(&self) {
        if let Some(path) = self.unix_path() {
            remove_socket(&path);
        }
    }

    fn unix_path(&self) -> Option<PathBuf> {
        match &self.address {
            Address::Unix(path) => Some(path.clone()),
            Address::Tcp { .. } => None,
        }
    }

    /// Sends what comes to `accepted`, until nobody takes it.
    fn accept(self, accepting: &mut JoinSet<()>, accepted: &mpsc::Sender<io::Result<Accepted>>) {
        for socket in self.sockets {
            let (gate, accepted) = (Arc::clone(&self.gate), accepted.clone());
            accepting.spawn(async move {
                loop {
                    let transport = socket.accept().await;
                    let failed = transport.is_err();
                    let connection = transport.map(|transport| Accepted { transport, gate: Arc::clone(&gate) });
                    if accepted.send(connection).await.is_err() {
                        return;
                    }
                    if failed {
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            });
        }
    }
}

impl Socket {
    async fn accept(&self) -> io::Result<Transport> {
        Ok(match self {
            Self::Tcp(socket) => {
                let (stream, peer) = socket.accept().await?;
                Transport::Tcp(stream, peer)
            }
            Self::Unix(socket) => Transport::Unix(socket.accept().await?.0),
        })
    }
}

/// Accepts connections on all `listeners` until `stop` resolves, then ends them all.
pub async fn serve<T>(listeners: Vec<Listener>, server: &Arc<Shared>, stop: impl Future<Output = T>) -> T {
    let mut accepting = JoinSet::new();
    let (sender, mut accepted) = mpsc::channel(16);
    let paths: Vec<PathBuf> = listeners.iter().filter_map(Listener::unix_path).collect();
    for listener in listeners {
        listener.accept(&mut accepting, &sender);
    }
    drop(sender);
    let mut connections = JoinSet::new();
    let mut next_id = 0;
    let refusals = Arc::new(Refusals::default());
    tokio::pin!(stop);
    let why = loop {
        let room = connections.len() < MOST_CONNECTIONS;
        tokio::select! {
            why = &mut stop => break why,
            connection = accepted.recv(), if room => match connection {
                Some(Ok(connection)) => {
                    next_id += 1;
                    start(&mut connections, server, connection, ClientId(next_id), &refusals);
                }
                Some(Err(error)) => {
                    warn!(target: "ZEO.asyncio.server", "cannot accept a connection: {error}");
                }
                None => {
                    error!(target: "ZEO.asyncio.server", "the listening sockets are gone; no new connections");
                    break stop.await;
                }
            },
            Some(ended) = connections.join_next() => if let Err(panic) = ended {
                error!(target: "ZEO.asyncio.server", "a connection died: {panic}");
            },
        }
    };
    accepting.shutdown().await;
    connections.shutdown().await;
    for path in &paths {
        remove_socket(path);
    }
    why
}

struct Accepted {
    transport: Transport,
    gate: Arc<Gate>,
}

enum Transport {
    Tcp(tokio::net::TcpStream, SocketAddr),
    Unix(tokio::net::UnixStream),
}

fn start(
    connections: &mut JoinSet<()>,
    server: &Arc<Shared>,
    accepted: Accepted,
    id: ClientId,
    refusals: &Arc<Refusals>,
) {
    let (server, refusals, gate) = (Arc::clone(server), Arc::clone(refusals), accepted.gate);
    match accepted.transport {
        Transport::Tcp(stream, peer) => {
            if !is_allowed(&gate.allow, peer.ip()) {
                if refusals.is_news(&peer.ip().to_string(), "allow") {
                    let address = &gate.address;
                    warn!(target: "ZEO.asyncio.server", "refused {peer}: its address is not in `allow` of {address}");
                }
                return;
            }
            if let Err(error) = stream.set_nodelay(true) {
                warn!(target: "ZEO.asyncio.server", "cannot set TCP_NODELAY for {peer}: {error}");
            }
            let host = peer.ip().to_string();
            connections.spawn(welcome(server, stream, id, Peer { address: peer.to_string(), host }, gate, refusals));
        }
        // A Unix peer has no address; its number tells one from another.
        Transport::Unix(stream) => {
            let peer = Peer { address: format!("{}#{}", gate.address, id.0), host: gate.address.to_string() };
            connections.spawn(welcome(server, stream, id, peer, gate, refusals));
        }
    }
}

/// How logs name a peer, and what its next connection will have in common with this one.
struct Peer {
    address: String,
    host: String,
}

/// Serves a connection, after the handshake where there is one.
async fn welcome<S: Stream>(
    server: Arc<Shared>,
    stream: S,
    id: ClientId,
    peer: Peer,
    gate: Arc<Gate>,
    refusals: Arc<Refusals>,
) {
    match &gate.tls {
        None => connection::serve(server, stream, id, peer.address, gate.access.clone()).await,
        // In a box, since the tasks of plain connections would have room for it, too.
        Some(tls) => Box::pin(welcome_securely(server, stream, id, peer, &gate, tls, &refusals)).await,
    }
}

async fn welcome_securely<S: Stream>(
    server: Arc<Shared>,
    stream: S,
    id: ClientId,
    peer: Peer,
    gate: &Gate,
    tls: &Arc<Tls>,
    refusals: &Refusals,
) {
    let refused = |reason: &str| {
        if refusals.is_news(&peer.host, reason) {
            warn!(target: "ZEO.asyncio.server", "TLS handshake with {} failed: {reason}", peer.address);
        }
    };
    let Ok(turn) = gate.handshakes.try_acquire() else {
        refused(&format!("{MOST_HANDSHAKES} others are under way at {}", gate.address));
        return;
    };
    let (mut stream, holder) = match tls.accept(stream).await {
        Ok(accepted) => accepted,
        Err(error) => {
            refused(&printable(&error.to_string()));
            return;
        }
    };
    drop(turn);
    let (access, address) = match &holder {
        None => (gate.access.clone(), peer.address),
        Some(holder) => (gate.access.narrowed(holder), format!("{} {}", holder.name, peer.address)),
    };
    connection::serve(server, &mut stream, id, address, access).await;
    // A peer that has gone already, or takes nothing, does not need it.
    let _ = tokio::time::timeout(GOODBYE_TIME, stream.shutdown()).await;
}

fn bind_tcp(host: &str, port: u16) -> io::Result<(Address, Vec<Socket>)> {
    let wanted: Vec<SocketAddr> = if host.is_empty() {
        vec![SocketAddr::from(([0; 4], port)), SocketAddr::from(([0_u16; 8], port))]
    } else {
        (host, port).to_socket_addrs()?.collect()
    };
    let mut sockets = Vec::new();
    let mut failure = io::Error::new(io::ErrorKind::AddrNotAvailable, "the host name has no address");
    let mut chosen_port = port;
    for mut address in wanted {
        address.set_port(chosen_port);
        match listen(address) {
            Ok(socket) => {
                chosen_port = socket.local_addr()?.port();
                sockets.push(Socket::Tcp(socket));
            }
            // A machine without IPv6 listens on what it has; an address in use is never passed over.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            Err(error) => failure = error,
        }
    }
    if sockets.is_empty() {
        return Err(failure);
    }
    Ok((Address::Tcp { host: host.to_owned(), port: chosen_port }, sockets))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

fn bind_unix(path: &Path) -> io::Result<(Address, Vec<Socket>)> {
    remove_socket(path);
    Ok((Address::Unix(PathBuf::from(path)), vec![Socket::Unix(UnixListener::bind(path)?)]))
}

/// Tells one file from another.
fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// Removes the socket that a server has left behind, and nothing but a socket.
fn remove_socket(path: &Path) {
    use std::os::unix::fs::FileTypeExt as _;
    if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
        && let Err(error) = fs::remove_file(path)
    {
        warn!(target: "ZEO.asyncio.server", "cannot remove {}: {error}", path.display());
    }
}
