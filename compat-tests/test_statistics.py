"""server_status and ruok: the same fields by two ways, and what they count."""

import json
import time

import pytest

from ledger import differs
from rawzeo import MAXTID, Z64, Fault, p64, record, ruok
from subject import filestorage, wait_until

FIELDS = {
    "connections",
    "loads",
    "stores",
    "commits",
    "aborts",
    "active_txns",
    "lock_time",
    "conflicts",
    "conflicts_resolved",
    "start",
    "waiting",
    "timeout-thread-is-alive",
    "last-transaction",
}


def test_fresh_server(make_server, raw):
    server = make_server()
    status = json.loads(ruok(server.address))["1"]
    assert set(status) >= FIELDS
    numbers = FIELDS - {"start", "lock_time", "timeout-thread-is-alive", "last-transaction"}
    assert {name: status[name] for name in numbers} == dict.fromkeys(numbers, 0)
    assert status["lock_time"] is None
    assert status["timeout-thread-is-alive"] == "stub"
    assert status["last-transaction"] == "0" * 16
    started = time.mktime(time.strptime(status["start"]))
    assert time.time() - 60 < started <= time.time()


def test_counters(make_server, raw):
    server = make_server()
    server.log.allow("While voting", "raised exception")
    client, other = raw(server), raw(server)

    def status():
        got = client.call("server_status")
        assert got == json.loads(ruok(server.address))["1"]
        return got

    first = client.commit((p64(1), Z64, record(1)), (p64(2), Z64, record(2)))
    client.call("loadBefore", p64(1), MAXTID)
    with pytest.raises(Fault):
        client.call("loadBefore", p64(99), MAXTID)
    client.call("getTid", p64(1))
    now = status()
    assert (now["connections"], now["stores"], now["commits"], now["loads"]) == (2, 2, 1, 2)
    assert now["last-transaction"] == first.hex()

    txn = client.begin()
    assert status()["active_txns"] == 1
    client.store(txn, p64(1), first, record(3))
    client.call("vote", txn)
    lock_time = status()["lock_time"]
    assert time.time() - 60 < lock_time <= time.time() + 1
    waiting = other.begin()
    other.store(waiting, p64(1), first, record(4))
    vote = other.start("vote", waiting)
    assert other.waits(vote)
    assert (status()["waiting"], status()["active_txns"]) == (1, 2)
    client.call("tpc_abort", txn)
    other.reply(vote)
    second = other.call("tpc_finish", waiting)
    now = status()
    assert (now["aborts"], now["commits"], now["stores"], now["conflicts"]) == (1, 2, 4, 0)
    assert (now["waiting"], now["active_txns"], now["lock_time"]) == (0, 0, None)
    assert now["last-transaction"] == second.hex()

    txn = client.begin()
    client.store(txn, p64(1), first, record(5))
    with pytest.raises(Fault):
        client.call("vote", txn)
    now = status()
    assert (now["conflicts"], now["active_txns"], now["lock_time"]) == (1, 0, None)

    other.begin()
    other.sync()
    other.close()
    wait_until(lambda: client.call("server_status")["connections"] == 1, "the connection is gone")
    now = status()
    assert (now["active_txns"], now["aborts"]) == (0, 2)


def test_connections_that_the_server_closes(make_server, raw):
    server = make_server()
    server.log.allow("invalid method", "raised exception")
    client, other = raw(server), raw(server)
    client.start("nope")
    client.wait_closed()
    expected = 2 if differs("closed-connections-counted") else 1
    wait_until(lambda: other.call("server_status")["connections"] == expected, "the connection is gone")


def test_every_storage_has_its_own(make_server, raw, tmp_path):
    server = make_server([filestorage(tmp_path / "a.fs", "a"), filestorage(tmp_path / "b.fs", "b")])
    raw(server, storage="a").commit((p64(1), Z64, b"data"))
    status = json.loads(ruok(server.address))
    assert set(status) == {"a", "b"}
    assert (status["a"]["commits"], status["b"]["commits"]) == (1, 0)


def test_timeout_is_reported(make_server):
    server = make_server(transaction_timeout=100)
    assert json.loads(ruok(server.address))["1"]["timeout-thread-is-alive"] is True
