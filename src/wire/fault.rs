//! Errors as Python clients know them: the name of an exception class and the state of an instance.
//!
//! The only file with names of Python exceptions. ZEO's client rebuilds a few of them from their
//! state and needs exactly this shape; the others reach the application as
//! `ZEO.Exceptions.ServerException(class, state)`.

use std::fmt;

use bytes::Bytes;

use super::dialect::Encoding;
use crate::ids::{Oid, Tid};
use crate::pickle::Value;

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
    /// `KeyError`, with the key.
    Key(Value),
    /// `ValueError`
    Value(String),
    /// `TypeError`
    Type(String),
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

const UNDO_ERROR: &str = "ZODB.POSException.UndoError";

impl Fault {
    /// A client that names a storage which is not served.
    pub fn unknown_storage(name: &str) -> Self {
        Self::Value(format!("unknown storage: {name}"))
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
            Self::Undo(_) => UNDO_ERROR,
            Self::MultipleUndo(_) => "ZODB.POSException.MultipleUndoErrors",
            Self::StorageSystem(_) => "ZODB.POSException.StorageSystemError",
            Self::FileStorage(_) => "ZODB.FileStorage.FileStorage.FileStorageError",
            Self::FileStorageQuota(_) => "ZODB.FileStorage.FileStorage.FileStorageQuotaError",
            Self::Corrupted(_) => "ZODB.FileStorage.format.CorruptedError",
            Self::Unsupported(_) => "ZODB.POSException.Unsupported",
            Self::Key(_) => "builtins.KeyError",
            Self::Value(_) => "builtins.ValueError",
            Self::Type(_) => "builtins.TypeError",
            Self::Attribute(_) => "builtins.AttributeError",
            Self::Assertion(_) => "builtins.AssertionError",
            Self::Os { .. } => "builtins.OSError",
            Self::Other(_) => "builtins.Exception",
        }
    }

    /// The state of the exception: its attributes if it has any, else its arguments. Exceptions
    /// within it are objects in a pickle, and pairs like the whole in msgpack.
    pub fn state(&self, encoding: Encoding) -> Value {
        match self {
            Self::PosKey(oid) => args([of_oid(*oid)]),
            Self::NoBlobFile { path, oid, serial } => {
                args([Value::text(&format!("No blob file at {path}")), of_oid(*oid), of_tid(*serial)])
            }
            Self::Conflict(collision) => collision.state("database conflict error"),
            Self::ReadConflict(collision) => collision.state("database read conflict error"),
            Self::BTreesConflict { p1, p2, p3, reason } => attributes([
                ("p1", Value::Int(*p1)),
                ("p2", Value::Int(*p2)),
                ("p3", Value::Int(*p3)),
                ("reason", Value::Int(*reason)),
            ]),
            Self::ReadOnly | Self::Assertion(None) => args([]),
            Self::WrongTransaction { current, given } => args([current.clone(), given.clone()]),
            Self::Undo(refusal) => attributes(refusal.attributes()),
            Self::MultipleUndo(refusals) => multiple_undo(refusals, encoding),
            Self::Key(key) | Self::NotAnOid(key) => args([key.clone()]),
            Self::Os { errno, message } => args([Value::Int((*errno).into()), Value::text(message)]),
            _ => args([Value::text(self.text().unwrap_or_default())]),
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
            | Self::Value(text)
            | Self::Type(text)
            | Self::Attribute(text)
            | Self::Assertion(Some(text))
            | Self::Other(text) => Some(text),
            _ => None,
        }
    }

    /// Whether honest clients meet this in daily work, so that nobody needs to read of it.
    pub const fn is_everyday(&self) -> bool {
        matches!(self, Self::PosKey(_) | Self::NotAnOid(_)) || self.is_conflict()
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
    fn state(&self, message: &str) -> Value {
        attributes([
            ("message", Value::text(message)),
            ("oid", of_oid(self.oid)),
            ("class_name", self.class_name.as_deref().map_or(Value::None, Value::text)),
            ("serials", args([of_tid(self.committed), of_tid(self.read)])),
        ])
    }
}

impl UndoRefusal {
    fn attributes(&self) -> [(&'static str, Value); 2] {
        [("_reason", Value::text(&self.reason)), ("_oid", self.oid.map_or(Value::None, of_oid))]
    }

    /// The exception as a part of another one's state.
    fn nested(&self, encoding: Encoding) -> Value {
        match encoding {
            Encoding::Msgpack => args([Value::text(UNDO_ERROR), attributes(self.attributes())]),
            Encoding::Pickle => {
                let [reason, oid] = self.attributes();
                let given = match self.oid {
                    Some(_) => args([reason.1.clone(), oid.1.clone()]),
                    None => args([reason.1.clone()]),
                };
                Value::call(
                    Value::global("ZODB.POSException", "_recon"),
                    vec![Value::global("ZODB.POSException", "UndoError"), attributes([reason, oid, ("args", given)])],
                )
            }
        }
    }
}

/// The original fills reason and oid of the whole from the first pair, which holds an oid and an
/// exception: so they have come to mean oid and exception, and clients get them like that.
fn multiple_undo(refusals: &[(Oid, UndoRefusal)], encoding: Encoding) -> Value {
    let pairs = refusals.iter().map(|(oid, refusal)| args([of_oid(*oid), refusal.nested(encoding)]));
    let (oid, refusal) =
        refusals.first().map_or((Value::None, Value::None), |(oid, refusal)| (of_oid(*oid), refusal.nested(encoding)));
    attributes([("_reason", oid), ("_oid", refusal), ("_errs", Value::List(pairs.collect()))])
}

fn args<const N: usize>(args: [Value; N]) -> Value {
    Value::Tuple(args.into())
}

fn attributes<const N: usize>(attributes: [(&'static str, Value); N]) -> Value {
    let text = |name: &'static str| Value::Text(Bytes::from_static(name.as_bytes()));
    Value::Dict(attributes.into_iter().map(|(name, value)| (text(name), value)).collect())
}

fn of_oid(oid: Oid) -> Value {
    Value::bytes(&oid.to_bytes())
}

fn of_tid(tid: Tid) -> Value {
    Value::bytes(&tid.to_bytes())
}
