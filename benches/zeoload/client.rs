//! One client's connection, as a blocking socket: requests are queued and sent together, messages are
//! taken one by one. Speaks the pickle dialect, which is what unmodified clients meet by default.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use bytes::BytesMut;
use zeolite::ids::{Oid, Tid};
use zeolite::pickle::{self, PickleError, Value};
use zeolite::wire::frame::{self, FrameError};

/// Why a run counts for nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    #[error("the server closed the connection")]
    Closed,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("a message that cannot be read: {0}")]
    Pickle(#[from] PickleError),
    #[error("the server announced {0:?}, only Z5 is spoken here")]
    Announced(String),
    #[error("the server answered with an error: {0:?}")]
    Fault(Value),
    #[error("wrong answer: {0}")]
    Wrong(String),
}

/// A reply: the id of its request, and the result.
pub struct Reply {
    pub id: Value,
    pub result: Value,
}

/// A registered client.
pub struct Client {
    stream: TcpStream,
    received: BytesMut,
    queued: Vec<u8>,
    /// Where the socket is read to.
    chunk: Vec<u8>,
    last_id: i64,
}

impl Client {
    /// Connects, shakes hands, and registers for the storage named `1`.
    pub fn register(address: &str) -> Result<Self, Error> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let mut client =
            Self { stream, received: BytesMut::new(), queued: Vec::new(), chunk: vec![0; 256 << 10], last_id: 0 };
        let announced = client.frame()?;
        if announced != b"Z5"[..] {
            return Err(Error::Announced(String::from_utf8_lossy(&announced).into_owned()));
        }
        client.queue_frame(b"Z5");
        client.call("register", vec![Value::text("1"), Value::Bool(false)])?;
        Ok(client)
    }

    /// Queues a call that is not replied to.
    pub fn queue_async(&mut self, method: &str, args: Vec<Value>) {
        self.queue(Value::Int(0), true, method, args);
    }

    /// Queues a call under the next number, which it returns.
    pub fn queue_numbered(&mut self, method: &str, args: Vec<Value>) -> Value {
        self.last_id += 1;
        let id = Value::Int(self.last_id);
        self.queue(id.clone(), false, method, args);
        id
    }

    /// Queues `loadBefore`. Its arguments are its id too, as Python's client has it.
    pub fn queue_load(&mut self, oid: Oid) {
        let args = load_id(oid);
        self.queue(Value::Tuple(args.clone()), false, "loadBefore", args);
    }

    /// Sends all that is queued in one write.
    pub fn send(&mut self) -> Result<(), Error> {
        self.stream.write_all(&self.queued)?;
        self.queued.clear();
        Ok(())
    }

    /// The next reply; waits for it. What the server tells all clients is read and dropped.
    pub fn reply(&mut self) -> Result<Reply, Error> {
        loop {
            if let Some(reply) = self.arrived_reply()? {
                return Ok(reply);
            }
            self.receive()?;
        }
    }

    /// The next reply, if it has arrived.
    pub fn arrived_reply(&mut self) -> Result<Option<Reply>, Error> {
        while let Some(frame) = frame::take(&mut self.received, frame::LIMIT)? {
            let message = pickle::read(&frame)?;
            let shape = || Error::Wrong(format!("not a message: {message:?}"));
            let Value::Tuple(parts) = &message else { return Err(shape()) };
            let [id, flags, method, last] = parts.as_slice() else { return Err(shape()) };
            match (flags, method.as_string().map(AsRef::as_ref)) {
                (Value::Int(0) | Value::Bool(false), Some(b".reply")) => {
                    return Ok(Some(Reply { id: id.clone(), result: last.clone() }));
                }
                (Value::Int(2), Some(b".reply")) => return Err(Error::Fault(last.clone())),
                (Value::Bool(true) | Value::Int(1), Some(b"invalidateTransaction" | b"info")) => {}
                _ => return Err(shape()),
            }
        }
        Ok(None)
    }

    /// Sends what is queued and a call after it; the result.
    pub fn call(&mut self, method: &str, args: Vec<Value>) -> Result<Value, Error> {
        let id = self.queue_numbered(method, args);
        self.send()?;
        let reply = self.reply()?;
        if reply.id == id {
            Ok(reply.result)
        } else {
            Err(Error::Wrong(format!("{method}: the reply to {:?} instead of {id:?}", reply.id)))
        }
    }

    fn queue(&mut self, id: Value, is_async: bool, method: &str, args: Vec<Value>) {
        let message = Value::Tuple(vec![id, Value::Bool(is_async), Value::text(method), Value::Tuple(args)]);
        let fits = frame::put(&mut self.queued, |out| pickle::write(&message, out));
        assert!(fits, "{method}: records are far shorter than a frame may be");
    }

    fn queue_frame(&mut self, body: &[u8]) {
        let fits = frame::put(&mut self.queued, |out| out.extend_from_slice(body));
        assert!(fits, "the handshake is two bytes");
    }

    fn frame(&mut self) -> Result<bytes::Bytes, Error> {
        loop {
            if let Some(frame) = frame::take(&mut self.received, frame::LIMIT)? {
                return Ok(frame);
            }
            self.receive()?;
        }
    }

    fn receive(&mut self) -> Result<(), Error> {
        match self.stream.read(&mut self.chunk)? {
            0 => Err(Error::Closed),
            arrived => {
                self.received.extend_from_slice(&self.chunk[..arrived]);
                Ok(())
            }
        }
    }
}

/// What `loadBefore` is called with for the current revision of `oid`.
fn load_id(oid: Oid) -> Vec<Value> {
    vec![bytes(oid.to_bytes()), bytes(Tid::MAX.to_bytes())]
}

/// Takes apart the reply to a load: which object, its record and its serial.
pub fn loaded(reply: &Reply) -> Result<(Oid, &[u8], Tid), Error> {
    let parts = || {
        let (Value::Tuple(id), Value::Tuple(result)) = (&reply.id, &reply.result) else { return None };
        let ([oid, before], [data, tid, Value::None]) = (id.as_slice(), result.as_slice()) else { return None };
        let (oid, before) = (Oid::from_slice(as_bytes(oid)?)?, Tid::from_slice(as_bytes(before)?)?);
        (before == Tid::MAX).then_some(())?;
        Some((oid, as_bytes(data)?, Tid::from_slice(as_bytes(tid)?)?))
    };
    parts().ok_or_else(|| Error::Wrong(format!("load {:?}: {:?}", reply.id, reply.result)))
}

fn as_bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::Bytes(bytes) => Some(bytes),
        _ => None,
    }
}

/// Eight bytes as a value.
pub fn bytes(id: [u8; 8]) -> Value {
    Value::bytes(&id)
}
