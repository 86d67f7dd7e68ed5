//! Errors as Python clients know them: the name of an exception class and the state of an instance.
//!
//! The only file with names of Python exceptions. ZEO's client rebuilds a few of them from their
//! state and needs exactly this shape; the others reach the application as
//! `ZEO.Exceptions.ServerException(class, state)`. Clients before ZEO 5 get the instance itself, as a pickle, and raise it.

use std::borrow::Cow;
use std::fmt;

use crate::ids::{Oid, Tid};
use crate::pickle::{Dict, Python, Value};

/// Two transactions met on one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collision {
    /// The object.
    pub oid: Oid,
    /// `module.Class` of the object, if it can be told.
    pub class_name: Option<String>,
    /// The object's current revision.
    pub committed: Tid,
    /// The revision that the failed transaction read.
    pub read: Tid,
}

/// Why one object cannot be undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UndoRefusal {
    /// The object, if one is to blame.
    pub oid: Option<Oid>,
    /// The original's words.
    pub reason: String,
}

/// An error for the client.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// No such object, or none in that revision.
    PosKey(Oid),
    /// No such object, because the key is none that an object can have.
    NotAnOid(Value),
    /// No such blob.
    NoBlobFile {
        /// Where it should have been.
        path: String,
        /// The object.
        oid: Oid,
        /// The revision.
        serial: Tid,
    },
    /// An object that was stored has changed meanwhile.
    Conflict(Collision),
    /// An object that was only read has changed meanwhile.
    ReadConflict(Collision),
    /// Two changes of one `BTree` cannot be merged.
    BTreesConflict {
        /// Position in the bucket of the old state, or -1.
        p1: i64,
        /// Position in the committed state, or -1.
        p2: i64,
        /// Position in the new state, or -1.
        p3: i64,
        /// Number of the reason, an index into the messages that clients have.
        reason: i64,
    },
    /// A write to what is read-only.
    ReadOnly,
    /// A call for another transaction than the current one.
    WrongTransaction {
        /// The id of the current transaction, or `None` of Python.
        current: Value,
        /// The id in the call.
        given: Value,
    },
    /// A call that does not fit the state of the transaction.
    StorageTransaction(String),
    /// A transaction that cannot be undone.
    Undo(UndoRefusal),
    /// A transaction that cannot be undone for several objects' sake; each oid with its refusal.
    MultipleUndo(Vec<(Oid, UndoRefusal)>),
    /// A storage that fails.
    StorageSystem(String),
    /// A request that the storage cannot meet.
    FileStorage(String),
    /// The quota is used up.
    FileStorageQuota(String),
    /// The data file contradicts its format.
    Corrupted(String),
    /// An operation that this storage has not.
    Unsupported(String),
    /// A client that may not do this before it has authenticated.
    Auth(String),
    /// `KeyError`, with the key.
    Key(Value),
    /// `ValueError`
    Value(String),
    /// `TypeError`
    Type(String),
    /// `OverflowError`
    Overflow(String),
    /// `AttributeError`
    Attribute(String),
    /// `AssertionError`, with a message if there is one.
    Assertion(Option<String>),
    /// `OSError`, with the system's number of the error and its meaning.
    Os {
        /// `errno`
        errno: i32,
        /// `strerror`
        message: String,
    },
    /// `Exception`
    Other(String),
}

const POS_EXCEPTION: &str = "ZODB.POSException";

/// The module of Python's own exceptions, in Python 3 and in Python 2.
const BUILTINS: &str = "builtins";
const BUILTINS_2: &str = "exceptions";

/// How an exception is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// By the name of its class and its state: msgpack knows no objects.
    Told,
    /// As an object: a function of ZODB 3.8 and later is called with the class and the whole state, as an original on this
    /// Python would have it.
    Reconstructed(Python),
    /// As an object: the class is called with its arguments, then the state is set. ZODB 3.7 and older.
    Called,
}

impl Fault {
    /// A client that names a storage which is not served.
    pub fn unknown_storage(name: &str) -> Self {
        Self::Value(format!("unknown storage: {name}"))
    }

    /// `module.Class` of the exception, as clients of protocol 5 are told it.
    pub(super) fn class_name_in(&self, python: Python) -> Cow<'static, str> {
        match (python, self.class_name().strip_prefix(BUILTINS)) {
            (Python::Two, Some(name)) => format!("{BUILTINS_2}{name}").into(),
            _ => self.class_name().into(),
        }
    }

    /// `module.Class` of the exception.
    pub const fn class_name(&self) -> &'static str {
        match self {
            Self::PosKey(_) | Self::NotAnOid(_) | Self::NoBlobFile { .. } => "ZODB.POSException.POSKeyError",
            Self::Conflict(_) => "ZODB.POSException.ConflictError",
            Self::ReadConflict(_) => "ZODB.POSException.ReadConflictError",
            Self::BTreesConflict { .. } => "ZODB.POSException.BTreesConflictError",
            Self::ReadOnly => "ZODB.POSException.ReadOnlyError",
            Self::WrongTransaction { .. } | Self::StorageTransaction(_) => "ZODB.POSException.StorageTransactionError",
            Self::Undo(_) => "ZODB.POSException.UndoError",
            Self::MultipleUndo(_) => "ZODB.POSException.MultipleUndoErrors",
            Self::StorageSystem(_) => "ZODB.POSException.StorageSystemError",
            Self::FileStorage(_) => "ZODB.FileStorage.FileStorage.FileStorageError",
            Self::FileStorageQuota(_) => "ZODB.FileStorage.FileStorage.FileStorageQuotaError",
            Self::Corrupted(_) => "ZODB.FileStorage.format.CorruptedError",
            Self::Unsupported(_) => "ZODB.POSException.Unsupported",
            Self::Auth(_) => "ZEO.Exceptions.AuthError",
            Self::Key(_) => "builtins.KeyError",
            Self::Value(_) => "builtins.ValueError",
            Self::Type(_) => "builtins.TypeError",
            Self::Overflow(_) => "builtins.OverflowError",
            Self::Attribute(_) => "builtins.AttributeError",
            Self::Assertion(_) => "builtins.AssertionError",
            Self::Os { .. } => "builtins.OSError",
            Self::Other(_) => "builtins.Exception",
        }
    }

    /// The state of the exception as clients of protocol 5 expect it: its attributes if it has any, else its arguments.
    pub(super) fn state(&self, form: Form) -> Value {
        let attributes = self.attributes(form);
        if attributes.is_empty() { Value::Tuple(self.args(form)) } else { Value::Dict(attributes) }
    }

    /// The class and the instance, as objects in a pickle that `python` reads.
    pub(super) fn class_and_instance(&self, form: Form, python: Python) -> [Value; 2] {
        let (module, name) = self.class_name().rsplit_once('.').unwrap_or_default();
        // No attributes, and no part in ZODB's way of pickling.
        let is_builtin = module == BUILTINS;
        let class = match python {
            Python::Two if is_builtin => Value::global(BUILTINS_2, name),
            _ => Value::global(module, name),
        };
        let instance = match form {
            _ if is_builtin => Value::call(class.clone(), self.args(form)),
            Form::Called => match self.attributes(form) {
                attributes if attributes.is_empty() => Value::call(class.clone(), self.args(form)),
                attributes => Value::call(class.clone(), self.args(form)).with_state(Value::Dict(attributes)),
            },
            Form::Reconstructed(_) | Form::Told => {
                let recon = Value::global(POS_EXCEPTION, "_recon");
                let mut state = self.attributes(form);
                state.push((Value::native("args"), Value::Tuple(self.args(form))));
                Value::call(recon, vec![class.clone(), Value::Dict(state)])
            }
        };
        [class, instance]
    }

    /// The exception as a part of another one's state.
    fn nested(&self, form: Form) -> Value {
        match form {
            Form::Told => args([Value::native(self.class_name()), self.state(form)]),
            // Nothing of Python's own is ever nested, so either Python will do.
            Form::Reconstructed(_) | Form::Called => {
                let [_, instance] = self.class_and_instance(form, Python::Three);
                instance
            }
        }
    }

    /// What the exception was made with.
    fn args(&self, form: Form) -> Vec<Value> {
        match self {
            Self::PosKey(oid) => vec![of_oid(*oid)],
            Self::NoBlobFile { path, oid, serial } => {
                vec![Value::native(&format!("No blob file at {path}")), of_oid(*oid), of_tid(*serial)]
            }
            // These are made with keywords.
            Self::Conflict(_) | Self::ReadConflict(_) | Self::ReadOnly | Self::Assertion(None) => vec![],
            Self::BTreesConflict { p1, p2, p3, reason } => [*p1, *p2, *p3, *reason].map(Value::Int).into(),
            Self::WrongTransaction { current, given } => vec![current.clone(), given.clone()],
            // Python 3 notes what it was made with; Python 2 leaves that to a constructor which does not.
            Self::Undo(_) | Self::MultipleUndo(_) if form == Form::Reconstructed(Python::Two) => vec![],
            Self::Undo(UndoRefusal { reason, oid }) => {
                [Some(Value::native(reason)), oid.map(of_oid)].into_iter().flatten().collect()
            }
            Self::MultipleUndo(refusals) => vec![pairs(refusals, form)],
            Self::Key(key) | Self::NotAnOid(key) => vec![key.clone()],
            Self::Os { errno, message } => vec![Value::Int((*errno).into()), Value::native(message)],
            _ => vec![Value::native(self.text().unwrap_or_default())],
        }
    }

    /// What is set on the exception beside that.
    fn attributes(&self, form: Form) -> Dict {
        match self {
            Self::Conflict(collision) => collision.attributes("database conflict error"),
            Self::ReadConflict(collision) => collision.attributes("database read conflict error"),
            Self::BTreesConflict { p1, p2, p3, reason } => attributes([
                ("p1", Value::Int(*p1)),
                ("p2", Value::Int(*p2)),
                ("p3", Value::Int(*p3)),
                ("reason", Value::Int(*reason)),
            ]),
            Self::Undo(UndoRefusal { reason, oid }) => {
                attributes([("_reason", Value::native(reason)), ("_oid", oid.map_or(Value::None, of_oid))])
            }
            // The original fills reason and oid of the whole from the first pair, which holds an oid and an
            // exception: so they have come to mean oid and exception, and clients get them like that.
            Self::MultipleUndo(refusals) => {
                let (oid, refusal) = refusals.first().map_or((Value::None, Value::None), |first| pair(first, form));
                attributes([("_reason", oid), ("_oid", refusal), ("_errs", pairs(refusals, form))])
            }
            _ => Dict::new(),
        }
    }

    /// The message of an exception that has nothing else.
    fn text(&self) -> Option<&str> {
        match self {
            Self::StorageTransaction(text)
            | Self::StorageSystem(text)
            | Self::FileStorage(text)
            | Self::FileStorageQuota(text)
            | Self::Corrupted(text)
            | Self::Unsupported(text)
            | Self::Auth(text)
            | Self::Value(text)
            | Self::Type(text)
            | Self::Overflow(text)
            | Self::Attribute(text)
            | Self::Assertion(Some(text))
            | Self::Other(text) => Some(text),
            _ => None,
        }
    }

    /// Whether nobody needs to read of it: honest clients meet it in daily work, or the log has it already.
    pub const fn is_everyday(&self) -> bool {
        matches!(self, Self::PosKey(_) | Self::NotAnOid(_) | Self::NoBlobFile { .. } | Self::Auth(_))
            || self.is_conflict()
    }

    /// Whether the client may succeed with a new transaction.
    pub const fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict(_) | Self::ReadConflict(_) | Self::BTreesConflict { .. })
    }
}

impl fmt::Display for Fault {
    /// For the log: the class, and what is known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = self.class_name().rsplit('.').next().unwrap_or_default();
        match self {
            Self::PosKey(oid) => write!(f, "{class}: {oid}"),
            Self::NoBlobFile { path, .. } => write!(f, "{class}: No blob file at {path}"),
            Self::Conflict(Collision { oid, class_name, committed, read })
            | Self::ReadConflict(Collision { oid, class_name, committed, read }) => {
                let class_name = class_name.as_deref().unwrap_or("unknown");
                write!(f, "{class}: oid {oid}, class {class_name}, committed {committed}, read {read}")
            }
            Self::BTreesConflict { p1, p2, p3, reason } => write!(f, "{class}: {p1}/{p2}/{p3}, reason {reason}"),
            Self::ReadOnly | Self::Assertion(None) => f.write_str(class),
            Self::WrongTransaction { .. } => write!(f, "{class}: not the current transaction"),
            Self::Undo(refusal) => write!(f, "{class}: {}", refusal.reason),
            Self::MultipleUndo(refusals) => write!(f, "{class}: {} objects", refusals.len()),
            Self::Key(_) | Self::NotAnOid(_) => write!(f, "{class}: no such key"),
            Self::Os { message, .. } => write!(f, "{class}: {message}"),
            _ => write!(f, "{class}: {}", self.text().unwrap_or_default()),
        }
    }
}

impl Collision {
    fn attributes(&self, message: &str) -> Dict {
        attributes([
            ("message", Value::native(message)),
            ("oid", of_oid(self.oid)),
            ("class_name", self.class_name.as_deref().map_or(Value::None, Value::native)),
            ("serials", args([of_tid(self.committed), of_tid(self.read)])),
        ])
    }
}

fn pairs(refusals: &[(Oid, UndoRefusal)], form: Form) -> Value {
    let pair = |refusal| {
        let (oid, refusal) = pair(refusal, form);
        args([oid, refusal])
    };
    Value::List(refusals.iter().map(pair).collect())
}

fn pair((oid, refusal): &(Oid, UndoRefusal), form: Form) -> (Value, Value) {
    (of_oid(*oid), Fault::Undo(refusal.clone()).nested(form))
}

fn args<const N: usize>(args: [Value; N]) -> Value {
    Value::Tuple(args.into())
}

fn attributes<const N: usize>(attributes: [(&str, Value); N]) -> Dict {
    attributes.into_iter().map(|(name, value)| (Value::native(name), value)).collect()
}

fn of_oid(oid: Oid) -> Value {
    Value::bytes(&oid.to_bytes())
}

fn of_tid(tid: Tid) -> Value {
    Value::bytes(&tid.to_bytes())
}
