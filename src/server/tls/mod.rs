//! TLS: a listener's certificate, whom it trusts, and the handshake.
//!
//! [`files`] reads, [`trust`] decides who is accepted, [`holders`] what he may do. The files are looked at again when
//! clients connect, and are read when they have changed; while they are broken, what was there before stays.
//! Connections that are open stay open, whatever changes. Nothing secret is in a log line or an error, and no thread of
//! the runtime waits for a disk here.

mod files;
mod holders;
#[cfg(test)]
mod tests;
mod trust;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::crypto::{CryptoProvider, ring};
use rustls::server::NoServerSessionStorage;
use rustls::{AlertDescription, CertificateError, InconsistentKeys, OtherError, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{error, info};

use crate::sync::Mutex;
use files::Named;
pub use files::{Stamp, TlsError};
pub use holders::{CertificateName, Holder};
use trust::Trust;

/// How long a handshake may take: two turns over a slow line, and no more.
const HANDSHAKE_TIME: Duration = Duration::from_secs(15);

/// How often the files are looked at, at most.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// `<ssl>`.
#[derive(Clone, Debug)]
pub struct TlsOptions {
    /// The server's certificate with those that lead to its CA, perhaps also the key.
    pub certificate: PathBuf,
    /// The key, if it is not in the file of the certificate.
    pub key: Option<PathBuf>,
    /// A file whose first line decrypts the key.
    pub password_file: Option<PathBuf>,
    /// A file or a directory with the certificates that are trusted, and lists of revoked ones.
    pub authenticate: PathBuf,
    /// Who may do what; none: whoever is trusted may do all.
    pub holders: Vec<Holder>,
}

/// The TLS of one listener.
pub struct Tls {
    options: TlsOptions,
    current: Mutex<Current>,
}

struct Current {
    acceptor: TlsAcceptor,
    /// What the files looked like when they were read last, with success or not.
    stamp: Stamp,
    looked: Instant,
    /// Whether somebody does it now.
    looking: bool,
}

/// Why a handshake has failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// It takes too long.
    #[error("it is not done after {} seconds", HANDSHAKE_TIME.as_secs())]
    Slow,
    /// The connection is lost, or the peer does not do as it must.
    #[error("{}", explained(.0))]
    Failed(std::io::Error),
    /// The certificate is trusted, but no `<client>` is for it.
    #[error("no <client> is for its certificate, common name {common_name:?}, SHA-256 fingerprint {fingerprint}")]
    Unnamed {
        /// The common name of the certificate.
        common_name: String,
        /// The digest of the certificate.
        fingerprint: String,
    },
}

impl Tls {
    /// Reads the files.
    pub fn open(options: TlsOptions) -> Result<Self, TlsError> {
        let stamp = Stamp::of(options.paths());
        let (config, _) = options.read()?;
        let acceptor = TlsAcceptor::from(config);
        let current = Current { acceptor, stamp, looked: Instant::now(), looking: false };
        Ok(Self { options, current: Mutex::new(current) })
    }

    /// Shakes hands over `stream`. With it comes the section of the peer's certificate, if there are any.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        self: &Arc<Self>,
        stream: S,
    ) -> Result<(TlsStream<S>, Option<Holder>), HandshakeError> {
        let handshake = async { self.acceptor().await.accept(stream).await };
        let stream = match tokio::time::timeout(HANDSHAKE_TIME, handshake).await {
            Ok(outcome) => outcome.map_err(HandshakeError::Failed)?,
            Err(_elapsed) => return Err(HandshakeError::Slow),
        };
        if self.options.holders.is_empty() {
            return Ok((stream, None));
        }
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let presented = holders::Presented::of(certificate.map_or(&[], |certificate| certificate.as_ref()));
        match self.options.holders.iter().find(|holder| presented.is(&holder.certificate)) {
            Some(holder) => Ok((stream, Some(holder.clone()))),
            None => Err(presented.unnamed()),
        }
    }

    /// What is to be used now: after a look at the files, if the last one was a while ago. Whoever comes then waits for
    /// it; meanwhile the others have what is there.
    async fn acceptor(self: &Arc<Self>) -> TlsAcceptor {
        if self.is_time_to_look() {
            let tls = Arc::clone(self);
            // It is not done only where the runtime ends, and this connection with it.
            let _ = tokio::task::spawn_blocking(move || tls.look()).await;
        }
        self.current.lock().acceptor.clone()
    }

    fn is_time_to_look(&self) -> bool {
        let mut current = self.current.lock();
        let is_time = !current.looking && current.looked.elapsed() >= LOOK_INTERVAL;
        current.looking |= is_time;
        is_time
    }

    /// Reads the files if they have changed. That may take a while: a good password is slow to use.
    fn look(&self) {
        let stamp = Stamp::of(self.options.paths());
        let has_changed = stamp != self.current.lock().stamp;
        let outcome = has_changed.then(|| self.options.read());
        let mut current = self.current.lock();
        current.stamp = stamp;
        current.looked = Instant::now();
        current.looking = false;
        match outcome {
            None => {}
            Some(Ok((config, described))) => {
                info!(target: "ZEO.asyncio.server", "certificates have changed and are read again: {described}");
                current.acceptor = TlsAcceptor::from(config);
            }
            Some(Err(error)) => {
                error!(
                    target: "ZEO.asyncio.server",
                    "certificates have changed and cannot be used; those of before stay: {error}"
                );
            }
        }
    }
}

impl TlsOptions {
    fn paths(&self) -> impl Iterator<Item = &Path> {
        let optional = self.key.iter().chain(&self.password_file);
        [&self.certificate, &self.authenticate].into_iter().chain(optional).map(PathBuf::as_path)
    }

    /// All files, as the library wants them, and in words.
    fn read(&self) -> Result<(Arc<ServerConfig>, String), TlsError> {
        let certificate = Named { what: "certificate", path: &self.certificate };
        let chain = files::chain(certificate)?;
        let key_file = self.key.as_deref().map_or(certificate, |path| Named { what: "key", path });
        let password = self.password_file.as_deref().map(|path| Named { what: "password-file", path });
        let key = files::key(key_file, password)?;
        let provider = Arc::new(provider());
        let trust = Trust::new(files::bundle(&self.authenticate)?, Arc::clone(&provider))?;
        let described = trust.describe();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| certificate.unusable(error.to_string()))?
            .with_client_cert_verifier(Arc::new(trust))
            .with_single_cert(chain, key)
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => key_file.unusable(format!(
                    "the private key is not that of the first certificate in {}; that of the server has to come first",
                    self.certificate.display()
                )),
                other => key_file.unusable(format!(
                    "certificate and key cannot be used: {other}; a key is RSA of 2048 to 4096 bits, ECDSA on P-256 or P-384, \
                     or Ed25519"
                )),
            })?;
        // Every connection presents its certificate: a session that is taken up again would be asked for none.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok((Arc::new(config), described))
    }
}

fn provider() -> CryptoProvider {
    ring::default_provider()
}

/// An error of the handshake for whoever looks after the server.
fn explained(error: &std::io::Error) -> String {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return format!("the connection is lost: {error}");
    };
    match tls {
        rustls::Error::NoCertificatesPresented => {
            "it presents no certificate; it may have none, or none with a key of a kind that is known here".to_owned()
        }
        rustls::Error::InvalidCertificate(reason) => match reason {
            CertificateError::UnknownIssuer => {
                "its certificate is not in `authenticate`, and is signed by no CA there".to_owned()
            }
            CertificateError::BadSignature => {
                "it does not hold the key of its certificate, or that is RSA of less than 2048 bits".to_owned()
            }
            CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
                "its certificate has a key or a signature of a kind that is not known here".to_owned()
            }
            CertificateError::Revoked => "its certificate is revoked".to_owned(),
            CertificateError::UnknownRevocationStatus => {
                "there are CRLs in `authenticate`, but none of the CA of its certificate".to_owned()
            }
            CertificateError::ExpiredRevocationListContext { .. } => {
                "the CRL of the CA of its certificate has expired; put a new one into `authenticate`".to_owned()
            }
            CertificateError::ExpiredContext { .. } => "its certificate has expired".to_owned(),
            CertificateError::NotValidYetContext { .. } => "its certificate is not valid yet".to_owned(),
            CertificateError::InvalidPurpose => {
                "its certificate is not for TLS clients, as its (extended) key usage says".to_owned()
            }
            CertificateError::Other(OtherError(reason)) => match reason.downcast_ref::<webpki::Error>() {
                Some(webpki::Error::InvalidSignatureForPublicKey) => {
                    "its certificate is not signed by the CA that it names".to_owned()
                }
                Some(webpki::Error::InvalidCrlSignatureForPublicKey) => {
                    "the newest CRL of the CA of its certificate is signed by somebody else".to_owned()
                }
                Some(webpki::Error::PathLenConstraintViolated) => {
                    "a CA between its certificate and `authenticate` is one too many, as one above it says".to_owned()
                }
                Some(webpki::Error::EndEntityUsedAsCa) => {
                    "a certificate between its own and `authenticate` may not sign others".to_owned()
                }
                // Most strangers that have signed their own are of this kind.
                Some(webpki::Error::CaUsedAsEndEntity) => "its certificate is not in `authenticate`, and of a CA \
                     itself (CA:TRUE), which is accepted only if it is there"
                    .to_owned(),
                _ => format!("its certificate cannot be used: {reason}"),
            },
            other => format!("its certificate cannot be used: {other}"),
        },
        rustls::Error::InvalidMessage(reason) => format!("it does not speak TLS ({reason:?})"),
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown => {
                format!("it does not trust the certificate of this server ({alert:?})")
            }
            other => format!("it has ended the handshake ({other:?})"),
        },
        other => other.to_string(),
    }
}
