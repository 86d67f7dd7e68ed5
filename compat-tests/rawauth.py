"""A client of ZEO 4 that authenticates, by hand: the digest handshake, and a running code in each frame."""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Any

from oldzeo import OldClient
from subject import Address

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


class AuthClient(OldClient):
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
        response = hexdigest(hexdigest(f"{user}:{REALM}:{password}") + ":" + challenge)
        return self.call("auth_response", (user, challenge, response))

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


def authenticated(address: Address, storage: str = "1") -> AuthClient:
    """A client that has registered."""
    client = AuthClient(address)
    assert client.authenticate() is True
    assert client.call("register", storage, 0) is None
    return client
