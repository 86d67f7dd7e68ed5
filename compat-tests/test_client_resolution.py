"""client-conflict-resolution: conflicts go back to the client, which resolves them and votes again."""

import json

import pytest

from rawzeo import MAXTID, Z64, record, ruok


@pytest.fixture
def server(make_server, encoding):
    return make_server(msgpack=encoding == "msgpack", client_conflict_resolution=True)


@pytest.fixture
def conflicting(server, raw):
    """A transaction with one conflicting store and one that is fine."""
    client, other = raw(server), raw(server)
    oid, free = client.call("new_oids", 2)
    first = client.commit((oid, Z64, record(1)))
    second = client.commit((oid, first, record(2)))
    txn = other.begin()
    other.store(txn, oid, first, record(3))
    other.store(txn, free, Z64, record("free"))
    return client, other, txn, oid, free, first, second


def test_conflicts_are_the_result_of_the_vote(server, conflicting):
    client, other, txn, oid, free, first, second = conflicting
    (conflict,) = other.call("vote", txn)
    assert conflict["oid"] == oid
    assert tuple(conflict["serials"]) == (second, first)
    assert conflict["data"] == record(3)
    # The lock is free meanwhile, but the transaction is still known.
    third = client.commit((client.new_oid(), Z64, record(9)))
    other.store(txn, oid, second, record("resolved"))
    assert list(other.call("vote", txn)) == []
    tid = other.call("tpc_finish", txn)
    assert tid > third
    assert client.call("loadBefore", oid, MAXTID) == (record("resolved"), tid, None)
    assert client.call("loadBefore", free, MAXTID) == (record("free"), tid, None)
    assert set(client.invalidated(tid)) == {oid, free}
    assert json.loads(ruok(server.address))["1"]["conflicts"] == 0


def test_overtaken_again(conflicting):
    client, other, txn, oid, _, first, second = conflicting
    other.call("vote", txn)
    third = client.commit((oid, second, record("overtakes")))
    other.store(txn, oid, second, record("resolved"))
    (conflict,) = other.call("vote", txn)
    assert tuple(conflict["serials"]) == (third, second)
    assert conflict["data"] == record("resolved")
    other.store(txn, oid, third, record("resolved again"))
    assert list(other.call("vote", txn)) == []
    other.call("tpc_finish", txn)


def test_abort_after_a_conflict(conflicting):
    client, other, txn, oid, *_, second = conflicting
    other.call("vote", txn)
    assert other.call("tpc_abort", txn) is None
    client.commit((oid, second, record("goes on")))
    other.commit((other.new_oid(), Z64, b"data"))


def test_counter_of_an_application(server, clients):
    """Length knows how to resolve, and the client has its class."""
    client = clients.database(server.address)
    client.do("app_scenarios.make_trees", 10)
    for name in ("first", "second"):
        client.do("app_scenarios.open_connection", name)
        client.do("app_scenarios.change_length", name, 5)
    for name in ("first", "second"):
        client.do("app_scenarios.commit", name)
    client.do("app_scenarios.begin", "second")
    assert client.do("app_scenarios.length", "second") == 20
