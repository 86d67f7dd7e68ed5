"""Small databases to be packed, whoever asks for it, and what is left of them."""

from __future__ import annotations

import random

import pytest
from ZODB.TimeStamp import TimeStamp

import pack_records
from clients import Clients, RemoteError, Worker
from history import nth_tid
from rawzeo import MAXTID, Z64, Fault, RawClient
from subject import Server

KEY_ERROR = "ZODB.POSException.POSKeyError"


def linked(*oids: bytes) -> bytes:
    """A record that refers to these objects; each time another one."""
    record = pack_records.written_by_zodb(random.Random(), list(oids), [])
    assert len(record) > 0
    return record


def moment(n: float) -> float:
    """The time of the n-th transaction of `write`; n + 0.5 is after it and before the next."""
    return TimeStamp(nth_tid(0)).timeTime() + 60 * n


def write(client: RawClient, *transactions: dict[bytes, bytes]) -> list[bytes]:
    """Transactions of oid -> record, a minute apart from the same morning on; their tids."""
    tids: list[bytes] = []
    serials: dict[bytes, bytes] = {}
    for records in transactions:
        stores = [(oid, serials.get(oid, Z64), data) for oid, data in records.items()]
        tids.append(client.commit(*stores, tid=nth_tid(len(tids)), description=b"number %d" % len(tids)))
        serials |= dict.fromkeys(records, tids[-1])
    return tids


def state(client: RawClient, oid: bytes, tid: bytes | None = None):
    """The data of a revision or, without a tid, of now; None if it is not there."""
    try:
        return client.call("loadSerial", oid, tid) if tid else client.call("loadBefore", oid, MAXTID)[0]
    except Fault as fault:
        assert fault.class_name == KEY_ERROR
        return None


def packer(clients: Clients, server: Server, **options) -> Worker:
    return clients.storage(server.address, **options)


def refused(worker: Worker, *args) -> RemoteError:
    with pytest.raises(RemoteError) as error:
        worker.do("call", "pack", *args)
    return error.value


def server_class(error: RemoteError) -> str:
    """The class that the server named, whether the client knows it or not."""
    return error.remote_args[0] if error.name == "ServerException" else error.class_name
