//! Digest authentication, as in ZEO 4: a client shows that it knows a password without telling it, and both sides agree on the
//! key for the [codes](crate::wire::mac) that every later frame has.
//!
//! Whatever is wrong with an attempt, the client hears the same, after the same time; the log says more. Hashes of
//! passwords never leave this file but as a session key.
//!
//! The password database is looked at with each attempt, and read when it has changed; while it is broken, what was
//! there before holds. Clients that have authenticated stay, whatever changes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use super::calls::args::Args;
use super::session::{Answer, printable};
use super::tls::Stamp;
use crate::passwords::{Database, PasswordError, PasswordHash, hex, sha1_hex};
use crate::pickle::Value;
use crate::sync::Mutex;
use crate::wire::fault::Fault;
use crate::wire::mac::SessionKey;

/// Failed attempts after which the connection is closed.
pub const MOST_FAILURES: u32 = 3;

/// Requests after which the connection of a client that has not authenticated is closed. An attempt takes three.
pub const MOST_REQUESTS: u32 = 16;

/// How long a client may take to authenticate, from the first byte on: as long as a TLS handshake.
pub const TIME: Duration = Duration::from_secs(15);

/// The name of the only protocol there is.
pub const PROTOCOL: &str = "digest";

/// Who may connect.
#[derive(Debug)]
pub struct Authenticator {
    realm: String,
    current: Mutex<Current>,
    /// Stands in for the hash of a user who does not exist.
    nobody: PasswordHash,
}

#[derive(Debug)]
struct Current {
    users: Arc<Database>,
    /// What the file looked like when it was read last, with success or not.
    stamp: Stamp,
}

impl Authenticator {
    /// The users of `realm` in the database at `path`.
    pub fn open(path: &Path, realm: &str) -> Result<Self, PasswordError> {
        let stamp = Stamp::of([path]);
        let users = Arc::new(Database::read_for(realm, path)?);
        let nobody = PasswordHash::new("", realm, "");
        Ok(Self { realm: realm.to_owned(), current: Mutex::new(Current { users, stamp }), nobody })
    }

    /// The users of now.
    fn users(&self) -> Arc<Database> {
        let mut current = self.current.lock();
        let path = current.users.path().to_owned();
        let stamp = Stamp::of([path.as_path()]);
        if stamp != current.stamp {
            current.stamp = stamp;
            match Database::read_for(&self.realm, &path) {
                Ok(users) => {
                    info!(target: "ZEO.StorageServer", "passwords have changed and are read again: {} users", users.len());
                    current.users = Arc::new(users);
                }
                Err(error) => {
                    error!(
                        target: "ZEO.StorageServer",
                        "passwords have changed and cannot be used; those of before hold: {}", printable(&error.to_string())
                    );
                }
            }
        }
        Arc::clone(&current.users)
    }

    /// The realm that clients have to name.
    pub fn realm(&self) -> &str {
        &self.realm
    }

    /// How many users there are.
    pub fn user_count(&self) -> usize {
        self.current.lock().users.len()
    }
}

/// How far one client has come.
#[derive(Debug, Default)]
pub struct Progress {
    /// What the client has to answer, once.
    challenge: Option<Challenge>,
    failures: u32,
    requests: u32,
    /// The user that the client has shown to be.
    user: Option<String>,
}

#[derive(Debug)]
struct Challenge {
    challenge: String,
    key_nonce: String,
}

/// What became of an attempt.
pub enum Outcome {
    /// The client is who it says, and this is the key.
    Welcome(SessionKey),
    /// It is not. Whether it may try again.
    Refused {
        /// That was the last attempt.
        is_last: bool,
    },
}

impl Progress {
    /// Whether the client has authenticated.
    pub const fn is_authenticated(&self) -> bool {
        self.user.is_some()
    }

    /// Whether the client has used up its attempts.
    pub const fn is_shut_out(&self) -> bool {
        self.failures >= MOST_FAILURES
    }

    /// Counts a request of a client that has not authenticated, whatever it is; false if it was one too many.
    pub const fn may_ask(&mut self) -> bool {
        self.requests += 1;
        self.requests <= MOST_REQUESTS
    }

    /// `auth_get_challenge()`: realm, challenge, and what makes the key another one each time.
    pub fn challenge(&mut self, authenticator: &Authenticator, args: Args) -> Answer {
        args.end()?;
        self.refuse_twice()?;
        let fresh = || random_hex().map_err(|error| Fault::Other(format!("the server has no randomness: {error}")));
        let challenge = Challenge { challenge: fresh()?, key_nonce: fresh()? };
        let answer = [&authenticator.realm, &challenge.challenge, &challenge.key_nonce];
        let answer = Value::Tuple(answer.map(|text| Value::native(text)).into());
        self.challenge = Some(challenge);
        Ok(answer)
    }

    /// `auth_response((user, challenge, response))`
    pub fn response(&mut self, authenticator: &Authenticator, mut args: Args, peer: &str) -> Result<Outcome, Fault> {
        let parts = args.value()?;
        args.end()?;
        self.refuse_twice()?;
        let Value::Tuple(parts) = parts else {
            return Err(Fault::Type("auth_response() takes a tuple (user, challenge, response)".to_owned()));
        };
        let texts: Option<Vec<_>> = parts.iter().map(|part| part.as_string().cloned()).collect();
        let Some(Ok([user, echoed, response])) = texts.map(<[bytes::Bytes; 3]>::try_from) else {
            return Err(Fault::Type("auth_response() takes a tuple (user, challenge, response)".to_owned()));
        };
        let user = String::from_utf8_lossy(&user).into_owned();
        let users = authenticator.users();
        let known = users.hash_of(&user);
        let hash = known.unwrap_or(&authenticator.nobody);
        // Everything is computed in any case: how long it takes tells nothing.
        let issued = self.challenge.take();
        let (challenge, key_nonce) = match &issued {
            Some(issued) => (issued.challenge.as_str(), issued.key_nonce.as_str()),
            None => ("", ""),
        };
        let expected = sha1_hex(&[&hash.digits()[..], challenge.as_bytes()]);
        let is_fresh = same(challenge.as_bytes(), &echoed) && issued.is_some();
        let is_right = same(&expected, &response);
        let key = SessionKey::new(hash.digits(), key_nonce);
        let reason = match (is_fresh, known.is_some(), is_right) {
            (true, true, true) => {
                info!(target: "ZEO.StorageServer", "({peer}) authenticated as {:?}", printable(&user));
                self.user = Some(user);
                return Ok(Outcome::Welcome(key));
            }
            (false, ..) => "a challenge that it was not given, or has used already",
            (true, false, _) => "no such user",
            (true, true, false) => "wrong password",
        };
        self.failures += 1;
        let is_last = self.is_shut_out();
        let end = if is_last { "; closing the connection" } else { "" };
        warn!(
            target: "ZEO.StorageServer",
            "({peer}) authentication as {:?} failed: {reason}{end}", printable(&user)
        );
        Ok(Outcome::Refused { is_last })
    }

    fn refuse_twice(&self) -> Result<(), Fault> {
        match self.user {
            None => Ok(()),
            Some(_) => Err(Fault::Value("the client has already authenticated".to_owned())),
        }
    }
}

/// Compares without telling by the time it takes where the difference is.
fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}

fn random_hex() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 20];
    getrandom::fill(&mut bytes)?;
    Ok(hex(&bytes).map(char::from).iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authenticator() -> Authenticator {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("passwords");
        let mut users = Database::read(&path).unwrap();
        users.set_realm("R").unwrap();
        users.add("u", "p").unwrap();
        users.write().unwrap();
        // What becomes of the file is not asked here: without it, what was read holds.
        Authenticator::open(&path, "R").unwrap()
    }

    fn challenge(progress: &mut Progress, authenticator: &Authenticator) -> String {
        let answer = progress.challenge(authenticator, Args::new("auth_get_challenge", vec![])).unwrap();
        let Value::Tuple(parts) = answer else { panic!("{answer:?}") };
        let texts: Vec<_> = parts.iter().map(|part| String::from_utf8_lossy(part.as_string().unwrap())).collect();
        assert_eq!(texts[0], "R");
        assert_ne!(texts[1], texts[2], "the key must not follow from the challenge");
        texts[1].clone().into_owned()
    }

    fn respond(progress: &mut Progress, authenticator: &Authenticator, user: &str, challenge: &str) -> bool {
        let hash = PasswordHash::new(user, "R", "p");
        let response = sha1_hex(&[&hash.digits()[..], challenge.as_bytes()]);
        let parts = [user.as_bytes(), challenge.as_bytes(), &response].map(Value::bytes);
        let args = Args::new("auth_response", vec![Value::Tuple(parts.into())]);
        matches!(progress.response(authenticator, args, "peer"), Ok(Outcome::Welcome(_)))
    }

    #[test]
    fn a_challenge_is_good_for_one_attempt() {
        let (authenticator, mut progress) = (authenticator(), Progress::default());
        assert!(!respond(&mut progress, &authenticator, "u", ""), "before there is a challenge");
        let first = challenge(&mut progress, &authenticator);
        assert!(!respond(&mut progress, &authenticator, "x", &first), "an unknown user");
        assert!(!respond(&mut progress, &authenticator, "u", &first), "used up");
        assert!(progress.is_shut_out() && !progress.is_authenticated());
        let mut progress = Progress::default();
        let first = challenge(&mut progress, &authenticator);
        let second = challenge(&mut progress, &authenticator);
        assert_ne!(first, second);
        assert!(!respond(&mut progress, &authenticator, "u", &first), "the older one");
        let third = challenge(&mut progress, &authenticator);
        assert!(respond(&mut progress, &authenticator, "u", &third));
        assert!(progress.is_authenticated());
        assert!(!respond(&mut progress, &authenticator, "u", &third), "once is enough");
    }
}
