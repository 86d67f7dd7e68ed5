"""The life of a transaction: begin, store, vote, finish, abort, and the order of what the server sends."""

import pytest

from rawzeo import MAXTID, Z64, Fault, RawClient, p64, record


def test_reply_order_of_a_commit(server, raw):
    """The committer: info, then the reply. Everybody else: the invalidation. Nobody gets both."""
    committer, other, reader = raw(server), raw(server), raw(server, read_only=True)
    oids = list(committer.call("new_oids", 2))
    txn = committer.begin()
    for oid in oids:
        committer.store(txn, oid, Z64, b"data")
    assert list(committer.call("vote", txn)) == []
    start = len(committer.received)
    tid = committer.call("tpc_finish", txn)
    info, reply = committer.received[start:]
    assert info.name == "info"
    assert bool(info.flags) is True
    assert info.args[0] == {"length": info.args[0]["length"], "size": server.data_fs.stat().st_size}
    assert reply.args == tid
    for bystander in (other, reader):
        message = bystander.receive()
        assert message.name == "invalidateTransaction"
        assert bool(message.flags) is True
        assert message.args[0] == tid
        assert list(message.args[1]) == oids
    committer.sync()
    assert committer.announced() == []


def test_loads_see_a_commit_after_its_reply_only(server, raw):
    committer, other = raw(server), raw(server)
    oid = committer.new_oid()
    first = committer.commit((oid, Z64, b"one"))
    txn = committer.begin()
    committer.store(txn, oid, first, b"two")
    committer.call("vote", txn)
    assert other.call("loadBefore", oid, MAXTID) == (b"one", first, None)
    assert committer.call("loadBefore", oid, MAXTID) == (b"one", first, None)
    second = committer.call("tpc_finish", txn)
    assert other.call("loadBefore", oid, MAXTID) == (b"two", second, None)
    assert second > first


def test_abort_before_vote_and_after(server, raw):
    client, other = raw(server), raw(server)
    oid = client.new_oid()
    first = client.commit((oid, Z64, b"one"))
    for voted in (False, True):
        txn = client.begin()
        client.store(txn, oid, first, b"never")
        if voted:
            client.call("vote", txn)
        assert client.call("tpc_abort", txn) is None
    assert client.call("loadBefore", oid, MAXTID) == (b"one", first, None)
    other.commit((oid, first, b"two"))


def test_tids_increase(server, raw):
    client = raw(server)
    oid = client.new_oid()
    tids = [Z64]
    for _ in range(20):
        tids.append(client.commit((oid, tids[-1], b"data")))
    assert tids == sorted(set(tids))
    assert client.call("lastTransaction") == tids[-1]


def test_same_begin_twice_is_ignored(server, raw):
    client = raw(server)
    txn = client.begin(description=b"first")
    client.async_("tpc_begin", txn, b"", b"second", {}, None, " ")
    oid = client.new_oid()
    client.store(txn, oid, Z64, b"data")
    client.vote_finish(txn)
    (entry,) = client.call("history", oid)
    assert entry["description"] == b"first"


def test_another_begin_closes(make_server, raw):
    server = make_server()
    server.log.allow("raised exception")
    client = raw(server)
    client.begin()
    client.begin()
    client.wait_closed()
    other = raw(server)
    other.commit((other.new_oid(), Z64, b"data"))


def test_vote_twice(server, raw):
    server.log.allow("raised exception")
    client = raw(server)
    txn = client.begin()
    client.call("vote", txn)
    with pytest.raises(Fault) as fault:
        client.call("vote", txn)
    assert fault.value.class_name == "ZODB.POSException.StorageTransactionError"
    assert tuple(fault.value.state) == ("Already voting (locked)",)
    client.call("tpc_finish", txn)


def test_wrong_transaction_id(server, raw):
    server.log.allow("no current transaction", "invalid; current transaction", "raised exception")
    client = raw(server)
    with pytest.raises(Fault) as fault:
        client.call("vote", 99)
    assert fault.value.class_name == "ZODB.POSException.StorageTransactionError"
    assert tuple(fault.value.state) == (None, 99)
    assert client.call("tpc_finish", 99) is None
    assert client.call("tpc_abort", 99) is None
    txn = client.begin()
    with pytest.raises(Fault) as fault:
        client.call("vote", 99)
    assert tuple(fault.value.state) == (txn, 99)
    assert client.call("tpc_finish", 99) is None
    assert client.call("tpc_abort", 99) is None
    assert client.vote_finish(txn) == client.call("lastTransaction")


@pytest.mark.parametrize("txn", [2**31, 2**47 + 5, -7, "text", b"bytes"], ids=repr)
def test_transaction_ids_are_opaque(server, raw, txn):
    client = raw(server)
    client.async_("tpc_begin", txn, b"", b"", {}, None, " ")
    oid = client.new_oid()
    client.store(txn, oid, Z64, b"data")
    tid = client.vote_finish(txn)
    assert client.call("getTid", oid) == tid


@pytest.mark.parametrize("method", ["storea", "restorea", "deleteObject", "checkCurrentSerialInTransaction", "undoa"])
def test_operations_without_a_transaction_close(make_server, raw, method):
    server = make_server()
    server.log.allow("no current transaction", "raised exception")
    args = {
        "storea": (p64(1), Z64, b"data", 5),
        "restorea": (p64(1), Z64, b"data", None, 5),
        "deleteObject": (p64(1), Z64, 5),
        "checkCurrentSerialInTransaction": (p64(1), Z64, 5),
        "undoa": (b"AAAAAAAAAAA=", 5),
    }[method]
    client = raw(server)
    client.async_(method, *args)
    client.wait_closed()
    assert raw(server).call("lastTransaction") == Z64


def test_conflict(server, raw):
    client, other = raw(server), raw(server)
    oid = client.new_oid()
    first = client.commit((oid, Z64, record(1)))
    second = client.commit((oid, first, record(2)))
    txn = other.begin()
    other.store(txn, oid, first, record(3))
    with pytest.raises(Fault) as fault:
        other.call("vote", txn)
    assert fault.value.class_name == "ZODB.POSException.ConflictError"
    state = fault.value.state
    assert state["oid"] == oid
    assert tuple(state["serials"]) == (second, first)
    assert state["message"] == "database conflict error"
    assert state["class_name"] == "persistent.mapping.PersistentMapping"
    # The transaction is gone and the lock is free: an abort is a no-op, a commit goes through.
    client.commit((oid, second, record(4)))
    assert other.call("tpc_abort", txn) is None
    other.commit((other.new_oid(), Z64, b"data"))


def test_read_conflict(server, raw):
    client, other = raw(server), raw(server)
    oid = client.new_oid()
    first = client.commit((oid, Z64, b"one"))
    second = client.commit((oid, first, b"two"))
    txn = other.begin()
    other.async_("checkCurrentSerialInTransaction", oid, first, txn)
    other.store(txn, other.new_oid(), Z64, b"data")
    with pytest.raises(Fault) as fault:
        other.call("vote", txn)
    assert fault.value.class_name == "ZODB.POSException.ReadConflictError"
    state = fault.value.state
    assert state["oid"] == oid
    assert tuple(state["serials"]) == (second, first)
    assert state["message"] == "database read conflict error"
    txn = other.begin()
    other.async_("checkCurrentSerialInTransaction", oid, second, txn)
    other.vote_finish(txn)


def test_read_current_of_an_unknown_object(server, raw):
    server.log.allow("While voting", "raised exception")
    client = raw(server)
    txn = client.begin()
    client.async_("checkCurrentSerialInTransaction", p64(2**50), Z64, txn)
    with pytest.raises(Fault) as fault:
        client.call("vote", txn)
    assert fault.value.class_name == "ZODB.POSException.POSKeyError"
    assert tuple(fault.value.state) == (p64(2**50),)


def vote_behind(first: RawClient, second: RawClient):
    """Both change one object; the first has voted, the vote of the second waits. What they are about, and the vote."""
    oid = first.new_oid()
    base = first.commit((oid, Z64, record(0)))
    txn1, txn2 = first.begin(), second.begin()
    first.store(txn1, oid, base, record(1))
    second.store(txn2, oid, base, record(2))
    first.call("vote", txn1)
    vote = second.start("vote", txn2)
    assert second.waits(vote)
    return oid, base, txn1, txn2, vote


def test_conflict_with_a_voted_transaction_that_finishes(server, raw):
    """The second vote waits, and then conflicts with what the first committed."""
    first, second = raw(server), raw(server)
    _, base, txn1, _, vote = vote_behind(first, second)
    tid = first.call("tpc_finish", txn1)
    with pytest.raises(Fault) as fault:
        second.reply(vote)
    assert tuple(fault.value.state["serials"]) == (tid, base)


def test_vote_behind_one_that_aborts(server, raw):
    first, second = raw(server), raw(server)
    oid, _, txn1, txn2, vote = vote_behind(first, second)
    first.call("tpc_abort", txn1)
    second.reply(vote)
    tid = second.call("tpc_finish", txn2)
    assert first.call("loadBefore", oid, MAXTID) == (record(2), tid, None)


def test_many_objects_in_one_transaction(server, raw):
    client, other = raw(server), raw(server)
    oids = [oid for _ in range(10) for oid in client.call("new_oids", 100)]
    tid = client.commit(*[(oid, Z64, oid * 3) for oid in oids])
    assert other.invalidated(tid) == oids
    assert other.call("loadBefore", oids[500], MAXTID) == (oids[500] * 3, tid, None)


def test_transaction_bigger_than_any_buffer(server, raw):
    client = raw(server)
    oids = list(client.call("new_oids", 30))
    data = bytes(1_000_000)
    tid = client.commit(*[(oid, Z64, data + oid) for oid in oids])
    assert client.call("loadBefore", oids[-1], MAXTID) == (data + oids[-1], tid, None)
