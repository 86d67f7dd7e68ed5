//! Handshakes with clients that OpenSSL would not be, and files between two states. What real clients do is in
//! compat-tests.

use std::fs::{self, FileTimes};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue, KeyPair};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme, SupportedProtocolVersion, version::TLS12,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio_rustls::TlsConnector;

use super::*;

/// A certificate signed by itself, and its key.
struct Own {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

fn own(name: &str) -> Own {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    signed(&params)
}

fn signed(params: &CertificateParams) -> Own {
    let key = KeyPair::generate().unwrap();
    Own { certificate: params.self_signed(&key).unwrap().der().clone(), key }
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

/// Files of an `<ssl>`, in a directory of their own.
struct Site {
    directory: tempfile::TempDir,
}

impl Site {
    fn new(server: &Own, trusted: &[&Own]) -> Self {
        let site = Self { directory: tempfile::tempdir().unwrap() };
        site.certificate(server);
        site.key(server);
        let trusted: Vec<String> = trusted.iter().map(|own| pem("CERTIFICATE", &own.certificate)).collect();
        fs::write(site.path("trusted.pem"), trusted.concat()).unwrap();
        site
    }

    fn certificate(&self, server: &Own) {
        fs::write(self.path("server.pem"), pem("CERTIFICATE", &server.certificate)).unwrap();
    }

    fn key(&self, server: &Own) {
        fs::write(self.path("server.key"), pem("PRIVATE KEY", &server.key.serialize_der())).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn open(&self) -> Result<Arc<Tls>, TlsError> {
        Tls::open(TlsOptions {
            certificate: self.path("server.pem"),
            key: Some(self.path("server.key")),
            password_file: None,
            authenticate: self.path("trusted.pem"),
            holders: Vec::new(),
        })
        .map(Arc::new)
    }
}

/// A client that presents `certificate` and signs with `key`, whether they belong together or not.
#[derive(Debug)]
struct Client(Arc<CertifiedKey>);

impl Client {
    fn config(certificate: &Own, key: &Own, version: &'static SupportedProtocolVersion) -> ClientConfig {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.key.serialize_der()));
        let signer = ring::sign::any_supported_type(&der).unwrap();
        let client = Self(Arc::new(CertifiedKey::new(vec![certificate.certificate.clone()], signer)));
        ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trusting))
            .with_client_cert_resolver(Arc::new(client))
    }
}

impl ResolvesClientCert for Client {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Takes any server for the right one.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// What the server says of the handshake, and the certificate that it showed.
fn handshake(tls: &Arc<Tls>, client: ClientConfig) -> (Result<(), String>, Option<CertificateDer<'static>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (near, far) = tokio::io::duplex(1 << 16);
        let connecting = TlsConnector::from(Arc::new(client)).connect(ServerName::try_from("zeo").unwrap(), far);
        let (accepted, connected) = tokio::join!(tls.accept(near), connecting);
        let shown = connected.ok().and_then(|stream| stream.get_ref().1.peer_certificates()?.first().cloned());
        (accepted.map(|_| ()).map_err(|error| error.to_string()), shown.map(CertificateDer::into_owned))
    })
}

#[test]
fn a_certificate_is_worth_nothing_without_its_key() {
    let (server, client, thief) = (own("server"), own("client"), own("thief"));
    let tls = Site::new(&server, &[&client]).open().unwrap();
    for version in [&TLS12, &TLS13] {
        assert_eq!(handshake(&tls, Client::config(&client, &client, version)).0, Ok(()));
        let (refused, _) = handshake(&tls, Client::config(&client, &thief, version));
        assert!(refused.unwrap_err().starts_with("it does not hold the key of its certificate"), "{version:?}");
    }
}

#[test]
fn a_key_that_comes_later_than_its_certificate() {
    let (old, new, client) = (own("server"), own("server"), own("client"));
    let site = Site::new(&old, &[&client]);
    let tls = site.open().unwrap();
    let shown = || handshake(&tls, Client::config(&client, &client, &TLS13)).1;
    site.certificate(&new);
    tls.look();
    assert_eq!(shown().as_ref(), Some(&old.certificate), "without its key it is of no use");
    site.key(&new);
    tls.look();
    assert_eq!(shown().as_ref(), Some(&new.certificate));
}

#[test]
fn a_change_shows_whatever_the_time_of_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("trusted.pem");
    let long_ago = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
    let write = |text: &str| {
        let mut file = fs::OpenOptions::new().create(true).truncate(true).write(true).open(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.set_times(long_ago).unwrap();
    };
    write("one");
    let before = Stamp::of([path.as_path()]);
    assert_eq!(Stamp::of([path.as_path()]), before);
    // The clock of the file system ticks now and then.
    let patience = Instant::now() + Duration::from_secs(30);
    while Stamp::of([path.as_path()]) == before {
        assert!(Instant::now() < patience, "the change does not show");
        write("two");
    }
}

#[test]
fn only_one_looks_at_a_time() {
    let (server, client) = (own("server"), own("client"));
    let tls = Site::new(&server, &[&client]).open().unwrap();
    assert!(!tls.is_time_to_look(), "they have just been read");
    tls.current.lock().looked = Instant::now().checked_sub(LOOK_INTERVAL).unwrap();
    assert!(tls.is_time_to_look());
    assert!(!tls.is_time_to_look(), "somebody does it");
    tls.look();
    assert!(!tls.is_time_to_look());
}

#[test]
fn a_second_name_is_one_too_many() {
    let is_writer = |name: &DistinguishedName| {
        let mut params = CertificateParams::default();
        params.distinguished_name = name.clone();
        let writer = CertificateName::CommonName("writer".to_owned());
        holders::Presented::of(&signed(&params).certificate).is(&writer)
    };
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "writer");
    assert!(!is_writer(&name), "there is no common name");
    name.push(DnType::CommonName, "writer");
    assert!(is_writer(&name));
    // The same attribute once more, in an encoding that is not read.
    let unread = DnValue::BmpString(rcgen::string::BmpString::try_from("reader").unwrap());
    name.push(DnType::CustomDnType(vec![2, 5, 4, 3]), unread);
    assert!(!is_writer(&name));
}

#[test]
fn uses_that_cannot_be_read_allow_none() {
    let mut params = CertificateParams::default();
    params.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 37], vec![0x30, 0x05, 0x06, 0x09]));
    let (server, client) = (own("server"), signed(&params));
    let site = Site::new(&server, &[&client]);
    let tls = site.open().unwrap();
    let (refused, _) = handshake(&tls, Client::config(&client, &client, &TLS13));
    assert_eq!(refused, Err("its certificate is not for TLS clients, as its (extended) key usage says".to_owned()));
}

#[test]
fn errors_name_the_file_in_a_directory() {
    let (server, client) = (own("server"), own("client"));
    let site = Site::new(&server, &[&client]);
    let trusted = site.path("trusted");
    fs::create_dir(&trusted).unwrap();
    fs::write(trusted.join("a.pem"), pem("CERTIFICATE", &client.certificate)).unwrap();
    fs::write(trusted.join("b.pem"), pem("CERTIFICATE", b"nonsense")).unwrap();
    let error = read(&site, &trusted).unwrap_err().to_string();
    let damaged = trusted.join("b.pem");
    assert!(
        error.contains(&format!("{}, the authenticate of <ssl>: certificate 1 is damaged", damaged.display())),
        "{error}"
    );
    fs::remove_file(damaged).unwrap();
    assert!(read(&site, &trusted).is_ok());
}

fn read(site: &Site, authenticate: &Path) -> Result<(), TlsError> {
    let options = TlsOptions { authenticate: authenticate.to_owned(), ..site.open()?.options.clone() };
    options.read().map(|_| ())
}
