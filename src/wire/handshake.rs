//! The handshake: the server names the newest protocol it speaks, the client answers with the one to
//! be spoken, or asks `ruok`.

use super::dialect::{Dialect, Encoding};

/// What the client's first frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Messages follow, in this dialect.
    Speak(Dialect),
    /// A monitoring tool wants the server's status, and nothing else.
    Ruok,
    /// Something else, shown printable. The original closes the connection without a word.
    Refused(String),
}

/// How much of a refused answer is worth a log line.
const SHOWN: usize = 64;

/// The body of the first frame that the server sends.
pub const fn announce(encoding: Encoding) -> &'static [u8] {
    Dialect::five(encoding).name().as_bytes()
}

/// Understands the body of the client's first frame.
///
/// Its first letter selects the encoding, also when the other one was announced.
pub fn answer(body: &[u8]) -> Answer {
    if body == b"ruok" {
        return Answer::Ruok;
    }
    match Dialect::of_answer(body) {
        Some(dialect) => Answer::Speak(dialect),
        None => Answer::Refused(body.get(..SHOWN).unwrap_or(body).escape_ascii().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let speak = |encoding| Answer::Speak(Dialect::five(encoding));
        assert_eq!(answer(b"Z5"), speak(Encoding::Pickle));
        assert_eq!(answer(b"M5"), speak(Encoding::Msgpack));
        assert_eq!(answer(b"ruok"), Answer::Ruok);
        assert_eq!(answer(b"Z4"), Answer::Refused("Z4".into()));
        assert_eq!(answer(b""), Answer::Refused(String::new()));
        assert_eq!(answer(b"\xffX5"), Answer::Refused("\\xffX5".into()));
        assert_eq!(announce(Encoding::Pickle), b"Z5");
        assert_eq!(announce(Encoding::Msgpack), b"M5");
    }
}
