//! Who may vote: one transaction per storage at a time, in the order of their votes.
//!
//! Every vote and every finish of a storage goes through here, so this is the one place where more
//! than one transaction could be let in.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::sync::Mutex as Lock;

/// The commit lock of a storage. Fair: waiters get it in the order in which they asked.
#[derive(Debug, Default)]
pub struct CommitLock {
    turn: Arc<Mutex<()>>,
    waiting: Arc<AtomicUsize>,
    held_since: Arc<Lock<Option<f64>>>,
}

/// The right to vote and to finish; given back when dropped.
#[derive(Debug)]
pub struct CommitTurn {
    held_since: Arc<Lock<Option<f64>>>,
    _turn: OwnedMutexGuard<()>,
}

/// Counts a waiter for as long as it waits, also when it gives up.
struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl CommitLock {
    /// Waits for the turn. Dropping the future leaves the queue.
    pub async fn acquire(&self) -> CommitTurn {
        let turn = if let Ok(turn) = Arc::clone(&self.turn).try_lock_owned() {
            turn
        } else {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            let _waiting = Waiting(Arc::clone(&self.waiting));
            Arc::clone(&self.turn).lock_owned().await
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        *self.held_since.lock() = Some(now.as_secs_f64());
        CommitTurn { held_since: Arc::clone(&self.held_since), _turn: turn }
    }

    /// How many transactions wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Since when somebody holds the turn, in seconds since 1970.
    pub fn held_since(&self) -> Option<f64> {
        *self.held_since.lock()
    }
}

impl Drop for CommitTurn {
    fn drop(&mut self) {
        *self.held_since.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_are_given_in_the_order_of_asking_and_a_quitter_is_skipped() {
        let lock = Arc::new(CommitLock::default());
        let first = lock.acquire().await;
        assert!(lock.held_since().is_some());
        let (told, mut order) = tokio::sync::mpsc::unbounded_channel();
        let mut waiters = Vec::new();
        for name in 0..3 {
            let (lock_of_waiter, told) = (Arc::clone(&lock), told.clone());
            waiters.push(tokio::spawn(async move {
                let _turn = lock_of_waiter.acquire().await;
                let _ = told.send(name);
            }));
            while lock.waiting() != name + 1 {
                tokio::task::yield_now().await;
            }
        }
        waiters[1].abort();
        while lock.waiting() != 2 {
            tokio::task::yield_now().await;
        }
        drop(first);
        assert_eq!((order.recv().await, order.recv().await), (Some(0), Some(2)));
        for waiter in waiters {
            let _ = waiter.await;
        }
        assert_eq!((lock.waiting(), lock.held_since()), (0, None));
    }
}
