"""What every test of hostile input asks of the server: it lives, it serves others, it stays small, it says so once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from ledger import differs
from rawzeo import MAXTID, Z64, Closed, Fault, RawClient, registered
from subject import Server

# Of the whole process; generous, Python alone needs 70.
MEMORY_BOUND_MIB = 512

ERROR, CLOSED = "error", "closed"


@contextlib.contextmanager
def unharmed(server: Server) -> Iterator[RawClient]:
    """Runs an attack beside another client, and yields the attacker."""
    server.log.allow(".")
    bystander, attacker = registered(server.address), registered(server.address)
    oid = bystander.new_oid()
    tid = bystander.commit((oid, Z64, b"precious"))
    logged = len(server.log.serious())
    try:
        yield attacker
        attacker.close()
        assert server.alive()
        assert bystander.call("loadBefore", oid, MAXTID) == (b"precious", tid, None)
        bystander.commit((oid, tid, b"more"))
        assert server.memory_kib() < MEMORY_BOUND_MIB << 10
        if not differs("hostile-input-fills-the-log"):
            assert len(server.log.serious()) - logged <= 1
    finally:
        bystander.close()
        attacker.close()


def outcome(send: Callable[[], object]) -> str:
    """Whether the connection got an error or was closed; a result is neither."""
    try:
        result = send()
    except Fault:
        return ERROR
    except (Closed, ConnectionError):
        return CLOSED
    return f"result {result!r}"
