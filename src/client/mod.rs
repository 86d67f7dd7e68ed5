//! A client of a ZEO server: it connects, shakes hands, registers and calls.
//!
//! Blocking, one call at a time, on the thread that calls. Storages are asked on threads that may
//! block, so that one which forwards to another server can use this as it is: a connection for each
//! thread. No cache, no transactions, no reconnecting: those are matters of who uses it.
//!
//! Memory is bounded by what has arrived, never by what a length announces.

mod address;

use std::io::{self, Read as _, Write as _};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

pub use self::address::Address;
use self::address::Socket;
use crate::pickle::Value;
use crate::wire::dialect::Dialect;
use crate::wire::frame::{self, FrameError};
use crate::wire::handshake;
use crate::wire::message::{Inexpressible, MessageError};
use crate::wire::upstream::{Incoming, Notice, RemoteFault};

/// While a call waits, how often the server is told that the client is alive: firewalls forget silent
/// connections, and only who writes learns that the other end is gone.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(60);

/// A server that announces nothing for so long, and then closes, has waited for us to begin.
const SILENCE: Duration = Duration::from_secs(10);

/// How much is read at once.
const READ_BYTES: usize = 1 << 14;

/// What went wrong with a server, and which one it was.
#[derive(Debug, thiserror::Error)]
#[error("server {address}: {reason}")]
pub struct ClientError {
    /// The server.
    pub address: Address,
    /// What went wrong.
    #[source]
    pub reason: Reason,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// There is no server now, or it does not answer: it may be worth while to try again.
    #[error("cannot connect: {0}")]
    Unreachable(#[source] io::Error),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// It has said nothing, and it is not that it was about to stop.
    #[error("it announces nothing for {0:.0?}: its address may be one for TLS, which is not spoken here")]
    Silent(Duration),
    /// The connection ended before the answer came.
    #[error("the connection is lost: {0}")]
    Lost(#[source] io::Error),
    /// It announced something else than protocol 5.
    #[error("it announces protocol {0:?}; protocol 5 is needed, of ZEO 5 or newer")]
    Protocol(String),
    /// It sent what is no frame of the protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// It sent what is no message of the protocol.
    #[error("not a ZEO message: {0}")]
    Message(#[from] MessageError),
    /// The arguments cannot be sent.
    #[error(transparent)]
    Inexpressible(#[from] Inexpressible),
    /// It refused the call, or failed.
    #[error("{0}")]
    Fault(#[source] RemoteFault),
}

impl Reason {
    /// Whether the same may succeed a moment later, when the server has started.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::TimedOut(_) | Self::Lost(_))
    }
}

/// A connection that speaks protocol 5.
pub struct Client {
    link: Link,
    dialect: Dialect,
    timeout: Duration,
    keep_alive_interval: Duration,
    last_id: i64,
    heard: Heard,
}

/// Gets what the server says on its own while a call waits, in its place among the replies.
pub type Heard = Box<dyn FnMut(Notice) + Send>;

impl Client {
    /// Connects and agrees on a dialect; `timeout` bounds each step, up to the registration.
    pub fn connect(address: &Address, timeout: Duration, heard: Heard) -> Result<Self, ClientError> {
        let open = || {
            let mut link = Link::open(address, timeout)?;
            let begun = Instant::now();
            let announced = link.receive_within(timeout).map_err(|reason| match reason {
                // One that stops closes at once.
                Reason::Lost(_) if begun.elapsed() >= SILENCE => Reason::Silent(begun.elapsed()),
                reason => reason,
            })?;
            let dialect = handshake::choose(&announced).map_err(Reason::Protocol)?;
            link.send_frame(dialect.name().as_bytes())?;
            Ok(Self { link, dialect, timeout, keep_alive_interval: KEEP_ALIVE_INTERVAL, last_id: 0, heard })
        };
        open().map_err(at(address))
    }

    /// Chooses the storage of this connection.
    pub fn register(&mut self, storage: &str, read_only: bool) -> Result<(), ClientError> {
        let args = [Value::text(storage), Value::Bool(read_only)];
        self.exchange("register", &args, Some(self.timeout)).map_err(at(&self.link.address))?;
        Ok(())
    }

    /// Calls a method and waits for its result as long as the server lives.
    pub fn call(&mut self, method: &str, args: &[Value]) -> Result<Value, ClientError> {
        self.exchange(method, args, None).map_err(at(&self.link.address))
    }

    fn exchange(&mut self, method: &str, args: &[Value], limit: Option<Duration>) -> Result<Value, Reason> {
        self.last_id = self.last_id.wrapping_add(1);
        let mut out = Vec::new();
        self.dialect.put_request(&mut out, self.last_id, method, args)?;
        self.link.send(&out)?;
        loop {
            let body = match limit {
                Some(limit) => self.link.receive_within(limit)?,
                None => self.wait()?,
            };
            match self.dialect.decode_incoming(body)? {
                Incoming::Notice(notice) => (self.heard)(notice),
                Incoming::Reply(id, result) if id == Value::Int(self.last_id) => return result.map_err(Reason::Fault),
                // Not ours: there is no other call.
                Incoming::Reply(..) => {}
            }
        }
    }

    /// The next frame, however long it takes.
    fn wait(&mut self) -> Result<Bytes, Reason> {
        loop {
            match self.link.receive_within(self.keep_alive_interval) {
                Err(Reason::TimedOut(_)) => {
                    let mut out = Vec::new();
                    self.dialect.put_keep_alive(&mut out);
                    self.link.send(&out)?;
                }
                received => return received,
            }
        }
    }
}

/// The server's status as it tells monitoring tools, a JSON text: no registration, no storage.
pub fn status(address: &Address, timeout: Duration) -> Result<Bytes, ClientError> {
    let ask = || {
        let mut link = Link::open(address, timeout)?;
        link.send_frame(handshake::RUOK)?;
        link.receive_within(timeout)?;
        link.receive_within(timeout)
    };
    ask().map_err(at(address))
}

fn at(address: &Address) -> impl FnOnce(Reason) -> ClientError {
    let address = address.clone();
    move |reason| ClientError { address, reason }
}

/// A socket, and what it has received of the next frame.
#[derive(Debug)]
struct Link {
    address: Address,
    socket: Socket,
    buffer: BytesMut,
}

impl Link {
    fn open(address: &Address, timeout: Duration) -> Result<Self, Reason> {
        let socket = Socket::connect(address, timeout).map_err(Reason::Unreachable)?;
        socket.set_write_timeout(timeout).map_err(Reason::Lost)?;
        Ok(Self { address: address.clone(), socket, buffer: BytesMut::new() })
    }

    fn send_frame(&mut self, body: &[u8]) -> Result<(), Reason> {
        let mut out = Vec::new();
        frame::put(&mut out, |out| out.extend(body));
        self.send(&out)
    }

    fn send(&mut self, data: &[u8]) -> Result<(), Reason> {
        self.socket.write_all(data).map_err(Reason::Lost)
    }

    /// The body of the next frame. What has arrived of it when the time is over is kept.
    fn receive_within(&mut self, timeout: Duration) -> Result<Bytes, Reason> {
        let deadline = Instant::now().checked_add(timeout);
        let mut chunk = [0; READ_BYTES];
        loop {
            if let Some(body) = frame::take(&mut self.buffer, frame::LIMIT)? {
                return Ok(body);
            }
            let left = deadline.map_or(timeout, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Err(Reason::TimedOut(timeout));
            }
            self.socket.set_read_timeout(left).map_err(Reason::Lost)?;
            match self.socket.read(&mut chunk) {
                Ok(0) => return Err(Reason::Lost(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => self.buffer.extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => return Err(Reason::TimedOut(timeout)),
                    _ => return Err(Reason::Lost(error)),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::wire::dialect::Encoding;
    use crate::wire::message::Request;

    const SOON: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(20);

    /// A server that does `serve` with its first connection.
    fn server(serve: impl FnOnce(Link) + Send + 'static) -> Address {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp("127.0.0.1".to_owned(), listener.local_addr().unwrap().port());
        let label = address.clone();
        thread::spawn(move || {
            let (stream, _): (TcpStream, _) = listener.accept().unwrap();
            serve(Link { address: label, socket: Socket::Tcp(stream), buffer: BytesMut::new() });
        });
        address
    }

    fn shake_hands(link: &mut Link, dialect: Dialect) {
        link.send_frame(dialect.name().as_bytes()).unwrap();
        assert_eq!(link.receive_within(LONG).unwrap(), dialect.name());
    }

    fn request(link: &mut Link, dialect: Dialect) -> Request {
        dialect.decode(link.receive_within(LONG).unwrap()).unwrap()
    }

    fn connect(address: &Address, heard: Heard) -> Client {
        Client::connect(address, LONG, heard).unwrap()
    }

    #[test]
    fn replies_and_notices_come_in_order_and_in_pieces() {
        for encoding in [Encoding::Pickle, Encoding::Msgpack] {
            let dialect = Dialect::five(encoding);
            let address = server(move |mut link| {
                shake_hands(&mut link, dialect);
                let asked = request(&mut link, dialect);
                assert_eq!((asked.method.as_ref(), asked.is_async), (&b"pack"[..], false));
                let mut out = Vec::new();
                dialect.put_call(&mut out, "info", &[Value::Int(1)]);
                dialect.put_reply(&mut out, &Value::Int(99), &Value::Int(99));
                dialect.put_call(&mut out, "info", &[Value::Int(2)]);
                dialect.put_reply(&mut out, &asked.id, &Value::Tuple(asked.args));
                for byte in out {
                    link.send(&[byte]).unwrap();
                }
            });
            let (heard, notices) = mpsc::channel();
            let mut client = connect(&address, Box::new(move |notice| heard.send(notice.args).unwrap()));
            let args = [Value::Float(1.5), Value::Bool(true)];
            assert_eq!(client.call("pack", &args).unwrap(), Value::Tuple(args.to_vec()));
            assert_eq!(notices.try_iter().collect::<Vec<_>>(), [[Value::Int(1)], [Value::Int(2)]]);
        }
    }

    #[test]
    fn a_call_that_waits_keeps_the_connection_alive() {
        let dialect = Dialect::five(Encoding::Pickle);
        let address = server(move |mut link| {
            shake_hands(&mut link, dialect);
            let asked = request(&mut link, dialect);
            assert!(request(&mut link, dialect).is_keep_alive());
            assert!(request(&mut link, dialect).is_keep_alive());
            let mut out = Vec::new();
            dialect.put_reply(&mut out, &asked.id, &Value::None);
            link.send(&out).unwrap();
            // The client goes first.
            while link.receive_within(LONG).is_ok() {}
        });
        let mut client = connect(&address, Box::new(|_| {}));
        client.keep_alive_interval = SOON;
        assert_eq!(client.call("pack", &[]).unwrap(), Value::None);
    }

    #[test]
    fn what_goes_wrong_says_where() {
        let failure = |address: &Address, timeout| {
            let connected = Client::connect(address, timeout, Box::new(|_| {}));
            let error = connected.and_then(|mut client| client.register("1", true)).unwrap_err();
            let text = error.to_string();
            let reason = text.strip_prefix(&format!("server {address}: ")).unwrap().to_owned();
            (reason, error.reason.is_passing())
        };
        let nobody = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            Address::Tcp("127.0.0.1".to_owned(), listener.local_addr().unwrap().port())
        };
        assert_eq!(failure(&nobody, LONG), ("cannot connect: Connection refused (os error 111)".to_owned(), true));
        let (silence, quiet) = mpsc::channel::<()>();
        let silent = server(move |_link| assert!(quiet.recv().is_err()));
        assert_eq!(failure(&silent, SOON), ("no answer within 20ms".to_owned(), true));
        drop(silence);
        let older = server(|mut link| link.send_frame(b"Z310").unwrap());
        let protocol = "it announces protocol \"Z310\"; protocol 5 is needed, of ZEO 5 or newer";
        assert_eq!(failure(&older, LONG), (protocol.to_owned(), false));
        let no_frames = server(|mut link| link.send(b"HTTP/1.1 400 Bad Request").unwrap());
        let (reason, is_passing) = failure(&no_frames, LONG);
        assert!(reason.contains("at most 1073741824 are accepted") && !is_passing, "{reason}");
        let refuses = server(|mut link| {
            let dialect = Dialect::five(Encoding::Msgpack);
            shake_hands(&mut link, dialect);
            let asked = request(&mut link, dialect);
            let mut out = Vec::new();
            dialect.put_fault(&mut out, &asked.id, &crate::wire::fault::Fault::unknown_storage("1"));
            link.send(&out).unwrap();
        });
        assert_eq!(failure(&refuses, LONG), ("builtins.ValueError: unknown storage: 1".to_owned(), false));
    }
}
