//! Messages: `(msgid, flags, method, args)`, decoded from a client and encoded for it. The other way
//! round is in [`super::upstream`].

use bytes::Bytes;

use super::dialect::{Dialect, Encoding};
use super::fault::Fault;
use super::frame;
pub use super::msgpack::Inexpressible;
use super::msgpack::{self, MsgpackError};
use crate::ids::{Oid, Tid};
use crate::pickle::{self, PickleError, Python, Rules, Value, opcode as op};

/// The most values in one message. A value can cost a hundred times its bytes; honest requests have
/// a handful, and an extension or a list of iterators a few thousand.
pub const MAX_VALUES: usize = 1 << 18;

/// What a request may be, as a pickle. Clients write without a memo, so nothing grows.
const RULES: Rules = Rules { max_values: MAX_VALUES, growth: 2, global: is_accepted_global };

/// The method name of replies, and of the client's keep-alives.
pub(super) const REPLY: &str = ".reply";

/// A call from the client.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// To be given back with the reply, whatever it is: a number, or the oid and tid of a load.
    pub id: Value,
    /// Whether no reply is wanted.
    pub is_async: bool,
    /// What is called.
    pub method: Bytes,
    /// Its arguments.
    pub args: Vec<Value>,
    /// Which Python the client runs on, as its spelling of the method's name shows; not so in a keep-alive, which is the same
    /// everywhere.
    pub python: Python,
}

impl Request {
    /// Whether this only says that the client is alive.
    pub fn is_keep_alive(&self) -> bool {
        self.id == Value::Int(-1)
    }
}

/// A frame that is not a request. The connection is of no use after it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not a pickle, or not an acceptable one.
    #[error("Can't deserialize message: {0}")]
    Pickle(#[from] PickleError),
    /// Not msgpack, or not an acceptable one.
    #[error("Can't deserialize message: {0}")]
    Msgpack(#[from] MsgpackError),
    /// Not the four parts of a message.
    #[error("Can't deserialize message: it is not a tuple of id, flags, method name and arguments")]
    Shape,
}

impl Dialect {
    /// Understands the body of a frame.
    pub fn decode(&self, body: Bytes) -> Result<Request, MessageError> {
        let [id, flags, method, args] = self.parts(body, &RULES)?;
        if !is_id(&id) {
            return Err(MessageError::Shape);
        }
        let is_async = match flags {
            Value::Bool(flag) => flag,
            Value::Int(flag) => flag != 0,
            _ => return Err(MessageError::Shape),
        };
        let python = if matches!(method, Value::Native(_)) { Python::Two } else { Python::Three };
        let method = method.as_string().cloned().ok_or(MessageError::Shape)?;
        let args = match args {
            Value::Tuple(args) | Value::List(args) => args,
            Value::None if id == Value::Int(-1) => Vec::new(),
            _ => return Err(MessageError::Shape),
        };
        Ok(Request { id, is_async, method, args, python })
    }

    /// The four parts of a message, if it is nothing but data that `rules` accept.
    pub(super) fn parts(self, body: Bytes, rules: &Rules) -> Result<[Value; 4], MessageError> {
        let message = match self.encoding() {
            Encoding::Pickle => pickle::read_with(&body, rules)?,
            Encoding::Msgpack => msgpack::read(body, rules.max_values)?,
        };
        let Value::Tuple(parts) = message else {
            return Err(MessageError::Shape);
        };
        parts.try_into().map_err(|_| MessageError::Shape)
    }

    /// Appends the frame of a result. What the encoding cannot express becomes an error for the
    /// client, in the original's words.
    pub fn put_reply(&self, out: &mut Vec<u8>, id: &Value, result: &Value) {
        let done = self.put_message(out, id, Flags::Reply, REPLY, |out| self.put_value(result, out));
        self.or_tell_client(done, out, id);
    }

    /// Appends the frame of an error.
    pub fn put_fault(&self, out: &mut Vec<u8>, id: &Value, fault: &Fault) {
        let done = self.put_fault_message(out, id, fault);
        self.or_tell_client(done, out, id);
    }

    fn put_fault_message(self, out: &mut Vec<u8>, id: &Value, fault: &Fault) -> Result<(), Inexpressible> {
        let form = self.exception_form();
        let (flags, pair) = if self.is_legacy() {
            (Flags::Reply, fault.class_and_instance(form, self.python()))
        } else {
            (Flags::Error, [Value::native(&fault.class_name_in(self.python())), fault.state(form)])
        };
        self.put_message(out, id, flags, REPLY, |out| self.put_value(&Value::Tuple(pair.into()), out))
    }

    /// Appends the frame of a call to the client, which never replies.
    pub fn put_call(&self, out: &mut Vec<u8>, method: &str, args: &[Value]) {
        let done = self.put_message(out, &Value::Int(0), Flags::Call, method, |out| self.put_args(args, out));
        debug_assert!(done.is_ok(), "the server calls with numbers, strings and their containers only: {method}");
    }

    /// Appends the frame that tells a client which objects transaction `tid` has changed.
    pub fn put_invalidate_transaction(&self, out: &mut Vec<u8>, tid: Tid, oids: &[Oid]) {
        let oids = oids.iter().map(|oid| self.mention(*oid)).collect();
        self.put_call(out, "invalidateTransaction", &[Value::bytes(&tid.to_bytes()), Value::List(oids)]);
    }

    /// Appends the frame of `loadBefore`'s result, `(data, tid, end)`, copying the record once.
    pub fn put_load_reply(&self, out: &mut Vec<u8>, id: &Value, data: &[u8], tid: Tid, end: Option<Tid>) {
        // Room for the record, its two tids, and what is around them.
        out.reserve(data.len().saturating_add(96));
        let done = self.put_message(out, id, Flags::Reply, REPLY, |out| {
            match self.encoding() {
                Encoding::Pickle => {
                    let python = self.python();
                    let close = python.open_tuple(3, out);
                    python.put_bytes(data, out);
                    python.put_bytes(&tid.to_bytes(), out);
                    match end {
                        Some(end) => python.put_bytes(&end.to_bytes(), out),
                        None => out.push(op::NONE),
                    }
                    out.push(close);
                }
                Encoding::Msgpack => {
                    msgpack::put_array_length(3, out)?;
                    msgpack::put_bytes(data, out)?;
                    msgpack::put_bytes(&tid.to_bytes(), out)?;
                    match end {
                        Some(end) => msgpack::put_bytes(&end.to_bytes(), out)?,
                        None => out.push(0xc0),
                    }
                }
            }
            Ok(())
        });
        self.or_tell_client(done, out, id);
    }

    /// The extension field of a transaction record, from the mapping in `tpc_begin`: the bytes that Python's server writes
    /// for what it decoded from a message of this dialect. Where these cannot be known (the mapping holds objects, or comes
    /// from Python 2, which spells equal mappings in many ways), the mapping as the client spelled it.
    pub fn dump_extension(&self, mapping: &Value) -> Vec<u8> {
        let dumped = match (self.encoding(), self.python()) {
            (_, Python::Two) => None,
            (Encoding::Pickle, Python::Three) => pickle::dumps(mapping),
            (Encoding::Msgpack, Python::Three) => pickle::dumps_interned(mapping),
        };
        dumped.unwrap_or_else(|| {
            let mut verbatim = Vec::new();
            self.python().write(mapping, &mut verbatim);
            verbatim
        })
    }

    pub(super) fn put_args(self, args: &[Value], out: &mut Vec<u8>) -> Result<(), Inexpressible> {
        match self.encoding() {
            Encoding::Pickle => {
                self.python().put_tuple(args, out);
                Ok(())
            }
            Encoding::Msgpack => {
                msgpack::put_array_length(args.len(), out)?;
                args.iter().try_for_each(|arg| msgpack::put(arg, out))
            }
        }
    }

    pub(super) fn put_value(self, value: &Value, out: &mut Vec<u8>) -> Result<(), Inexpressible> {
        match self.encoding() {
            Encoding::Pickle => {
                self.python().put(value, out);
                Ok(())
            }
            Encoding::Msgpack => msgpack::put(value, out),
        }
    }

    /// Appends one frame, or nothing if it cannot be expressed.
    pub(super) fn put_message(
        self,
        out: &mut Vec<u8>,
        id: &Value,
        flags: Flags,
        method: &str,
        last: impl FnOnce(&mut Vec<u8>) -> Result<(), Inexpressible>,
    ) -> Result<(), Inexpressible> {
        let start = out.len();
        let mut done = Ok(());
        let fits = frame::put(out, |out| {
            done = match self.encoding() {
                Encoding::Pickle => {
                    let python = self.python();
                    python.begin(out);
                    out.push(op::MARK);
                    python.put(id, out);
                    flags.put_pickle(self, out);
                    python.put_native(method.as_bytes(), out);
                    let done = last(out);
                    out.extend([op::TUPLE, op::STOP]);
                    done
                }
                Encoding::Msgpack => msgpack::put_array_length(4, out)
                    .and_then(|()| msgpack::put(id, out))
                    .and_then(|()| {
                        out.push(flags.as_msgpack());
                        msgpack::put_text(method, out)
                    })
                    .and_then(|()| last(out)),
            };
        });
        if !fits {
            done = Err(Inexpressible);
        }
        if done.is_err() {
            out.truncate(start);
        }
        done
    }

    fn or_tell_client(self, done: Result<(), Inexpressible>, out: &mut Vec<u8>, id: &Value) {
        if done.is_err() {
            let fault = Fault::Value("Couldn't pickle response".into());
            // The id came in this encoding, so nothing is left that could fail.
            let told = self.put_fault_message(out, id, &fault);
            debug_assert!(told.is_ok());
        }
    }
}

/// Whether a value will do as a message id: it is kept and given back, so it must not be a tree that
/// takes far more memory than it took bytes.
fn is_id(value: &Value) -> bool {
    match value {
        Value::Tuple(parts) => parts.len() <= 4 && parts.iter().all(Value::is_scalar),
        value => value.is_scalar(),
    }
}

/// The second part of a message.
#[derive(Clone, Copy)]
pub(super) enum Flags {
    Reply,
    Error,
    /// A call that wants no reply.
    Call,
    /// A call that wants one.
    Request,
}

impl Flags {
    fn put_pickle(self, dialect: Dialect, out: &mut Vec<u8>) {
        match self {
            Self::Reply => out.extend([op::BININT1, 0]),
            Self::Error => out.extend([op::BININT1, 2]),
            // Said with a number before it was said with a bool.
            Self::Call if dialect.is_legacy() => out.extend([op::BININT1, 1]),
            Self::Call => dialect.python().put_bool(true, out),
            Self::Request => dialect.python().put_bool(false, out),
        }
    }

    fn as_msgpack(self) -> u8 {
        match self {
            Self::Reply => 0,
            Self::Error => 2,
            Self::Call => 0xc3,
            Self::Request => 0xc2,
        }
    }
}

/// The names a request may mention. The original accepts whole modules, `builtins` among them, and
/// calls what it is told to; these are the ones that honest clients use for data.
fn is_accepted_global(module: &[u8], name: &[u8]) -> bool {
    matches!(
        (module, name),
        (b"ZopeUndo.Prefix", b"Prefix")
            | (b"copy_reg", b"_reconstructor")
            | (b"_codecs", b"encode")
            | (b"zodbpickle", b"binary")
            | (
                b"builtins" | b"__builtin__",
                b"object" | b"bytes" | b"bytearray" | b"dict" | b"set" | b"frozenset" | b"complex"
            )
    )
}
