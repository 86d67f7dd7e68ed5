//! msgpack, as `packb(use_bin_type=True)` writes it and `unpackb(raw=False, use_list=False)` reads it.
//!
//! Our own code, since the decoded values are [`Value`]s that share the frame, under the limits that
//! hold for pickles too, and since what is written must be the bytes Python writes.

use bytes::Bytes;

use crate::pickle::{MAX_DEPTH, Value};

/// Why bytes are not a msgpack value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MsgpackError {
    /// The bytes end before the value does.
    #[error("the msgpack value is cut short")]
    Truncated,
    /// There are bytes behind the value.
    #[error("{0} bytes behind the end of the msgpack value")]
    Trailing(usize),
    /// A format that does not exist, or an extension type.
    #[error("msgpack format {0:#04x} is not accepted")]
    Format(u8),
    /// A string that is not UTF-8.
    #[error("msgpack text that is not UTF-8")]
    Text,
    /// A key of a map that is neither text nor bytes.
    #[error("msgpack map key that is neither text nor bytes")]
    Key,
    /// Nested deeper than a pickle may be.
    #[error("values are nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// More values than the message may hold.
    #[error("more values than allowed")]
    TooMany,
}

/// A value that msgpack cannot express: an object, an integer beyond 64 bits, text with lone surrogates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a value that cannot be expressed in a message, or a message that is too long")]
pub struct Inexpressible;

/// Reads data that is exactly one value, made of at most `max_values`.
pub(super) fn read(data: Bytes, max_values: usize) -> Result<Value, MsgpackError> {
    let mut reader = Reader { rest: data, values_left: max_values };
    let value = reader.value(0)?;
    match reader.rest.len() {
        0 => Ok(value),
        behind => Err(MsgpackError::Trailing(behind)),
    }
}

struct Reader {
    rest: Bytes,
    values_left: usize,
}

impl Reader {
    fn value(&mut self, depth: usize) -> Result<Value, MsgpackError> {
        self.values_left = self.values_left.checked_sub(1).ok_or(MsgpackError::TooMany)?;
        if depth > MAX_DEPTH {
            return Err(MsgpackError::TooDeep);
        }
        let [format] = self.array()?;
        Ok(match format {
            0x00..=0x7f => Value::Int(format.into()),
            0x80..=0x8f => self.map((format & 0x0f).into(), depth)?,
            0x90..=0x9f => self.tuple((format & 0x0f).into(), depth)?,
            0xa0..=0xbf => self.text((format & 0x1f).into())?,
            0xc0 => Value::None,
            0xc2 => Value::Bool(false),
            0xc3 => Value::Bool(true),
            0xc4..=0xc6 => {
                let length = self.length(format.wrapping_sub(0xc4))?;
                Value::Bytes(self.take(length)?)
            }
            0xca => Value::Float(f32::from_be_bytes(self.array()?).into()),
            0xcb => Value::Float(f64::from_be_bytes(self.array()?)),
            0xcc => Value::Int(self.array::<1>().map(u8::from_be_bytes)?.into()),
            0xcd => Value::Int(u16::from_be_bytes(self.array()?).into()),
            0xce => Value::Int(u32::from_be_bytes(self.array()?).into()),
            0xcf => unsigned(u64::from_be_bytes(self.array()?)),
            0xd0 => Value::Int(self.array::<1>().map(i8::from_be_bytes)?.into()),
            0xd1 => Value::Int(i16::from_be_bytes(self.array()?).into()),
            0xd2 => Value::Int(i32::from_be_bytes(self.array()?).into()),
            0xd3 => Value::Int(i64::from_be_bytes(self.array()?)),
            0xd9..=0xdb => {
                let length = self.length(format.wrapping_sub(0xd9))?;
                self.text(length)?
            }
            0xdc | 0xdd => {
                let count = self.length(format.wrapping_sub(0xdb))?;
                self.tuple(count, depth)?
            }
            0xde | 0xdf => {
                let count = self.length(format.wrapping_sub(0xdd))?;
                self.map(count, depth)?
            }
            0xe0..=0xff => Value::Int(i8::from_be_bytes([format]).into()),
            0xc1 | 0xc7..=0xc9 | 0xd4..=0xd8 => return Err(MsgpackError::Format(format)),
        })
    }

    fn tuple(&mut self, count: usize, depth: usize) -> Result<Value, MsgpackError> {
        let mut items = Vec::with_capacity(count.min(RESERVED));
        for _ in 0..count {
            items.push(self.value(depth.saturating_add(1))?);
        }
        Ok(Value::Tuple(items))
    }

    fn map(&mut self, count: usize, depth: usize) -> Result<Value, MsgpackError> {
        let mut pairs = Vec::with_capacity(count.min(RESERVED));
        for _ in 0..count {
            let key = self.value(depth.saturating_add(1))?;
            if key.as_string().is_none() {
                return Err(MsgpackError::Key);
            }
            pairs.push((key, self.value(depth.saturating_add(1))?));
        }
        Ok(Value::Dict(pairs))
    }

    fn text(&mut self, length: usize) -> Result<Value, MsgpackError> {
        let bytes = self.take(length)?;
        match std::str::from_utf8(&bytes) {
            Ok(_) => Ok(Value::Text(bytes)),
            Err(_) => Err(MsgpackError::Text),
        }
    }

    /// A length of one, two or four bytes.
    fn length(&mut self, exponent: u8) -> Result<usize, MsgpackError> {
        Ok(match exponent {
            0 => self.array::<1>().map(u8::from_be_bytes)?.into(),
            1 => u16::from_be_bytes(self.array()?).into(),
            _ => usize::try_from(u32::from_be_bytes(self.array()?)).map_err(|_| MsgpackError::Truncated)?,
        })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MsgpackError> {
        let array = *self.rest.first_chunk().ok_or(MsgpackError::Truncated)?;
        self.take(N)?;
        Ok(array)
    }

    fn take(&mut self, length: usize) -> Result<Bytes, MsgpackError> {
        if length > self.rest.len() {
            return Err(MsgpackError::Truncated);
        }
        Ok(self.rest.split_to(length))
    }
}

/// Elements to reserve room for before any has arrived, whatever count was announced.
const RESERVED: usize = 16;

fn unsigned(int: u64) -> Value {
    i64::try_from(int).map_or_else(
        |_| {
            // Above i64, so the sign bit of the ninth byte is what tells it from a negative number.
            let mut bytes = int.to_le_bytes().to_vec();
            bytes.push(0);
            Value::BigInt(bytes.into())
        },
        Value::Int,
    )
}

/// Appends a value.
pub(super) fn put(value: &Value, out: &mut Vec<u8>) -> Result<(), Inexpressible> {
    match value {
        Value::None => out.push(0xc0),
        Value::Bool(bool) => put_bool(*bool, out),
        Value::Int(int) => put_int(*int, out),
        Value::BigInt(bytes) => {
            let (low, high) = bytes.split_first_chunk().ok_or(Inexpressible)?;
            if high != [0] {
                return Err(Inexpressible);
            }
            out.push(0xcf);
            out.extend(u64::from_le_bytes(*low).to_be_bytes());
        }
        Value::Float(float) => {
            out.push(0xcb);
            out.extend(float.to_be_bytes());
        }
        Value::Bytes(bytes) => put_bytes(bytes, out)?,
        Value::Native(native) if !native.is_ascii() => put_bytes(native, out)?,
        Value::Text(text) | Value::Native(text) => {
            put_text(std::str::from_utf8(text).map_err(|_| Inexpressible)?, out)?;
        }
        Value::Tuple(items) | Value::List(items) => {
            put_array_length(items.len(), out)?;
            for item in items {
                put(item, out)?;
            }
        }
        Value::Dict(pairs) => {
            MAP.put(pairs.len(), out)?;
            for (key, value) in pairs {
                put(key, out)?;
                put(value, out)?;
            }
        }
        Value::Global(_) | Value::Object(_) => return Err(Inexpressible),
    }
    Ok(())
}

pub(super) fn put_bool(bool: bool, out: &mut Vec<u8>) {
    out.push(if bool { 0xc3 } else { 0xc2 });
}

pub(super) fn put_int(int: i64, out: &mut Vec<u8>) {
    if let Ok(small @ -32..=127) = i8::try_from(int) {
        out.extend(small.to_be_bytes());
    } else if let Ok(int) = u8::try_from(int) {
        out.extend([0xcc, int]);
    } else if let Ok(int) = u16::try_from(int) {
        out.push(0xcd);
        out.extend(int.to_be_bytes());
    } else if let Ok(int) = u32::try_from(int) {
        out.push(0xce);
        out.extend(int.to_be_bytes());
    } else if let Ok(int) = u64::try_from(int) {
        out.push(0xcf);
        out.extend(int.to_be_bytes());
    } else if let Ok(int) = i8::try_from(int) {
        out.push(0xd0);
        out.extend(int.to_be_bytes());
    } else if let Ok(int) = i16::try_from(int) {
        out.push(0xd1);
        out.extend(int.to_be_bytes());
    } else if let Ok(int) = i32::try_from(int) {
        out.push(0xd2);
        out.extend(int.to_be_bytes());
    } else {
        out.push(0xd3);
        out.extend(int.to_be_bytes());
    }
}

pub(super) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Inexpressible> {
    BIN.put(bytes.len(), out)?;
    out.extend(bytes);
    Ok(())
}

pub(super) fn put_text(text: &str, out: &mut Vec<u8>) -> Result<(), Inexpressible> {
    STR.put(text.len(), out)?;
    out.extend(text.as_bytes());
    Ok(())
}

pub(super) fn put_array_length(count: usize, out: &mut Vec<u8>) -> Result<(), Inexpressible> {
    ARRAY.put(count, out)
}

/// The formats of one kind of value with a length, shortest first.
struct Family {
    /// First format that holds the length itself, and how many of them there are.
    tiny: (u8, u8),
    one: Option<u8>,
    two: u8,
    four: u8,
}

const STR: Family = Family { tiny: (0xa0, 32), one: Some(0xd9), two: 0xda, four: 0xdb };
const BIN: Family = Family { tiny: (0, 0), one: Some(0xc4), two: 0xc5, four: 0xc6 };
const ARRAY: Family = Family { tiny: (0x90, 16), one: None, two: 0xdc, four: 0xdd };
const MAP: Family = Family { tiny: (0x80, 16), one: None, two: 0xde, four: 0xdf };

impl Family {
    fn put(&self, length: usize, out: &mut Vec<u8>) -> Result<(), Inexpressible> {
        match (u8::try_from(length), self.one) {
            (Ok(length), _) if length < self.tiny.1 => out.push(self.tiny.0 | length),
            (Ok(length), Some(format)) => out.extend([format, length]),
            _ => {
                if let Ok(length) = u16::try_from(length) {
                    out.push(self.two);
                    out.extend(length.to_be_bytes());
                } else {
                    let length = u32::try_from(length).map_err(|_| Inexpressible)?;
                    out.push(self.four);
                    out.extend(length.to_be_bytes());
                }
            }
        }
        Ok(())
    }
}
