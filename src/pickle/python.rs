//! What `zodbpickle.dumps(object, 3)` writes on a Python 3 server, memo included.
//!
//! The memo goes by identity. A server that has unpickled a message written without a memo holds
//! separate objects, except for those of which Python keeps only one: the empty tuple, empty and
//! one-byte `bytes`, empty and one-character Latin-1 `str`. msgpack's unpacker also interns the text
//! keys of dicts. (Before Python 3.12 a key of one letter may come out as another object than a
//! value of that letter, which depends on the names that the interpreter was built with.)

use std::collections::{HashMap, HashSet};

use super::opcode as op;
use super::value::Value;
use super::write::{BATCH, Python, put_bool, put_bytes, put_float, put_int, put_long, put_text};

/// The pickle of what `value` would have become on a Python 3 server that read it from a message
/// written in "fast" mode.
///
/// `None` where that cannot be known: objects and globals, strings of Python 2 that Python 3 cannot
/// decode, dicts with a key given twice.
pub fn dumps(value: &Value) -> Option<Vec<u8>> {
    Pickler::new(false).dump(value)
}

/// As [`dumps`], for a value from a msgpack message.
pub fn dumps_interned(value: &Value) -> Option<Vec<u8>> {
    Pickler::new(true).dump(value)
}

/// A string of which Python has one object only.
#[derive(PartialEq, Eq, Hash)]
enum Shared<'a> {
    Bytes(&'a [u8]),
    Text(&'a [u8]),
}

struct Pickler<'a> {
    out: Vec<u8>,
    /// How many objects have been memoized.
    memoized: usize,
    shared: HashMap<Shared<'a>, usize>,
    interns_keys: bool,
}

impl<'a> Pickler<'a> {
    fn new(interns_keys: bool) -> Self {
        Self { out: op::PROTO_3.to_vec(), memoized: 0, shared: HashMap::new(), interns_keys }
    }

    fn dump(mut self, value: &'a Value) -> Option<Vec<u8>> {
        self.save(value)?;
        self.out.push(op::STOP);
        Some(self.out)
    }

    fn save(&mut self, value: &'a Value) -> Option<()> {
        match value {
            Value::None => self.out.push(op::NONE),
            Value::Bool(bool) => put_bool(*bool, &mut self.out),
            Value::Int(int) => put_int(*int, &mut self.out),
            Value::BigInt(bytes) => put_long(bytes, &mut self.out),
            Value::Float(float) => put_float(*float, &mut self.out),
            Value::Bytes(bytes) => {
                let shared = (bytes.len() <= 1).then_some(Shared::Bytes(bytes));
                self.save_string(bytes, shared, put_bytes);
            }
            Value::Text(text) => self.save_text(text, false),
            Value::Native(native) if native.is_ascii() => self.save_text(native, false),
            Value::Tuple(items) => {
                let close = match items.len() {
                    0 => {
                        self.out.push(op::EMPTY_TUPLE);
                        return Some(());
                    }
                    1 => op::TUPLE1,
                    2 => op::TUPLE2,
                    3 => op::TUPLE3,
                    _ => {
                        self.out.push(op::MARK);
                        op::TUPLE
                    }
                };
                for item in items {
                    self.save(item)?;
                }
                self.out.push(close);
                self.memoize();
            }
            Value::List(items) => self.save_list(items)?,
            Value::Dict(pairs) => self.save_dict(pairs)?,
            Value::Native(_) | Value::Global(_) | Value::Object(_) => return None,
        }
        Some(())
    }

    fn save_list(&mut self, items: &'a [Value]) -> Option<()> {
        self.out.push(op::EMPTY_LIST);
        self.memoize();
        if let [only] = items {
            self.save(only)?;
            self.out.push(op::APPEND);
            return Some(());
        }
        for batch in items.chunks(BATCH) {
            self.out.push(op::MARK);
            for item in batch {
                self.save(item)?;
            }
            self.out.push(op::APPENDS);
        }
        Some(())
    }

    fn save_dict(&mut self, pairs: &'a [(Value, Value)]) -> Option<()> {
        if !keys_are_unique(pairs) {
            return None;
        }
        self.out.push(op::EMPTY_DICT);
        self.memoize();
        if let [(key, value)] = pairs {
            self.save_key(key)?;
            self.save(value)?;
            self.out.push(op::SETITEM);
            return Some(());
        }
        for batch in pairs.chunks(BATCH) {
            self.out.push(op::MARK);
            for (key, value) in batch {
                self.save_key(key)?;
                self.save(value)?;
            }
            self.out.push(op::SETITEMS);
        }
        if !pairs.is_empty() && pairs.len().is_multiple_of(BATCH) {
            // Python notices the end of a dict only in a batch that stays short.
            self.out.extend(b"(u");
        }
        Some(())
    }

    fn save_key(&mut self, key: &'a Value) -> Option<()> {
        match key {
            Value::Text(text) => {
                self.save_text(text, self.interns_keys);
                Some(())
            }
            _ => self.save(key),
        }
    }

    fn save_text(&mut self, text: &'a [u8], interned: bool) {
        let shared = (interned || is_latin1_character(text)).then_some(Shared::Text(text));
        self.save_string(text, shared, put_text);
    }

    fn save_string(&mut self, string: &'a [u8], shared: Option<Shared<'a>>, put: fn(&[u8], &mut Vec<u8>)) {
        if let Some(shared) = shared {
            if let Some(&index) = self.shared.get(&shared) {
                self.put_index(op::BINGET, op::LONG_BINGET, index);
                return;
            }
            self.shared.insert(shared, self.memoized);
        }
        put(string, &mut self.out);
        self.memoize();
    }

    fn memoize(&mut self) {
        self.put_index(op::BINPUT, op::LONG_BINPUT, self.memoized);
        self.memoized = self.memoized.saturating_add(1);
    }

    fn put_index(&mut self, short: u8, long: u8, index: usize) {
        if let Ok(byte) = u8::try_from(index) {
            self.out.extend([short, byte]);
        } else {
            self.out.push(long);
            let index = u32::try_from(index).expect("4 Gi objects do not fit the frame they came in");
            self.out.extend(index.to_le_bytes());
        }
    }
}

/// Whether Python has one object only for this text: empty, or one character below U+0100.
fn is_latin1_character(text: &[u8]) -> bool {
    matches!(text, [] | [_] | [0xc2 | 0xc3, _])
}

/// Whether a Python dict would keep all of the pairs. Says no where it would have to reason about
/// equality of numbers.
fn keys_are_unique(pairs: &[(Value, Value)]) -> bool {
    let mut seen = HashSet::with_capacity(pairs.len());
    pairs.len() <= 1
        || pairs.iter().all(|(key, _)| {
            let mut canonical = Vec::new();
            put_canonical(key, &mut canonical).is_some() && seen.insert(canonical)
        })
}

/// Appends a form that is the same for keys that Python finds equal; `None` for floats, which may equal integers.
fn put_canonical(key: &Value, out: &mut Vec<u8>) -> Option<()> {
    match key {
        Value::Float(_) => return None,
        Value::Bool(bool) => put_int(i64::from(*bool), out),
        Value::Native(native) => put_text(native, out),
        Value::Tuple(items) => {
            out.push(op::MARK);
            items.iter().try_for_each(|item| put_canonical(item, out))?;
            out.push(op::TUPLE);
        }
        other => Python::Three.put(other, out),
    }
    Some(())
}
