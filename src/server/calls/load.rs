//! Reading: revisions, what is current, and what has changed.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::args::Args;
use crate::ids::{Oid, Tid};
use crate::pickle::{self, Value};
use crate::server::invalidation::Since;
use crate::server::served::{Served, integer};
use crate::server::session::{Call, End, Session, tid_value};
use crate::storage::{Storage, TransactionSummary};
use crate::wire::dialect::Dialect;
use crate::wire::fault::Fault;

/// `loadBefore(oid, tid)`: `(data, tid, end or None)`, or `None` if there is no revision that old.
pub fn load_before(session: &mut Session, served: &Served, call: &Call, mut args: Args) -> Result<(), End> {
    let (oid, before) = match args.oid().and_then(|oid| Ok((oid, args.tid()?))).and_then(|ids| args.end().map(|()| ids))
    {
        Ok(ids) => ids,
        Err(fault) => return session.reply(call, Err(fault)),
    };
    served.stats.loads.up();
    session.reply_load(served, call, |storage| storage.load_before(oid, before))
}

/// `getTid(oid)`: the tid of the current revision.
pub fn current_tid(session: &mut Session, served: &Served, call: &Call, mut args: Args) -> Result<(), End> {
    match args.oid().and_then(|oid| args.end().map(|()| oid)) {
        Ok(oid) => session.reply_current(served, call, |storage| Ok(tid_value(storage.current_tid(oid)?))),
        Err(fault) => session.reply(call, Err(fault)),
    }
}

/// `loadSerial(oid, tid)`: the record that transaction wrote.
pub fn load_serial(session: &mut Session, served: &Served, call: &Call, mut args: Args) -> Result<(), End> {
    match args.oid().and_then(|oid| Ok((oid, args.tid()?))).and_then(|ids| args.end().map(|()| ids)) {
        Ok((oid, serial)) => {
            session.reply_current(served, call, |storage| Ok(Value::Bytes(storage.load_serial(oid, serial)?)))
        }
        Err(fault) => session.reply(call, Err(fault)),
    }
}

/// `record_iternext(next=None)`: `(oid, tid, data, next oid or None)`.
pub fn record_iternext(session: &mut Session, served: &Served, call: &Call, mut args: Args) -> Result<(), End> {
    let next = match args.optional() {
        None | Some(Value::None) => Ok(None),
        Some(value) => match value.as_string().and_then(|bytes| Oid::from_slice(bytes)) {
            Some(oid) => Ok(Some(oid)),
            None => Err(args.wrong("an oid of 8 bytes or None", &value)),
        },
    };
    let next = match next.and_then(|next| args.end().map(|()| next)) {
        Ok(next) => next,
        Err(fault) => return session.reply(call, Err(fault)),
    };
    session.reply_current(served, call, |storage| {
        let Some(record) = storage.record_iternext(next)? else {
            return match next {
                None => Err(Fault::Value("the storage holds no object".to_owned())),
                Some(_) => Ok(Value::None),
            };
        };
        Ok(Value::Tuple(vec![
            oid_value(record.oid),
            tid_value(record.tid),
            Value::Bytes(record.data),
            record.next.map_or(Value::None, oid_value),
        ]))
    })
}

/// `lastTransaction()`
pub fn last_transaction(session: &mut Session, served: &Served, call: &Call, args: Args) -> Result<(), End> {
    match args.end() {
        Ok(()) => {
            let newest = Cell::new(Tid::ZERO);
            session.reply_current(served, call, |storage| {
                newest.set(storage.last_transaction());
                Ok(tid_value(newest.get()))
            })?;
            session.knows(newest.get());
            Ok(())
        }
        Err(fault) => session.reply(call, Err(fault)),
    }
}

/// `getInvalidations(tid)`: `(newest tid, oids written since)`, or `None` if nobody knows.
pub fn invalidations(session: &mut Session, served: &Arc<Served>, call: Call, mut args: Args) -> Result<(), End> {
    let tid = match args.tid().and_then(|tid| args.end().map(|()| tid)) {
        Ok(tid) => tid,
        Err(fault) => return session.reply(&call, Err(fault)),
    };
    let reaches_back = served.hub.written_since(tid, |since| since != Since::TooOld);
    // What is read from the storage may be older than what was announced meanwhile.
    if !reaches_back && !session.looks_back() && is_young(tid, served) {
        let served = Arc::clone(served);
        let dialect = session.dialect;
        session.answer_later(call, move || written_by_iteration(&served, dialect, tid));
        return Ok(());
    }
    session.reply_written_since(served, &call, tid)
}

/// Whether `tid` is within the time for which invalidations may be read from the storage itself.
fn is_young(tid: Tid, served: &Served) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    served.invalidation_age.is_some_and(|age| now - tid.to_unix_seconds() < age.as_secs_f64())
}

fn written_by_iteration(served: &Served, dialect: Dialect, tid: Tid) -> Result<Value, Fault> {
    let since = Tid(tid.0.saturating_add(1));
    let mut transactions = Arc::clone(&served.storage).iterate(Some(since), None)?;
    let (mut newest, mut oids) = (None, std::collections::HashSet::new());
    while let Some((transaction, mut records)) = transactions.next()? {
        while let Some(record) = records.next()? {
            oids.insert(record.oid);
        }
        newest = Some(transaction.tid);
    }
    Ok(newest.map_or(Value::None, |newest| written(dialect, newest, oids.into_iter())))
}

/// The reply to `getInvalidations`.
pub fn written(dialect: Dialect, newest: Tid, oids: impl Iterator<Item = Oid>) -> Value {
    Value::Tuple(vec![tid_value(newest), Value::List(oids.map(|oid| dialect.mention(oid)).collect())])
}

/// `history(oid, size=1)`: dicts, newest revision first.
pub fn history(session: &mut Session, served: &Arc<Served>, call: Call, mut args: Args) -> Result<(), End> {
    // What can be no oid is asked for before the size is looked at, as in the original.
    let oid =
        args.value().and_then(|value| match super::args::as_bytes(&value).and_then(|bytes| Oid::from_slice(bytes)) {
            Some(oid) => Ok(oid),
            None => Err(Fault::NotAnOid(value)),
        });
    let parsed = oid.and_then(|oid| {
        let size = match args.optional() {
            None => 1,
            Some(value) => super::args::as_integer(&value).ok_or_else(|| args.wrong("an integer", &value))?,
        };
        args.end()?;
        Ok((oid, usize::try_from(size).unwrap_or(0)))
    });
    let (oid, size) = match parsed {
        Ok(parsed) => parsed,
        Err(fault) => return session.reply(&call, Err(fault)),
    };
    let (served, dialect) = (Arc::clone(served), session.dialect);
    session.answer_later(call, move || {
        let entries = served.storage.history(oid, size)?;
        Ok(Value::List(entries.iter().map(|entry| history_entry(entry, dialect)).collect()))
    });
    Ok(())
}

/// What the transaction's extension says, then what is known for sure.
fn history_entry(entry: &TransactionSummary, dialect: Dialect) -> Value {
    let mut dict = extension(entry);
    for (key, value) in [
        ("time", Value::Float(entry.tid.to_unix_seconds())),
        ("user_name", Value::Bytes(entry.metadata.user.clone())),
        ("description", Value::Bytes(entry.metadata.description.clone())),
        ("tid", tid_value(entry.tid)),
        ("size", integer(entry.size)),
    ] {
        set(&mut dict, Value::native(key), value);
    }
    if let Some((key, value)) = dialect.history_version() {
        set(&mut dict, key, value);
    }
    Value::Dict(dict)
}

/// Sets a key of a dict, as assignment does: at its place if it is there.
pub fn set(dict: &mut pickle::Dict, key: Value, value: Value) {
    match dict.iter_mut().find(|(present, _)| present.is_same_key(&key)) {
        Some((_, present)) => *present = value,
        None => dict.push((key, value)),
    }
}

/// The transaction's extension as a dict; empty if it is none or cannot be read.
pub fn extension(transaction: &TransactionSummary) -> pickle::Dict {
    match pickle::read(&transaction.metadata.extension) {
        Ok(Value::Dict(dict)) => dict,
        _ => pickle::Dict::new(),
    }
}

/// `get_info()`: what the client must know of the storage.
pub fn info(session: &mut Session, served: &Served, call: &Call, args: Args) -> Result<(), End> {
    match args.end() {
        Ok(()) => {
            let (dialect, authenticates) = (session.dialect, session.authenticator().is_some());
            session
                .reply_current(served, call, |storage| Ok(Value::Dict(storage_info(storage, dialect, authenticates))))
        }
        Err(fault) => session.reply(call, Err(fault)),
    }
}

fn storage_info(storage: &dyn Storage, dialect: Dialect, authenticates: bool) -> pickle::Dict {
    let can = storage.capabilities();
    let interfaces = [
        (can.restore, "IStorageRestoreable"),
        (can.iteration, "IStorageIteration"),
        (can.undo, "IStorageUndoable"),
        (can.record_iternext, "IStorageCurrentRecordIteration"),
        (can.external_gc, "IExternalGC"),
        (storage.blobs().is_some(), "IBlobStorage"),
        (storage.blobs().is_some() && can.restore, "IBlobStorageRestoreable"),
        (true, "IStorage"),
    ];
    let interfaces = interfaces
        .iter()
        .filter(|(offered, _)| *offered)
        .map(|(_, name)| ("ZODB.interfaces", *name))
        // What every object of Python's has; clients compare the whole list.
        .chain([("zope.interface", "Interface")])
        .map(|(module, name)| Value::Tuple(vec![Value::native(module), Value::native(name)]));
    let mut info = vec![
        (Value::native("length"), integer(storage.len())),
        (Value::native("size"), integer(storage.size())),
        (Value::native("name"), Value::native(storage.name())),
        (Value::native("supportsUndo"), Value::Bool(can.undo)),
        (Value::native("supports_record_iternext"), Value::Bool(can.record_iternext)),
        (Value::native("interfaces"), Value::Tuple(interfaces.collect())),
    ];
    if dialect.is_legacy() {
        info.push((Value::native("extensionMethods"), super::legacy::extension_methods(authenticates)));
        info.push((Value::native("supportsVersions"), Value::Bool(false)));
    }
    info
}

/// An oid as clients expect it.
pub fn oid_value(oid: Oid) -> Value {
    Value::bytes(&oid.to_bytes())
}
