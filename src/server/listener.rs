//! The listening sockets, and a task for each connection they accept.

use std::fs;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener, ToSocketAddrs};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tracing::{error, warn};

use super::connection;
use super::hub::ClientId;
use super::{Address, Shared};

/// Connections served at a time; more wait to be accepted.
const MOST_CONNECTIONS: usize = 10_000;

/// Connections that the system keeps for us until we accept them.
const BACKLOG: i32 = 1024;

/// After a failure to accept, such as having no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Sockets that listen.
pub struct Listener {
    address: Address,
    sockets: Sockets,
}

enum Sockets {
    Tcp(Vec<StdTcpListener>),
    Unix(StdUnixListener),
}

impl Listener {
    /// Listens on every interface that `address` names.
    pub fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp { host, port } => bind_tcp(host, *port),
            Address::Unix(path) => bind_unix(path),
        }
    }

    /// The address, with the port that was chosen.
    pub fn address(&self) -> Address {
        self.address.clone()
    }

    /// Accepts connections until `stop` resolves, then ends them all.
    pub async fn serve<T>(self, server: &Arc<Shared>, stop: impl Future<Output = T>) -> T {
        let mut accepting = JoinSet::new();
        let (sender, mut accepted) = tokio::sync::mpsc::channel(16);
        let mut unix_path = None;
        match self.sockets {
            Sockets::Tcp(listeners) => {
                for listener in listeners {
                    let sender = sender.clone();
                    accepting.spawn(async move {
                        let listener = TcpListener::from_std(listener)?;
                        loop {
                            let connection = listener.accept().await.map(|(stream, peer)| Accepted::Tcp(stream, peer));
                            let failed = connection.is_err();
                            if sender.send(connection).await.is_err() {
                                return Ok::<(), io::Error>(());
                            }
                            if failed {
                                tokio::time::sleep(ACCEPT_PAUSE).await;
                            }
                        }
                    });
                }
            }
            Sockets::Unix(listener) => {
                if let Address::Unix(path) = &self.address {
                    unix_path = Some(path.clone());
                }
                accepting.spawn(async move {
                    let listener = UnixListener::from_std(listener)?;
                    loop {
                        let connection = listener.accept().await.map(|(stream, _)| Accepted::Unix(stream));
                        let failed = connection.is_err();
                        if sender.send(connection).await.is_err() {
                            return Ok(());
                        }
                        if failed {
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                        }
                    }
                });
            }
        }
        let mut connections = JoinSet::new();
        let mut next_id = 0;
        tokio::pin!(stop);
        let why = loop {
            let room = connections.len() < MOST_CONNECTIONS;
            tokio::select! {
                why = &mut stop => break why,
                connection = accepted.recv(), if room => match connection {
                    Some(Ok(connection)) => {
                        next_id += 1;
                        start(&mut connections, server, connection, ClientId(next_id), &self.address);
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
        if let Some(path) = unix_path {
            remove_socket(&path);
        }
        why
    }
}

enum Accepted {
    Tcp(tokio::net::TcpStream, SocketAddr),
    Unix(tokio::net::UnixStream),
}

fn start(connections: &mut JoinSet<()>, server: &Arc<Shared>, accepted: Accepted, id: ClientId, address: &Address) {
    let server = Arc::clone(server);
    match accepted {
        Accepted::Tcp(stream, peer) => {
            if let Err(error) = stream.set_nodelay(true) {
                warn!(target: "ZEO.asyncio.server", "cannot set TCP_NODELAY for {peer}: {error}");
            }
            connections.spawn(connection::serve(server, stream, id, peer.to_string()));
        }
        // A Unix peer has no address; its number tells one from another.
        Accepted::Unix(stream) => {
            connections.spawn(connection::serve(server, stream, id, format!("{address}#{}", id.0)));
        }
    }
}

fn bind_tcp(host: &str, port: u16) -> io::Result<Listener> {
    let wanted: Vec<SocketAddr> = if host.is_empty() {
        vec![SocketAddr::from(([0; 4], port)), SocketAddr::from(([0_u16; 8], port))]
    } else {
        (host, port).to_socket_addrs()?.collect()
    };
    let mut listeners: Vec<StdTcpListener> = Vec::new();
    let mut failure = io::Error::new(io::ErrorKind::AddrNotAvailable, "the host name has no address");
    let mut chosen_port = port;
    for mut address in wanted {
        address.set_port(chosen_port);
        match listen(address) {
            Ok(listener) => {
                chosen_port = listener.local_addr()?.port();
                listeners.push(listener);
            }
            // A machine without IPv6 listens on what it has; an address in use is never passed over.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            Err(error) => failure = error,
        }
    }
    if listeners.is_empty() {
        return Err(failure);
    }
    Ok(Listener {
        address: Address::Tcp { host: host.to_owned(), port: chosen_port },
        sockets: Sockets::Tcp(listeners),
    })
}

fn listen(address: SocketAddr) -> io::Result<StdTcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn bind_unix(path: &Path) -> io::Result<Listener> {
    remove_socket(path);
    let listener = StdUnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(Listener { address: Address::Unix(PathBuf::from(path)), sockets: Sockets::Unix(listener) })
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
