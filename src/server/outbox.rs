//! What is queued to go to one client.
//!
//! Anybody may push frames; only the client's connection takes them out and writes them. The order
//! of pushes is the order on the wire. An outbox never blocks its pushers: a client that lets
//! [`LIMIT_BYTES`] pile up cannot follow, is cut off, and verifies its cache when it returns. Its own
//! requests cannot bring it there: they wait while [`READ_PAUSE_BYTES`] are unsent. One frame may be
//! of any size.

use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;

use crate::sync::Mutex;
use crate::wire::frame;
use crate::wire::mac::RunningMac;

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
    /// Frames have been taken.
    taken: Notify,
}

#[derive(Debug, Default)]
struct State {
    frames: Vec<u8>,
    /// Set once the client has authenticated.
    mac: Option<RunningMac>,
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
            let State { frames, mac, .. } = &mut *state;
            let start = frames.len();
            write(frames);
            if let Some(mac) = mac {
                frame::seal(frames, start, mac);
            }
        }
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// From now on every frame gets its code, here, where the order of frames is decided. Those that are queued
    /// already stay as they are.
    pub fn authenticate(&self, mac: RunningMac) {
        self.state.lock().mac = Some(mac);
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

    /// Returns when everything that is queued now has been taken: the pace of who has more to send than should be
    /// queued at a time.
    pub async fn room(&self) {
        let taken = self.taken.notified();
        if self.queued_bytes() > 0 {
            taken.await;
        }
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
                self.taken.notify_waiters();
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
    use std::future::Future as _;

    use bytes::BytesMut;

    use super::*;
    use crate::wire::mac::SessionKey;

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
    fn frames_get_their_codes_in_the_order_of_pushes() {
        let key = SessionKey::new(&[b'a'; 40], "nonce");
        let (outbox, mut mac) = (Outbox::default(), key.running_mac());
        let plain = |out: &mut Vec<u8>, body: &[u8]| assert!(frame::put(out, |out| out.extend_from_slice(body)));
        outbox.push(|out| plain(out, b"before"));
        outbox.authenticate(key.running_mac());
        outbox.push(|out| {
            plain(out, b"one");
            plain(out, b"two");
        });
        outbox.push(|out| plain(out, b"three"));
        let Poll::Ready((Taken::Frames, queued)) = take(&outbox) else { panic!("nothing is queued") };
        let mut queued = BytesMut::from(&queued[..]);
        assert_eq!(frame::take(&mut queued, 10).unwrap().unwrap(), b"before"[..]);
        // A batch in place of an empty buffer.
        let mut batch = Vec::new();
        plain(&mut batch, b"four");
        outbox.push(|out| *out = batch);
        let Poll::Ready((Taken::Frames, more)) = take(&outbox) else { panic!("nothing is queued") };
        queued.extend_from_slice(&more);
        for body in ["one", "two", "three", "four"] {
            assert_eq!(frame::take_sealed(&mut queued, 10, &mut mac).unwrap().unwrap(), body);
        }
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

    #[tokio::test]
    async fn there_is_room_once_what_was_queued_has_been_taken() {
        let outbox = Outbox::default();
        outbox.room().await;
        outbox.push(|out| out.extend(b"before"));
        let mut room = Box::pin(outbox.room());
        let mut ready = || room.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
        assert!(!ready());
        assert!(take(&outbox).is_ready());
        outbox.push(|out| out.extend(b"after"));
        assert!(ready(), "it does not starve while others push, too");
    }
}
