//! Which client certificates are accepted.
//!
//! As with OpenSSL, a certificate may be trusted for itself: one that is in `authenticate`, byte for byte, needs no CA.
//! All others need a path to a CA there. `webpki` builds paths; it would not take a listed certificate for its own
//! proof, so that comparison comes first.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, OwnedCertRevocationList, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
};
use x509_parser::certificate::{BasicExtension, X509Certificate};
use x509_parser::extensions::KeyUsage;
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, Validity};

use super::files::{Bundle, Found, TlsError};

/// The verifier of one state of the files.
#[derive(Debug)]
pub struct Trust {
    listed: HashSet<CertificateDer<'static>>,
    authorities: Vec<Authority>,
    revocations: Vec<Revocations>,
    provider: Arc<CryptoProvider>,
}

/// A CA. What webpki does not look at in the certificates that it starts from is here.
#[derive(Debug)]
struct Authority {
    anchor: TrustAnchor<'static>,
    validity: Validity,
    /// How many certificates may be between it and a client's.
    most_between: Option<u32>,
}

/// A list of revoked certificates.
#[derive(Debug)]
struct Revocations {
    list: CertRevocationList<'static>,
    /// The name of the CA, as it is in certificates.
    issuer: Vec<u8>,
    made: i64,
    /// Until when it is good, where it says so.
    next: Option<UnixTime>,
}

impl Trust {
    /// Trusts what is in `bundle`.
    pub fn new(bundle: Bundle, provider: Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let mut authorities = Vec::new();
        let mut certificates = Vec::new();
        for found in &bundle.certificates {
            let damaged = |reason: String| found.unusable("certificate", format!("is damaged: {reason}"));
            let (_, certificate) = X509Certificate::from_der(&found.der).map_err(|error| damaged(error.to_string()))?;
            if may_sign(&certificate) {
                let anchor =
                    webpki::anchor_from_trusted_cert(&found.der).map_err(|error| damaged(error.to_string()))?;
                authorities.push(Authority {
                    anchor: anchor.to_owned(),
                    validity: certificate.validity().clone(),
                    most_between: most_between(&certificate),
                });
            }
            certificates.push(certificate);
        }
        let mut revocations = Vec::new();
        for found in &bundle.revocation_lists {
            revocations.push(Revocations::new(found, &certificates)?);
        }
        // webpki takes the first that is about a certificate: it has to be the one that knows most.
        revocations.sort_by_key(|revocations| Reverse(revocations.made));
        let listed = bundle.certificates.into_iter().map(|found| found.der).collect();
        Ok(Self { listed, authorities, revocations, provider })
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
    fn verify_listed(&self, certificate: &X509Certificate<'_>, now: UnixTime) -> Result<(), CertificateError> {
        verify_validity(certificate.validity(), now)?;
        // A list of somebody else says nothing of this certificate: it is trusted for itself.
        let issuer = certificate.issuer().as_raw();
        let about: Vec<&Revocations> = self.revocations.iter().filter(|list| list.issuer == issuer).collect();
        for revocations in &about {
            match revocations.list.find_serial(certificate.raw_serial()) {
                Ok(None) => {}
                Ok(Some(_)) => return Err(CertificateError::Revoked),
                Err(error) => return Err(CertificateError::Other(OtherError(Arc::new(error)))),
            }
        }
        // One that has expired does not show who has been revoked since.
        match about.iter().filter_map(|list| list.next).max() {
            Some(next_update) if now >= next_update => {
                Err(CertificateError::ExpiredRevocationListContext { time: now, next_update })
            }
            _ => Ok(()),
        }
    }

    /// Accepts a certificate that a CA has signed.
    fn verify_path(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        let certificate = EndEntityCert::try_from(end_entity).map_err(certificate_error)?;
        let is_valid = |authority: &&Authority| verify_validity(&authority.validity, now).is_ok();
        let valid: Vec<&Authority> = self.authorities.iter().filter(is_valid).collect();
        let anchors: Vec<TrustAnchor<'_>> = valid.iter().map(|authority| authority.anchor.clone()).collect();
        let is_fit = |path: &VerifiedPath<'_>| {
            // webpki sees whether they are of CAs, and not what else they say of their use.
            let mut links = path.intermediate_certificates();
            if !links.all(|link| X509Certificate::from_der(&link.der()).is_ok_and(|(_, link)| may_sign(&link))) {
                return Err(webpki::Error::EndEntityUsedAsCa);
            }
            let between = path.intermediate_certificates().count();
            let allows = |most: u32| usize::try_from(most).is_ok_and(|most| between <= most);
            let mut same = valid.iter().filter(|authority| authority.anchor == *path.anchor());
            if same.any(|authority| authority.most_between.is_none_or(allows)) {
                return Ok(());
            }
            Err(webpki::Error::PathLenConstraintViolated)
        };
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
            .verify_for_usage(
                algorithms,
                &anchors,
                intermediates,
                now,
                webpki::KeyUsage::client_auth(),
                revocation,
                Some(&is_fit),
            )
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
        let (_, certificate) = X509Certificate::from_der(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        if !may_be_presented(&certificate) {
            return Err(CertificateError::InvalidPurpose.into());
        }
        if self.listed.contains(end_entity) {
            self.verify_listed(&certificate, now)?;
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

impl Revocations {
    /// A list, made by one of `certificates` if its CA is among them. The others cannot be held against anything here:
    /// that is done with the certificates that a client presents.
    fn new(
        found: &Found<CertificateRevocationListDer<'static>>,
        certificates: &[X509Certificate<'_>],
    ) -> Result<Self, TlsError> {
        let unusable = |reason: String| found.unusable("CRL", format!("cannot be used: {reason}"));
        let (_, parsed) =
            CertificateRevocationList::from_der(&found.der).map_err(|error| unusable(error.to_string()))?;
        let list = OwnedCertRevocationList::from_der(&found.der).map_err(|error| {
            unusable(match (parsed.version(), parsed.next_update()) {
                (None, _) => {
                    "it is of version 1; for one of version 2 name a file `crlnumber` to openssl ca".to_owned()
                }
                (_, None) => "it does not say until when it is good; let its CA make it for some days".to_owned(),
                _ => error.to_string(),
            })
        })?;
        let issuer = parsed.issuer().as_raw();
        let mut makers = certificates.iter().filter(|maker| maker.subject().as_raw() == issuer).peekable();
        if makers.peek().is_some() && !makers.any(|maker| parsed.verify_signature(maker.public_key()).is_ok()) {
            return Err(unusable(format!(
                "it is not signed with the key of the CA that it names, {}",
                parsed.issuer()
            )));
        }
        Ok(Self {
            list: list.into(),
            issuer: issuer.to_vec(),
            made: parsed.last_update().timestamp(),
            next: parsed.next_update().map(|time| unix_time(time.timestamp())),
        })
    }
}

/// Whether a certificate is that of a CA for clients. The others are trusted for themselves only: whoever holds their
/// keys must not make certificates of his own.
fn may_sign(certificate: &X509Certificate<'_>) -> bool {
    certificate.is_ca() && is_for(certificate, KeyUsage::key_cert_sign)
}

/// Whether a client may present it, as OpenSSL sees it: what it says of its use has to allow that.
fn may_be_presented(certificate: &X509Certificate<'_>) -> bool {
    is_for(certificate, |usage| usage.digital_signature() || usage.key_agreement())
}

/// Whether it says nothing of its use, or that it is this and TLS clients.
fn is_for(certificate: &X509Certificate<'_>, use_of_key: impl FnOnce(&KeyUsage) -> bool) -> bool {
    let allows = |key: Option<BasicExtension<&KeyUsage>>| key.is_none_or(|key| use_of_key(key.value));
    certificate.key_usage().is_ok_and(allows)
        && certificate.extended_key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.client_auth))
}

fn most_between(certificate: &X509Certificate<'_>) -> Option<u32> {
    certificate.basic_constraints().ok().flatten()?.value.path_len_constraint
}

fn unix_time(seconds: i64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

fn verify_validity(validity: &Validity, now: UnixTime) -> Result<(), CertificateError> {
    let not_before = unix_time(validity.not_before.timestamp());
    let not_after = unix_time(validity.not_after.timestamp());
    if now < not_before {
        return Err(CertificateError::NotValidYetContext { time: now, not_before });
    }
    if now > not_after {
        return Err(CertificateError::ExpiredContext { time: now, not_after });
    }
    Ok(())
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
        webpki::Error::UnsupportedSignatureAlgorithmContext(context) => {
            CertificateError::UnsupportedSignatureAlgorithmContext {
                signature_algorithm_id: context.signature_algorithm_id,
                supported_algorithms: context.supported_algorithms,
            }
        }
        webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(context) => {
            CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
                signature_algorithm_id: context.signature_algorithm_id,
                public_key_algorithm_id: context.public_key_algorithm_id,
            }
        }
        webpki::Error::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    }
}
