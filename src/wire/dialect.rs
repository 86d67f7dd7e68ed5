//! What was agreed with one client: how messages are encoded, and which generation of the protocol
//! it speaks. The only place that knows protocol versions.

/// How messages are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Python pickles, `Z` in the handshake.
    Pickle,
    /// msgpack, `M` in the handshake.
    Msgpack,
}

/// The language of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dialect {
    encoding: Encoding,
}

impl Dialect {
    /// Protocol 5, of ZEO 5 and 6.
    pub const fn five(encoding: Encoding) -> Self {
        Self { encoding }
    }

    /// The dialect that a client names in its answer, if it is spoken here.
    pub(super) fn of_answer(answer: &[u8]) -> Option<Self> {
        match answer {
            b"Z5" => Some(Self::five(Encoding::Pickle)),
            b"M5" => Some(Self::five(Encoding::Msgpack)),
            _ => None,
        }
    }

    /// How messages are encoded.
    pub const fn encoding(self) -> Encoding {
        self.encoding
    }

    /// The name in the handshake.
    pub const fn name(self) -> &'static str {
        match self.encoding {
            Encoding::Pickle => "Z5",
            Encoding::Msgpack => "M5",
        }
    }
}
