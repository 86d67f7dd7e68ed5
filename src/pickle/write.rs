//! The writer, without a memo. For Python 3: protocol 3, byte for byte what zodbpickle's `Pickler` writes in its
//! "fast" mode, which is how ZEO encodes messages. For Python 2: protocol 1, as `cPickle` writes it in that mode.

use super::opcode as op;
use super::value::{Object, Value, minimal_length};

/// Python's picklers fill lists and dicts in batches of this size.
pub(super) const BATCH: usize = 1000;

/// Which Python reads what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Python {
    /// Python 2: `bytes` are `str`, and so is [`Value::Native`]. `cPickle` does not know protocol 3, so nothing of it is used.
    Two,
    /// Python 3: [`Value::Native`] is text if it is ASCII, else bytes, as when Python 3 reads pickles of Python 2.
    Three,
}

/// Appends `value` as one pickle for Python 3.
pub fn write(value: &Value, out: &mut Vec<u8>) {
    Python::Three.write(value, out);
}

impl Python {
    /// Appends `value` as one pickle.
    pub fn write(self, value: &Value, out: &mut Vec<u8>) {
        self.begin(out);
        self.put(value, out);
        out.push(op::STOP);
    }

    /// Appends what pickles begin with.
    pub(crate) fn begin(self, out: &mut Vec<u8>) {
        match self {
            Self::Two => {}
            Self::Three => out.extend(op::PROTO_3),
        }
    }

    /// Appends the opcodes that leave `value` on the stack. Recursion is as deep as the value, which
    /// readers limit.
    pub(crate) fn put(self, value: &Value, out: &mut Vec<u8>) {
        match value {
            Value::None => out.push(op::NONE),
            Value::Bool(bool) => self.put_bool(*bool, out),
            Value::Int(int) => self.put_int(*int, out),
            // Protocol 2, which every Python 2 reads without being told; decimal digits would be protocol 1.
            Value::BigInt(bytes) => put_long(bytes, out),
            Value::Float(float) => put_float(*float, out),
            Value::Bytes(bytes) => self.put_bytes(bytes, out),
            Value::Text(text) => put_text(text, out),
            Value::Native(native) => self.put_native(native, out),
            Value::Tuple(items) => self.put_tuple(items, out),
            Value::List(items) => {
                out.push(op::EMPTY_LIST);
                put_batches(items, [op::APPEND, op::APPENDS], out, |item, out| self.put(item, out));
                // Python writes no empty batch behind a list that fills its last one.
            }
            Value::Dict(pairs) => {
                out.push(op::EMPTY_DICT);
                put_batches(pairs, [op::SETITEM, op::SETITEMS], out, |(key, value), out| {
                    self.put(key, out);
                    self.put(value, out);
                });
                if !pairs.is_empty() && pairs.len().is_multiple_of(BATCH) {
                    // Python notices the end of a dict only in a batch that stays short.
                    out.extend(b"(u");
                }
            }
            Value::Global(global) => {
                out.push(op::GLOBAL);
                out.extend(&global.module);
                out.push(b'\n');
                out.extend(&global.name);
                out.push(b'\n');
            }
            Value::Object(object) => self.put_object(object, out),
        }
    }

    pub(crate) fn put_tuple(self, items: &[Value], out: &mut Vec<u8>) {
        let close = self.open_tuple(items.len(), out);
        for item in items {
            self.put(item, out);
        }
        out.push(close);
    }

    /// Begins a tuple of `len` items; what is returned goes behind them.
    pub(crate) fn open_tuple(self, len: usize, out: &mut Vec<u8>) -> u8 {
        match (len, self) {
            (0, _) => op::EMPTY_TUPLE,
            (1, Self::Three) => op::TUPLE1,
            (2, Self::Three) => op::TUPLE2,
            (3, Self::Three) => op::TUPLE3,
            _ => {
                out.push(op::MARK);
                op::TUPLE
            }
        }
    }

    pub(crate) fn put_bytes(self, bytes: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Two => put_string(bytes, Some(op::SHORT_BINSTRING), op::BINSTRING, op::BINBYTES8, out),
            Self::Three => put_bytes(bytes, out),
        }
    }

    /// A `str`, in either Python.
    pub(crate) fn put_native(self, native: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Three if native.is_ascii() => put_text(native, out),
            _ => self.put_bytes(native, out),
        }
    }

    pub(crate) fn put_bool(self, bool: bool, out: &mut Vec<u8>) {
        match self {
            Self::Two => out.extend(if bool { b"I01\n" } else { b"I00\n" }),
            Self::Three => put_bool(bool, out),
        }
    }

    fn put_int(self, int: i64, out: &mut Vec<u8>) {
        match self {
            Self::Two if i32::try_from(int).is_err() => {
                out.push(op::INT);
                out.extend(int.to_string().as_bytes());
                out.push(b'\n');
            }
            _ => put_int(int, out),
        }
    }

    fn put_object(self, object: &Object, out: &mut Vec<u8>) {
        self.put(&object.callable, out);
        self.put(&object.args, out);
        out.push(if object.bare { op::NEWOBJ } else { op::REDUCE });
        if let Some(state) = &object.state {
            self.put(state, out);
            out.push(op::BUILD);
        }
    }
}

pub(super) fn put_bool(bool: bool, out: &mut Vec<u8>) {
    out.push(if bool { op::NEWTRUE } else { op::NEWFALSE });
}

pub(super) fn put_int(int: i64, out: &mut Vec<u8>) {
    if let Ok(byte) = u8::try_from(int) {
        out.extend([op::BININT1, byte]);
    } else if let Ok(short) = u16::try_from(int) {
        out.push(op::BININT2);
        out.extend(short.to_le_bytes());
    } else if let Ok(word) = i32::try_from(int) {
        out.push(op::BININT);
        out.extend(word.to_le_bytes());
    } else {
        put_long(&int.to_le_bytes(), out);
    }
}

pub(super) fn put_long(bytes: &[u8], out: &mut Vec<u8>) {
    let minimal = bytes.get(..minimal_length(bytes)).unwrap_or(bytes);
    put_string(minimal, Some(op::LONG1), op::LONG4, op::LONG4, out);
}

pub(super) fn put_float(float: f64, out: &mut Vec<u8>) {
    out.push(op::BINFLOAT);
    out.extend(float.to_be_bytes());
}

pub(super) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_string(bytes, Some(op::SHORT_BINBYTES), op::BINBYTES, op::BINBYTES8, out);
}

pub(super) fn put_text(text: &[u8], out: &mut Vec<u8>) {
    put_string(text, None, op::BINUNICODE, op::BINUNICODE8, out);
}

/// A string of any kind, by the shortest of the opcodes for one, four and eight bytes of length. The
/// last are of protocol 4: Python's protocol 3 ends at 4 GiB, and so do the frames of the protocol.
fn put_string(bytes: &[u8], short: Option<u8>, long: u8, huge: u8, out: &mut Vec<u8>) {
    match (u8::try_from(bytes.len()), short) {
        (Ok(length), Some(short)) => out.extend([short, length]),
        _ => {
            if let Ok(length) = u32::try_from(bytes.len()) {
                out.push(long);
                out.extend(length.to_le_bytes());
            } else {
                out.push(huge);
                out.extend((bytes.len() as u64).to_le_bytes());
            }
        }
    }
    out.extend(bytes);
}

fn put_batches<T>(items: &[T], [one, several]: [u8; 2], out: &mut Vec<u8>, mut put: impl FnMut(&T, &mut Vec<u8>)) {
    if let [only] = items {
        put(only, out);
        out.push(one);
        return;
    }
    for batch in items.chunks(BATCH) {
        out.push(op::MARK);
        for item in batch {
            put(item, out);
        }
        out.push(several);
    }
}
