//! What the files of an `<ssl>` hold: certificates, the key, whom to trust; and whether they have changed.
//!
//! Every mistake names its file and what to do. Files are read whole; they are the administrator's own.

use std::fmt::Display;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// The key that says whom to trust.
const AUTHENTICATE: &str = "authenticate";

/// Why the files of an `<ssl>` are of no use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}, the {what} of <ssl>: {source}", path = path.display())]
    Unreadable {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file does not have what it is for.
    #[error("{path}, the {what} of <ssl>: {reason}", path = path.display())]
    Unusable {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
}

/// One of the files, by the key that names it.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// The key in `<ssl>`.
    pub what: &'static str,
    /// Where it is.
    pub path: &'a Path,
}

impl Named<'_> {
    /// An error of this file.
    pub fn unusable(&self, reason: impl Into<String>) -> TlsError {
        TlsError::Unusable { what: self.what, path: self.path.to_owned(), reason: reason.into() }
    }

    fn read(&self) -> Result<Vec<u8>, TlsError> {
        fs::read(self.path).map_err(|source| self.unreadable(source))
    }

    fn unreadable(&self, source: io::Error) -> TlsError {
        TlsError::Unreadable { what: self.what, path: self.path.to_owned(), source }
    }

    fn found<T>(&self, items: impl Iterator<Item = Result<T, pem::Error>>) -> Result<Vec<Found<T>>, TlsError> {
        let items = (1..).zip(self.parsed(items)?);
        Ok(items.map(|(number, der)| Found { der, file: self.path.to_owned(), number }).collect())
    }

    fn parsed<T>(&self, items: impl Iterator<Item = Result<T, pem::Error>>) -> Result<Vec<T>, TlsError> {
        items.collect::<Result<_, _>>().map_err(|error| self.unusable(format!("it is damaged: {error}")))
    }
}

/// The certificate of the server and those that lead to its CA.
pub fn chain(file: Named) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = file.read()?;
    let chain = file.parsed(CertificateDer::pem_slice_iter(&text))?;
    if chain.is_empty() {
        return Err(file.unusable("there is no certificate in it; it must be PEM, with lines BEGIN CERTIFICATE"));
    }
    Ok(chain)
}

/// The key, decrypted with what the password file holds if it is encrypted.
pub fn key(file: Named, password: Option<Named>) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = file.read()?;
    if let Some(block) = encrypted_block(&text) {
        return decrypted(file, block, password);
    }
    if contains(&text, b"Proc-Type: 4,ENCRYPTED") {
        return Err(file.unusable(
            "its key is encrypted in the old way of OpenSSL, which is not read here; convert it with \
             `openssl pkcs8 -topk8 -in OLD.key -out NEW.key`",
        ));
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound => file.unusable(
            "there is no private key in it; name its file with the key `key`, or append it to the certificate",
        ),
        other => file.unusable(format!("its private key is damaged: {other}")),
    })
}

const ENCRYPTED_BEGIN: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----";
const ENCRYPTED_END: &str = "-----END ENCRYPTED PRIVATE KEY-----";

fn encrypted_block(text: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(text).ok()?;
    let block = text.get(text.find(ENCRYPTED_BEGIN)?..)?;
    let end = block.find(ENCRYPTED_END)? + ENCRYPTED_END.len();
    block.get(..end)
}

fn decrypted(file: Named, block: &str, password: Option<Named>) -> Result<PrivateKeyDer<'static>, TlsError> {
    let Some(password) = password else {
        return Err(file.unusable("its key is encrypted; name a file with the password by the key password-file"));
    };
    let text = password.read()?;
    // One line: editors end it with a newline that is not part of the password.
    let word = text.split(|byte| matches!(byte, b'\n' | b'\r')).next().unwrap_or_default();
    if word.is_empty() {
        return Err(password.unusable("its first line has to be the password of the key, and is empty"));
    }
    let (_, encrypted) = pkcs8::Document::from_pem(block)
        .map_err(|error| file.unusable(format!("its encrypted key is damaged: {error}")))?;
    let info = pkcs8::EncryptedPrivateKeyInfoRef::try_from(encrypted.as_bytes())
        .map_err(|error| file.unusable(format!("its encrypted key is damaged: {error}")))?;
    let key = info.decrypt(word).map_err(|error| {
        let shown = password.path.display();
        file.unusable(format!("its key cannot be decrypted with the password in {shown}: {error}"))
    })?;
    Ok(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.as_bytes().to_vec())))
}

fn contains(text: &[u8], words: &[u8]) -> bool {
    memchr::memmem::find(text, words).is_some()
}

/// Whom to trust: certificates, and lists of those that are revoked.
#[derive(Debug, Default)]
pub struct Bundle {
    /// Of CAs and of clients.
    pub certificates: Vec<Found<CertificateDer<'static>>>,
    /// As their CAs have published them.
    pub revocation_lists: Vec<Found<CertificateRevocationListDer<'static>>>,
}

/// Something that a file of `authenticate` holds.
#[derive(Debug)]
pub struct Found<T> {
    /// The thing itself.
    pub der: T,
    file: PathBuf,
    /// How many of its kind the file has up to it.
    number: usize,
}

impl<T> Found<T> {
    /// An error of this one, which is of `kind`.
    pub fn unusable(&self, kind: &str, reason: impl Display) -> TlsError {
        Named { what: AUTHENTICATE, path: &self.file }.unusable(format!("{kind} {} {reason}", self.number))
    }
}

/// What is in the file or directory `authenticate`.
pub fn bundle(path: &Path) -> Result<Bundle, TlsError> {
    let file = Named { what: AUTHENTICATE, path };
    let mut bundle = Bundle::default();
    for path in bundle_files(path).map_err(|source| file.unreadable(source))? {
        let part = Named { what: AUTHENTICATE, path: &path };
        let text = part.read()?;
        bundle.certificates.extend(part.found(CertificateDer::pem_slice_iter(&text))?);
        bundle.revocation_lists.extend(part.found(CertificateRevocationListDer::pem_slice_iter(&text))?);
    }
    if bundle.certificates.is_empty() {
        return Err(file.unusable(
            "there is no certificate to trust; put those of clients or of their CA there, as PEM (in a directory, in files \
             named *.pem, *.crt or as `openssl rehash` names them)",
        ));
    }
    Ok(bundle)
}

/// The file itself, or what in the directory may hold certificates, in the order of names.
fn bundle_files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        // Links of `openssl rehash`: a digest with a number behind it, r and a number for revocation lists.
        let number = extension.strip_prefix('r').unwrap_or(extension);
        let numbered = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        if matches!(extension, "pem" | "crt" | "crl") || numbered {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// What files look like from outside; another one means that something has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stamp(Vec<(PathBuf, Option<Look>)>);

#[derive(Debug, PartialEq, Eq)]
struct Look {
    /// When contents, owner or permissions have changed: the time of modification can be set back, and stays where a
    /// file only becomes readable.
    changed: (i64, i64),
    inode: u64,
    size_bytes: u64,
}

impl Stamp {
    /// Looks at `paths`, and into those that are directories.
    pub fn of<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        let files = paths.into_iter().flat_map(|path| bundle_files(path).unwrap_or_else(|_| vec![path.to_owned()]));
        let look = |path: &Path| {
            let found = fs::metadata(path).ok()?;
            Some(Look { changed: (found.ctime(), found.ctime_nsec()), inode: found.ino(), size_bytes: found.len() })
        };
        Self(
            files
                .map(|path| {
                    let look = look(&path);
                    (path, look)
                })
                .collect(),
        )
    }
}
