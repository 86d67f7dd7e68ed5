//! One client's socket: bytes in, frames to the session; frames from the outbox, bytes out.
//!
//! One task does both directions, so that the reply to a request that can be answered at once is
//! written without waking anybody. All requests that arrived together are answered before the first
//! reply is written, in as few writes as the socket takes. Answering pauses while the client lets
//! replies pile up.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::Shared;
use super::access::Access;
use super::auth;
use super::hub::ClientId;
use super::outbox::{Closing, Outbox, READ_PAUSE_BYTES, Taken};
use super::session::{End, Session, printable};
use crate::critical;
use crate::wire::frame;
use crate::wire::handshake::{self, Answer};

/// Free space for a read: at least this much, and more for a client that has a long frame under way.
/// Never by what a length claims.
const READ_BYTES: usize = 16 << 10;
const READ_BYTES_LONG: usize = 1 << 20;

/// Requests of one client that are answered before other clients of the same thread have their turn.
const BATCH_FRAMES: usize = 64;

/// A transport: TCP or a Unix socket, plain or with TLS on it.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

struct Connection<S> {
    stream: S,
    outbox: Arc<Outbox>,
    /// Bytes that arrived and are not yet a whole frame.
    received: BytesMut,
    /// Taken from the outbox; written up to `sent`.
    sending: Vec<u8>,
    sent: usize,
}

/// What a connection waits for, besides having everything written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// Only what runs beside the conversation, or the end.
    Nothing,
    /// More requests; what has arrived is answered.
    Requests,
    /// Requests are there, but the client has to take its replies first.
    Room,
    /// Requests are there, but others have their turn first.
    Turn,
}

/// What the socket brought.
enum Event {
    /// There are new bytes in `received`.
    Received,
    /// Unsent replies no longer stand in the way.
    Room,
    /// The peer has gone.
    Closed,
    /// The outbox has ended the conversation.
    Ended(Closing),
}

/// Serves one client until it goes.
pub async fn serve<S: Stream>(server: Arc<Shared>, stream: S, id: ClientId, address: String, access: Access) {
    info!(target: "ZEO.asyncio.base", "Connected {address}");
    let outbox = Arc::new(Outbox::default());
    let mut connection =
        Connection { stream, outbox: Arc::clone(&outbox), received: BytesMut::new(), sending: Vec::new(), sent: 0 };
    push_raw(&outbox, handshake::announce(access.encoding));
    match connection.converse(&server, id, &address, access).await {
        Ok(()) => debug!(target: "ZEO.asyncio.server", "{address} has gone"),
        Err(Failure::Io(error)) => info!(target: "ZEO.asyncio.server", "Disconnected {address}: {error}"),
        Err(Failure::End(end @ End::Timeout(_))) => {
            critical!(target: "ZEO.StorageServer", "({address}) {end}; its transaction is aborted and the connection closed");
        }
        Err(Failure::End(end)) => {
            warn!(target: "ZEO.asyncio.server", "closing the connection of {address}: {}", printable(&end.to_string()));
        }
    }
}

/// Returns when a deadline has passed: never, if there is none.
async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Queues a frame that is not a message.
fn push_raw(outbox: &Outbox, body: &[u8]) {
    outbox.push(|out| {
        let fits = frame::put(out, |out| out.extend_from_slice(body));
        debug_assert!(fits, "the announcement and the status are short");
    });
}

enum Failure {
    Io(io::Error),
    End(End),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<End> for Failure {
    fn from(end: End) -> Self {
        Self::End(end)
    }
}

impl<S: Stream> Connection<S> {
    async fn converse(
        &mut self,
        server: &Arc<Shared>,
        id: ClientId,
        address: &str,
        access: Access,
    ) -> Result<(), Failure> {
        let authenticate_until = server.authenticator.as_ref().map(|_| Instant::now() + auth::TIME);
        let answer = loop {
            if let Some(answer) = self.take_frame(frame::LIMIT_BEFORE_REGISTRATION)? {
                break answer;
            }
            tokio::select! {
                event = self.next_event(Wanted::Requests) => match event? {
                    Event::Received | Event::Room => {}
                    Event::Closed | Event::Ended(_) => return Ok(()),
                },
                () = passed(authenticate_until) => return Err(End::Stranger.into()),
            }
        };
        let dialect = match handshake::answer(&answer) {
            Answer::Speak(dialect) => dialect,
            Answer::Ruok => {
                let status = server.status_json(&access).to_string();
                push_raw(&self.outbox, status.as_bytes());
                self.outbox.close(Closing::AfterDrain);
                while !matches!(self.next_event(Wanted::Nothing).await?, Event::Closed | Event::Ended(_)) {}
                return Ok(());
            }
            Answer::Refused(shown) => return Err(End::Protocol(format!("bad handshake {shown}")).into()),
        };
        info!(target: "ZEO.asyncio.server", "received handshake {:?}", String::from_utf8_lossy(&answer));
        let outbox = Arc::clone(&self.outbox);
        let session =
            Session::new(Arc::clone(server), id, address.to_owned(), access, outbox, dialect, authenticate_until);
        self.run(session).await
    }

    async fn run(&mut self, mut session: Session) -> Result<(), Failure> {
        loop {
            let wanted = self.answer_requests(&mut session)?;
            if wanted == Wanted::Turn {
                tokio::task::yield_now().await;
            }
            let deadline = session.deadline();
            tokio::select! {
                event = self.next_event(wanted) => match event? {
                    Event::Received | Event::Room => {}
                    Event::Closed | Event::Ended(Closing::AtOnce | Closing::AfterDrain) => return Ok(()),
                    Event::Ended(Closing::CannotFollow) => {
                        return Err(End::Protocol("the client does not take what is sent to it".to_owned()).into());
                    }
                },
                done = session.beside(), if session.has_beside() => if let Some((id, done)) = done {
                    session.resume(id, done)?;
                },
                () = passed(deadline) => return Err(session.timed_out().into()),
            }
        }
    }

    /// Answers what has arrived, as far as that goes.
    fn answer_requests(&mut self, session: &mut Session) -> Result<Wanted, Failure> {
        for _ in 0..BATCH_FRAMES {
            if !session.is_ready() {
                return Ok(Wanted::Nothing);
            }
            if self.unsent_bytes() >= READ_PAUSE_BYTES {
                return Ok(Wanted::Room);
            }
            match self.take_request(session)? {
                Some(frame) => session.handle(frame)?,
                None => return Ok(Wanted::Requests),
            }
        }
        Ok(Wanted::Turn)
    }

    /// Replies that the client has not taken yet.
    fn unsent_bytes(&self) -> usize {
        self.outbox.queued_bytes() + self.sending.len().saturating_sub(self.sent)
    }

    fn take_frame(&mut self, limit: usize) -> Result<Option<bytes::Bytes>, Failure> {
        frame::take(&mut self.received, limit).map_err(|error| End::Protocol(error.to_string()).into())
    }

    /// The next request: with its code, if the client has authenticated.
    fn take_request(&mut self, session: &mut Session) -> Result<Option<bytes::Bytes>, Failure> {
        let limit = session.frame_limit();
        match session.incoming_mac() {
            None => self.take_frame(limit),
            Some(mac) => frame::take_sealed(&mut self.received, limit, mac)
                .map_err(|error| End::Protocol(error.to_string()).into()),
        }
    }

    /// Writes what there is to write until there is what is `wanted`.
    async fn next_event(&mut self, wanted: Wanted) -> io::Result<Event> {
        poll_fn(|cx| self.poll_event(wanted, cx)).await
    }

    fn poll_event(&mut self, wanted: Wanted, cx: &mut Context<'_>) -> Poll<io::Result<Event>> {
        if let Poll::Ready(closing) = self.poll_write(cx)? {
            return Poll::Ready(Ok(Event::Ended(closing)));
        }
        let has_room = self.unsent_bytes() < READ_PAUSE_BYTES;
        match wanted {
            Wanted::Requests if has_room => {
                match ready!(self.poll_read(cx)) {
                    Ok(0) => Poll::Ready(Ok(Event::Closed)),
                    Ok(_) => Poll::Ready(Ok(Event::Received)),
                    // TLS without its goodbye, as Python's clients end it. Frames have lengths: nothing is cut unseen.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(Event::Closed)),
                    Err(error) => Poll::Ready(Err(error)),
                }
            }
            Wanted::Room | Wanted::Turn if has_room => Poll::Ready(Ok(Event::Room)),
            _ => Poll::Pending,
        }
    }

    /// Writes until nothing is left or the socket takes no more; ready only when all is over.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Closing>> {
        loop {
            while let Some(rest) = self.sending.get(self.sent..).filter(|rest| !rest.is_empty()) {
                match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    written => self.sent += written,
                }
            }
            if self.sent > 0 {
                // TLS may keep back what the socket did not take.
                ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            }
            self.sent = 0;
            match ready!(self.outbox.poll_take(&mut self.sending, cx)) {
                Taken::Frames => {}
                Taken::Closed(how) => return Poll::Ready(Ok(how)),
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.received.reserve(self.received.len().clamp(READ_BYTES, READ_BYTES_LONG));
        tokio_util::io::poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.received)
    }
}
