//! What is queued to go to one client.
//!
//! Anybody may push frames; only the client's connection takes them out and writes them. The order
//! of pushes is the order on the wire. An outbox never blocks its pushers: a client that lets
//! [`LIMIT_BYTES`] pile up cannot follow, is cut off, and verifies its cache when it returns. Its own
//! requests cannot bring it there: they wait while [`READ_PAUSE_BYTES`] are unsent. One frame may be
//! of any size.

use std::task::{Context, Poll, Waker};

use crate::sync::Mutex;

/// Above this, the connection stops answering requests until the client has taken its replies.
pub const READ_PAUSE_BYTES: usize = 4 << 20;

/// Above this, the client is cut off. Far more than a batch of large records or a storm of
/// invalidations needs, far less than a server has.
pub const LIMIT_BYTES: usize = 256 << 20;

/// A buffer that grew beyond this for one large reply is given back once it is empty.
const KEEP_BYTES: usize = 1 << 20;

/// The queue of frames to one client.
#[derive(Debug, Default)]
pub struct Outbox {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    frames: Vec<u8>,
    closing: Option<Closing>,
    reader: Option<Waker>,
}

/// How an outbox ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// What is queued is still written.
    AfterDrain,
    /// The connection ends now.
    AtOnce,
    /// As `AtOnce`, because the client let [`LIMIT_BYTES`] pile up.
    CannotFollow,
}

impl Outbox {
    /// Queues what `write` appends: one or more whole frames. Does nothing once the outbox is closing.
    pub fn push(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state.lock();
        if state.closing.is_some() {
            return;
        }
        if state.frames.len() > LIMIT_BYTES {
            state.closing = Some(Closing::CannotFollow);
            state.frames = Vec::new();
        } else {
            write(&mut state.frames);
        }
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Ends the conversation; a later call can only hasten the end.
    pub fn close(&self, how: Closing) {
        let mut state = self.state.lock();
        if matches!(state.closing, None | Some(Closing::AfterDrain)) {
            state.closing = Some(how);
        }
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    /// How much is queued and not yet taken.
    pub fn queued_bytes(&self) -> usize {
        self.state.lock().frames.len()
    }

    /// Exchanges `spent`, whose bytes have been written, for what is queued. `Pending` while there is
    /// nothing; the task of `cx` is woken by the next push or close.
    pub fn poll_take(&self, spent: &mut Vec<u8>, cx: &Context<'_>) -> Poll<Taken> {
        spent.clear();
        if spent.capacity() > KEEP_BYTES {
            *spent = Vec::new();
        }
        let mut state = self.state.lock();
        match state.closing {
            Some(how @ (Closing::AtOnce | Closing::CannotFollow)) => Poll::Ready(Taken::Closed(how)),
            Some(how) if state.frames.is_empty() => Poll::Ready(Taken::Closed(how)),
            None if state.frames.is_empty() => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => {
                std::mem::swap(&mut state.frames, spent);
                Poll::Ready(Taken::Frames)
            }
        }
    }
}

/// The outcome of [`Outbox::poll_take`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// There are frames to write.
    Frames,
    /// There will be no more.
    Closed(Closing),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(outbox: &Outbox) -> Poll<(Taken, Vec<u8>)> {
        let mut buffer = Vec::new();
        outbox.poll_take(&mut buffer, &Context::from_waker(Waker::noop())).map(|taken| (taken, buffer))
    }

    #[test]
    fn frames_leave_in_the_order_of_pushes() {
        let outbox = Outbox::default();
        assert_eq!(take(&outbox), Poll::Pending);
        outbox.push(|out| out.extend(b"one"));
        outbox.push(|out| out.extend(b"two"));
        assert_eq!(take(&outbox), Poll::Ready((Taken::Frames, b"onetwo".to_vec())));
        assert_eq!(take(&outbox), Poll::Pending);
    }

    #[test]
    fn a_drained_outbox_ends_after_what_was_queued() {
        let outbox = Outbox::default();
        outbox.push(|out| out.extend(b"last"));
        outbox.close(Closing::AfterDrain);
        outbox.push(|out| out.extend(b"too late"));
        assert_eq!(take(&outbox), Poll::Ready((Taken::Frames, b"last".to_vec())));
        assert_eq!(take(&outbox), Poll::Ready((Taken::Closed(Closing::AfterDrain), vec![])));
    }

    #[test]
    fn a_client_that_cannot_follow_is_cut_off_and_its_memory_freed() {
        let outbox = Outbox::default();
        outbox.push(|out| out.resize(LIMIT_BYTES + 1, 0));
        assert_eq!(outbox.queued_bytes(), LIMIT_BYTES + 1, "one frame may be of any size");
        outbox.push(|out| out.push(0));
        assert_eq!(outbox.queued_bytes(), 0);
        assert_eq!(take(&outbox), Poll::Ready((Taken::Closed(Closing::CannotFollow), vec![])));
    }
}
