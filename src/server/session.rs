//! One client's conversation, free of sockets: frames in, frames into the client's outbox.
//!
//! Requests are answered in their order, on the spot where that is short: a read of the storage is,
//! and waits at most for a page that is not in memory. A vote that waits for its turn, a finish that
//! waits for the disk, and the calls that walk through the file run beside the conversation, and their
//! replies come when they are ready.
//!
//! A session owns its client's transaction. Dropping the session aborts it, in whatever phase it is;
//! only a finish that has reached the storage runs to its end.

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::{self, JoinSet};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::access::Access;
use super::auth::{self, Authenticator, Outcome, Progress};
use super::calls::args::Args;
use super::calls::blob::{Arrived, Downloads};
use super::calls::commit::{Checked, Refused, Transaction};
use super::calls::iterate::Iterators;
use super::calls::load::written;
use super::calls::unanswered::{self, Unanswered};
use super::hub::ClientId;
use super::invalidation::Since;
use super::outbox::{Closing, Outbox};
use super::served::Served;
use super::{Shared, calls};
use crate::ids::Tid;
use crate::pickle::Value;
use crate::storage::{self, Storage, Transactions};
use crate::wire::dialect::Dialect;
use crate::wire::fault::Fault;
use crate::wire::frame;
use crate::wire::mac::RunningMac;
use crate::wire::message::Request;

/// How many slow calls of one client run at a time; above this its requests wait.
const SLOW_CALLS: usize = 16;

/// One client's conversation.
pub struct Session {
    pub(super) id: ClientId,
    /// How logs name the client: its label, if it gave one, and its address.
    pub(super) label: String,
    address: String,
    pub(super) outbox: Arc<Outbox>,
    pub(super) dialect: Dialect,
    server: Arc<Shared>,
    access: Access,
    authentication: Progress,
    /// When the client must have authenticated, if it has to.
    authenticate_until: Option<Instant>,
    /// Of what the client sends, once it has authenticated.
    incoming_mac: Option<RunningMac>,
    registration: Option<Registration>,
    /// Set while the client finds out what it has missed, and must not be told of what happens meanwhile.
    looking_back: Option<LookingBack>,
    pub(super) transaction: Transaction,
    pub(super) unanswered: Unanswered,
    pub(super) iterators: Iterators,
    pub(super) downloads: Downloads,
    pub(super) beside: JoinSet<Beside>,
    /// Requests that came while the transaction was being finished.
    parked: Vec<Request>,
}

/// What a client has been told of while it looks back.
#[derive(Debug, Default)]
struct LookingBack {
    /// Of everything up to here, if it has asked.
    told: Option<Tid>,
}

/// What a client has registered for.
#[derive(Clone)]
pub struct Registration {
    /// The storage.
    pub served: Arc<Served>,
    /// Whether the client may not write.
    pub read_only: bool,
}

/// A request whose answer is due.
#[derive(Clone, Debug)]
pub struct Call {
    /// Echoed in the reply.
    pub id: Value,
    /// No reply is wanted; an error closes the connection of a client of protocol 5.
    pub is_async: bool,
    /// Then: the transaction that it is for.
    pub transaction: Option<Value>,
    /// For the log.
    pub method: &'static str,
}

/// The answer to a call.
pub type Answer = Result<Value, Fault>;

/// What ran beside the conversation and is done.
pub enum Beside {
    /// A slow call has its answer.
    Answered(Call, Answer),
    /// An iterator is in place.
    Positioned(Call, Result<Box<dyn Transactions>, Fault>),
    /// What had arrived of a blob is on disk.
    Written(Call, Result<Arrived, Fault>),
    /// A blob has been sent, or cannot be.
    Sent(Call, Answer),
    /// A vote is decided.
    Voted(Call, Result<Checked, Refused>),
    /// A finish is done, and has been answered if it succeeded.
    Finished(Call, Result<(), Fault>),
}

/// Why a conversation ends.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// The peer broke the protocol.
    #[error("{0}")]
    Protocol(String),
    /// A call failed that wants no reply, so the client could not learn of it otherwise.
    #[error("async `{0}` raised exception: {1}")]
    AsyncFault(&'static str, Fault),
    /// The client had to authenticate, and took its time.
    #[error("it has not authenticated after {} seconds", auth::TIME.as_secs())]
    Stranger,
    /// The client held the commit lock for too long.
    #[error("Transaction timeout after {0} seconds")]
    Timeout(f64),
}

impl Session {
    /// A conversation that starts after the handshake. Where clients have to authenticate, they must have done so by
    /// `authenticate_until`.
    pub fn new(
        server: Arc<Shared>,
        id: ClientId,
        address: String,
        access: Access,
        outbox: Arc<Outbox>,
        dialect: Dialect,
        authenticate_until: Option<Instant>,
    ) -> Self {
        Self {
            id,
            label: address.clone(),
            address,
            outbox,
            dialect,
            server,
            access,
            authentication: Progress::default(),
            authenticate_until,
            incoming_mac: None,
            registration: None,
            looking_back: None,
            transaction: Transaction::None,
            unanswered: Unanswered::default(),
            iterators: Iterators::default(),
            downloads: Downloads::default(),
            beside: JoinSet::new(),
            parked: Vec::new(),
        }
    }

    /// Handles one frame.
    pub fn handle(&mut self, frame: Bytes) -> Result<(), End> {
        let request = self.dialect.decode(frame).map_err(|error| End::Protocol(error.to_string()))?;
        if request.is_keep_alive() {
            return Ok(());
        }
        if self.is_stranger() && !self.authentication.may_ask() {
            return Err(End::Protocol(format!("{} requests without authentication", auth::MOST_REQUESTS)));
        }
        if self.registration.is_none() {
            self.dialect = self.dialect.for_python(request.python);
        }
        if matches!(self.transaction, Transaction::Finishing(_)) && calls::concerns_transaction(&request.method) {
            self.parked.push(request);
            return Ok(());
        }
        self.dispatch(request)
    }

    fn dispatch(&mut self, request: Request) -> Result<(), End> {
        let Some(method) = calls::known(&request.method, self.dialect, self.registration.is_some()) else {
            let name = printable(&String::from_utf8_lossy(&request.method));
            return Err(End::Protocol(format!("Invalid method, '{name}'")));
        };
        let names_transaction = request.is_async && self.dialect.is_legacy();
        let named = names_transaction.then(|| unanswered::transaction_of(method, &request.args)).flatten();
        let call = Call { id: request.id, is_async: request.is_async, transaction: named.cloned(), method };
        let args = match self.dialect.without_version(method, request.args) {
            Ok(args) => Args::new(method, args),
            Err(fault) => return self.reply(&call, Err(fault)),
        };
        match self.registration.clone() {
            None => calls::dispatch_unregistered(self, &call, args),
            Some(registration) => {
                if !calls::looks_back(method) {
                    self.join_late(&registration.served, method)?;
                }
                calls::dispatch(self, &registration, call, args)
            }
        }
    }

    /// The longest frame that the client may send now.
    pub fn frame_limit(&self) -> usize {
        if self.registration.is_some() { frame::LIMIT } else { frame::LIMIT_BEFORE_REGISTRATION }
    }

    /// What checks the codes of the client's frames, if they must have some.
    pub fn incoming_mac(&mut self) -> Option<&mut RunningMac> {
        self.incoming_mac.as_mut()
    }

    /// Whether more requests may be read: not while some wait already.
    pub fn is_ready(&self) -> bool {
        self.parked.is_empty()
            && self.beside.len() < SLOW_CALLS
            && self.downloads.has_room()
            && !self.transaction.is_writing()
    }

    /// Whether something runs beside the conversation, to be waited for with [`beside`](Self::beside).
    pub fn has_beside(&self) -> bool {
        !self.beside.is_empty()
    }

    /// Waits for the next thing that runs beside the conversation.
    ///
    /// # Panics
    /// If that thing panicked, with its panic.
    pub async fn beside(&mut self) -> Option<(task::Id, Beside)> {
        match self.beside.join_next_with_id().await? {
            Ok(done) => Some(done),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_cancelled) => None,
            },
        }
    }

    /// Takes up what task `id` did beside the conversation.
    pub fn resume(&mut self, id: task::Id, done: Beside) -> Result<(), End> {
        match done {
            Beside::Answered(call, answer) => self.reply(&call, answer)?,
            Beside::Positioned(call, Ok(transactions)) => {
                let answer = self.iterators.add(transactions);
                self.reply(&call, answer)?;
            }
            Beside::Positioned(call, Err(fault)) => self.reply(&call, Err(fault))?,
            Beside::Written(call, outcome) => self.written(&call, outcome)?,
            Beside::Sent(call, answer) => self.sent(&call, answer)?,
            Beside::Voted(call, outcome) => self.voted(id, &call, outcome)?,
            Beside::Finished(call, outcome) => {
                self.transaction = Transaction::None;
                if let Err(fault) = outcome {
                    self.reply(&call, Err(fault))?;
                }
                for request in std::mem::take(&mut self.parked) {
                    self.dispatch(request)?;
                }
            }
        }
        Ok(())
    }

    /// When the client must have authenticated; or have finished or aborted, if it has voted.
    pub fn deadline(&self) -> Option<Instant> {
        if self.is_stranger() { self.authenticate_until } else { self.transaction.deadline() }
    }

    /// The client has missed its deadline.
    pub fn timed_out(&self) -> End {
        if self.is_stranger() {
            return End::Stranger;
        }
        let timeout = self.registration.as_ref().and_then(|registration| registration.served.transaction_timeout);
        End::Timeout(timeout.unwrap_or_default().as_secs_f64())
    }

    /// Whether it is the way in or the certificate that lets this client only read.
    pub(super) fn is_kept_from_writing(&self) -> bool {
        self.access.read_only
    }

    /// `register(storage, read_only)`: the newest tid, or nothing for old clients, which ask for it next.
    pub(super) fn register(&mut self, call: &Call, mut args: Args) -> Result<(), End> {
        if let Some(refused) = self.refuse_stranger() {
            return self.queue_answer(call, Err(refused));
        }
        let registration = (|| {
            let name = String::from_utf8_lossy(&args.string()?).into_owned();
            let wants_read_only = args.truth()?;
            args.end()?;
            let Some(served) = self.server.storage(&name) else {
                info!(target: "ZEO.StorageServer", "({}) unknown storage_id: {}", self.label, printable(&name));
                return Err(Fault::unknown_storage(&name));
            };
            if !self.access.covers(&name) {
                warn!(target: "ZEO.StorageServer", "({}) may not open storage {}", self.label, printable(&name));
                return Err(Fault::unknown_storage(&name));
            }
            let must_not_write = self.server.read_only || self.access.read_only || served.storage.is_read_only();
            if must_not_write && !wants_read_only {
                return Err(Fault::ReadOnly);
            }
            Ok(Registration { served: Arc::clone(served), read_only: must_not_write || wants_read_only })
        })();
        let registration = match registration {
            Ok(registration) => registration,
            Err(fault) => return self.queue_answer(call, Err(fault)),
        };
        let served = Arc::clone(&registration.served);
        self.registration = Some(registration);
        if self.dialect.must_look_back_in_peace() {
            self.looking_back = Some(LookingBack::default());
            return self.queue_answer(call, Ok(Value::None));
        }
        let mut queued = Ok(());
        served.hub.join(self.id, &self.outbox, self.dialect, || {
            let newest =
                if self.dialect.is_legacy() { Value::None } else { tid_value(served.storage.last_transaction()) };
            queued = self.queue_answer(call, Ok(newest));
        });
        queued
    }

    /// Who may connect, if not everybody may.
    pub(super) fn authenticator(&self) -> Option<&Authenticator> {
        self.server.authenticator.as_deref()
    }

    /// Whether the client has to authenticate, and has not yet.
    fn is_stranger(&self) -> bool {
        self.authenticator().is_some() && !self.authentication.is_authenticated()
    }

    /// The answer to a client that has to authenticate first.
    fn refuse_stranger(&self) -> Option<Fault> {
        if !self.is_stranger() {
            return None;
        }
        let hint = if self.dialect.is_legacy() { "" } else { ": clients of ZEO 5 and later cannot authenticate" };
        warn!(target: "ZEO.StorageServer", "({}) register() without authentication{hint}", self.label);
        Some(Fault::Auth("Client was never authenticated with server!".to_owned()))
    }

    /// `auth_get_challenge()`
    pub(super) fn challenge(&mut self, call: &Call, args: Args) -> Result<(), End> {
        let authenticator = self.attempt(call)?;
        let answer = self.authentication.challenge(&authenticator, args);
        self.reply(call, answer)
    }

    /// `auth_response(...)`: whether the client is who it says. That answer is the last without a code.
    pub(super) fn respond(&mut self, call: &Call, args: Args) -> Result<(), End> {
        let authenticator = self.attempt(call)?;
        match self.authentication.response(&authenticator, args, &self.label) {
            Ok(Outcome::Welcome(key)) => {
                self.reply(call, Ok(Value::Bool(true)))?;
                self.outbox.authenticate(key.running_mac());
                self.incoming_mac = Some(key.running_mac());
            }
            Ok(Outcome::Refused { is_last }) => {
                self.reply(call, Ok(Value::Bool(false)))?;
                if is_last {
                    self.outbox.close(Closing::AfterDrain);
                }
            }
            Err(fault) => self.reply(call, Err(fault))?,
        }
        Ok(())
    }

    /// The authenticator, for a client that may still try.
    fn attempt(&self, call: &Call) -> Result<Arc<Authenticator>, End> {
        match &self.server.authenticator {
            None => Err(End::Protocol(format!("Invalid method, '{}'", call.method))),
            Some(_) if self.authentication.is_shut_out() => {
                Err(End::Protocol(format!("{} failed attempts to authenticate", auth::MOST_FAILURES)))
            }
            Some(authenticator) => Ok(Arc::clone(authenticator)),
        }
    }

    /// What the client has registered for.
    pub(super) fn registration(&self) -> Option<&Registration> {
        self.registration.as_ref()
    }

    /// Queues the answer to a call that does not say what is current.
    pub fn reply(&mut self, call: &Call, answer: Answer) -> Result<(), End> {
        if let (true, true, Err(fault)) = (call.is_async, self.dialect.is_legacy(), &answer) {
            // Parts of a blob do not say whose they are.
            let current = self.transaction.id();
            let part = current.filter(|_| calls::concerns_transaction(call.method.as_bytes()));
            let named = call.transaction.as_ref().or(part);
            let is_news = named.is_none_or(|named| self.unanswered.note(named, current, fault));
            self.say_unanswered(call, fault, is_news);
            return Ok(());
        }
        match &self.registration {
            Some(registration) => registration.served.hub.enqueue(|| self.queue_answer(call, answer)),
            None => self.queue_answer(call, answer),
        }
    }

    /// Whether all requests for transaction `id` have succeeded; if not, it ends here.
    pub(super) fn must_be_whole(&mut self, id: &Value) -> Result<(), Fault> {
        let Some(fault) = self.unanswered.take(id) else { return Ok(()) };
        if self.transaction.id() == Some(id) {
            self.transaction = Transaction::None;
        }
        Err(fault)
    }

    /// Tells the log of what the client does not wait for.
    fn say_unanswered(&self, call: &Call, fault: &Fault, is_news: bool) {
        let (label, method, reason) = (&self.label, call.method, printable(&fault.to_string()));
        if is_news && !fault.is_everyday() {
            warn!(target: "ZEO.asyncio.server", "({label}) async `{method}` raised exception: {reason}");
        } else {
            debug!(target: "ZEO.asyncio.server", "({label}) async `{method}` raised exception: {reason}");
        }
    }

    /// Answers a call from the storage's current state, under the ordering rule.
    pub fn reply_current(
        &self,
        served: &Served,
        call: &Call,
        compute: impl Fn(&dyn Storage) -> Answer,
    ) -> Result<(), End> {
        let mut queued = Ok(());
        served.hub.consistently(|| compute(&*served.storage), |answer| queued = self.queue_answer(call, answer));
        queued
    }

    /// As [`reply_current`](Self::reply_current), for the reply to a load: no value tree in between.
    pub fn reply_load(
        &self,
        served: &Served,
        call: &Call,
        load: impl Fn(&dyn Storage) -> storage::Result<Option<storage::Revision>>,
    ) -> Result<(), End> {
        let mut queued = Ok(());
        served.hub.consistently(
            || load(&*served.storage).map_err(Fault::from),
            |loaded| match loaded {
                Ok(Some(revision)) if !call.is_async => self.outbox.push(|out| {
                    self.dialect.put_load_reply(out, &call.id, &revision.data, revision.tid, revision.end);
                }),
                Ok(_) => queued = self.queue_answer(call, Ok(Value::None)),
                Err(fault) => queued = self.queue_answer(call, Err(fault)),
            },
        );
        queued
    }

    /// Answers `getInvalidations` from the hub's queue.
    pub fn reply_written_since(&mut self, served: &Served, call: &Call, tid: Tid) -> Result<(), End> {
        let mut known = None;
        served.hub.written_since(tid, |since| {
            let answer = match since {
                Since::Complete(newest, oids) => {
                    known = Some(newest);
                    written(self.dialect, newest, oids.into_iter())
                }
                Since::TooOld => Value::None,
            };
            self.queue_answer(call, Ok(answer))
        })?;
        if let Some(newest) = known {
            self.knows(newest);
        }
        Ok(())
    }

    /// Whether the client still finds out what it has missed.
    pub(super) fn looks_back(&self) -> bool {
        self.looking_back.is_some()
    }

    /// A client that looks back has been told of everything up to `tid`.
    pub(super) fn knows(&mut self, tid: Tid) {
        if let Some(looking_back) = &mut self.looking_back {
            looking_back.told = Some(tid);
        }
    }

    /// A client that has looked back calls something else.
    fn join_late(&mut self, served: &Served, method: &str) -> Result<(), End> {
        let Some(LookingBack { told }) = self.looking_back.take() else { return Ok(()) };
        match told.filter(|_| !calls::verifies_all(method)) {
            Some(tid) if !served.hub.join_late(self.id, &self.outbox, self.dialect, tid) => Err(End::Protocol(
                "it has missed more than the invalidation queue holds, and has to verify its cache anew".to_owned(),
            )),
            Some(_) => Ok(()),
            // It has nothing that could be old, or is about to ask for each object.
            None => {
                served.hub.join(self.id, &self.outbox, self.dialect, || ());
                Ok(())
            }
        }
    }

    /// Runs a slow call beside the conversation.
    pub fn answer_later(&mut self, call: Call, compute: impl FnOnce() -> Answer + Send + 'static) {
        self.beside.spawn_blocking(move || {
            let answer = compute();
            Beside::Answered(call, answer)
        });
    }

    fn queue_answer(&self, call: &Call, answer: Answer) -> Result<(), End> {
        match answer {
            Ok(_) if call.is_async => {}
            Ok(value) => self.outbox.push(|out| self.dialect.put_reply(out, &call.id, &value)),
            Err(fault) => {
                if call.is_async && self.dialect.is_legacy() {
                    self.say_unanswered(call, &fault, true);
                    return Ok(());
                }
                if call.is_async {
                    return Err(End::AsyncFault(call.method, fault));
                }
                let reason = printable(&fault.to_string());
                if fault.is_everyday() {
                    debug!(target: "ZEO.asyncio.server", "({}) `{}` raised exception: {reason}", self.label, call.method);
                } else {
                    warn!(target: "ZEO.asyncio.server", "({}) `{}` raised exception: {reason}", self.label, call.method);
                }
                self.outbox.push(|out| self.dialect.put_fault(out, &call.id, &fault));
            }
        }
        Ok(())
    }

    /// The frame of a finish: the new size for the client's statistics, then the reply.
    pub(super) fn finish_frames(&self, call: &Call) -> impl Fn(&Served, Tid) + Send + 'static {
        let (outbox, dialect, call) = (Arc::clone(&self.outbox), self.dialect, call.clone());
        move |served, tid| {
            outbox.push(|out| {
                dialect.put_call(out, "info", &[served.size_info()]);
                if !call.is_async {
                    dialect.put_reply(out, &call.id, &tid_value(tid));
                }
            });
        }
    }

    /// Takes the client's own name for itself into the log label.
    pub fn set_label(&mut self, label: &str) {
        self.label = format!("{label} {}", self.address);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.outbox.close(Closing::AtOnce);
        let Some(registration) = &self.registration else {
            return;
        };
        registration.served.hub.leave(self.id);
        if let Some(phase) = self.transaction.phase() {
            registration.served.stats.aborts.up();
            info!(target: "ZEO.StorageServer", "({}) disconnected during {phase} transaction", self.label);
        } else {
            info!(target: "ZEO.StorageServer", "({}) disconnected", self.label);
        }
    }
}

/// Does in a thread of its own what may block for long.
///
/// # Panics
/// If `work` panics, with its panic.
pub async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// What a client sent, fit for one line of the log.
pub fn printable(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(200).collect()
}

/// A tid as clients expect it.
pub fn tid_value(tid: Tid) -> Value {
    Value::bytes(&tid.to_bytes())
}
