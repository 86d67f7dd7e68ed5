//! The message authentication codes of ZEO 4: one running HMAC-SHA1 in each direction.
//!
//! A code covers all bodies of its direction since the key was agreed on, so that no frame can be changed, left out,
//! repeated or moved. What is in a frame is not known here, and who may have a key is decided elsewhere.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::{Digest as _, Sha1};

/// The length of a code.
pub const MAC_BYTES: usize = 20;

/// How SHA-1 hashes are written: lower-case hexadecimal digits.
pub const HEX_BYTES: usize = 2 * MAC_BYTES;

/// What both sides of an authenticated conversation know, and nobody else.
pub struct SessionKey([u8; MAC_BYTES + HEX_BYTES]);

impl SessionKey {
    /// The key for the user whose password hash, in hexadecimal digits, is `password_hash`.
    pub fn new(password_hash: &[u8; HEX_BYTES], nonce: &str) -> Self {
        let fresh = Sha1::new().chain_update(password_hash).chain_update(b":").chain_update(nonce).finalize();
        let mut key = [0; MAC_BYTES + HEX_BYTES];
        let (front, back) = key.split_at_mut(MAC_BYTES);
        front.copy_from_slice(&fresh);
        back.copy_from_slice(password_hash);
        Self(key)
    }

    /// The state of one direction before its first frame.
    pub fn running_mac(&self) -> RunningMac {
        // The key is shorter than a block, so it is used as it is: with zeros up to the length of one.
        let mut block = [0; 64];
        block.iter_mut().zip(self.0).for_each(|(place, byte)| *place = byte);
        RunningMac(Hmac::new(&block.into()))
    }
}

/// One direction of an authenticated conversation.
#[derive(Clone, Debug)]
pub struct RunningMac(Hmac<Sha1>);

impl RunningMac {
    /// The code of the next frame, whose body is `body`.
    pub fn seal(&mut self, body: &[u8]) -> [u8; MAC_BYTES] {
        self.0.update(body);
        self.0.clone().finalize().into_bytes().into()
    }

    /// Whether `mac` is the code of the next frame, whose body is `body`. Takes the same time wherever they differ.
    #[must_use]
    pub fn accepts(&mut self, body: &[u8], mac: &[u8]) -> bool {
        self.0.update(body);
        self.0.clone().verify_slice(mac).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        let digit = |value: u8| char::from_digit(value.into(), 16).unwrap();
        bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
    }

    /// Made with `hmac` and `hashlib` of Python.
    #[test]
    fn key_and_codes_are_those_of_python() {
        let key = SessionKey::new(b"a5d8fe2f5b9c8edf0c21b43273d39a2ce2adbd3e", &"0123456789".repeat(4));
        assert_eq!(hex(&key.0[..MAC_BYTES]), "3417dba9f03c7c019611308486724f3685047be7");
        let mut mac = key.running_mac();
        assert_eq!(hex(&mac.seal(b"one")), "013579b871284e058ba4a161f521c13b3a56b934");
        assert_eq!(hex(&mac.seal(b"")), "013579b871284e058ba4a161f521c13b3a56b934", "an empty body adds nothing");
        assert_eq!(hex(&mac.seal(&[0xff; 100])), "c72abf45d3068bdd72b2ac649bbe44090e681abf");
    }

    #[test]
    fn only_the_right_code_in_the_right_place_is_accepted() {
        let key = SessionKey::new(&[b'a'; HEX_BYTES], "nonce");
        let codes = |bodies: [&[u8]; 2]| {
            let mut mac = key.running_mac();
            bodies.map(|body| mac.seal(body))
        };
        let [first, second] = codes([b"first", b"second"]);
        let mut receiver = key.running_mac();
        assert!(receiver.accepts(b"first", &first) && receiver.accepts(b"second", &second));
        assert!(!key.running_mac().accepts(b"second", &second), "out of place");
        assert!(!key.running_mac().accepts(b"First", &first), "another body");
        assert!(!key.running_mac().accepts(b"first", &first[..19]), "cut short");
        assert!(!SessionKey::new(&[b'a'; HEX_BYTES], "other").running_mac().accepts(b"first", &first), "another key");
    }
}
