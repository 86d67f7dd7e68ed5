//! Which client certificates are accepted.
//!
//! As with OpenSSL, a certificate may be trusted for itself: one that is in `authenticate`, byte for byte, needs no CA.
//! All others need a path to a CA there. `webpki` builds paths; it would not take a listed certificate for its own
//! proof, so that comparison comes first.

use std::collections::HashSet;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, Validity};

use super::files::{Bundle, Named, TlsError};

/// The verifier of one state of the files.
#[derive(Debug)]
pub struct Trust {
    listed: HashSet<CertificateDer<'static>>,
    authorities: Vec<Authority>,
    revocations: Vec<Revocations>,
    provider: Arc<CryptoProvider>,
}

/// A CA.
#[derive(Debug)]
struct Authority {
    anchor: TrustAnchor<'static>,
    validity: Validity,
}

/// A list of revoked certificates.
#[derive(Debug)]
struct Revocations {
    list: CertRevocationList<'static>,
    /// The name of the CA, as it is in certificates.
    issuer: Vec<u8>,
}

impl Trust {
    /// Trusts what is in `bundle`, which came from `file`.
    pub fn new(bundle: Bundle, file: Named, provider: Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let mut authorities = Vec::new();
        for (number, der) in (1_usize..).zip(&bundle.certificates) {
            let damaged = |reason: String| file.unusable(format!("certificate {number} is damaged: {reason}"));
            let (_, certificate) = X509Certificate::from_der(der).map_err(|error| damaged(error.to_string()))?;
            if !may_sign(&certificate) {
                continue;
            }
            let anchor = webpki::anchor_from_trusted_cert(der).map_err(|error| damaged(error.to_string()))?.to_owned();
            authorities.push(Authority { anchor, validity: certificate.validity().clone() });
        }
        let mut revocations = Vec::new();
        for (number, der) in (1_usize..).zip(&bundle.revocation_lists) {
            let damaged = |reason: String| file.unusable(format!("CRL {number} cannot be used: {reason}"));
            let list = OwnedCertRevocationList::from_der(der).map_err(|error| damaged(error.to_string()))?;
            let (_, parsed) = CertificateRevocationList::from_der(der).map_err(|error| damaged(error.to_string()))?;
            revocations.push(Revocations { list: list.into(), issuer: parsed.issuer().as_raw().to_vec() });
        }
        Ok(Self { listed: bundle.certificates.into_iter().collect(), authorities, revocations, provider })
    }

    /// How many certificates and revocation lists there are, for the log.
    pub fn describe(&self) -> String {
        format!(
            "{} certificates, {} of them of CAs, {} CRLs",
            self.listed.len(),
            self.authorities.len(),
            self.revocations.len()
        )
    }

    /// Accepts a listed certificate while it is valid and not revoked.
    fn verify_listed(&self, der: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| CertificateError::BadEncoding)?;
        verify_validity(certificate.validity(), now)?;
        let serial = certificate.raw_serial();
        // A list of somebody else says nothing of this certificate: it is trusted for itself.
        for revocations in self.revocations.iter().filter(|list| list.issuer == certificate.issuer().as_raw()) {
            match revocations.list.find_serial(unpadded(serial)) {
                Ok(None) => {}
                Ok(Some(_)) => return Err(CertificateError::Revoked),
                Err(error) => return Err(CertificateError::Other(OtherError(Arc::new(error)))),
            }
        }
        Ok(())
    }

    /// Accepts a certificate that a CA has signed.
    fn verify_path(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        let certificate = EndEntityCert::try_from(end_entity).map_err(certificate_error)?;
        // webpki does not look at the validity of those it starts from.
        let valid = self.authorities.iter().filter(|authority| verify_validity(&authority.validity, now).is_ok());
        let anchors: Vec<TrustAnchor<'_>> = valid.map(|authority| authority.anchor.clone()).collect();
        let lists: Vec<&CertRevocationList<'_>> =
            self.revocations.iter().map(|revocations| &revocations.list).collect();
        // With no list nothing is checked; with one, as with OpenSSL, every CA has to have one that has not expired.
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::EndEntity)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        let algorithms = self.provider.signature_verification_algorithms.all;
        certificate
            .verify_for_usage(algorithms, &anchors, intermediates, now, KeyUsage::client_auth(), revocation, None)
            .map(|_path| ())
            .map_err(certificate_error)
    }
}

impl ClientCertVerifier for Trust {
    /// Clients are not told whom we trust: they have one certificate, or none.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.listed.contains(end_entity) {
            self.verify_listed(end_entity, now)?;
        } else {
            self.verify_path(end_entity, intermediates, now)?;
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether a certificate is that of a CA. The others are trusted for themselves only: whoever holds their keys must
/// not make certificates of his own.
fn may_sign(certificate: &X509Certificate<'_>) -> bool {
    let is_ca = certificate.is_ca();
    let usage = certificate.key_usage().ok().flatten();
    is_ca && usage.is_none_or(|usage| usage.value.key_cert_sign())
}

fn verify_validity(validity: &Validity, now: UnixTime) -> Result<(), CertificateError> {
    let seconds =
        |time: i64| UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(time).unwrap_or(0)));
    let not_before = seconds(validity.not_before.timestamp());
    let not_after = seconds(validity.not_after.timestamp());
    if now < not_before {
        return Err(CertificateError::NotValidYetContext { time: now, not_before });
    }
    if now > not_after {
        return Err(CertificateError::ExpiredContext { time: now, not_after });
    }
    Ok(())
}

/// A serial number as webpki compares it: without the zero that keeps it positive.
fn unpadded(serial: &[u8]) -> &[u8] {
    match serial {
        [0, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    }
}

fn certificate_error(error: webpki::Error) -> CertificateError {
    match error {
        webpki::Error::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        webpki::Error::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        webpki::Error::CertRevoked => CertificateError::Revoked,
        webpki::Error::CrlExpired { time, next_update } => {
            CertificateError::ExpiredRevocationListContext { time, next_update }
        }
        webpki::Error::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        // A stranger that has signed its own certificate is no CA of ours either.
        webpki::Error::UnknownIssuer | webpki::Error::CaUsedAsEndEntity => CertificateError::UnknownIssuer,
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    }
}
