//! The values a pickle or a msgpack message can hold, without losing what Python would tell apart.

use bytes::Bytes;

/// Key and value pairs in the order in which they came.
pub type Dict = Vec<(Value, Value)>;

/// A Python value. `Bytes` share the frame they arrived in.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `None`
    None,
    /// `True`, `False`
    Bool(bool),
    /// An integer that fits 64 bits.
    Int(i64),
    /// Any other integer: two's complement, little-endian, as `LONG1` carries it.
    BigInt(Bytes),
    /// A float.
    Float(f64),
    /// `bytes` of Python 3 (`C`, `B` opcodes).
    Bytes(Bytes),
    /// `str` of Python 3, `unicode` of Python 2; valid UTF-8 but for lone surrogates, kept as Python's
    /// `surrogatepass` spells them.
    Text(Bytes),
    /// `str` of Python 2 (`U`, `T`, `S` opcodes): text or bytes, the pickle does not say.
    Native(Bytes),
    /// A tuple; also a msgpack array.
    Tuple(Vec<Value>),
    /// A list.
    List(Vec<Value>),
    /// A dict.
    Dict(Dict),
    /// A module-level name, never looked up.
    Global {
        /// Dotted module name.
        module: Bytes,
        /// Name in the module.
        name: Bytes,
    },
    /// What a call would have made: a class or function, its arguments, and the state set on the result.
    Object(Box<Object>),
}

/// An instance as its pickle describes it (`REDUCE`, `NEWOBJ`, `INST`, `OBJ`, then `BUILD`).
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// What would be called: a [`Value::Global`] in honest pickles.
    pub callable: Value,
    /// Its arguments: a [`Value::Tuple`] in honest pickles.
    pub args: Value,
    /// The state given to the result, if any.
    pub state: Option<Value>,
}

impl Value {
    /// Text from a Rust string.
    pub fn text(text: &str) -> Self {
        Self::Text(Bytes::copy_from_slice(text.as_bytes()))
    }

    /// Bytes copied from a slice.
    pub fn bytes(bytes: &[u8]) -> Self {
        Self::Bytes(Bytes::copy_from_slice(bytes))
    }

    /// The raw bytes of any of the three string kinds.
    pub fn as_string(&self) -> Option<&Bytes> {
        match self {
            Self::Bytes(bytes) | Self::Text(bytes) | Self::Native(bytes) => Some(bytes),
            _ => None,
        }
    }
}
