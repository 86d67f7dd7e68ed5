//! The newest transactions of a storage and the objects each of them wrote: what a client that was
//! away for a while needs to bring its cache up to date.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use crate::ids::{Oid, Tid};

/// A bounded queue of transactions in tid order.
#[derive(Debug)]
pub struct InvalidationQueue {
    bound: usize,
    entries: VecDeque<(Tid, Arc<[Oid]>)>,
}

/// What the queue knows of the time since a client's last transaction.
#[derive(Debug, PartialEq, Eq)]
pub enum Since {
    /// Everything: the newest transaction, and each object written since, once.
    Complete(Tid, Vec<Oid>),
    /// Nothing: the queue does not reach back that far.
    TooOld,
}

impl InvalidationQueue {
    /// A queue of at most `bound` transactions, filled with `newest` (oldest first).
    pub fn new(bound: usize, newest: Vec<(Tid, Vec<Oid>)>) -> Self {
        let mut queue = Self { bound: bound.max(1), entries: VecDeque::new() };
        for (tid, oids) in newest {
            queue.push(tid, oids.into());
        }
        queue
    }

    /// Whether no transaction is known at all.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds the newest transaction, at the price of the oldest.
    pub fn push(&mut self, tid: Tid, oids: Arc<[Oid]>) {
        if self.entries.len() == self.bound {
            self.entries.pop_front();
        }
        self.entries.push_back((tid, oids));
    }

    /// What was written after `tid`.
    pub fn since(&self, tid: Tid) -> Since {
        let (Some((oldest, _)), Some((newest, _))) = (self.entries.front(), self.entries.back()) else {
            return Since::TooOld;
        };
        if *oldest > tid {
            return Since::TooOld;
        }
        let oids: HashSet<Oid> = self
            .entries
            .iter()
            .rev()
            .take_while(|(written, _)| *written > tid)
            .flat_map(|(_, oids)| oids.iter().copied())
            .collect();
        Since::Complete(*newest, oids.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(queue: &InvalidationQueue, tid: u64) -> Option<(Tid, Vec<Oid>)> {
        match queue.since(Tid(tid)) {
            Since::Complete(newest, mut oids) => {
                oids.sort_unstable();
                Some((newest, oids))
            }
            Since::TooOld => None,
        }
    }

    #[test]
    fn knows_what_was_written_since_any_tid_it_reaches_back_to() {
        let mut queue = InvalidationQueue::new(2, vec![(Tid(1), vec![Oid(1)]), (Tid(2), vec![Oid(2)])]);
        assert_eq!(complete(&queue, 1), Some((Tid(2), vec![Oid(2)])));
        assert_eq!(complete(&queue, 2), Some((Tid(2), vec![])));
        assert_eq!(complete(&queue, 0), None);
        queue.push(Tid(3), [Oid(2), Oid(3)].into());
        assert_eq!(complete(&queue, 1), None, "the oldest made room");
        assert_eq!(complete(&queue, 2), Some((Tid(3), vec![Oid(2), Oid(3)])));
    }

    #[test]
    fn an_empty_queue_knows_nothing() {
        assert_eq!(InvalidationQueue::new(5, vec![]).since(Tid::ZERO), Since::TooOld);
    }
}
