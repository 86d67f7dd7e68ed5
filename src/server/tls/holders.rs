//! Whose certificate it is, where it matters: the `<client>` sections of an `<ssl>`.

use sha2::{Digest as _, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::HandshakeError;

/// What the holder of a certificate may do.
#[derive(Clone, Debug)]
pub struct Holder {
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

/// What a peer has presented.
pub struct Presented {
    common_names: Vec<String>,
    fingerprint: [u8; 32],
}

impl Presented {
    /// What a certificate says of itself.
    pub fn of(certificate: &[u8]) -> Self {
        let common_names = match X509Certificate::from_der(certificate) {
            // One that cannot be read counts, as an empty one, which no `<client>` has.
            Ok((_, parsed)) => {
                parsed.subject().iter_common_name().map(|name| name.as_str().unwrap_or_default().to_owned()).collect()
            }
            Err(_) => Vec::new(),
        };
        Self { common_names, fingerprint: Sha256::digest(certificate).into() }
    }

    /// Whether it is the certificate that is meant. One with several common names is nobody's.
    pub fn is(&self, name: &CertificateName) -> bool {
        match name {
            CertificateName::CommonName(wanted) => self.common_names == [wanted.as_str()],
            CertificateName::Fingerprint(wanted) => self.fingerprint == *wanted,
        }
    }

    /// That it is none of those that are named.
    pub fn unnamed(&self) -> HandshakeError {
        HandshakeError::Unnamed {
            common_name: self.common_names.join(", ").chars().take(200).collect(),
            fingerprint: self.fingerprint.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":"),
        }
    }
}
