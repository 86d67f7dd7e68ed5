//! Iteration over transactions and their records.
//!
//! Ids are per connection, one sequence for both kinds of iterator. An iterator is gone when it is
//! exhausted, when the client says so, and with the connection.

use std::collections::HashMap;
use std::sync::Arc;

use super::args::{Args, as_integer};
use super::load::{extension, oid_value};
use crate::ids::Tid;
use crate::pickle::Value;
use crate::server::served::Served;
use crate::server::session::{Answer, Beside, Call, Session, tid_value};
use crate::storage::{Records, Transactions};
use crate::wire::fault::Fault;

/// How many iterators one client may have. Python's clients have one of each kind for each thread
/// that iterates, and drop them at transaction ends.
const MOST_ITERATORS: usize = 1000;

/// The iterators of one client.
#[derive(Default)]
pub struct Iterators {
    next_id: i64,
    open: HashMap<i64, Cursor>,
}

enum Cursor {
    /// Over transactions; with the records of the one last handed out.
    Transactions(Box<dyn Transactions>, Option<(Tid, Option<Box<dyn Records>>)>),
    /// Over the records of one transaction.
    Records(Box<dyn Records>),
}

impl Iterators {
    /// Takes an iterator in; returns its id.
    pub fn add(&mut self, transactions: Box<dyn Transactions>) -> Answer {
        self.insert(Cursor::Transactions(transactions, None))
    }

    fn insert(&mut self, cursor: Cursor) -> Answer {
        if self.open.len() >= MOST_ITERATORS {
            return Err(Fault::Other(format!("too many iterators: this client has {MOST_ITERATORS} open")));
        }
        let id = self.next_id;
        self.next_id += 1;
        self.open.insert(id, cursor);
        Ok(Value::Int(id))
    }

    fn get(&mut self, id: i64) -> Result<&mut Cursor, Fault> {
        self.open.get_mut(&id).ok_or_else(|| Fault::Key(Value::Int(id)))
    }
}

/// `iterator_start(start, stop)`: the id of an iterator over `start <= tid <= stop`.
pub fn start(session: &mut Session, served: &Arc<Served>, call: &Call, mut args: Args) -> Result<(), Fault> {
    let (start, stop) = (args.optional_tid()?, args.optional_tid()?);
    args.end()?;
    let (storage, call) = (Arc::clone(&served.storage), call.clone());
    session.beside.spawn_blocking(move || Beside::Positioned(call, storage.iterate(start, stop).map_err(Fault::from)));
    Ok(())
}

/// `iterator_next(id)`: `(tid, status, user, description, extension)`, or `None` at the end.
pub fn next(session: &mut Session, mut args: Args) -> Answer {
    let id = args.integer()?;
    args.end()?;
    let Cursor::Transactions(transactions, last) = session.iterators.get(id)? else {
        return Err(Fault::Type(format!("iterator {id} iterates over records")));
    };
    let Some((transaction, records)) = transactions.next()? else {
        session.iterators.open.remove(&id);
        return Ok(Value::None);
    };
    *last = Some((transaction.tid, Some(records)));
    Ok(Value::Tuple(vec![
        tid_value(transaction.tid),
        Value::native(char::from(transaction.status).encode_utf8(&mut [0; 2])),
        Value::Bytes(transaction.metadata.user.clone()),
        Value::Bytes(transaction.metadata.description.clone()),
        Value::Dict(extension(&transaction)),
    ]))
}

/// `iterator_record_start(id, tid)`: the id of an iterator over the records of the transaction that
/// iterator `id` handed out last, which must be `tid`.
pub fn record_start(session: &mut Session, served: &Arc<Served>, mut args: Args) -> Answer {
    let (id, tid) = (args.integer()?, args.tid()?);
    args.end()?;
    let records = match session.iterators.get(id)? {
        Cursor::Transactions(_, Some((last, records))) if *last == tid => records.take(),
        Cursor::Transactions(_, Some(_)) => {
            return Err(Fault::Other(format!("Out-of-order request for record iterator for transaction {tid}")));
        }
        _ => return Err(Fault::Key(Value::Int(id))),
    };
    // Asked for a second time: read the transaction again.
    let records = if let Some(records) = records {
        records
    } else {
        let mut again = Arc::clone(&served.storage).iterate(Some(tid), Some(tid))?;
        again.next()?.ok_or_else(|| Fault::Other(format!("transaction {tid} has been packed away")))?.1
    };
    session.iterators.insert(Cursor::Records(records))
}

/// `iterator_record_next(id)`: `(oid, tid, data or None, data_txn or None)`, or `None` at the end.
pub fn record_next(session: &mut Session, mut args: Args) -> Answer {
    let id = args.integer()?;
    args.end()?;
    let Cursor::Records(records) = session.iterators.get(id)? else {
        return Err(Fault::Type(format!("iterator {id} iterates over transactions")));
    };
    let Some(record) = records.next()? else {
        session.iterators.open.remove(&id);
        return Ok(Value::None);
    };
    Ok(Value::Tuple(vec![
        oid_value(record.oid),
        tid_value(record.tid),
        record.data.map_or(Value::None, Value::Bytes),
        record.data_txn.map_or(Value::None, tid_value),
    ]))
}

/// `iterator_gc(ids)`: the client is done with these.
pub fn forget(session: &mut Session, mut args: Args) -> Answer {
    let ids = match args.value()? {
        Value::List(ids) | Value::Tuple(ids) => ids,
        value => return Err(args.wrong("a list of iterator ids", &value)),
    };
    args.end()?;
    for id in ids.iter().filter_map(as_integer) {
        session.iterators.open.remove(&id);
    }
    Ok(Value::None)
}
