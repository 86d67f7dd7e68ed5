"""Iterators over transactions and records, and what frees them."""

import base64

import pytest

from rawzeo import Z64, Fault, p64, record, u64


@pytest.fixture
def history(make_server, raw, encoding):
    """A server with five transactions: a raw client and the tids."""
    server = make_server(msgpack=encoding == "msgpack")
    # A wrong iterator id is an error of the server to Python's server.
    server.log.allow("iterator_(next|record_next|record_start).* raised exception")
    client = raw(server)
    tids = []
    serial = Z64
    for n in range(5):
        serial = client.commit((p64(1), serial, b"one %d" % n), (p64(10 + n), Z64, b"new"), user=b"user %d" % n)
        tids.append(serial)
    return client, tids


def iterate(client, start=None, stop=None):
    iid = client.call("iterator_start", start, stop)
    tids = []
    while (txn := client.call("iterator_next", iid)) is not None:
        tids.append(txn[0])
    return tids


def gone(client, method, *args) -> None:
    """The iterator id in front of `args` means nothing to the server."""
    with pytest.raises(Fault) as fault:
        client.call(method, *args)
    assert fault.value.class_name == "builtins.KeyError"
    assert tuple(fault.value.state) == args[:1]


def test_transactions_and_records(history):
    client, tids = history
    iid = client.call("iterator_start", None, None)
    for n, tid in enumerate(tids):
        txn = client.call("iterator_next", iid)
        assert txn == (tid, " ", b"user %d" % n, b"", {})
        rid = client.call("iterator_record_start", iid, tid)
        assert client.call("iterator_record_next", rid) == (p64(1), tid, b"one %d" % n, None)
        assert client.call("iterator_record_next", rid) == (p64(10 + n), tid, b"new", None)
        assert client.call("iterator_record_next", rid) is None
    assert client.call("iterator_next", iid) is None


def test_start_and_stop_are_inclusive(history):
    client, tids = history
    before, after = p64(u64(tids[1]) - 1), p64(u64(tids[3]) + 1)
    assert iterate(client) == tids
    assert iterate(client, tids[1], tids[3]) == tids[1:4]
    assert iterate(client, before, after) == tids[1:4]
    assert iterate(client, tids[2]) == tids[2:]
    assert iterate(client, None, tids[2]) == tids[:3]
    assert iterate(client, p64(u64(tids[1]) + 1), p64(u64(tids[3]) - 1)) == tids[2:3]
    assert iterate(client, tids[4], tids[0]) == []
    assert iterate(client, p64(u64(tids[4]) + 1)) == []
    assert iterate(client, Z64, p64(1)) == []


def test_ids_count_per_connection(history):
    client, tids = history
    assert client.call("iterator_start", None, None) == 0
    assert client.call("iterator_start", None, None) == 1
    client.call("iterator_next", 1)
    assert client.call("iterator_record_start", 1, tids[0]) == 2


def test_iterators_are_independent(history):
    client, tids = history
    first, second = (client.call("iterator_start", None, None) for _ in range(2))
    assert client.call("iterator_next", first)[0] == tids[0]
    assert client.call("iterator_next", first)[0] == tids[1]
    assert client.call("iterator_next", second)[0] == tids[0]


def test_exhausted_iterators_are_forgotten(history):
    client, tids = history
    iid = client.call("iterator_start", tids[4], None)
    client.call("iterator_next", iid)
    rid = client.call("iterator_record_start", iid, tids[4])
    while client.call("iterator_record_next", rid) is not None:
        pass
    assert client.call("iterator_next", iid) is None
    gone(client, "iterator_next", iid)
    gone(client, "iterator_record_next", rid)


def test_iterator_gc(history):
    client, _ = history
    keep, drop = (client.call("iterator_start", None, None) for _ in range(2))
    client.async_("iterator_gc", [drop, 999])
    gone(client, "iterator_next", drop)
    assert client.call("iterator_next", keep) is not None


def test_unknown_iterator(history):
    client, tids = history
    gone(client, "iterator_next", 77)
    gone(client, "iterator_record_next", 77)
    gone(client, "iterator_record_start", 77, tids[0])


def test_iterators_belong_to_their_connection(server, raw):
    server.log.allow("raised exception")
    client, other = raw(server), raw(server)
    client.call("iterator_start", None, None)
    gone(other, "iterator_next", 0)


def test_record_iterator_of_another_transaction(history):
    client, tids = history
    iid = client.call("iterator_start", None, None)
    client.call("iterator_next", iid)
    client.call("iterator_next", iid)
    with pytest.raises(Fault) as fault:
        client.call("iterator_record_start", iid, tids[0])
    assert fault.value.class_name == "builtins.Exception"
    (text,) = fault.value.state
    assert text.startswith("Out-of-order request for record iterator")
    rid = client.call("iterator_record_start", iid, tids[1])
    assert client.call("iterator_record_next", rid)[0] == p64(1)


def test_records_of_a_past_transaction_can_be_finished(history):
    client, tids = history
    iid = client.call("iterator_start", None, None)
    client.call("iterator_next", iid)
    rid = client.call("iterator_record_start", iid, tids[0])
    client.call("iterator_next", iid)
    assert client.call("iterator_record_next", rid) == (p64(1), tids[0], b"one 0", None)


def test_iteration_is_a_snapshot_of_the_end(make_server, raw):
    """What is committed after the start is not visited."""
    server = make_server()
    server.log.allow("truncated, possibly due to damaged records")
    client = raw(server)
    tids = [client.commit((p64(n), Z64, b"before")) for n in range(1, 4)]
    iid = client.call("iterator_start", None, None)
    client.commit((p64(50), Z64, b"later"))
    seen = []
    while (txn := client.call("iterator_next", iid)) is not None:
        seen.append(txn[0])
    assert seen == tids


def test_undo_and_deletion_records(make_server, raw):
    client = raw(make_server())
    first = client.commit((p64(1), Z64, record(1)), (p64(2), Z64, record(2)))
    second = client.commit((p64(1), first, record(11)))
    txn = client.begin()
    client.async_("undoa", base64.b64encode(second), txn)
    third = client.vote_finish(txn)
    txn = client.begin()
    client.async_("deleteObject", p64(2), first, txn)
    fourth = client.vote_finish(txn)
    iid = client.call("iterator_start", third, None)
    records = []
    for tid in (third, fourth):
        client.call("iterator_next", iid)
        rid = client.call("iterator_record_start", iid, tid)
        records.append(client.call("iterator_record_next", rid))
    assert records == [(p64(1), third, record(1), first), (p64(2), fourth, None, None)]


def test_real_client_iterates(server, clients):
    client = clients.storage()
    oid = client.do("call", "new_oid")
    first = client.do("commit", (oid, Z64, b"one"), user="u", description="d", extension={"k": [1, "x"]})
    second = client.do("commit", (oid, first, b"two"))
    third = client.do("commit")
    result = client.do("iterate", first, third)
    assert [(tid, status, user, description) for tid, status, user, description, _, _ in result] == [
        (first, " ", b"u", b"d"),
        (second, " ", b"", b""),
        (third, " ", b"", b""),
    ]
    assert list(result[0][4]["k"]) == [1, "x"]
    assert [records for *_, records in result] == [
        [(oid, first, b"one", None)],
        [(oid, second, b"two", None)],
        [],
    ]
