//! Who may vote: one transaction per storage at a time, in the order of their votes.
//!
//! Every vote and every finish of a storage goes through here, so this is the one place where more
//! than one transaction could be let in.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

use crate::sync::Mutex;

/// The commit lock of a storage.
#[derive(Clone, Debug, Default)]
pub struct CommitLock(Arc<Mutex<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    /// Since when somebody has the turn, in seconds since 1970.
    held_since: Option<f64>,
    waiting: VecDeque<oneshot::Sender<CommitTurn>>,
}

/// A place in the queue. Dropping it leaves the queue.
#[derive(Debug)]
pub struct Place {
    turn: oneshot::Receiver<CommitTurn>,
    /// Keeps the other end of `turn` alive.
    _lock: CommitLock,
}

/// The right to vote and to finish; passed on when dropped.
#[derive(Debug)]
pub struct CommitTurn(Option<CommitLock>);

impl CommitLock {
    /// Takes a place in the queue. Places are in the order of these calls.
    pub fn ask(&self) -> Place {
        let (sender, receiver) = oneshot::channel();
        let mut queue = self.0.lock();
        queue.waiting.push_back(sender);
        let is_free = queue.held_since.is_none();
        if is_free {
            queue.held_since = Some(now());
        }
        drop(queue);
        if is_free {
            self.pass_on();
        }
        Place { turn: receiver, _lock: self.clone() }
    }

    /// How many transactions wait.
    pub fn waiting(&self) -> usize {
        self.0.lock().waiting.iter().filter(|waiter| !waiter.is_closed()).count()
    }

    /// Since when somebody has the turn, in seconds since 1970.
    pub fn held_since(&self) -> Option<f64> {
        self.0.lock().held_since
    }

    /// Gives the turn to the first who still waits; for whoever has the turn, or has just marked it
    /// as held.
    fn pass_on(&self) {
        loop {
            let next = {
                let mut queue = self.0.lock();
                let next = queue.waiting.pop_front();
                queue.held_since = next.is_some().then(now);
                next
            };
            let Some(next) = next else { return };
            match next.send(CommitTurn(Some(self.clone()))) {
                Ok(()) => return,
                // Gone meanwhile: this turn must not pass itself on, the loop does.
                Err(mut turn) => turn.0 = None,
            }
        }
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

impl Place {
    /// The turn, if it has come already.
    pub fn try_turn(&mut self) -> Option<CommitTurn> {
        self.turn.try_recv().ok()
    }

    /// Waits for the turn.
    pub async fn turn(self) -> CommitTurn {
        self.turn.await.expect("a waiter stays in the queue until it is given the turn")
    }
}

impl Drop for CommitTurn {
    fn drop(&mut self) {
        if let Some(lock) = self.0.take() {
            lock.pass_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_are_given_in_the_order_of_asking() {
        let lock = CommitLock::default();
        let first = lock.ask().turn().await;
        assert!(lock.held_since().is_some());
        let [mut second, mut third] = [lock.ask(), lock.ask()];
        assert_eq!(lock.waiting(), 2);
        assert!(second.try_turn().is_none());
        drop(first);
        assert!(third.try_turn().is_none(), "the second comes first");
        let turn = second.try_turn().expect("the second has its turn");
        assert_eq!(lock.waiting(), 1);
        drop(turn);
        drop(third.try_turn().expect("the third has its turn"));
        assert_eq!((lock.waiting(), lock.held_since()), (0, None));
    }

    #[test]
    fn a_quitter_is_passed_over_before_and_after_its_turn_came() {
        let lock = CommitLock::default();
        let mut first = lock.ask();
        let [second, third, mut fourth] = [lock.ask(), lock.ask(), lock.ask()];
        drop(second);
        assert_eq!(lock.waiting(), 2, "one has gone");
        drop(first.try_turn().expect("the lock was free"));
        assert!(fourth.try_turn().is_none());
        drop(third);
        drop(fourth.try_turn().expect("the third had the turn and did not take it"));
        assert_eq!(lock.held_since(), None);
    }
}
