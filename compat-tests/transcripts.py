"""Transcripts of old clients (fixtures/transcripts), played against a server: the frames of the clients as they were recorded,
what the server says compared with what the original said.
"""

from __future__ import annotations

import base64
import json
import pickletools
import queue
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pickletree import Node, Scalar, Tree, is_for_python_2, read, shown
from rawzeo import connect, frame
from subject import PATIENCE_S, TOP, Address
from unify import Bindings, Rules, differences

DIRECTORY = TOP / "fixtures" / "transcripts"
REPLY = ".reply"
# No client counts as far as this.
SYNC_MSGID = 0x7FFFFFFE


@dataclass(frozen=True)
class Event:
    """A frame from the client (`>`) or the server (`<`), or the end of a connection (`x`)."""

    connection: int
    kind: str
    frame: bytes


@dataclass(frozen=True)
class Transcript:
    """What was said in one scenario, on all connections, in one order."""

    client: str
    server: str
    scenario: str
    settings: dict[str, object]
    events: tuple[Event, ...]

    @property
    def is_python_2(self) -> bool:
        return not self.client.endswith("py36")


def load(path: Path) -> Transcript:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return Transcript(**lines[0], events=tuple(_event(*line) for line in lines[1:]))


def _event(connection: int, kind: str, text: str = "") -> Event:
    if text.startswith("z:"):
        return Event(connection, kind, zlib.decompress(base64.b64decode(text[2:])))
    return Event(connection, kind, base64.b64decode(text))


@dataclass(frozen=True)
class Message:
    """One message of either side."""

    msgid: Tree
    is_async: bool
    name: str
    args: Tree
    whole: Tree


def message(pickle: bytes, *, is_strict: bool = True) -> Message:
    """The message in a frame. ZEO 5.1 leaves the beginning of a failed attempt in front of its own: not strictly a pickle."""
    whole = read(pickle, is_strict=is_strict)
    assert isinstance(whole, Node) and len(whole.items) == 4, shown(whole)
    msgid, flags, name, args = whole.items
    assert isinstance(name, Scalar) and isinstance(flags, Scalar)
    text = name.value.decode() if isinstance(name.value, bytes) else name.value
    return Message(msgid, bool(flags.value), text, args, whole)


class Connection:
    """One client of the transcript, as far as the server can tell."""

    def __init__(self, address: Address) -> None:
        self.sock: socket.socket = connect(address)
        self.methods: dict[str, str] = {}
        self.is_registered = False
        # The newest transaction that it has been told of, and those that it has made itself.
        self.announced = b""
        self.own: set[bytes] = set()
        self._frames: queue.Queue[bytes | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            with self.sock.makefile("rb") as stream:
                while len(head := stream.read(4)) == 4:
                    self._frames.put(stream.read(struct.unpack(">I", head)[0]))
        except (OSError, ValueError):
            pass
        self._frames.put(None)

    def receive(self) -> bytes:
        """The next frame of the server."""
        try:
            received = self._frames.get(timeout=PATIENCE_S / 4)
        except queue.Empty:
            raise Silence("the server says nothing more") from None
        if received is None:
            raise Silence("the server closed the connection")
        return received

    def send(self, body: bytes) -> None:
        self.sock.sendall(frame(body))

    def close(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()
        self._reader.join(PATIENCE_S)


class Silence(Exception):
    """A frame that does not come."""


class Player:
    """Plays one transcript. `complaints` holds what was otherwise than recorded."""

    def __init__(self, transcript: Transcript, address: Address, rules: Rules, may_come: Callable[[Message], bool]) -> None:
        """`may_come` says which calls of the server may come although none was recorded."""
        self.transcript = transcript
        self.complaints: list[str] = []
        self._address = address
        self._rules = rules
        self._may_come = may_come
        self._bindings = Bindings()
        self._connections: dict[int, Connection] = {}

    def play(self) -> list[str]:
        try:
            for event in self.transcript.events:
                if not self._play_event(event):
                    break
            else:
                for number in list(self._connections):
                    self._end(number)
        finally:
            for connection in self._connections.values():
                connection.close()
        return self.complaints

    def _play_event(self, event: Event) -> bool:
        """Whether it makes sense to go on."""
        number = event.connection
        if event.kind == "x":
            return self._end(number)
        first = number not in self._connections
        if first:
            self._connections[number] = Connection(self._address)
        connection = self._connections[number]
        if event.kind == ">":
            return self._send(connection, event.frame)
        try:
            if first:
                return self._same_greeting(connection, event.frame)
            return self._expect(number, connection, event.frame)
        except Silence as silence:
            self.complaints.append(f"connection {number}: {silence}: recorded {shown(read(event.frame, is_strict=False))}")
            return False

    def _same_greeting(self, connection: Connection, recorded: bytes) -> bool:
        ours = connection.receive()
        if ours != recorded:
            self.complaints.append(f"greeting: recorded {recorded!r}, ours {ours!r}")
        return ours == recorded

    def _send(self, connection: Connection, recorded: bytes) -> bool:
        if recorded[:1] == b"Z":
            connection.send(recorded)
            return True
        sent = message(recorded)
        if sent.name == "pack":
            recorded = _with_time_of_now(recorded)
        if not sent.is_async and sent.name != REPLY:
            connection.methods[shown(sent.msgid)] = sent.name
        connection.is_registered |= sent.name == "get_info"
        connection.send(self._bindings.translate(recorded))
        return True

    def _expect(self, number: int, connection: Connection, recorded_frame: bytes) -> bool:
        recorded = message(recorded_frame, is_strict=False)
        path = connection.methods[shown(recorded.msgid)] if recorded.name == REPLY else recorded.name
        skipped: list[str] = []
        while True:
            try:
                ours_frame = connection.receive()
            except Silence:
                self.complaints += skipped
                raise
            ours = self._decoded(ours_frame)
            self._watch(number, connection, ours)
            attempt = self._bindings.copy()
            out_of_order = differences("message", *_heads(recorded, ours), attempt, self._rules)
            unlike = out_of_order + differences(path, recorded.args, ours.args, attempt, self._rules)
            if unlike and self._may_come(ours):
                skipped += unlike
                continue
            if out_of_order:
                self.complaints.append(
                    f"connection {number}: out of order: recorded {shown(recorded.whole)}, ours {shown(ours.whole)}"
                )
                return False
            self._bindings = attempt
            self.complaints += unlike
            return True

    def _watch(self, number: int, connection: Connection, ours: Message) -> None:
        """Also what may come besides is of others, and in order."""
        if ours.name == "invalidateTransaction":
            tid = ours.args.items[0].value
            if tid <= connection.announced or tid in connection.own:
                self.complaints.append(f"connection {number}: told of {tid.hex()} after {connection.announced.hex()}, or its own")
            connection.announced = tid
        elif ours.name == REPLY and connection.methods.get(shown(ours.msgid)) == "tpc_finish":
            if isinstance(ours.args, Scalar) and isinstance(ours.args.value, bytes):
                connection.own.add(ours.args.value)

    def _decoded(self, received: bytes) -> Message:
        if self.transcript.is_python_2 and not is_for_python_2(received):
            self.complaints.append(f"Python 2 cannot read {received[:100]!r}")
        return message(received)

    def _end(self, number: int) -> bool:
        """The client closes: nothing is left that was not recorded."""
        connection = self._connections.pop(number, None)
        if connection is None:
            return True
        try:
            if connection.is_registered:
                connection.send(_sync_call(self.transcript.is_python_2))
                while (ours := self._decoded(connection.receive())).msgid.value != SYNC_MSGID:
                    self._watch(number, connection, ours)
                    if not self._may_come(ours):
                        self.complaints.append(f"connection {number}: not recorded: {shown(ours.whole)}")
        except Silence as silence:
            self.complaints.append(f"connection {number}, in the end: {silence}")
        finally:
            connection.close()
        return True


def _heads(recorded: Message, ours: Message) -> Iterator[Tree]:
    """The messages without their arguments; clients do not care how calls of the server are numbered."""
    for told in (recorded, ours):
        assert isinstance(told.whole, Node)
        start = 0 if told.name == REPLY else 1
        yield Node("tuple", told.whole.opcodes, told.whole.items[start:3])


def _sync_call(is_python_2: bool) -> bytes:
    """A call whose reply comes after everything else."""
    msgid = b"J" + struct.pack("<i", SYNC_MSGID)
    if is_python_2:
        return b"(" + msgid + b"K\x00U\x0flastTransaction)t."
    return b"\x80\x03(" + msgid + b"K\x00X\x0f\x00\x00\x00lastTransaction)t."


def _with_time_of_now(pack: bytes) -> bytes:
    """What was recorded would pack nothing: everything has been written since."""
    for opcode, _, position in pickletools.genops(pack):
        if opcode.name == "BINFLOAT":
            return pack[: position + 1] + struct.pack(">d", time.time() + 1) + pack[position + 9 :]
    raise AssertionError("a pack without a time")
