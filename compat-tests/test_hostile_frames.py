"""Hostile input below the messages: lengths that lie, streams that stop, clients that do not read."""

import contextlib
import struct

import pytest

import rawzeo
from hostile import unharmed
from ledger import differs, skip_where_differs
from rawzeo import MAXTID, Z64, Closed, Fault, RawClient, frame, registered


@pytest.mark.parametrize("length", [2**20, 2**30, 2**31 - 1, 2**31, 2**32 - 1], ids=hex)
@pytest.mark.parametrize("registered_before", [True, False], ids=["registered", "fresh"])
def test_absurd_length(server, length, registered_before):
    with unharmed(server) as attacker:
        client = attacker if registered_before else RawClient(server.address, answer=b"")
        with contextlib.suppress(ConnectionError):
            client.send_bytes(struct.pack(">I", length) + b"x" * 1000)
        client.close()


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00" * 3,
        b"\xff" * 4096,
    ],
    ids=["http", "tls", "three zeros", "ones"],
)
def test_another_protocol(server, data):
    with unharmed(server), rawzeo.connect(server.address) as sock:
        sock.sendall(data)


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 20])
def test_stream_ends_in_a_frame(server, cut):
    with unharmed(server) as attacker:
        message = frame(attacker.encode(9, False, "loadBefore", (Z64, MAXTID)))
        attacker.send_bytes(message[:cut])


def test_empty_frame(server):
    with unharmed(server) as attacker:
        attacker.send_frame(b"")
        if not differs("handshake-hangs"):
            attacker.wait_closed()


def test_many_connections_that_say_nothing(server):
    with unharmed(server):
        idle = [rawzeo.connect(server.address) for _ in range(200)]
        for sock in idle:
            sock.close()


def test_client_that_does_not_read(make_server):
    """Its replies may not pile up in memory without end."""
    server = make_server()
    server.limit_memory(4096)
    skip_where_differs("unread-replies-pile-up")
    client = registered(server.address)
    oid = client.new_oid()
    client.commit((oid, Z64, bytes(1_000_000)))
    with unharmed(server) as attacker:
        attacker.sock.settimeout(1)
        # The server may stop reading, or close: both end the attack.
        with contextlib.suppress(TimeoutError, ConnectionError):
            for _ in range(2000):
                attacker.start("loadBefore", oid, MAXTID)
    client.close()


def test_transaction_that_is_never_voted(make_server):
    """What is stored before the vote may not be kept in memory."""
    server = make_server()
    with unharmed(server) as attacker:
        before = server.memory_kib()
        txn = attacker.begin()
        for oid in attacker.call("new_oids", 100):
            attacker.store(txn, oid, Z64, bytes(1_000_000))
        attacker.sync()
        assert server.memory_kib() - before < 60 << 10


def test_many_large_replies_all_arrive(make_server):
    """A client may ask for more at once than the server is willing to keep for it."""
    server = make_server()
    client = registered(server.address)
    oid = client.new_oid()
    record = bytes(range(256)) * (4 << 12)
    tid = client.commit((oid, Z64, record))
    asked = [client.start("loadBefore", oid, MAXTID) for _ in range(80)]
    for msgid in asked:
        assert tuple(client.reply(msgid)) == (record, tid, None)
        client.received.clear()
    client.close()


@pytest.mark.parametrize("length", [10_000, 100_000])
def test_long_storage_name_is_cut_in_the_log(make_server, length):
    server = make_server()
    server.log.allow(".")
    client = RawClient(server.address)
    with contextlib.suppress(Fault, Closed, ConnectionError):
        client.call("register", "x\n" * (length // 2), False)
    client.close()
    registered(server.address).close()
    skip_where_differs("hostile-input-fills-the-log")
    assert len(server.log.text()) < 20_000
