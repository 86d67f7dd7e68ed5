//! The life of a transaction: begun and collected, voted under the commit lock, finished or aborted.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::{self, AbortHandle};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::args::Args;
use crate::ids::{Oid, Tid};
use crate::pickle::{self, Value};
use crate::server::commit_lock::CommitTurn;
use crate::server::fault::temporary_file;
use crate::server::hub::ClientId;
use crate::server::served::Served;
use crate::server::session::{Answer, Beside, Call, End, Registration, Session, tid_value};
use crate::server::transaction_log::{TransactionLog, Unresolved};
use crate::storage::{Begin, Commit, Metadata, Publisher};
use crate::wire::dialect::Dialect;
use crate::wire::fault::Fault;
use crate::{blather, critical};

/// The transaction of a client, by phase.
pub enum Transaction {
    /// There is none.
    None,
    /// Its requests are being collected.
    Collecting(Box<Collected>),
    /// It waits for the commit lock, or is being checked.
    Voting(Value, AbortHandle),
    /// It holds the commit lock and will be finished or aborted.
    Voted(Box<Prepared>, Option<Instant>),
    /// It is on its way to the disk.
    Finishing(Value),
}

/// A transaction before its vote.
pub struct Collected {
    id: Value,
    begin: Begin,
    log: TransactionLog,
    active: Active,
}

/// A transaction that has been voted.
pub struct Prepared {
    id: Value,
    // In the order in which they must go: the storage's transaction ends before the turn does.
    commit: Box<dyn Commit>,
    turn: CommitTurn,
    written: Arc<[Oid]>,
    changed: Vec<Oid>,
    active: Active,
}

/// Counts a transaction as active for as long as it lives.
struct Active(Arc<Served>);

impl Active {
    fn new(served: &Arc<Served>) -> Self {
        served.stats.active_transactions.up();
        Self(Arc::clone(served))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.stats.active_transactions.down();
    }
}

/// The outcome of a vote that did not fail.
pub enum Checked {
    /// It will be finished or aborted.
    Ready(Box<Prepared>),
    /// The client may resolve the conflicts and vote again.
    InConflict(Box<Collected>, Vec<Unresolved>),
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("id", &self.id).field("written", &self.written).finish_non_exhaustive()
    }
}

impl Transaction {
    fn id(&self) -> Option<&Value> {
        match self {
            Self::None => None,
            Self::Collecting(collected) => Some(&collected.id),
            Self::Voting(id, _) | Self::Finishing(id) => Some(id),
            Self::Voted(prepared, _) => Some(&prepared.id),
        }
    }

    /// What is lost with the client, in the words of the log; nothing if it is being finished.
    pub fn phase(&self) -> Option<&'static str> {
        match self {
            Self::None | Self::Finishing(_) => None,
            Self::Collecting(_) | Self::Voting(..) => Some("unlocked"),
            Self::Voted(..) => Some("locked"),
        }
    }

    /// When the client must have finished or aborted.
    pub fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Voted(_, deadline) => *deadline,
            _ => None,
        }
    }
}

/// `tpc_begin(id, user, description, extension, tid=None, status=' ')`
pub fn begin(session: &mut Session, registration: &Registration, mut args: Args) -> Answer {
    // Kept for as long as the transaction lives, so it may not be a tree.
    let id = match args.value()? {
        id if id.is_scalar() => id,
        id => return Err(args.wrong("a number or a string as the transaction's id", &id)),
    };
    let user = args.optional_string()?.unwrap_or_default();
    let description = args.optional_string()?.unwrap_or_default();
    let extension = match args.value()? {
        Value::None => Bytes::new(),
        Value::Bytes(bytes) => bytes,
        value => match value.into_dict() {
            Ok(dict) if dict.is_empty() => Bytes::new(),
            Ok(dict) => extension_bytes(session.dialect, &Value::Dict(dict)),
            Err(value) => return Err(args.wrong("a dict or bytes", &value)),
        },
    };
    let tid = match args.optional() {
        None | Some(Value::None) => None,
        Some(value) => Some(
            value
                .as_string()
                .and_then(|bytes| Tid::from_slice(bytes))
                .ok_or_else(|| args.wrong("a tid of 8 bytes", &value))?,
        ),
    };
    let status = match args.optional() {
        None | Some(Value::None) => b' ',
        Some(value) => match value.as_string().map(|status| &status[..]) {
            // A transaction marked as voted, or as undone, is not there for whoever opens the file next.
            Some(&[status]) if status.is_ascii() && !matches!(status, b'c' | b'u') => status,
            _ => return Err(args.wrong("a status of one character, neither 'c' nor 'u'", &value)),
        },
    };
    args.end()?;
    if registration.read_only {
        return Err(Fault::ReadOnly);
    }
    match session.transaction.id() {
        Some(current) if *current == id => {
            debug!(target: "ZEO.StorageServer", "({}) duplicate tpc_begin", session.label);
            return Ok(Value::None);
        }
        Some(_) => {
            return Err(Fault::StorageTransaction(
                "Multiple simultaneous tpc_begin requests from one client.".to_owned(),
            ));
        }
        None => {}
    }
    session.transaction = Transaction::Collecting(Box::new(Collected {
        id,
        begin: Begin { metadata: Metadata { user, description, extension }, copied: tid.map(|tid| (tid, status)) },
        log: TransactionLog::default(),
        active: Active::new(&registration.served),
    }));
    Ok(Value::None)
}

/// The extension field for a mapping: what Python's server would write, or where we cannot know that
/// (the mapping holds objects, or Python 2's strings), the mapping as the client spelled it.
fn extension_bytes(dialect: Dialect, mapping: &Value) -> Bytes {
    let bytes = dialect.dump_extension(mapping).unwrap_or_else(|| {
        let mut verbatim = Vec::new();
        pickle::write(mapping, &mut verbatim);
        verbatim
    });
    bytes.into()
}

/// The transaction that `id` names, still being collected.
fn collecting<'a>(
    session: &'a mut Session,
    registration: &Registration,
    id: &Value,
) -> Result<&'a mut Collected, Fault> {
    if registration.read_only {
        return Err(Fault::ReadOnly);
    }
    match &mut session.transaction {
        Transaction::Collecting(collected) => match &collected.id {
            current if current == id => Ok(collected),
            current => Err(wrong_transaction(Some(current), id)),
        },
        Transaction::Voting(current, _) if current == id => {
            Err(Fault::StorageTransaction("Already voting (waiting)".to_owned()))
        }
        Transaction::Voted(prepared, _) if prepared.id == *id => {
            Err(Fault::StorageTransaction("Already voting (locked)".to_owned()))
        }
        other => Err(wrong_transaction(other.id(), id)),
    }
}

/// `storea(oid, serial, data, id)`
pub fn store(session: &mut Session, registration: &Registration, mut args: Args) -> Answer {
    let (oid, serial, data, id) = (args.oid()?, args.optional_tid()?.unwrap_or_default(), args.bytes()?, args.value()?);
    args.end()?;
    let collected = collecting(session, registration, &id)?;
    registration.served.stats.stores.up();
    logged(collected.log.store(oid, serial, &data))
}

/// `restorea(oid, serial, data, prev_txn, id)`
pub fn restore(session: &mut Session, registration: &Registration, mut args: Args) -> Answer {
    let (oid, serial, data) = (args.oid()?, args.tid()?, args.optional_bytes()?);
    let (same_as, id) = (args.optional_tid()?, args.value()?);
    args.end()?;
    let collected = collecting(session, registration, &id)?;
    registration.served.stats.stores.up();
    logged(collected.log.restore(oid, serial, data.as_deref(), same_as))
}

/// `deleteObject(oid, serial, id)`
pub fn delete(session: &mut Session, registration: &Registration, mut args: Args) -> Answer {
    let (oid, serial, id) = (args.oid()?, args.tid()?, args.value()?);
    args.end()?;
    let collected = collecting(session, registration, &id)?;
    registration.served.stats.stores.up();
    logged(collected.log.delete(oid, serial))
}

/// `checkCurrentSerialInTransaction(oid, serial, id)`
pub fn check_current(session: &mut Session, registration: &Registration, mut args: Args) -> Answer {
    let (oid, serial, id) = (args.oid()?, args.tid()?, args.value()?);
    args.end()?;
    logged(collecting(session, registration, &id)?.log.check_current(oid, serial))
}

/// `undoa(transaction id from undoLog, id)`
pub fn undo(session: &mut Session, registration: &Registration, mut args: Args) -> Answer {
    let (undone, id) = (args.string()?, args.value()?);
    args.end()?;
    // A malformed id is one that no transaction has: the vote says so.
    let tid = super::admin::tid_from_undo_id(&undone);
    logged(collecting(session, registration, &id)?.log.undo(tid))
}

fn logged(result: io::Result<()>) -> Answer {
    result.map(|()| Value::None).map_err(|error| temporary_file(&error))
}

fn wrong_transaction(current: Option<&Value>, given: &Value) -> Fault {
    Fault::WrongTransaction { current: current.cloned().unwrap_or(Value::None), given: given.clone() }
}

/// `vote(id)`: the reply is the list of oids whose records differ from what was stored.
pub fn vote(session: &mut Session, registration: &Registration, call: &Call, mut args: Args) -> Result<(), Fault> {
    let id = args.value()?;
    args.end()?;
    collecting(session, registration, &id)?;
    let Transaction::Collecting(collected) = std::mem::replace(&mut session.transaction, Transaction::None) else {
        return Err(wrong_transaction(None, &id));
    };
    let (served, call, label) = (Arc::clone(&registration.served), call.clone(), session.label.clone());
    let mut place = served.commit_lock.ask();
    let task = if let Some(turn) = place.try_turn() {
        session.beside.spawn_blocking(move || Beside::Voted(call, prepare(&served, *collected, turn, &label)))
    } else {
        log_queue(&served, &label);
        session.beside.spawn(async move {
            let turn = place.turn().await;
            let checked = task::spawn_blocking(move || prepare(&served, *collected, turn, &label)).await;
            match checked {
                Ok(outcome) => Beside::Voted(call, outcome),
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            }
        })
    };
    session.transaction = Transaction::Voting(id, task);
    Ok(())
}

/// The longer the queue, the louder: sites watch for these lines.
fn log_queue(served: &Served, label: &str) {
    let name = &served.name;
    match served.commit_lock.waiting() {
        waiting @ 0..=3 => {
            debug!(target: "ZEO.StorageServer", "({label}) ('{name}') queue lock: transactions waiting: {waiting}");
        }
        waiting @ 4..=9 => {
            warn!(target: "ZEO.StorageServer", "({label}) ('{name}') queue lock: transactions waiting: {waiting}");
        }
        waiting => {
            critical!(target: "ZEO.StorageServer", "({label}) ('{name}') queue lock: transactions waiting: {waiting}");
        }
    }
}

/// Checks a transaction against the storage and makes it ready to be finished. On failure the
/// storage's transaction ends, then the turn, then the client hears of it.
fn prepare(served: &Arc<Served>, mut collected: Collected, turn: CommitTurn, label: &str) -> Result<Checked, Fault> {
    blather!(
        target: "ZEO.StorageServer",
        "({label}) Preparing to commit transaction: {} objects, {} bytes",
        collected.log.entries(),
        collected.log.bytes()
    );
    let mut commit = Arc::clone(&served.storage).begin(collected.begin.clone())?;
    let replayed = collected.log.replay(&mut *commit, served.on_conflict)?;
    if !replayed.conflicts.is_empty() {
        // Others may commit while the client resolves.
        drop(commit);
        drop(turn);
        return Ok(Checked::InConflict(Box::new(collected), replayed.conflicts));
    }
    let mut changed = replayed.undone;
    changed.extend(commit.vote()?);
    let mut seen = std::collections::HashSet::new();
    let written = replayed.written.into_iter().filter(|oid| seen.insert(*oid)).collect();
    let (id, active) = (collected.id, collected.active);
    Ok(Checked::Ready(Box::new(Prepared { id, commit, turn, written, changed, active })))
}

impl Session {
    /// A vote is decided: that of task `vote`.
    pub(in crate::server) fn voted(
        &mut self,
        vote: task::Id,
        call: &Call,
        outcome: Result<Checked, Fault>,
    ) -> Result<(), End> {
        // The client may have aborted meanwhile, and have begun anew under the same id. Dropping the
        // outcome is the abort.
        let is_awaited = matches!(&self.transaction, Transaction::Voting(_, task) if task.id() == vote);
        let (true, Some(registration)) = (is_awaited, self.registration()) else {
            return Ok(());
        };
        let answer = match outcome {
            Ok(Checked::InConflict(collected, conflicts)) => {
                self.transaction = Transaction::Collecting(collected);
                Ok(Value::List(conflicts.into_iter().map(unresolved_value).collect()))
            }
            Ok(Checked::Ready(mut prepared)) => {
                let changed = std::mem::take(&mut prepared.changed);
                let deadline = registration.served.transaction_timeout.map(|timeout| Instant::now() + timeout);
                self.transaction = Transaction::Voted(prepared, deadline);
                Ok(Value::List(changed.into_iter().map(super::load::oid_value).collect()))
            }
            Err(fault) => {
                if fault.is_conflict() {
                    registration.served.stats.conflicts.up();
                    blather!(target: "ZEO.StorageServer", "({}) conflict error {fault}", self.label);
                }
                self.transaction = Transaction::None;
                Err(fault)
            }
        };
        self.reply(call, answer)
    }
}

/// A conflict as the client's resolver expects it.
fn unresolved_value(conflict: Unresolved) -> Value {
    Value::Dict(vec![
        (Value::text("oid"), super::load::oid_value(conflict.oid)),
        (Value::text("serials"), Value::Tuple(vec![tid_value(conflict.committed), tid_value(conflict.read)])),
        (Value::text("data"), Value::Bytes(conflict.data.into())),
    ])
}

/// `tpc_finish(id)`: the tid. The reply is queued in the instant in which others hear of it, so there
/// is an answer to give here only where nothing is to be finished.
pub fn finish(
    session: &mut Session,
    registration: &Registration,
    call: &Call,
    mut args: Args,
) -> Result<Option<Value>, Fault> {
    let id = args.value()?;
    args.end()?;
    if registration.read_only {
        return Err(Fault::ReadOnly);
    }
    if session.transaction.id() != Some(&id) {
        info!(target: "ZEO.StorageServer", "({}) tpc_finish for a transaction that is not there", session.label);
        return Ok(Some(Value::None));
    }
    let prepared = match std::mem::replace(&mut session.transaction, Transaction::None) {
        Transaction::Voted(prepared, _) => *prepared,
        other => {
            session.transaction = other;
            return Err(Fault::Assertion(Some("finished called wo lock".to_owned())));
        }
    };
    session.transaction = Transaction::Finishing(id);
    let announcement = Announcement {
        served: Arc::clone(&registration.served),
        committer: session.id,
        written: prepared.written,
        reply: session.finish_frames(call),
    };
    let (call, label) = (call.clone(), session.label.clone());
    let (commit, turn, active) = (prepared.commit, prepared.turn, prepared.active);
    session.beside.spawn_blocking(move || {
        Beside::Finished(call, commit_and_announce(commit, turn, active, announcement, &label))
    });
    Ok(None)
}

/// The turn is given back only when the reply is queued: the client takes an invalidation for a later
/// transaction, should it come first, for a broken server.
fn commit_and_announce(
    commit: Box<dyn Commit>,
    turn: CommitTurn,
    active: Active,
    mut announcement: impl Publisher,
    label: &str,
) -> Result<(), Fault> {
    let finished = commit.finish(&mut announcement);
    drop(active);
    drop(turn);
    match finished {
        Ok(tid) => {
            debug!(target: "ZEO.StorageServer", "({label}) committed {tid}");
            Ok(())
        }
        Err(error) => {
            error!(target: "ZEO.StorageServer", "({label}) a voted transaction could not be finished: {error}");
            Err(error.into())
        }
    }
}

/// What is to be told of a transaction, and to whom.
struct Announcement<R> {
    served: Arc<Served>,
    committer: ClientId,
    written: Arc<[Oid]>,
    reply: R,
}

impl<R: Fn(&Served, Tid)> Publisher for Announcement<R> {
    fn publish(&mut self, tid: Tid, install: &mut dyn FnMut()) {
        self.served.stats.commits.up();
        let reply = || (self.reply)(&self.served, tid);
        self.served.hub.publish(tid, &self.written, self.committer, install, reply);
    }
}

/// `tpc_abort(id)`: forgets the transaction; no complaint if it is not there.
pub fn abort(session: &mut Session, registration: &Registration, mut args: Args) -> Answer {
    let id = args.value()?;
    args.end()?;
    if registration.read_only {
        return Err(Fault::ReadOnly);
    }
    if session.transaction.id() == Some(&id) {
        registration.served.stats.aborts.up();
        if let Transaction::Voting(_, task) = &session.transaction {
            task.abort();
        }
        session.transaction = Transaction::None;
    }
    Ok(Value::None)
}
