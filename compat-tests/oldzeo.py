"""A client of the protocols before version 5, by hand: what `rawzeo` is for version 5.

Exceptions come as pickled instances; here they stay descriptions.
"""

from __future__ import annotations

import io
import ssl
import struct
from typing import Any

from zodbpickle import pickle as zodbpickle

from rawzeo import Fault, Message, RawClient
from subject import Address

# What clients answer to an announced `Z5`, oldest first.
VERSIONS = ("Z201", "Z303", "Z308", "Z309", "Z310", "Z3101", "Z4")


class Named(str):
    """A class, by its name."""

    def __call__(self, *args: Any) -> Instance:
        return Instance(self, args)


class Instance:
    """What a class would have made."""

    def __init__(self, class_name: str, args: tuple) -> None:
        self.class_name = class_name
        self.args = args
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.state = state

    def fault(self) -> Fault:
        """The same as protocol 5 tells it: attributes if there are any, else arguments."""
        attributes = {key: value for key, value in self.state.items() if key != "args"}
        return Fault(self.class_name, attributes or self.state.get("args", self.args))


def _recon(named: Named, state: dict[str, Any]) -> Instance:
    instance = Instance(named, ())
    instance.__setstate__(state)
    return instance


class _Unpickler(zodbpickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _recon if (module, name) == ("ZODB.POSException", "_recon") else Named(f"{module}.{name}")


def python_2_pickle(value: Any) -> bytes:
    """As `cPickle` of Python 2 writes it in protocol 1 without a memo; `str` stands for Python 2's."""

    def put(value: Any) -> bytes:
        match value:
            case None:
                return b"N"
            case bool():
                return b"I01\n" if value else b"I00\n"
            case int() if 0 <= value < 256:
                return b"K" + bytes([value])
            case int():
                return b"I%d\n" % value
            case bytes() if len(value) < 256:
                return b"U" + bytes([len(value)]) + value
            case bytes():
                return b"T" + struct.pack("<i", len(value)) + value
            case str():
                return put(value.encode())
            case ():
                return b")"
            case tuple():
                return b"(" + b"".join(map(put, value)) + b"t"
            case {}:
                return b"}"
            case dict():
                return b"}(" + b"".join(put(part) for item in value.items() for part in item) + b"u"
        raise TypeError(value)

    return put(value) + b"."


class OldClient(RawClient):
    """One connection, registered. `has_versions`: calls and invalidations name them, up to ZODB 3.8."""

    def __init__(
        self, address: Address, version: str, *, register: bool = True, tls: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(address, answer=version.encode(), tls=tls)
        self.has_versions = version in VERSIONS[: VERSIONS.index("Z309")]
        if register:
            assert self.call("getAuthProtocol") is None
            assert self.call("register", "1", 0) is None
            # The first thing that clients ask once their caches are verified.
            self.call("get_info")

    def decode(self, body: bytes) -> Message:
        return Message(*_Unpickler(io.BytesIO(body)).load())

    def reply(self, msgid: Any) -> Any:
        """The result of a started call. In these protocols an error is a pair of a class and an instance."""
        match super().reply(msgid):
            case (Named(), Instance() as instance):
                raise instance.fault()
            case result:
                return result

    def sync(self) -> None:
        self.call("lastTransaction")

    def store(self, txn: int, oid: bytes, serial: bytes | None, data: bytes, version: str = "") -> None:
        self.async_("storea", oid, serial, data, *[version] * self.has_versions, txn)

    def mention(self, oid: bytes) -> Any:
        return (oid, "") if self.has_versions else oid

    def serialnos(self) -> list[tuple[bytes, Any]]:
        """What the newest vote was told, before it was answered."""
        names = [message.name for message in self.received]
        assert names[-2:] == ["serialnos", ".reply"]
        (pairs,) = self.received[-2].args
        return pairs


class Python2Client(OldClient):
    """The same on Python 2. `frame` is what came in last, as it came."""

    def encode(self, *message: Any) -> bytes:
        return python_2_pickle(message)

    def decode(self, body: bytes) -> Message:
        self.frame = body
        msgid, flags, name, args = _Unpickler(io.BytesIO(body), encoding="bytes").load()
        return Message(msgid, flags, name.decode(), args)
