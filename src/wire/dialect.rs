//! What was agreed with one client: how messages are encoded, which version of the protocol it speaks, and which
//! Python reads what it is sent. Together with [`super::legacy`] the only place that knows protocol versions; the server
//! asks what a dialect can do.

use crate::pickle::Python;

/// How messages are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Python pickles, `Z` in the handshake.
    Pickle,
    /// msgpack, `M` in the handshake.
    Msgpack,
}

/// A version of the protocol, by the number in the handshake. ZEO 4 and older speak those below five.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Version {
    /// ZODB 3.2; like the next one, as far as clients use it.
    V201,
    /// ZODB 3.3 to 3.7.
    V303,
    /// ZODB 3.8: blobs.
    V308,
    /// ZODB 3.9: no versions any more; iteration, restore.
    V309,
    /// ZODB 3.10 while it was made: undo without a reply.
    V310,
    /// ZODB 3.10.
    V3101,
    /// ZEO 4.
    V4,
    /// ZEO 5 and 6.
    Five,
}

/// The language of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dialect {
    encoding: Encoding,
    pub(super) version: Version,
    python: Python,
}

impl Dialect {
    /// Protocol 5, of ZEO 5 and 6.
    pub const fn five(encoding: Encoding) -> Self {
        Self { encoding, version: Version::Five, python: Python::Three }
    }

    /// The dialect that a client names in its answer, if it is spoken here. Which Python it runs on is not said: see
    /// [`for_python`](Self::for_python).
    pub(super) fn of_answer(answer: &[u8]) -> Option<Self> {
        let version = match answer {
            b"M5" => return Some(Self::five(Encoding::Msgpack)),
            b"Z201" => Version::V201,
            b"Z303" => Version::V303,
            b"Z308" => Version::V308,
            b"Z309" => Version::V309,
            b"Z310" => Version::V310,
            b"Z3101" => Version::V3101,
            b"Z4" => Version::V4,
            b"Z5" => Version::Five,
            _ => return None,
        };
        Some(Self { encoding: Encoding::Pickle, version, python: Python::Three })
    }

    /// The same, for a client on this Python.
    #[must_use]
    pub const fn for_python(self, python: Python) -> Self {
        Self { python, ..self }
    }

    /// How messages are encoded.
    pub const fn encoding(self) -> Encoding {
        self.encoding
    }

    /// Which Python reads what is sent.
    pub const fn python(self) -> Python {
        self.python
    }

    /// The name in the handshake.
    pub const fn name(self) -> &'static str {
        match (self.version, self.encoding) {
            (Version::V201, _) => "Z201",
            (Version::V303, _) => "Z303",
            (Version::V308, _) => "Z308",
            (Version::V309, _) => "Z309",
            (Version::V310, _) => "Z310",
            (Version::V3101, _) => "Z3101",
            (Version::V4, _) => "Z4",
            (Version::Five, Encoding::Pickle) => "Z5",
            (Version::Five, Encoding::Msgpack) => "M5",
        }
    }

    /// Whether a client that has just registered must hear of no transaction until it knows what it has missed. ZODB 3.7 takes
    /// an invalidation that comes before for the newest thing that it has to know of, and never asks for what was before.
    pub fn must_look_back_in_peace(self) -> bool {
        self.version < Version::V308
    }

    /// Whether this is the protocol of ZEO 4 and older, with what goes with it:
    ///
    /// - errors are instances of exceptions,
    /// - an async call that fails ends nothing: its transaction fails at the vote,
    /// - `register` answers nothing,
    /// - the server tells with `serialnos`, before it answers a vote, how each store went and which tid it will have,
    /// - caches are verified object by object.
    pub fn is_legacy(self) -> bool {
        self.version < Version::Five
    }
}
