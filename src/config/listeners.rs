//! `<listener>` and `<ssl>`: where the server listens, who may come, and what each may do there.
//!
//! `<zeo>` has the same keys for its own `address` lines. Files that are named here are not looked at: the server does
//! that when it starts.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net};

use super::datatypes::{SocketAddress, boolean, existing_dirpath, socket_binding_address, string_list};
use super::error::{ConfigError, Position};
use super::section::Section;
use super::settings::Content;
use crate::literals::repr;

/// The bits that an IPv4 address has in front of it when it is written as an IPv6 one.
const MAPPED_PREFIX_BITS: u8 = 96;

/// Addresses to listen on, and what holds for all who come there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListenerSettings {
    /// Where to listen.
    pub addresses: Vec<SocketAddress>,
    /// Whether nobody may write who comes this way.
    pub read_only: bool,
    /// Whether to offer msgpack; `None` leaves it to `<zeo>` or the environment.
    pub msgpack: Option<bool>,
    /// The networks that peers may come from; none: any.
    pub allow: Vec<IpNet>,
    /// `<ssl>`: TLS from the first byte.
    pub tls: Option<TlsSettings>,
}

/// `<ssl>`.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsSettings {
    /// The server's certificate with those that lead to its CA, perhaps also the key.
    pub certificate: PathBuf,
    /// The key, if it is not in the file of the certificate.
    pub key: Option<PathBuf>,
    /// A file whose first line decrypts the key.
    pub password_file: Option<PathBuf>,
    /// A file or a directory with the certificates that are trusted, and lists of revoked ones.
    pub authenticate: PathBuf,
    /// Who may do what; none: whoever is trusted may do all.
    pub clients: Vec<ClientSettings>,
}

/// `<client>`: what the holder of a certificate may do.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientSettings {
    /// How logs call it.
    pub name: String,
    /// Which certificate is meant.
    pub certificate: CertificateName,
    /// The storages that it may open; none: all.
    pub storages: Vec<String>,
    /// Whether it may only read.
    pub read_only: bool,
}

/// How a certificate is told from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateName {
    /// The common name of its subject.
    CommonName(String),
    /// The SHA-256 digest of the certificate.
    Fingerprint([u8; 32]),
}

/// The keys that `<zeo>` and `<listener>` share; without `<ssl>`.
pub fn listener(section: &Section<Content>) -> Result<ListenerSettings, ConfigError> {
    Ok(ListenerSettings {
        addresses: section.get_all("address", socket_binding_address)?,
        read_only: section.get("read-only", boolean)?.unwrap_or(false),
        msgpack: section.get("msgpack", boolean)?,
        allow: section.get_all("allow", networks)?.into_iter().flatten().collect(),
        tls: None,
    })
}

/// `<ssl>`, which ends at `position`.
pub fn tls(section: Section<Content>, position: &Position) -> Result<TlsSettings, ConfigError> {
    let certificate = section.require("certificate", existing_dirpath)?;
    let key = section.get("key", existing_dirpath)?;
    let password_file = section.get("password-file", existing_dirpath)?;
    let authenticate = section.require("authenticate", |text| match text {
        "" => Err("authenticate cannot be empty: name a file or a directory with the certificates to trust".to_owned()),
        "DYNAMIC" => Err("authenticate cannot be DYNAMIC: no client could ever connect; name a file or a directory \
                          with the certificates to trust, which is read again whenever it changes"
            .to_owned()),
        path => Ok(PathBuf::from(path)),
    })?;
    let mut clients: Vec<ClientSettings> = Vec::new();
    for content in section.into_children() {
        if let Content::TlsClient(client) = content {
            if let Some(twin) = clients.iter().find(|earlier| earlier.certificate == client.certificate) {
                let (first, second) = (repr(&twin.name), repr(&client.name));
                let message = format!("the <client> sections {first} and {second} name the same certificate");
                return Err(ConfigError::Syntax { message, position: position.clone() });
            }
            clients.push(client);
        }
    }
    Ok(TlsSettings { certificate, key, password_file, authenticate, clients })
}

/// `<client>`, which ends at `position`.
pub fn client(section: &Section<Content>, position: &Position) -> Result<ClientSettings, ConfigError> {
    let common_name = section.get("common-name", |text| match text {
        "" => Err("common-name cannot be empty".to_owned()),
        name => Ok(CertificateName::CommonName(name.to_owned())),
    })?;
    let fingerprint = section.get("fingerprint", |text| fingerprint(text).map(CertificateName::Fingerprint))?;
    let ((Some(certificate), None) | (None, Some(certificate))) = (common_name, fingerprint) else {
        let message = "<client> needs either a common-name or a fingerprint".to_owned();
        return Err(ConfigError::Syntax { message, position: position.clone() });
    };
    let shown = match &certificate {
        CertificateName::CommonName(name) => name.clone(),
        CertificateName::Fingerprint(digest) => {
            digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
        }
    };
    let storages: Vec<String> = section.get_all("storages", string_list)?.into_iter().flatten().collect();
    Ok(ClientSettings {
        name: section.name().map_or(shown, str::to_owned),
        certificate,
        storages: storages.iter().map(|name| name.to_lowercase()).collect(),
        read_only: section.get("read-only", boolean)?.unwrap_or(false),
    })
}

/// Addresses and networks, one or several.
fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    let words = string_list(text)?;
    if words.is_empty() {
        return Err("allow cannot be empty: name addresses or networks, such as 192.0.2.7 or 192.0.2.0/24".to_owned());
    }
    words.iter().map(|word| network(word)).collect()
}

fn network(word: &str) -> Result<IpNet, String> {
    let parsed = word.parse::<IpNet>().or_else(|_| word.parse::<IpAddr>().map(IpNet::from));
    let network = parsed.map_err(|_| {
        format!(
            "not an address or network: {}; it must be one such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32",
            repr(word)
        )
    })?;
    if network.addr() != network.network() {
        // A slip of the prefix would let others in than were meant.
        return Err(format!("{} has bits behind its prefix; the network would be {}", repr(word), network.trunc()));
    }
    Ok(unmapped(network))
}

/// Peers are compared as IPv4 where they are that; so are the networks.
fn unmapped(network: IpNet) -> IpNet {
    if let IpNet::V6(inner) = network
        && let Some(address) = inner.addr().to_ipv4_mapped()
        && let Some(bits) = inner.prefix_len().checked_sub(MAPPED_PREFIX_BITS)
        && let Ok(mapped) = Ipv4Net::new(address, bits)
    {
        return IpNet::V4(mapped);
    }
    network
}

/// 64 hexadecimal digits, as `openssl x509 -fingerprint -sha256` writes them.
fn fingerprint(text: &str) -> Result<[u8; 32], String> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let is_hex = digits.len() == 64 && digits.iter().all(u8::is_ascii_hexdigit);
    let bytes: Option<Vec<u8>> = if is_hex { digits.chunks(2).map(byte).collect() } else { None };
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
        format!("not a SHA-256 fingerprint: {}; openssl x509 -noout -fingerprint -sha256 -in FILE shows it", repr(text))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_addresses_or_prefixes() {
        let shown = |text: &str| networks(text).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown("192.0.2.7"), ["192.0.2.7/32"]);
        assert_eq!(shown(" 10.0.0.0/8  ::1 2001:db8::/32"), ["10.0.0.0/8", "::1/128", "2001:db8::/32"]);
        assert_eq!(shown("::ffff:192.0.2.0/120 ::ffff:192.0.2.1"), ["192.0.2.0/24", "192.0.2.1/32"]);
        assert_eq!(shown("0.0.0.0/0"), ["0.0.0.0/0"]);
    }

    #[test]
    fn slips_are_refused() {
        for text in ["", "10.0.0", "10.0.0.0/33", "10.0.0.0/", "localhost", "10.0.0.0-10.0.0.9", "192.0.2.7,192.0.2.8"]
        {
            assert!(networks(text).is_err(), "{text}");
        }
        let slip = networks("192.0.2.7/24").unwrap_err();
        assert_eq!(slip, "'192.0.2.7/24' has bits behind its prefix; the network would be 192.0.2.0/24");
    }

    #[test]
    fn fingerprints_are_as_openssl_writes_them() {
        let colons = vec!["AB"; 32].join(":");
        assert_eq!(fingerprint(&colons), Ok([0xab; 32]));
        assert_eq!(fingerprint(&"ab".repeat(32)), Ok([0xab; 32]));
        for text in [String::new(), "ab".repeat(31), "ab".repeat(33), "a".repeat(63), format!("+{}", "a".repeat(63))] {
            assert!(fingerprint(&text).is_err(), "{text}");
        }
    }
}
