"""A ZEO protocol 5 client of our own: frames and messages by hand, nothing interpreted.

It shows what real clients hide: the order of messages, the shape of errors, what happens on input that no
real client sends.
"""

from __future__ import annotations

import io
import itertools
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack
from zodbpickle import pickle as zodbpickle

from subject import PATIENCE_S, Address

Z64 = bytes(8)
MAXTID = b"\x7f" + b"\xff" * 7
ROOT = Z64


class Message(NamedTuple):
    """One message from the server."""

    msgid: Any
    flags: Any
    name: str
    args: Any

    @property
    def is_reply(self) -> bool:
        return self.name == ".reply"


class Fault(Exception):
    """An error reply."""

    def __init__(self, class_name: str, state: Any) -> None:
        super().__init__(class_name, state)
        self.class_name = class_name
        self.state = state


class Closed(Exception):
    """The server closed the connection."""


def p64(number: int) -> bytes:
    return struct.pack(">Q", number)


def u64(data: bytes) -> int:
    return struct.unpack(">Q", data)[0]


def frame(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def pickle_message(*message: Any) -> bytes:
    """As every ZEO 5 client pickles its messages: protocol 3, no memo."""
    out = io.BytesIO()
    pickler = zodbpickle.Pickler(out, 3)
    pickler.fast = 1
    pickler.dump(message)
    return out.getvalue()


class _PlainUnpickler(zodbpickle.Unpickler):
    """Replies consist of plain values.

    The one exception are errors inside errors (MultipleUndoErrors): those become (class name, state), which
    is how they travel in msgpack.
    """

    def find_class(self, module: str, name: str) -> Any:
        if module == "ZODB.POSException":
            return (lambda class_name, state: (class_name, state)) if name == "_recon" else f"{module}.{name}"
        raise AssertionError(f"the server sent a pickle with the global {module}.{name}")


def connect(address: Address) -> socket.socket:
    if isinstance(address, str):
        family = socket.AF_UNIX
    else:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.settimeout(PATIENCE_S)
    sock.connect(address)
    if family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class RawClient:
    """One connection. `received` keeps everything that came in, in order."""

    def __init__(
        self, address: Address, *, answer: bytes | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        """Connects and shakes hands; `answer` instead of echoing what the server announced."""
        self.sock = connect(address)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock)
        self.greeting = self.read_frame()
        self.answer = self.greeting if answer is None else answer
        self.received: list[Message] = []
        self._msgids = itertools.count(1)
        self._txn_ids = itertools.count(1000)
        self.send_frame(self.answer)

    # frames

    def send_bytes(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send_frame(self, body: bytes) -> None:
        self.send_bytes(frame(body))

    def read_frame(self) -> bytes:
        return self._read(struct.unpack(">I", self._read(4))[0])

    def _read(self, size: int) -> bytes:
        chunks = []
        while size:
            try:
                chunk = self.sock.recv(min(size, 1 << 20))
            except (ConnectionError, ssl.SSLError):
                chunk = b""
            if not chunk:
                raise Closed
            chunks.append(chunk)
            size -= len(chunk)
        return b"".join(chunks)

    def close(self) -> None:
        self.sock.close()

    def wait_closed(self) -> None:
        """Returns when the server has closed the connection; what it still sends is kept."""
        try:
            while True:
                self.receive()
        except Closed:
            self.close()

    # messages

    def encode(self, *message: Any) -> bytes:
        if self.answer[:1] == b"M":
            return msgpack.packb(message, use_bin_type=True)
        return pickle_message(*message)

    def decode(self, body: bytes) -> Message:
        if self.answer[:1] == b"M":
            return Message(*msgpack.unpackb(body, raw=False, use_list=False))
        return Message(*_PlainUnpickler(io.BytesIO(body)).load())

    def send(self, msgid: Any, flags: Any, name: str, args: Any) -> None:
        self.send_frame(self.encode(msgid, flags, name, args))

    def receive(self) -> Message:
        """The next message of any kind."""
        message = self.decode(self.read_frame())
        self.received.append(message)
        return message

    def start(self, method: str, *args: Any) -> int:
        """Sends a call and returns its message id, to be given to `reply`."""
        msgid = next(self._msgids)
        self.send(msgid, False, method, args)
        return msgid

    def async_(self, method: str, *args: Any) -> None:
        self.send(0, True, method, args)

    def reply(self, msgid: Any) -> Any:
        """The result of a started call; an error reply becomes a Fault."""
        message = next((m for m in self.received if m.is_reply and m.msgid == msgid), None)
        while message is None:
            got = self.receive()
            if got.is_reply and got.msgid == msgid:
                message = got
        if message.flags == 2:
            raise Fault(*message.args)
        assert not message.flags, message
        return message.args

    def call(self, method: str, *args: Any) -> Any:
        return self.reply(self.start(method, *args))

    def wait_for(self, matches: Callable[[Message], bool]) -> Message:
        """The first message, already received or yet to come, that matches."""
        for message in self.received:
            if matches(message):
                return message
        while True:
            message = self.receive()
            if matches(message):
                return message

    def wait_call(self, name: str) -> Any:
        """The arguments of the first call of `name` by the server."""
        return self.wait_for(lambda m: m.name == name).args

    def calls(self, name: str) -> list[Any]:
        """The arguments of every call of `name` received so far."""
        return [m.args for m in self.received if m.name == name]

    def invalidated(self, tid: bytes) -> list[bytes]:
        """The oids announced for transaction `tid`, as soon as they are."""
        announced = self.wait_for(lambda m: m.name == "invalidateTransaction" and m.args[0] == tid)
        return list(announced.args[1])

    def announced(self) -> list[bytes]:
        """The transactions announced so far."""
        return [tid for tid, _ in self.calls("invalidateTransaction")]

    def sync(self) -> None:
        """A round trip: everything the server sent before it has been received."""
        self.call("ping")

    def waits(self, msgid: int) -> bool:
        """Whether a started call still has no reply after a round trip of another."""
        self.sync()
        return not any(m.is_reply and m.msgid == msgid for m in self.received)

    # registration and transactions

    def register(self, storage: str = "1", read_only: bool = False) -> bytes:
        return self.call("register", storage, read_only)

    def begin(
        self,
        user: bytes = b"",
        description: bytes = b"",
        extension: Any = None,
        tid: bytes | None = None,
        status: str = " ",
    ) -> int:
        """tpc_begin with a new transaction id, which it returns."""
        txn = next(self._txn_ids)
        self.async_("tpc_begin", txn, user, description, {} if extension is None else extension, tid, status)
        return txn

    def store(self, txn: int, oid: bytes, serial: bytes | None, data: bytes) -> None:
        self.async_("storea", oid, serial, data, txn)

    def vote_finish(self, txn: int) -> bytes:
        self.call("vote", txn)
        return self.call("tpc_finish", txn)

    def commit(self, *stores: tuple[bytes, bytes | None, bytes], **begin: Any) -> bytes:
        """One whole transaction; its tid."""
        txn = self.begin(**begin)
        for oid, serial, data in stores:
            self.store(txn, oid, serial, data)
        return self.vote_finish(txn)

    def new_oid(self) -> bytes:
        return self.call("new_oids", 1)[0]


def registered(address: Address, storage: str = "1", read_only: bool = False) -> RawClient:
    client = RawClient(address)
    client.register(storage, read_only)
    return client


def ruok(address: Address, tls: ssl.SSLContext | None = None) -> bytes:
    """The answer to `ruok`, a JSON text."""
    client = RawClient(address, answer=b"ruok", tls=tls)
    try:
        answer = client.read_frame()
        client.wait_closed()
        return answer
    finally:
        client.close()


def tid_of(epoch: float) -> bytes:
    """The tid of a moment."""
    t = time.gmtime(epoch)
    minutes = (((t.tm_year - 1900) * 12 + t.tm_mon - 1) * 31 + t.tm_mday - 1) * 24 * 60 + t.tm_hour * 60 + t.tm_min
    return struct.pack(">II", minutes, int((epoch % 60) / (60 / 2**32)))


def record(value: Any, class_name: str = "persistent.mapping.PersistentMapping") -> bytes:
    """An object record: two pickles, class and state."""
    module, name = class_name.rsplit(".", 1)
    class_pickle = b"\x80\x03c" + module.encode() + b"\n" + name.encode() + b"\n."
    return class_pickle + zodbpickle.dumps({"data": {"value": value}}, 3)
