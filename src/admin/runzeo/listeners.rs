//! The listeners that a configuration asks for: with their certificates for the server, in words for a person.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crate::config::{CertificateName, ClientSettings, ListenerSettings, ServerSettings, SocketAddress, TlsSettings};
use crate::server::tls::{self, Holder, Tls, TlsError, TlsOptions};
use crate::server::{Address, ListenerOptions};

/// Whether somebody answers at `address`.
pub fn is_in_use(address: &SocketAddress) -> bool {
    match address {
        SocketAddress::Tcp(_, None | Some(0)) => false,
        SocketAddress::Tcp(host, Some(port)) => {
            let host = if host.is_empty() { "0.0.0.0" } else { host };
            // A name that cannot be resolved will be complained about when the server listens.
            (host, *port).to_socket_addrs().is_ok_and(|mut found| found.any(|found| TcpStream::connect(found).is_ok()))
        }
        SocketAddress::Unix(path) => UnixStream::connect(path).is_ok(),
    }
}

/// Each address of each listener. The files of an `<ssl>` are read here.
pub fn options(server: &ServerSettings) -> Result<Vec<ListenerOptions>, TlsError> {
    let from_environment = || std::env::var_os("ZEO_MSGPACK").is_some_and(|value| !value.is_empty());
    let mut listeners = Vec::new();
    for listener in server.listeners().into_iter().filter(|listener| !listener.addresses.is_empty()) {
        let tls = listener.tls.as_ref().map(|tls| Tls::open(tls_options(tls))).transpose()?.map(Arc::new);
        for address in &listener.addresses {
            listeners.push(ListenerOptions {
                address: match address {
                    SocketAddress::Tcp(host, port) => Address::Tcp { host: host.clone(), port: port.unwrap_or(0) },
                    SocketAddress::Unix(path) => Address::Unix(path.clone()),
                },
                read_only: listener.read_only,
                msgpack: listener.msgpack.unwrap_or_else(from_environment),
                allow: listener.allow.clone(),
                tls: tls.clone(),
            });
        }
    }
    Ok(listeners)
}

fn tls_options(tls: &TlsSettings) -> TlsOptions {
    let holder = |client: &ClientSettings| Holder {
        name: client.name.clone(),
        certificate: match &client.certificate {
            CertificateName::CommonName(name) => tls::CertificateName::CommonName(name.clone()),
            CertificateName::Fingerprint(digest) => tls::CertificateName::Fingerprint(*digest),
        },
        storages: client.storages.clone(),
        read_only: client.read_only,
    };
    TlsOptions {
        certificate: tls.certificate.clone(),
        key: tls.key.clone(),
        password_file: tls.password_file.clone(),
        authenticate: tls.authenticate.clone(),
        holders: tls.clients.iter().map(holder).collect(),
    }
}

/// A line for each address.
pub fn summary(listener: &ListenerSettings) -> Vec<String> {
    let mut words = Vec::new();
    if listener.msgpack == Some(true) {
        words.push("msgpack".to_owned());
    }
    if listener.read_only {
        words.push("read-only".to_owned());
    }
    if !listener.allow.is_empty() {
        let networks: Vec<String> = listener.allow.iter().map(ToString::to_string).collect();
        words.push(format!("for {}", networks.join(" ")));
    }
    if let Some(tls) = &listener.tls {
        let (certificate, authenticate) = (tls.certificate.display(), tls.authenticate.display());
        words.push(format!("TLS with {certificate} for whom {authenticate} says"));
        words.extend(tls.clients.iter().map(|client| {
            let storages =
                if client.storages.is_empty() { "all storages".to_owned() } else { client.storages.join(" ") };
            let mode = if client.read_only { " read-only" } else { "" };
            format!("{} for {storages}{mode}", client.name)
        }));
    }
    let shown = |address: &SocketAddress| [vec![format!("address: {address}")], words.clone()].concat().join(", ");
    listener.addresses.iter().map(shown).collect()
}
