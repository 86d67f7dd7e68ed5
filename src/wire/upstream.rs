//! Messages the other way round: requests encoded for a server, and what it sends decoded. For those
//! who are a client of a server themselves.

use std::fmt;

use bytes::Bytes;

use super::dialect::Dialect;
use super::message::{Flags, Inexpressible, MessageError, REPLY};
use crate::pickle::{Rules, Value};

/// The most values in one message from a server: it names every object of a transaction in one.
const MAX_VALUES: usize = 1 << 24;

/// Any names are accepted, since they stay names: errors may hold what we do not know.
const RULES: Rules = Rules { max_values: MAX_VALUES, growth: 2, global: |_, _| true };

/// A message from a server.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    /// The answer to the request with this id.
    Reply(Value, Result<Value, RemoteFault>),
    /// Something the server tells on its own, such as an invalidation.
    Notice(Notice),
}

/// What a server tells on its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// What is called at the client.
    pub method: Bytes,
    /// Its arguments.
    pub args: Vec<Value>,
}

/// An error as a server describes it: an exception, not made but told.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub struct RemoteFault {
    /// `module.Class` of the exception.
    pub class: String,
    /// Its attributes if it has any, else its arguments.
    pub state: Value,
}

impl fmt::Display for RemoteFault {
    /// On one line, fit for a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}: {}", self.class, words(&self.state));
        f.write_str(&text.chars().filter(|c| !c.is_control()).collect::<String>())
    }
}

/// The strings and numbers in the state of an exception.
fn words(state: &Value) -> String {
    match state {
        Value::Text(text) | Value::Native(text) => String::from_utf8_lossy(text).into_owned(),
        Value::Bytes(bytes) => bytes.escape_ascii().to_string(),
        Value::Int(int) => int.to_string(),
        Value::Float(float) => float.to_string(),
        Value::Bool(bool) => bool.to_string(),
        Value::Tuple(items) | Value::List(items) => items.iter().map(words).collect::<Vec<_>>().join(", "),
        Value::Dict(pairs) => {
            let pairs = pairs.iter().map(|(key, value)| format!("{}={}", words(key), words(value)));
            pairs.collect::<Vec<_>>().join(", ")
        }
        Value::None => "None".to_owned(),
        Value::BigInt(_) | Value::Global(_) | Value::Object(_) => "...".to_owned(),
    }
}

impl Dialect {
    /// Appends the frame of a request that wants a reply.
    pub fn put_request(&self, out: &mut Vec<u8>, id: i64, method: &str, args: &[Value]) -> Result<(), Inexpressible> {
        self.put_message(out, &Value::Int(id), Flags::Request, method, |out| self.put_args(args, out))
    }

    /// Appends the frame that says that the client is alive.
    pub fn put_keep_alive(&self, out: &mut Vec<u8>) {
        let done = self.put_message(out, &Value::Int(-1), Flags::Reply, REPLY, |out| self.put_value(&Value::None, out));
        debug_assert!(done.is_ok(), "numbers and a short name");
    }

    /// Understands the body of a frame from a server.
    pub fn decode_incoming(&self, body: Bytes) -> Result<Incoming, MessageError> {
        let [id, flags, method, args] = self.parts(body, &RULES)?;
        let method = method.as_string().cloned().ok_or(MessageError::Shape)?;
        if method != REPLY {
            let (Value::Tuple(args) | Value::List(args)) = args else {
                return Err(MessageError::Shape);
            };
            return Ok(Incoming::Notice(Notice { method, args }));
        }
        if flags != Value::Int(2) {
            return Ok(Incoming::Reply(id, Ok(args)));
        }
        let Value::Tuple(pair) = args else {
            return Err(MessageError::Shape);
        };
        let Ok([class, state]) = <[Value; 2]>::try_from(pair) else {
            return Err(MessageError::Shape);
        };
        let class = String::from_utf8_lossy(class.as_string().ok_or(MessageError::Shape)?).into_owned();
        Ok(Incoming::Reply(id, Err(RemoteFault { class, state })))
    }
}

#[cfg(test)]
mod tests {
    use super::super::dialect::Encoding;
    use super::super::fault::Fault;
    use super::*;

    const DIALECTS: [Dialect; 2] = [Dialect::five(Encoding::Pickle), Dialect::five(Encoding::Msgpack)];

    /// The body of the frame that `put` appends.
    fn body(put: impl FnOnce(&mut Vec<u8>)) -> Bytes {
        let mut out = Vec::new();
        put(&mut out);
        Bytes::from(out).slice(4..)
    }

    #[test]
    fn a_server_understands_requests() {
        for dialect in DIALECTS {
            let args = vec![Value::text("1"), Value::Bool(true), Value::Float(1.5)];
            let request = dialect.decode(body(|out| dialect.put_request(out, 7, "register", &args).unwrap())).unwrap();
            assert_eq!((request.id, request.is_async), (Value::Int(7), false));
            assert_eq!((request.method.as_ref(), request.args), (&b"register"[..], args));
            assert!(dialect.decode(body(|out| dialect.put_keep_alive(out))).unwrap().is_keep_alive());
        }
    }

    #[test]
    fn what_python_writes_is_what_we_write() {
        // zodbpickle.Pickler(protocol 3, fast).dump((7, False, 'pack', (1.5, True))), msgpack.packb of the same
        let expected = [
            &b"\x80\x03(K\x07\x89X\x04\0\0\0packG?\xf8\0\0\0\0\0\0\x88\x86t."[..],
            b"\x94\x07\xc2\xa4pack\x92\xcb?\xf8\0\0\0\0\0\0\xc3",
        ];
        for (dialect, expected) in DIALECTS.into_iter().zip(expected) {
            let args = [Value::Float(1.5), Value::Bool(true)];
            assert_eq!(body(|out| dialect.put_request(out, 7, "pack", &args).unwrap()), expected);
        }
    }

    #[test]
    fn what_a_server_sends_is_understood() {
        let id = || Value::Int(3);
        for dialect in DIALECTS {
            let reply = dialect.decode_incoming(body(|out| dialect.put_reply(out, &id(), &Value::None)));
            assert_eq!(reply, Ok(Incoming::Reply(id(), Ok(Value::None))));
            let notice = dialect.decode_incoming(body(|out| dialect.put_call(out, "info", &[id()])));
            assert_eq!(notice, Ok(Incoming::Notice(Notice { method: "info".into(), args: vec![id()] })));
            for (fault, text) in [
                (
                    Fault::FileStorage("Already\n packing".into()),
                    "ZODB.FileStorage.FileStorage.FileStorageError: Already packing",
                ),
                (Fault::Os { errno: 28, message: "No space".into() }, "builtins.OSError: 28, No space"),
                (Fault::ReadOnly, "ZODB.POSException.ReadOnlyError: "),
            ] {
                let told = dialect.decode_incoming(body(|out| dialect.put_fault(out, &id(), &fault))).unwrap();
                let Incoming::Reply(_, Err(fault)) = told else { panic!("{told:?}") };
                assert_eq!(fault.to_string(), text);
            }
            let undo = Fault::MultipleUndo(vec![]);
            assert!(dialect.decode_incoming(body(|out| dialect.put_fault(out, &id(), &undo))).is_ok());
        }
    }

    #[test]
    fn what_no_server_sends_is_refused() {
        for body in [
            &b"N."[..],
            b"(K\x01K\x00X\x01\0\0\0aNt.",
            b"(K\x01K\x02X\x06\0\0\0.replyNt.",
            b"(K\x01K\x02X\x06\0\0\0.replyNN\x86t.",
        ] {
            assert_eq!(DIALECTS[0].decode_incoming(Bytes::from_static(body)), Err(MessageError::Shape), "{body:?}");
        }
    }
}
