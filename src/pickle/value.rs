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
    /// Any other integer: two's complement, little-endian, without redundant bytes, as `LONG1` carries it.
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
    Global(Box<Global>),
    /// What a call would have made: a class or function, its arguments, and the state set on the result.
    Object(Box<Object>),
}

/// A name in a module (`GLOBAL`, `STACK_GLOBAL`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Global {
    /// Dotted module name.
    pub module: Bytes,
    /// Name in the module.
    pub name: Bytes,
}

/// An instance as its pickle describes it (`REDUCE`, `NEWOBJ`, `INST`, `OBJ`, then `BUILD`).
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// What would be called: a [`Value::Global`] in honest pickles.
    pub callable: Value,
    /// Its arguments: a [`Value::Tuple`] in honest pickles.
    pub args: Value,
    /// Whether only the class's `__new__` would be called (`NEWOBJ`).
    pub bare: bool,
    /// The state given to the result, if any.
    pub state: Option<Value>,
}

impl Value {
    /// Text from a Rust string.
    pub fn text(text: &str) -> Self {
        Self::Text(Bytes::copy_from_slice(text.as_bytes()))
    }

    /// A `str` of whatever Python reads it: a name or a message of our own, which is text in Python 3 and bytes in
    /// Python 2. Only ASCII can be both; anything else is text.
    pub fn native(text: &str) -> Self {
        if text.is_ascii() { Self::Native(Bytes::copy_from_slice(text.as_bytes())) } else { Self::text(text) }
    }

    /// Bytes copied from a slice.
    pub fn bytes(bytes: &[u8]) -> Self {
        Self::Bytes(Bytes::copy_from_slice(bytes))
    }

    /// A module-level name.
    pub fn global(module: &'static str, name: &'static str) -> Self {
        Self::Global(Box::new(Global {
            module: Bytes::from_static(module.as_bytes()),
            name: Bytes::from_static(name.as_bytes()),
        }))
    }

    /// The result of calling `callable` with `args`.
    pub fn call(callable: Self, args: Vec<Self>) -> Self {
        Self::Object(Box::new(Object { callable, args: Self::Tuple(args), bare: false, state: None }))
    }

    /// The same object, with `state` set on it.
    #[must_use]
    pub fn with_state(self, state: Self) -> Self {
        match self {
            Self::Object(object) => Self::Object(Box::new(Object { state: Some(state), ..*object })),
            other => other,
        }
    }

    /// The pairs of a dict, also of one that its pickle spells as `dict(pairs)`; else the value itself.
    pub fn into_dict(self) -> Result<Dict, Self> {
        if let Self::Dict(dict) = self {
            return Ok(dict);
        }
        self.dict_of_call().ok_or(self)
    }

    fn dict_of_call(&self) -> Option<Dict> {
        let Self::Object(object) = self else { return None };
        let is_dict = ["builtins", "__builtin__"].iter().any(|module| object.callable.is_global(module, "dict"));
        let (true, None, Self::Tuple(args)) = (is_dict, &object.state, &object.args) else { return None };
        let [Self::Tuple(pairs) | Self::List(pairs)] = args.as_slice() else { return None };
        let pair = |pair: &Self| match pair {
            Self::Tuple(pair) => <[Self; 2]>::try_from(pair.clone()).ok().map(<(Self, Self)>::from),
            _ => None,
        };
        pairs.iter().map(pair).collect()
    }

    /// Whether this is a number, a string, or one of the constants.
    pub fn is_scalar(&self) -> bool {
        !matches!(self, Self::Tuple(_) | Self::List(_) | Self::Dict(_) | Self::Global(_) | Self::Object(_))
    }

    /// The raw bytes of any of the three string kinds.
    pub fn as_string(&self) -> Option<&Bytes> {
        match self {
            Self::Bytes(bytes) | Self::Text(bytes) | Self::Native(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The integer of little-endian two's complement `bytes`, however redundant.
    pub fn from_le_bytes(bytes: &Bytes) -> Self {
        let length = minimal_length(bytes);
        let Some(minimal) = bytes.get(..length) else {
            return Self::Int(0);
        };
        let sign = if minimal.last().is_some_and(|&byte| byte >= 0x80) { 0xff } else { 0 };
        let mut word = [sign; 8];
        match word.get_mut(..length) {
            Some(low) => {
                low.copy_from_slice(minimal);
                Self::Int(i64::from_le_bytes(word))
            }
            None => Self::BigInt(bytes.slice(..length)),
        }
    }

    /// Whether both are one key of a dict: the two kinds of `str` are equal if their bytes are.
    pub fn is_same_key(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(a) | Self::Native(a), Self::Text(b) | Self::Native(b)) => a == b,
            (a, b) => a == b,
        }
    }

    /// Whether this is the global `module.name`.
    pub fn is_global(&self, module: &str, name: &str) -> bool {
        matches!(self, Self::Global(global)
            if global.module == module.as_bytes() && global.name == name.as_bytes())
    }
}

/// How many bytes of a little-endian two's complement integer carry meaning; none for zero.
pub(super) fn minimal_length(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let Some((&last, lower)) = rest.split_last() {
        let lower_negative = lower.last().is_some_and(|&byte| byte >= 0x80);
        match last {
            0 if !lower_negative => rest = lower,
            0xff if lower_negative => rest = lower,
            _ => break,
        }
    }
    rest.len()
}

/// Whether `bytes` are UTF-8, or would be if UTF-8 could spell lone surrogates.
pub(super) fn is_text(mut bytes: &[u8]) -> bool {
    while let Err(error) = std::str::from_utf8(bytes) {
        let rest = bytes.get(error.valid_up_to()..).unwrap_or_default();
        match rest.split_first_chunk() {
            Some(([0xed, 0xa0..=0xbf, 0x80..=0xbf], behind)) => bytes = behind,
            _ => return false,
        }
    }
    true
}
