//! The life of a transaction: begun and collected, voted under the commit lock, finished or aborted.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::{self, AbortHandle};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::args::Args;
use super::blob::Upload;
use crate::ids::{Oid, Tid};
use crate::pickle::Value;
use crate::server::commit_lock::CommitTurn;
use crate::server::fault::temporary_file;
use crate::server::hub::ClientId;
use crate::server::served::Served;
use crate::server::session::{Answer, Beside, Call, End, Registration, Session, off_thread, tid_value};
use crate::server::transaction_log::{OnConflict, ReplayError, Replayed, TransactionLog, Unresolved};
use crate::storage::{Begin, Commit, Metadata, Publisher, StorageError};
use crate::wire::fault::Fault;
use crate::wire::legacy::Stored;
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
    pub(super) log: TransactionLog,
    pub(super) upload: Upload,
    active: Active,
}

/// A transaction that has been voted.
pub struct Prepared {
    id: Value,
    // In the order in which they must go: the storage's transaction ends before the turn does.
    commit: Box<dyn Commit>,
    turn: CommitTurn,
    written: Arc<[Oid]>,
    stores: Vec<(Oid, Stored)>,
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
    /// It was no vote: an undo whose outcome the client wants to know before, with the tid that it would have now.
    Rehearsed(Box<Collected>, Tid, Vec<Oid>),
}

/// A vote that failed.
pub struct Refused {
    fault: Fault,
    /// Where: at a request for this object. Otherwise the transaction as a whole is to blame.
    request: Option<FailedRequest>,
}

/// The request that failed, and what went before.
struct FailedRequest {
    oid: Oid,
    stores: Vec<(Oid, Stored)>,
    /// The tid that the transaction would have had.
    tid: Tid,
}

impl From<StorageError> for Refused {
    fn from(error: StorageError) -> Self {
        Self { fault: error.into(), request: None }
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("id", &self.id).field("written", &self.written).finish_non_exhaustive()
    }
}

impl Transaction {
    /// As the client calls it.
    pub fn id(&self) -> Option<&Value> {
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

    /// Whether what has arrived of a blob is being written, so that nothing else of the transaction may be taken up.
    pub fn is_writing(&self) -> bool {
        matches!(self, Self::Collecting(collected) if collected.upload.is_writing())
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
            Ok(dict) => session.dialect.dump_extension(&Value::Dict(dict)).into(),
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
    session.unanswered.clear();
    session.transaction = Transaction::Collecting(Box::new(Collected {
        id,
        begin: Begin { metadata: Metadata { user, description, extension }, copied: tid.map(|tid| (tid, status)) },
        log: TransactionLog::default(),
        upload: Upload::default(),
        active: Active::new(&registration.served),
    }));
    Ok(Value::None)
}

/// The transaction that `id` names, still being collected.
pub(super) fn collecting<'a>(
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

pub(super) fn logged(result: io::Result<()>) -> Answer {
    result.map(|()| Value::None).map_err(|error| temporary_file(&error))
}

fn wrong_transaction(current: Option<&Value>, given: &Value) -> Fault {
    Fault::WrongTransaction { current: current.cloned().unwrap_or(Value::None), given: given.clone() }
}

/// `vote(id)`: the reply is the list of oids whose records differ from what was stored; old clients are told with
/// `serialnos` before it.
pub fn vote(session: &mut Session, registration: &Registration, call: &Call, mut args: Args) -> Result<(), Fault> {
    let id = args.value()?;
    args.end()?;
    session.must_be_whole(&id)?;
    collecting(session, registration, &id)?;
    let on_conflict = if session.dialect.is_legacy() { OnConflict::Fail } else { registration.served.on_conflict };
    in_turn(session, registration, call, id, move |served, collected, turn, label| {
        prepare(served, collected, turn, on_conflict, label)
    })
}

/// `undo(transaction id from undoLog, id)`: `(tid, oids)`. The original of these clients holds the commit lock from here on;
/// ours tries the undo out, and does it at the vote.
pub fn undo_at_once(
    session: &mut Session,
    registration: &Registration,
    call: &Call,
    mut args: Args,
) -> Result<(), Fault> {
    let (undone, id) = (args.string()?, args.value()?);
    args.end()?;
    let tid = super::admin::tid_from_undo_id(&undone);
    logged(collecting(session, registration, &id)?.log.undo(tid))?;
    in_turn(session, registration, call, id, |served, collected, turn, _label| rehearse(served, collected, turn))
}

/// Does `work` with the transaction when its turn to commit has come.
fn in_turn(
    session: &mut Session,
    registration: &Registration,
    call: &Call,
    id: Value,
    work: impl FnOnce(&Arc<Served>, Collected, CommitTurn, &str) -> Result<Checked, Refused> + Send + 'static,
) -> Result<(), Fault> {
    let Transaction::Collecting(collected) = std::mem::replace(&mut session.transaction, Transaction::None) else {
        return Err(wrong_transaction(None, &id));
    };
    let (served, call, label) = (Arc::clone(&registration.served), call.clone(), session.label.clone());
    let mut place = served.commit_lock.ask();
    let task = if let Some(turn) = place.try_turn() {
        session.beside.spawn_blocking(move || Beside::Voted(call, work(&served, *collected, turn, &label)))
    } else {
        log_queue(&served, &label);
        session.beside.spawn(async move {
            let turn = place.turn().await;
            Beside::Voted(call, off_thread(move || work(&served, *collected, turn, &label)).await)
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
fn prepare(
    served: &Arc<Served>,
    mut collected: Collected,
    turn: CommitTurn,
    on_conflict: OnConflict,
    label: &str,
) -> Result<Checked, Refused> {
    blather!(
        target: "ZEO.StorageServer",
        "({label}) Preparing to commit transaction: {} objects, {} bytes",
        collected.log.entries(),
        collected.log.bytes()
    );
    let (mut commit, replayed) = replay(served, &mut collected, on_conflict)?;
    if !replayed.conflicts.is_empty() {
        // Others may commit while the client resolves.
        drop(commit);
        drop(turn);
        return Ok(Checked::InConflict(Box::new(collected), replayed.conflicts));
    }
    let mut stores = replayed.stores;
    stores.extend(commit.vote()?.into_iter().map(|oid| (oid, Stored::Changed)));
    let mut seen = std::collections::HashSet::new();
    let written = replayed.written.into_iter().filter(|oid| seen.insert(*oid)).collect();
    let (id, active) = (collected.id, collected.active);
    Ok(Checked::Ready(Box::new(Prepared { id, commit, turn, written, stores, active })))
}

/// What an undo would do, if it were voted now.
fn rehearse(served: &Arc<Served>, mut collected: Collected, turn: CommitTurn) -> Result<Checked, Refused> {
    let (commit, replayed) = replay(served, &mut collected, OnConflict::Fail).map_err(|refused| {
        // This client is told right away.
        Refused { request: None, ..refused }
    })?;
    let tid = commit.tid();
    drop(commit);
    drop(turn);
    let undone = replayed.stores.into_iter().filter_map(|(oid, stored)| (stored == Stored::Changed).then_some(oid));
    Ok(Checked::Rehearsed(Box::new(collected), tid, undone.collect()))
}

/// Begins the storage's transaction and makes the requests.
fn replay(
    served: &Arc<Served>,
    collected: &mut Collected,
    on_conflict: OnConflict,
) -> Result<(Box<dyn Commit>, Replayed), Refused> {
    let mut commit = Arc::clone(&served.storage).begin(collected.begin.clone())?;
    let mut replayed = Replayed::default();
    match collected.log.replay(&mut *commit, on_conflict, &mut replayed) {
        Ok(()) => Ok((commit, replayed)),
        Err(error) => {
            let request = match &error {
                ReplayError::Storage { oid, .. } => {
                    Some(FailedRequest { oid: *oid, stores: replayed.stores, tid: commit.tid() })
                }
                ReplayError::Log(_) => None,
            };
            Err(Refused { fault: error.into(), request })
        }
    }
}

impl Session {
    /// A vote is decided: that of task `vote`.
    pub(in crate::server) fn voted(
        &mut self,
        vote: task::Id,
        call: &Call,
        outcome: Result<Checked, Refused>,
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
            Ok(Checked::Rehearsed(collected, tid, undone)) => {
                self.transaction = Transaction::Collecting(collected);
                Ok(Value::Tuple(vec![tid_value(tid), oid_list(undone)]))
            }
            Ok(Checked::Ready(mut prepared)) => {
                let timeout = registration.served.transaction_timeout;
                if let Err(fault) = self.must_be_whole(&prepared.id) {
                    // Dropped, it is aborted.
                    return self.reply(call, Err(fault));
                }
                let stores = std::mem::take(&mut prepared.stores);
                let tid = prepared.commit.tid();
                let deadline = timeout.map(|timeout| Instant::now() + timeout);
                self.transaction = Transaction::Voted(prepared, deadline);
                if self.dialect.is_legacy() {
                    return self.reply_serialnos(call, &stores, tid, None);
                }
                let changed = stores.into_iter().filter(|(_, stored)| *stored == Stored::Changed);
                Ok(oid_list(changed.map(|(oid, _)| oid)))
            }
            Err(Refused { fault, request }) => {
                if fault.is_conflict() {
                    registration.served.stats.conflicts.up();
                    blather!(target: "ZEO.StorageServer", "({}) conflict error {fault}", self.label);
                }
                self.transaction = Transaction::None;
                if let Some(FailedRequest { oid, stores, tid }) = request.filter(|_| self.dialect.is_legacy()) {
                    return self.reply_serialnos(call, &stores, tid, Some((oid, &fault)));
                }
                Err(fault)
            }
        };
        self.reply(call, answer)
    }

    /// Answers the vote of an old client, which looks for the outcome, good or bad, in what it is told before.
    fn reply_serialnos(
        &mut self,
        call: &Call,
        stores: &[(Oid, Stored)],
        tid: Tid,
        failure: Option<(Oid, &Fault)>,
    ) -> Result<(), End> {
        self.outbox.push(|out| self.dialect.put_serialnos(out, stores, tid, failure));
        self.reply(call, Ok(Value::None))
    }
}

fn oid_list(oids: impl IntoIterator<Item = Oid>) -> Value {
    Value::List(oids.into_iter().map(super::load::oid_value).collect())
}

/// A conflict as the client's resolver expects it.
fn unresolved_value(conflict: Unresolved) -> Value {
    Value::Dict(vec![
        (Value::native("oid"), super::load::oid_value(conflict.oid)),
        (Value::native("serials"), Value::Tuple(vec![tid_value(conflict.committed), tid_value(conflict.read)])),
        (Value::native("data"), Value::Bytes(conflict.data.into())),
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
    session.must_be_whole(&id)?;
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
        active: Some(prepared.active),
        reply: session.finish_frames(call),
    };
    let (call, label) = (call.clone(), session.label.clone());
    let (commit, turn) = (prepared.commit, prepared.turn);
    session
        .beside
        .spawn_blocking(move || Beside::Finished(call, commit_and_announce(commit, turn, announcement, &label)));
    Ok(None)
}

/// The turn is given back only when the reply is queued: the client takes an invalidation for a later
/// transaction, should it come first, for a broken server.
fn commit_and_announce(
    commit: Box<dyn Commit>,
    turn: CommitTurn,
    mut announcement: impl Publisher,
    label: &str,
) -> Result<(), Fault> {
    let finished = commit.finish(&mut announcement);
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
    /// Over when the reply comes: whoever asks after it must not find the transaction under way.
    active: Option<Active>,
    reply: R,
}

impl<R: Fn(&Served, Tid)> Publisher for Announcement<R> {
    fn publish(&mut self, tid: Tid, install: &mut dyn FnMut()) {
        self.served.stats.commits.up();
        self.active = None;
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
    session.unanswered.take(&id);
    if session.transaction.id() == Some(&id) {
        registration.served.stats.aborts.up();
        if let Transaction::Voting(_, task) = &session.transaction {
            task.abort();
        }
        session.transaction = Transaction::None;
    }
    Ok(Value::None)
}
