//! The password database of ZEO 4: a text file with a line `realm NAME` and a line `user: hash` for each user.
//!
//! Whoever has a hash can be that user: hashes are never shown, nor written anywhere but to that file. What the server
//! does with them is in [`crate::server`].

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use sha1::{Digest as _, Sha1};

use crate::literals::repr;

/// What a file of passwords lets others than its owner and group do with it: nothing.
const MODE_MASK: u32 = 0o770;

/// The SHA-1 of `user:realm:password`, as lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash([u8; 40]);

impl PasswordHash {
    /// The hash of a password.
    pub fn new(user: &str, realm: &str, password: &str) -> Self {
        Self(sha1_hex(&[user, realm, password]))
    }

    /// The digits.
    pub const fn digits(&self) -> &[u8; 40] {
        &self.0
    }

    fn parse(text: &str) -> Option<Self> {
        let digits = <[u8; 40]>::try_from(text.as_bytes()).ok()?;
        digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')).then_some(Self(digits))
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}

/// SHA-1 of the parts with colons between them, as lower-case hexadecimal digits.
pub fn sha1_hex<T: AsRef<[u8]>>(parts: &[T]) -> [u8; 40] {
    let mut hash = Sha1::new();
    for (place, part) in parts.iter().enumerate() {
        if place > 0 {
            hash.update(b":");
        }
        hash.update(part);
    }
    hex(&hash.finalize().into())
}

/// 20 bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8; 20]) -> [u8; 40] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [0; 40];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    digits
}

/// A password database.
#[derive(Clone, Debug)]
pub struct Database {
    path: PathBuf,
    realm: Option<String>,
    users: BTreeMap<String, PasswordHash>,
}

/// Why a password database cannot be used, or not in this way.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// The system says no.
    #[error("cannot {action} the password database {}: {source}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A line that is none of a password database.
    #[error("password database {}, line {line}: {reason}", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What should be there.
        reason: &'static str,
    },
    /// It is another realm's. The original's words.
    #[error("Specified realm {} differs from database realm {}", repr(.given), repr(.found))]
    OtherRealm {
        /// What was asked for.
        given: String,
        /// What the file says.
        found: String,
    },
    /// The hashes of a file without a realm are of no use to a server.
    #[error("no realm: the password database {} has no line `realm NAME`; name the realm of the server with -r", .0.display())]
    NoRealm(PathBuf),
    /// It is not the database of the server that is to use it. The original's words, and what to do.
    #[error(
        "password database realm {} does not match storage realm {}: the first line of {} must be `realm {wanted}`",
        .found.as_deref().map_or_else(|| "None".to_owned(), repr), repr(.wanted), .path.display()
    )]
    NotTheServers {
        /// The server's realm.
        wanted: String,
        /// What the file says.
        found: Option<String>,
        /// The file.
        path: PathBuf,
    },
    /// There is such a user.
    #[error("User {0} already exists")]
    UserExists(String),
    /// There is no such user.
    #[error("No such user: {0}")]
    NoSuchUser(String),
    /// Nobody could use it.
    #[error("the password is empty, which clients take for none at all")]
    EmptyPassword,
    /// A name that the file could not tell from something else.
    #[error("{what} {} cannot be written to a password database: {reason}", repr(.name))]
    BadName {
        /// User or realm.
        what: &'static str,
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl Database {
    /// Reads the file at `path`. One that is not there is empty.
    pub fn read(path: &Path) -> Result<Self, PasswordError> {
        let mut database = Self { path: path.to_owned(), realm: None, users: BTreeMap::new() };
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(database),
            Err(source) => return Err(PasswordError::Io { action: "read", path: path.to_owned(), source }),
        };
        let wrong = |line, reason| PasswordError::Line { path: path.to_owned(), line, reason };
        for (line, text) in (1..).zip(text.split_inclusive(|byte| *byte == b'\n')) {
            let text = str::from_utf8(text).map_err(|_| wrong(line, "the text is not UTF-8; write it again"))?;
            if let (1, true) = (line, text.starts_with("realm ")) {
                database.realm = Some(text.trim()["realm".len()..].trim_start().to_owned());
                continue;
            }
            let (user, hash) = text.trim().split_once(':').ok_or_else(|| {
                wrong(line, "expected `user: hash`; there are no comments and no empty lines: remove the line")
            })?;
            let hash = PasswordHash::parse(hash.trim()).ok_or_else(|| {
                wrong(line, "the hash is not 40 lower-case hexadecimal digits; set the password again with zeopasswd")
            })?;
            database.users.insert(user.to_owned(), hash);
        }
        database.realm = database.realm.filter(|realm| !realm.is_empty());
        Ok(database)
    }

    /// Reads the file at `path` for a server, whose realm must be that of the file.
    pub fn read_for(realm: &str, path: &Path) -> Result<Self, PasswordError> {
        let database = Self::read(path)?;
        if database.realm() == Some(realm) {
            return Ok(database);
        }
        Err(PasswordError::NotTheServers { wanted: realm.to_owned(), found: database.realm, path: database.path })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The realm, if the file names one.
    pub fn realm(&self) -> Option<&str> {
        self.realm.as_deref()
    }

    /// The hash of a user's password.
    pub fn hash_of(&self, user: &str) -> Option<&PasswordHash> {
        self.users.get(user)
    }

    /// How many users there are.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether there are no users.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Gives the file a realm. It must not have another one.
    pub fn set_realm(&mut self, realm: &str) -> Result<(), PasswordError> {
        check_name("realm", realm)?;
        match &self.realm {
            Some(found) if found != realm => {
                Err(PasswordError::OtherRealm { given: realm.to_owned(), found: found.clone() })
            }
            _ => {
                self.realm = Some(realm.to_owned());
                Ok(())
            }
        }
    }

    /// Whether [`add`](Self::add) would do it.
    pub fn may_add(&self, user: &str) -> Result<(), PasswordError> {
        if self.users.contains_key(user) {
            return Err(PasswordError::UserExists(user.to_owned()));
        }
        self.may_set(user)
    }

    /// Whether [`set_password`](Self::set_password) would do it.
    pub fn may_set(&self, user: &str) -> Result<(), PasswordError> {
        check_name("user", user)?;
        self.required_realm().map(|_| ())
    }

    fn required_realm(&self) -> Result<&str, PasswordError> {
        self.realm.as_deref().ok_or_else(|| PasswordError::NoRealm(self.path.clone()))
    }

    /// Adds a user who is not there yet.
    pub fn add(&mut self, user: &str, password: &str) -> Result<(), PasswordError> {
        self.may_add(user)?;
        self.set_password(user, password)
    }

    /// Adds a user, or changes the password of one who is there.
    pub fn set_password(&mut self, user: &str, password: &str) -> Result<(), PasswordError> {
        check_name("user", user)?;
        if password.is_empty() {
            return Err(PasswordError::EmptyPassword);
        }
        let hash = PasswordHash::new(user, self.required_realm()?, password);
        self.users.insert(user.to_owned(), hash);
        Ok(())
    }

    /// Removes a user.
    pub fn delete(&mut self, user: &str) -> Result<(), PasswordError> {
        match self.users.remove(user) {
            Some(_) => Ok(()),
            None => Err(PasswordError::NoSuchUser(user.to_owned())),
        }
    }

    /// Writes the file: whoever reads it meanwhile, or after a crash, has the old one or the new one. It is its owner's
    /// only; one that was there keeps its owner and group, and what the group may do.
    pub fn write(&self) -> Result<(), PasswordError> {
        self.replace().map_err(|source| PasswordError::Io { action: "write", path: self.path.clone(), source })
    }

    fn replace(&self) -> io::Result<()> {
        let path = self.destination();
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        if let Ok(earlier) = fs::metadata(&path) {
            let made = file.as_file().metadata()?;
            if (made.uid(), made.gid()) != (earlier.uid(), earlier.gid()) {
                fchown(file.as_file(), Some(earlier.uid()), Some(earlier.gid()))?;
            }
            file.as_file().set_permissions(fs::Permissions::from_mode(earlier.mode() & MODE_MASK | 0o600))?;
        }
        file.write_all(self.text().as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        File::open(directory)?.sync_all()
    }

    /// The file itself, be it there or not: a link goes on leading to it.
    fn destination(&self) -> PathBuf {
        if let Ok(path) = fs::canonicalize(&self.path) {
            return path;
        }
        // A link to a file that is still to be made; one that leads to another such link is replaced.
        match fs::read_link(&self.path) {
            Ok(target) => self.path.parent().unwrap_or(Path::new("")).join(target),
            Err(_) => self.path.clone(),
        }
    }

    fn text(&self) -> String {
        let realm = self.realm.iter().map(|realm| format!("realm {realm}\n"));
        let users =
            self.users.iter().map(|(user, hash)| format!("{user}: {}\n", String::from_utf8_lossy(hash.digits())));
        realm.chain(users).collect()
    }
}

fn check_name(what: &'static str, name: &str) -> Result<(), PasswordError> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.trim() != name {
        "it begins or ends with a space"
    } else if name.contains(char::is_control) {
        "there is a control character in it"
    } else if what == "user" && name.contains(':') {
        "there is a colon in it"
    } else {
        return Ok(());
    };
    Err(PasswordError::BadName { what, name: name.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the original's zeopasswd writes it.
    const FILE: &str = "realm My Realm\nadmin: a5d8fe2f5b9c8edf0c21b43273d39a2ce2adbd3e\n";

    fn with(text: &str) -> (tempfile::TempDir, Result<Database, PasswordError>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("passwords");
        fs::write(&path, text).unwrap();
        let database = Database::read(&path);
        (directory, database)
    }

    #[test]
    fn a_new_file_is_the_originals_and_its_owners_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("passwords");
        let mut database = Database::read(&path).unwrap();
        assert!(database.is_empty());
        database.set_realm("My Realm").unwrap();
        database.add("admin", "s3cret").unwrap();
        database.write().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), FILE);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn users_are_added_changed_and_removed() {
        let (_directory, database) = with(FILE);
        let mut database = database.unwrap();
        let earlier = database.hash_of("admin").cloned().unwrap();
        assert_eq!(database.add("admin", "x").unwrap_err().to_string(), "User admin already exists");
        assert_eq!(database.hash_of("admin"), Some(&earlier));
        database.set_password("admin", "x").unwrap();
        assert_ne!(database.hash_of("admin"), Some(&earlier));
        assert_eq!(database.delete("zz").unwrap_err().to_string(), "No such user: zz");
        database.delete("admin").unwrap();
        assert!(database.is_empty());
        assert_eq!(database.text(), "realm My Realm\n");
        for name in ["", "a:b", " a", "a\nb"] {
            assert!(database.add(name, "x").is_err(), "{name:?}");
        }
        assert!(matches!(database.add("admin", ""), Err(PasswordError::EmptyPassword)));
        assert_eq!(
            database.set_realm("Other").unwrap_err().to_string(),
            "Specified realm 'Other' differs from database realm 'My Realm'"
        );
    }

    #[test]
    fn what_is_no_database_is_named_with_its_line() {
        for (text, line) in [
            ("realm R\n# comment\n", "line 2: expected `user: hash`"),
            ("a: a5d8fe2f5b9c8edf0c21b43273d39a2ce2adbd3e\n\n", "line 2: expected `user: hash`"),
            ("realm R\na: A5D8fe2f5b9c8edf0c21b43273d39a2ce2adbd3e\n", "line 2: the hash is not 40"),
            ("a: secret\n", "line 1: the hash is not 40"),
        ] {
            let message = with(text).1.unwrap_err().to_string();
            assert!(message.contains(line), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn without_a_realm_there_are_no_passwords() {
        let (_directory, database) = with("");
        assert!(matches!(database.unwrap().add("admin", "x"), Err(PasswordError::NoRealm(_))));
    }

    #[test]
    fn a_file_that_was_there_keeps_its_group_and_shuts_out_others() {
        let (directory, database) = with(FILE);
        let path = directory.path().join("passwords");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        database.unwrap().write().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
    }
}
