//! The writer: protocol 3 without a memo, byte for byte what zodbpickle's `Pickler` writes in its
//! "fast" mode. That is how ZEO encodes messages.

use super::opcode as op;
use super::value::{Object, Value, minimal_length};

/// Python's picklers fill lists and dicts in batches of this size.
pub(super) const BATCH: usize = 1000;

/// Appends `value` as one pickle.
///
/// [`Value::Native`] becomes what Python 3 makes of it: text if it is ASCII, else bytes.
pub fn write(value: &Value, out: &mut Vec<u8>) {
    out.extend(op::PROTO_3);
    put(value, out);
    out.push(op::STOP);
}

/// Appends the opcodes that leave `value` on the stack. Recursion is as deep as the value, which
/// readers limit.
pub(crate) fn put(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::None => out.push(op::NONE),
        Value::Bool(bool) => put_bool(*bool, out),
        Value::Int(int) => put_int(*int, out),
        Value::BigInt(bytes) => put_long(bytes, out),
        Value::Float(float) => put_float(*float, out),
        Value::Bytes(bytes) => put_bytes(bytes, out),
        Value::Text(text) => put_text(text, out),
        Value::Native(native) if native.is_ascii() => put_text(native, out),
        Value::Native(native) => put_bytes(native, out),
        Value::Tuple(items) => put_tuple(items, out),
        Value::List(items) => {
            out.push(op::EMPTY_LIST);
            put_batches(items, [op::APPEND, op::APPENDS], out, put);
            // Python writes no empty batch behind a list that fills its last one.
        }
        Value::Dict(pairs) => {
            out.push(op::EMPTY_DICT);
            put_batches(pairs, [op::SETITEM, op::SETITEMS], out, |(key, value), out| {
                put(key, out);
                put(value, out);
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
        Value::Object(object) => put_object(object, out),
    }
}

pub(crate) fn put_tuple(items: &[Value], out: &mut Vec<u8>) {
    let close = match items.len() {
        0 => op::EMPTY_TUPLE,
        1 => op::TUPLE1,
        2 => op::TUPLE2,
        3 => op::TUPLE3,
        _ => {
            out.push(op::MARK);
            op::TUPLE
        }
    };
    for item in items {
        put(item, out);
    }
    out.push(close);
}

pub(crate) fn put_bool(bool: bool, out: &mut Vec<u8>) {
    out.push(if bool { op::NEWTRUE } else { op::NEWFALSE });
}

pub(crate) fn put_int(int: i64, out: &mut Vec<u8>) {
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

pub(crate) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_string(bytes, Some(op::SHORT_BINBYTES), op::BINBYTES, op::BINBYTES8, out);
}

pub(crate) fn put_text(text: &[u8], out: &mut Vec<u8>) {
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

fn put_object(object: &Object, out: &mut Vec<u8>) {
    put(&object.callable, out);
    put(&object.args, out);
    out.push(if object.bare { op::NEWOBJ } else { op::REDUCE });
    if let Some(state) = &object.state {
        put(state, out);
        out.push(op::BUILD);
    }
}
