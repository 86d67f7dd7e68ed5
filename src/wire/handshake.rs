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
    if body == RUOK {
        return Answer::Ruok;
    }
    match Dialect::of_answer(body) {
        Some(dialect) => Answer::Speak(dialect),
        None => Answer::Refused(body.get(..SHOWN).unwrap_or(body).escape_ascii().to_string()),
    }
}

/// The question of a monitoring tool.
pub const RUOK: &[u8] = b"ruok";

/// What a client answers to a server that announces `body`: the same, or version 5 to one that speaks
/// a newer version as well, in the server's encoding. An error shows what was announced.
pub fn choose(body: &[u8]) -> Result<Dialect, String> {
    let refused = || body.get(..SHOWN).unwrap_or(body).escape_ascii().to_string();
    let (encoding, version) = match body {
        [b'Z', version @ ..] => (Encoding::Pickle, version),
        [b'M', version @ ..] => (Encoding::Msgpack, version),
        _ => return Err(refused()),
    };
    // Versions are strings to the original, compared as such: "309" and its like are below "5".
    if version >= b"5".as_slice() { Ok(Dialect::five(encoding)) } else { Err(refused()) }
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
        for name in ["Z201", "Z303", "Z308", "Z309", "Z310", "Z3101", "Z4"] {
            let Answer::Speak(dialect) = answer(name.as_bytes()) else { panic!("{name}") };
            assert!(dialect.is_legacy());
            assert_eq!(dialect.name(), name);
        }
        // Their clients speak first, and to nobody else; and msgpack came with version 5.
        for name in ["Z200", "M4", "Z6", "Z3"] {
            assert_eq!(answer(name.as_bytes()), Answer::Refused(name.into()));
        }
        assert_eq!(answer(b""), Answer::Refused(String::new()));
        assert_eq!(answer(b"\xffX5"), Answer::Refused("\\xffX5".into()));
        assert_eq!(announce(Encoding::Pickle), b"Z5");
        assert_eq!(announce(Encoding::Msgpack), b"M5");
    }

    #[test]
    fn choices() {
        assert_eq!(choose(b"Z5"), Ok(Dialect::five(Encoding::Pickle)));
        assert_eq!(choose(b"M5"), Ok(Dialect::five(Encoding::Msgpack)));
        assert_eq!(choose(b"M6"), Ok(Dialect::five(Encoding::Msgpack)));
        for older in ["Z4", "Z309", "Z310", "Z3101", "Z", "", "HTTP/1.1"] {
            assert_eq!(choose(older.as_bytes()), Err(older.to_owned()));
        }
    }
}
