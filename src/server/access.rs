//! What a connection may do, by where it came in and by its certificate; and who may connect at all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tracing::warn;

use super::tls::Holder;
use crate::sync::Mutex;
use crate::wire::dialect::Encoding;

/// How often the same is said of the same peer, at most.
const REPEAT_INTERVAL: Duration = Duration::from_secs(60);

/// How many different lines of this kind are said in that time, at most: peers may have many addresses.
const MOST_LINES: usize = 256;

/// What a connection may do.
#[derive(Clone, Debug)]
pub struct Access {
    /// What the server announces to it.
    pub encoding: Encoding,
    /// Whether it may only read.
    pub read_only: bool,
    /// The storages that it may open; none: all.
    pub storages: Option<Arc<[String]>>,
}

impl Access {
    /// What is left of it for the holder of a certificate.
    pub fn narrowed(&self, holder: &Holder) -> Self {
        Self {
            encoding: self.encoding,
            read_only: self.read_only || holder.read_only,
            storages: (!holder.storages.is_empty()).then(|| holder.storages.clone().into()),
        }
    }

    /// Whether it may open the storage with this name, or know of it.
    pub fn covers(&self, storage: &str) -> bool {
        self.storages.as_ref().is_none_or(|names| names.iter().any(|name| name == storage))
    }
}

/// Whether a peer at `address` may connect where the networks `allow` may; none: everybody may.
pub fn is_allowed(allow: &[IpNet], address: IpAddr) -> bool {
    // A socket that takes both families shows IPv4 peers as IPv6 ones.
    let address = address.to_canonical();
    allow.is_empty() || allow.iter().any(|network| network.contains(&address))
}

/// Remembers what has been said of whom, so that a peer that keeps trying does not fill the log.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<HashMap<(String, String), Instant>>);

impl Refusals {
    /// Whether `what` is to be said of `peer` now.
    pub fn is_news(&self, peer: &str, what: &str) -> bool {
        let now = Instant::now();
        let mut said = self.0.lock();
        said.retain(|_, at| now.duration_since(*at) < REPEAT_INTERVAL);
        let key = (peer.to_owned(), what.to_owned());
        if said.len() > MOST_LINES || said.contains_key(&key) {
            return false;
        }
        said.insert(key, now);
        if said.len() > MOST_LINES {
            warn!(
                target: "ZEO.asyncio.server",
                "{MOST_LINES} different refusals within a minute: those that follow are not said until it is over"
            );
            return false;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_compared_by_family() {
        let allow: Vec<IpNet> = ["192.0.2.0/24", "2001:db8::/32"].map(|text| text.parse().unwrap()).to_vec();
        let allowed = |address: &str| is_allowed(&allow, address.parse().unwrap());
        for address in ["192.0.2.1", "::ffff:192.0.2.255", "2001:db8::1"] {
            assert!(allowed(address), "{address}");
        }
        for address in ["192.0.3.1", "::ffff:192.0.3.1", "::1", "127.0.0.1", "::192.0.2.1"] {
            assert!(!allowed(address), "{address}");
        }
        assert!(is_allowed(&[], "203.0.113.9".parse().unwrap()));
    }

    #[test]
    fn a_flood_is_a_few_lines() {
        let refusals = Refusals::default();
        assert!(refusals.is_news("a", "no"));
        assert!(!refusals.is_news("a", "no"));
        assert!(refusals.is_news("a", "another reason"));
        assert!(refusals.is_news("b", "no"));
        let said = (0..10_000).filter(|peer| refusals.is_news(&peer.to_string(), "no")).count();
        assert_eq!(said, MOST_LINES - 3);
    }

    #[test]
    fn a_certificate_only_takes_away() {
        let holder = |storages: &[&str], read_only| Holder {
            name: String::new(),
            certificate: crate::server::tls::CertificateName::Fingerprint([0; 32]),
            storages: storages.iter().map(ToString::to_string).collect(),
            read_only,
        };
        let all = Access { encoding: Encoding::Pickle, read_only: false, storages: None };
        let some = all.narrowed(&holder(&["main"], false));
        assert!(some.covers("main") && !some.covers("other") && !some.read_only);
        assert!(all.narrowed(&holder(&[], true)).covers("other"));
        let reading = Access { read_only: true, ..all };
        assert!(reading.narrowed(&holder(&[], false)).read_only);
    }
}
