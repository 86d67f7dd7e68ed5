"""A client of ZEO 4 that authenticates, by hand: the digest handshake, and a running code in each frame."""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from generations import ALLOWED_OF_ORIGINALS, need_environment
from ledger import differs
from oldzeo import OldClient, Python2Client
from subject import SUBJECT, Address, Server

REALM = "My Realm"
USER, PASSWORD = "admin", "s3cret"
# SHA-1 of `admin:My Realm:s3cret`, as the original's zeopasswd wrote it.
DATABASE = f"realm {REALM}\n{USER}: a5d8fe2f5b9c8edf0c21b43273d39a2ce2adbd3e\n"

MAC_FLAG = 0x80000000
MAC_SIZE = 20


def hexdigest(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()


def text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


class Authenticating:
    """One connection, not registered. Once `authenticate` has been granted, every frame has its code."""

    outgoing: hmac.HMAC | None = None
    incoming: hmac.HMAC | None = None

    def __init__(self, address: Address, version: str = "Z4") -> None:
        super().__init__(address, version, register=False)
        # How many frames came with the right code.
        self.checked = 0

    def sealed(self, body: bytes) -> bytes:
        self.outgoing.update(body)
        return struct.pack(">I", len(body) | MAC_FLAG) + self.outgoing.digest() + body

    def send_frame(self, body: bytes) -> None:
        if self.outgoing is None:
            super().send_frame(body)
        else:
            self.send_bytes(self.sealed(body))

    def read_frame(self) -> bytes:
        length = struct.unpack(">I", self._read(4))[0]
        if self.incoming is None:
            assert not length & MAC_FLAG
            return self._read(length)
        assert length & MAC_FLAG, "a frame without code"
        mac = self._read(MAC_SIZE)
        body = self._read(length ^ MAC_FLAG)
        self.incoming.update(body)
        assert mac == self.incoming.digest()
        self.checked += 1
        return body

    def challenge(self) -> tuple[str, str, str]:
        realm, challenge, nonce = self.call("auth_get_challenge")
        return text(realm), text(challenge), text(nonce)

    def respond(self, challenge: str, user: str = USER, password: str = PASSWORD) -> Any:
        return self.reply(self.respond_later(challenge, user, password))

    def respond_later(self, challenge: str, user: str = USER, password: str = PASSWORD) -> int:
        """Sends the response and returns its message id."""
        response = hexdigest(hexdigest(f"{user}:{REALM}:{password}") + ":" + challenge)
        return self.start("auth_response", (user, challenge, response))

    def authenticate(self, user: str = USER, password: str = PASSWORD) -> Any:
        """The server's answer; if it is true, codes begin."""
        assert text(self.call("getAuthProtocol")) == "digest"
        realm, challenge, nonce = self.challenge()
        assert realm == REALM
        answer = self.respond(challenge, user, password)
        if answer:
            self.begin_codes(nonce, user, password)
        return answer

    def begin_codes(self, nonce: str, user: str = USER, password: str = PASSWORD) -> None:
        a1 = hexdigest(f"{user}:{REALM}:{password}")
        key = hashlib.sha1(f"{a1}:{nonce}".encode()).digest() + a1.encode()
        self.outgoing = hmac.new(key, digestmod="sha1")
        self.incoming = hmac.new(key, digestmod="sha1")


class AuthClient(Authenticating, OldClient):
    """On Python 3."""


class AuthClient2(Authenticating, Python2Client):
    """On Python 2."""


# The clients by the Python that they are on, each with the original that speaks its dialect.
_CLIENTS = {"python 2": (AuthClient2, "zeo-4.3.1-py27"), "python 3": (AuthClient, "zeo-4.3.1-py36")}
PYTHONS = tuple(_CLIENTS)


def authentication(database: Path, protocol: str | None = "digest") -> dict[str, object]:
    """The keys of <zeo> for a server with passwords."""
    keys = {"protocol": protocol, "database": database, "realm": REALM} if protocol else {}
    return {f"authentication_{key}": value for key, value in keys.items()}


class Guarded:
    """A server that lets nobody in without a password: ours, or that of ZEO 4, the last one that knew some.

    With another `protocol` than `digest` it has no passwords, and lets everybody in.
    """

    def __init__(
        self, make_server: Callable[..., Server], database: Path, python: str, protocol: str | None = "digest"
    ) -> None:
        self._kind, original = _CLIENTS[python]
        if SUBJECT == "runzeo":
            need_environment(original)
        self.server = make_server(original=original, blobs=True, **authentication(database, protocol))
        self.address = self.server.address
        self.log = self.server.log
        if SUBJECT == "runzeo":
            self.log.allow(*ALLOWED_OF_ORIGINALS, "Traceback")

    def expect(self, *patterns: str) -> None:
        """What the server is to say of a peer that it refuses."""
        if not differs("password-refusals-unsaid"):
            self.log.expect(*patterns)

    def client(self) -> Authenticating:
        return self._kind(self.address)

    def registered(self) -> Authenticating:
        client = self.client()
        assert client.authenticate() is True
        assert client.call("register", "1", 0) is None
        return client
