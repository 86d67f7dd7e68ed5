"""The generations of clients as the tests see them: who can serve each, opening them, and what came of each feature.

Every outcome is a file under target/generations, of which scripts/generations-table makes the table of docs/COMPAT.md.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clients import Clients, LegacyWorker, Pool, RemoteError, Worker
from ledger import differs, skip_where_differs
from subject import SUBJECT, TOP, Address, Server, environment_python, wait_until

OUTCOMES = TOP / "target" / "generations"

# Whose server serves a client where SUBJECT is runzeo. The servers of ZODB 3.8 to 3.10 are older than the fixes of ZEO 4, which serves
# their clients; that of 3.7 is the only one whose errors its clients can read; from 5 on each has its own.
_ORIGINALS = {
    "zodb3-3.8.6": "zeo-4.3.1-py27",
    "zodb3-3.9.7": "zeo-4.3.1-py27",
    "zodb3-3.10.7": "zeo-4.3.1-py27",
    "zeo5": "zeo6",
}


def original(generation: str) -> str:
    """The environment of the Python server that can serve a generation."""
    return _ORIGINALS.get(generation, generation)


def need(generation: str) -> None:
    """Skips a test of a generation whose environments could not be made here."""
    wanted = [generation, original(generation)] if SUBJECT == "runzeo" else [generation]
    for name in wanted:
        need_environment(name)


def need_environment(name: str) -> None:
    """Skips a test that needs an environment which could not be made here."""
    if not environment_python(name).exists():
        note = TOP / "target" / "python" / f"{name}.missing"
        reason = note.read_text().strip() if note.exists() else "scripts/legacy-envs has not made it"
        assert differs("legacy-environments")
        pytest.skip(f"ledger: legacy-environments: no {name}: {reason}")


def skip_mixed() -> None:
    """Skips a test of several generations on one server where no original serves them all."""
    skip_where_differs("one-generation-each")


class Generation:
    """One generation in one test: its servers, its clients, its outcome."""

    def __init__(self, name: str, pool: Pool, make_server: Callable[..., Server], directory: Path) -> None:
        need(name)
        self.name = name
        self.directory = directory
        self.outcome = "yes"
        self._make_server = make_server
        self._pool = pool

    def server(self, **options: Any) -> Server:
        """A server that can serve this generation."""
        server = self._make_server(original=original(self.name), **options)
        server.log.allow(*ALLOWED_OF_ORIGINALS if SUBJECT == "runzeo" else ())
        return server

    def worker(self, generation: str | None = None) -> Worker:
        return self._clients(generation).worker()

    def database(self, server: Server, generation: str | None = None, **options: Any) -> Worker:
        return self._clients(generation).database(server.address, **options)

    def storage(self, server: Server, generation: str | None = None, **options: Any) -> Worker:
        return self._clients(generation).storage(server.address, **options)

    def _clients(self, generation: str | None = None) -> Clients:
        need(generation or self.name)
        return Clients(self._pool, generation or self.name, kind=LegacyWorker)

    def restart(self, server: Server) -> None:
        """Ends a server and starts it again. It is killed, if the clients survive that."""
        # These two wait for ever for the first word of a process that goes away while they connect. Ours no longer listens while
        # it stops.
        is_fragile = self.name in ("zodb3-3.7.2", "zodb3-3.8.6")
        if self.name == "zodb3-3.7.2":
            skip_where_differs("zodb37-listens-while-it-stops")
        server.restart(kill=not is_fragile)

    def lacks(self, method: str) -> bool:
        """Whether clients of this generation have no such method; then that is the outcome."""
        if self.worker().do("offers", method):
            return False
        self.outcome = "-"
        return True


# What servers before ZEO 6 say in the normal course of things, or at connections that end.
ALLOWED_OF_ORIGINALS = (
    "Warning: Fsync not supported",
    "Error on server|Exit with error|bad file descriptor|EBADF|ECONNRESET|EPIPE|Connection reset|Broken pipe",
    "non-fatal|no longer|disconnected",
    "deprecat",
    "lock|Closed|closed",
    "Unhandled error|uncaptured|asyncore|Asynchronous call|error in|Error raised",
    "ReadOnlyError|ValueError|POSKeyError|ConflictError|unknown storage",
    r"no current transaction: tpc_abort\(\)",
)


def record(feature: str, generation: str, test: str, outcome: str) -> None:
    """Keeps what came of a test for the table."""
    if SUBJECT == "zeolite":
        path = OUTCOMES / feature.replace("/", "+") / generation / test
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(outcome)


def value_becomes(worker: Worker, key: str, value: Any) -> None:
    """Waits until a client sees a value; a client that is reconnecting may fail meanwhile."""

    def seen() -> bool:
        try:
            return worker.do("get", key) == value
        except RemoteError:
            return False

    wait_until(seen, f"a {worker.generation} client sees {key} = {value!r}")


def commits(worker: Worker, values: dict[str, Any]) -> bool:
    """Whether a client commits; one that is reconnecting may not yet."""
    try:
        worker.do("put", values)
    except RemoteError as error:
        assert error.name in ("ClientDisconnected", "ConnectionStateError", "DisconnectedError"), error
        return False
    return True
