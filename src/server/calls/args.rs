//! The arguments of a call, taken one by one and checked as they are taken.

use bytes::Bytes;

use crate::ids::{Oid, Tid};
use crate::pickle::Value;
use crate::wire::fault::Fault;

/// The arguments of one call. Every complaint becomes a `TypeError` at the client.
pub struct Args {
    method: &'static str,
    given: usize,
    values: std::vec::IntoIter<Value>,
}

impl Args {
    /// The arguments given to `method`.
    pub fn new(method: &'static str, values: Vec<Value>) -> Self {
        Self { method, given: values.len(), values: values.into_iter() }
    }

    /// The next argument, of any type.
    pub fn value(&mut self) -> Result<Value, Fault> {
        let missing = || Fault::Type(format!("{}() missing arguments: {} given", self.method, self.given));
        self.values.next().ok_or_else(missing)
    }

    /// The next argument, if there is one.
    pub fn optional(&mut self) -> Option<Value> {
        self.values.next()
    }

    /// Ends the list: nothing may be left.
    pub fn end(mut self) -> Result<(), Fault> {
        match self.values.next() {
            None => Ok(()),
            Some(_) => Err(Fault::Type(format!("{}() got too many arguments: {} given", self.method, self.given))),
        }
    }

    /// The next argument: an oid.
    pub fn oid(&mut self) -> Result<Oid, Fault> {
        let value = self.value()?;
        value
            .as_string()
            .and_then(|bytes| Oid::from_slice(bytes))
            .ok_or_else(|| self.wrong("an oid of 8 bytes", &value))
    }

    /// The next argument: a tid.
    pub fn tid(&mut self) -> Result<Tid, Fault> {
        self.optional_tid()?.ok_or_else(|| self.wrong("a tid of 8 bytes", &Value::None))
    }

    /// The next argument: a tid or `None`. Text will do: applications spell the serial of an object
    /// that is new in many ways.
    pub fn optional_tid(&mut self) -> Result<Option<Tid>, Fault> {
        match self.value()? {
            Value::None => Ok(None),
            value => match value.as_string().and_then(|bytes| Tid::from_slice(bytes)) {
                Some(tid) => Ok(Some(tid)),
                None => Err(self.wrong("a tid of 8 bytes or None", &value)),
            },
        }
    }

    /// The next argument: bytes or text, as bytes.
    pub fn string(&mut self) -> Result<Bytes, Fault> {
        match self.value()? {
            Value::Bytes(bytes) | Value::Text(bytes) | Value::Native(bytes) => Ok(bytes),
            value => Err(self.wrong("bytes or str", &value)),
        }
    }

    /// The next argument: bytes.
    pub fn bytes(&mut self) -> Result<Bytes, Fault> {
        self.optional_bytes()?.ok_or_else(|| self.wrong("bytes", &Value::None))
    }

    /// The next argument: bytes or `None`.
    pub fn optional_bytes(&mut self) -> Result<Option<Bytes>, Fault> {
        match self.value()? {
            Value::None => Ok(None),
            Value::Bytes(bytes) | Value::Native(bytes) => Ok(Some(bytes)),
            value => Err(self.wrong("bytes or None", &value)),
        }
    }

    /// The next argument: bytes, text or `None`.
    pub fn optional_string(&mut self) -> Result<Option<Bytes>, Fault> {
        match self.value()? {
            Value::None => Ok(None),
            Value::Bytes(bytes) | Value::Text(bytes) | Value::Native(bytes) => Ok(Some(bytes)),
            value => Err(self.wrong("bytes, str or None", &value)),
        }
    }

    /// The next argument: an integer; a bool counts as one, as in Python.
    pub fn integer(&mut self) -> Result<i64, Fault> {
        let value = self.value()?;
        as_integer(&value).ok_or_else(|| self.wrong("an integer", &value))
    }

    /// The next argument as Python's `if` sees it.
    pub fn truth(&mut self) -> Result<bool, Fault> {
        Ok(is_true(&self.value()?))
    }

    /// The complaint that an argument is not `expected`.
    pub fn wrong(&self, expected: &str, value: &Value) -> Fault {
        Fault::Type(format!("{}() takes {expected}, not {}", self.method, kind(value)))
    }
}

/// A value as Python's `if` sees it.
pub fn is_true(value: &Value) -> bool {
    match value {
        Value::None | Value::Bool(false) | Value::Int(0) => false,
        Value::Float(number) => *number != 0.0,
        Value::Bytes(bytes) | Value::Text(bytes) | Value::Native(bytes) => !bytes.is_empty(),
        Value::Tuple(items) | Value::List(items) => !items.is_empty(),
        Value::Dict(items) => !items.is_empty(),
        _ => true,
    }
}

/// The bytes of a value that is not text. Python 2 does not tell them apart.
pub fn as_bytes(value: &Value) -> Option<&Bytes> {
    match value {
        Value::Bytes(bytes) | Value::Native(bytes) => Some(bytes),
        _ => None,
    }
}

/// `value` as an integer, if it is one.
pub fn as_integer(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::Bool(flag) => Some(i64::from(*flag)),
        _ => None,
    }
}

/// What Python calls the type of a value; its content does not belong in a message.
fn kind(value: &Value) -> String {
    match value {
        Value::None => "None".to_owned(),
        Value::Bool(_) => "a bool".to_owned(),
        Value::Int(_) | Value::BigInt(_) => "an int".to_owned(),
        Value::Float(_) => "a float".to_owned(),
        Value::Bytes(bytes) => format!("{} bytes", bytes.len()),
        Value::Text(text) | Value::Native(text) => format!("a str of {}", text.len()),
        Value::Tuple(_) => "a tuple".to_owned(),
        Value::List(_) => "a list".to_owned(),
        Value::Dict(_) => "a dict".to_owned(),
        _ => "an object".to_owned(),
    }
}
