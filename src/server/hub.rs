//! What all clients of one storage share: who they are, what was written lately, and the ordering
//! rule that keeps their caches right.
//!
//! A Python client caches the reply to a load without comparing it with the invalidations that came
//! in between. So, for each client:
//!
//! - R1: the invalidation for transaction T is queued before any reply that reflects T.
//! - R2: no reply computed from a state before T is queued after the invalidation for T.
//! - R3: the committer of T gets T in its `tpc_finish` reply and no invalidation for it, and gets
//!   that reply before the invalidation of any later transaction.
//! - R4: `register`, `lastTransaction` and `getInvalidations` agree with what was queued before them.
//!
//! [`Hub::publish`] is the only writer: in one critical section without I/O it makes a transaction
//! visible in the storage and queues what every client has to hear of it. Replies are queued under
//! the same lock held shared, which gives R1 and R4. A load is computed without the lock; it is
//! queued only if nothing was published since it began, else it is computed again, which gives R2. A
//! load that is overtaken again and again is computed under the lock in the end: it must end.
//!
//! `getInvalidations` is answered from the queue, which changes only in a publication: under one hold of
//! the lock (R4). Where the queue does not reach back it may be read from the storage itself; that answer
//! may be older than what was announced meanwhile. Clients ask it only while they verify, and keep what
//! comes meanwhile for later.
//!
//! Those of ZODB 3.7 do not. They join only when they have looked back, and are told in that instant what was published after the
//! last answer that they got ([`Hub::join_late`]).
//!
//! Locks are taken in this order: hub, storage, outbox.

use std::collections::HashMap;
use std::sync::Arc;

use super::invalidation::{InvalidationQueue, Since};
use super::outbox::Outbox;
use crate::ids::{Oid, Tid};
use crate::pickle::Value;
use crate::sync::RwLock;
use crate::wire::dialect::Dialect;

/// Names a connection, for the life of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub u64);

/// After so many publications during one load, the next one waits for it.
/// The model checker has no patience, so that it gets to see that as well.
const OPTIMISTIC_TRIES: usize = if cfg!(shuttle) { 1 } else { 4 };

/// The clients of one storage and the newest transactions.
#[derive(Debug)]
pub struct Hub {
    shared: RwLock<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Counts publications.
    epoch: u64,
    clients: HashMap<ClientId, Member>,
    queue: InvalidationQueue,
}

#[derive(Debug)]
struct Member {
    outbox: Arc<Outbox>,
    dialect: Dialect,
}

impl Hub {
    /// A hub without clients.
    pub fn new(queue: InvalidationQueue) -> Self {
        Self { shared: RwLock::new(Shared { epoch: 0, clients: HashMap::new(), queue }) }
    }

    /// Subscribes a client to invalidations. `greet` runs in the same instant: every transaction that
    /// it does not see will be announced.
    pub fn join(&self, id: ClientId, outbox: &Arc<Outbox>, dialect: Dialect, greet: impl FnOnce()) {
        let mut shared = self.shared.write();
        shared.clients.insert(id, Member { outbox: Arc::clone(outbox), dialect });
        greet();
    }

    /// Subscribes a client that knows of everything up to `tid`, and tells it what was written since. Answers whether that is
    /// possible: the queue may not reach back that far.
    #[must_use]
    pub fn join_late(&self, id: ClientId, outbox: &Arc<Outbox>, dialect: Dialect, tid: Tid) -> bool {
        let mut shared = self.shared.write();
        match shared.queue.since(tid) {
            Since::Complete(newest, oids) if newest > tid => {
                outbox.push(|out| dialect.put_invalidate_transaction(out, newest, &oids));
            }
            Since::TooOld if !shared.queue.is_empty() => return false,
            // Nothing was written since, or ever.
            _ => {}
        }
        shared.clients.insert(id, Member { outbox: Arc::clone(outbox), dialect });
        true
    }

    /// Ends a subscription.
    pub fn leave(&self, id: ClientId) {
        self.shared.write().clients.remove(&id);
    }

    /// How many clients are subscribed.
    pub fn client_count(&self) -> usize {
        self.shared.read().clients.len()
    }

    /// Queues a reply that does not say what is current (R1, R4).
    pub fn enqueue<T>(&self, queue: impl FnOnce() -> T) -> T {
        let _no_publication = self.shared.read();
        queue()
    }

    /// Computes a reply that says what is current, and queues it while that still holds (R1, R2).
    /// `compute` must not call the hub.
    pub fn consistently<T>(&self, mut compute: impl FnMut() -> T, queue: impl FnOnce(T)) {
        for _ in 0..OPTIMISTIC_TRIES {
            let began = self.shared.read().epoch;
            let reply = compute();
            let shared = self.shared.read();
            if shared.epoch == began {
                queue(reply);
                return;
            }
        }
        let _no_publication = self.shared.read();
        queue(compute());
    }

    /// What was written after `tid`, as far as the queue reaches; `queue` runs while that still holds (R4).
    pub fn written_since<T>(&self, tid: Tid, queue: impl FnOnce(Since) -> T) -> T {
        let shared = self.shared.read();
        queue(shared.queue.since(tid))
    }

    /// Makes transaction `tid` visible (`install`), announces it to every client but the committer,
    /// and lets the committer's reply be queued (`reply`), all in one instant.
    pub fn publish(
        &self,
        tid: Tid,
        oids: &Arc<[Oid]>,
        committer: ClientId,
        install: &mut dyn FnMut(),
        reply: impl FnOnce(),
    ) {
        let mut shared = self.shared.write();
        shared.epoch += 1;
        install();
        shared.queue.push(tid, Arc::clone(oids));
        shared.push_to_all(Some(committer), |dialect, frame| dialect.put_invalidate_transaction(frame, tid, oids));
        reply();
    }

    /// Calls `method` of every client. Its argument is computed in the same instant, so that nothing newer has been
    /// told before it.
    pub fn call_all(&self, method: &str, argument: impl FnOnce() -> Value) {
        let shared = self.shared.read();
        let args = [argument()];
        shared.push_to_all(None, |dialect, frame| dialect.put_call(frame, method, &args));
    }
}

impl Shared {
    /// Queues a frame to every client but one.
    fn push_to_all(&self, except: Option<ClientId>, put: impl Fn(Dialect, &mut Vec<u8>)) {
        // There are few dialects, so each frame is made once.
        let mut encoded: Vec<(Dialect, Vec<u8>)> = Vec::new();
        for (id, member) in &self.clients {
            if Some(*id) == except {
                continue;
            }
            let known = encoded.iter().position(|(dialect, _)| *dialect == member.dialect);
            let index = known.unwrap_or_else(|| {
                let mut frame = Vec::new();
                put(member.dialect, &mut frame);
                encoded.push((member.dialect, frame));
                encoded.len() - 1
            });
            let frame = &encoded[index].1;
            member.outbox.push(|out| out.extend_from_slice(frame));
        }
    }
}
