"""A server that only pretends: it records what a client asks, and answers what it is told to.

For what no real server can be brought to: another protocol, a pack that fails or that never ends.
"""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

from rawzeo import Closed, RawClient
from subject import Address

TID = bytes(7) + b"\1"


class Fake:
    """Listens from the beginning."""

    def __init__(self, *, greeting: bytes = b"Z5", unix: str = "", host: str = "127.0.0.1") -> None:
        self.greeting = greeting
        self.calls: list[tuple[str, tuple]] = []
        self.results: dict[str, Any] = {"register": TID, "lastTransaction": TID, "get_info": {"interfaces": ()}}
        # Class and state of the error that a method answers with.
        self.faults: dict[str, tuple[str, Any]] = {}
        # Methods that are answered by closing the connection, and methods that wait until `released`.
        self.vanishing: set[str] = set()
        self.silent: set[str] = set()
        self.released = threading.Event()
        # What monitoring tools are told.
        self.status: dict[str, Any] = {}
        # How many connections to close before a word is said.
        self.refusing = 0
        family = socket.AF_UNIX if unix else socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        self._listener.bind(unix or (host, 0))
        self._listener.listen()
        self.address: Address = unix or (host, self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._listener.close()

    def asked(self, method: str) -> list[tuple]:
        """The arguments of every call of `method` so far."""
        return [args for name, args in self.calls if name == method]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(sock,), daemon=True).start()

    def _converse(self, sock: socket.socket) -> None:
        # What a client does to take messages apart is what a server does.
        end = RawClient.__new__(RawClient)
        end.sock, end.answer = sock, self.greeting
        try:
            if self.refusing:
                self.refusing -= 1
                return
            end.send_frame(self.greeting)
            if end.read_frame() == b"ruok":
                end.send_frame(json.dumps(self.status).encode())
                return
            while True:
                message = end.decode(end.read_frame())
                if message.is_reply:
                    continue
                self.calls.append((message.name, tuple(message.args)))
                if message.name in self.vanishing:
                    return
                if message.name in self.silent:
                    self.released.wait()
                if message.name in self.faults:
                    end.send(message.msgid, 2, ".reply", self.faults[message.name])
                elif not message.flags:
                    # A server may say something in between at any time.
                    end.send(0, True, "info", ({"size": 1},))
                    end.send(message.msgid, 0, ".reply", self.results.get(message.name))
        except (Closed, OSError):
            pass
        finally:
            sock.close()
