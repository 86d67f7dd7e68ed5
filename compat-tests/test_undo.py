"""Transactional undo: undoLog, undoInfo, undoa, and when it is refused."""

import base64

import pytest

from clients import RemoteError
from rawzeo import MAXTID, Z64, Fault, p64, record


def undo_id(tid: bytes) -> bytes:
    return base64.encodebytes(tid).rstrip()


def undo(client, *tids: bytes) -> bytes:
    txn = client.begin(description=b"undo")
    for tid in tids:
        client.async_("undoa", undo_id(tid), txn)
    return client.vote_finish(txn)


def refused(client, *ids: bytes) -> Fault:
    txn = client.begin()
    for each in ids:
        client.async_("undoa", each, txn)
    with pytest.raises(Fault) as fault:
        client.call("vote", txn)
    return fault.value


def current(client, oid: bytes) -> bytes:
    return client.call("loadBefore", oid, MAXTID)[0]


def test_undo_log(server, raw):
    client = raw(server)
    oid = client.new_oid()
    first = client.commit((oid, Z64, b"one"), user=b"me", description=b"first", extension={"k": "v"})
    second = client.commit((oid, first, b"two"), user=b"you", description=b"second")
    newest, older = client.call("undoLog", 0, 2)
    assert newest["id"] == undo_id(second)
    assert set(older) == {"id", "time", "user_name", "description", "size", "k"}
    assert older["id"] == undo_id(first)
    assert (older["user_name"], older["description"], older["k"]) == (b"me", b"first", "v")
    assert older["time"] <= newest["time"]
    # The length of the transaction record less eight: header, texts, extension, one record.
    assert newest["size"] == 23 + len(b"yousecond") + 42 + 3


def test_undo_log_ranges(make_server, raw):
    client = raw(make_server())
    tids = [client.commit((p64(n), Z64, b"data")) for n in range(1, 8)][::-1]
    ids = [undo_id(tid) for tid in tids]

    def log(first, last):
        return [entry["id"] for entry in client.call("undoLog", first, last)]

    assert log(0, 3) == ids[:3]
    assert log(2, 4) == ids[2:4]
    assert log(0, -3) == ids[:3]
    assert log(2, -3) == ids[2:5]
    assert log(0, 100) == ids
    assert log(5, 100) == ids[5:]
    assert log(7, 100) == []
    assert log(3, 3) == []


def test_undo_log_of_an_empty_storage(make_server, raw):
    client = raw(make_server())
    assert list(client.call("undoLog", 0, 20)) == []
    assert list(client.call("undoInfo", 0, 20, None)) == []


def test_undo_log_extension_overrides(server, raw):
    client = raw(server)
    client.commit((client.new_oid(), Z64, b"data"), extension={"size": "mine"})
    assert client.call("undoLog", 0, 1)[0]["size"] == "mine"


def test_undo_info_with_a_specification(make_server, raw, encoding):
    client = raw(make_server(msgpack=encoding == "msgpack"))
    tids = {}
    for user in (b"/ anna", b"/ bert"):
        for description in (b"x", b"y"):
            oid = client.new_oid()
            tids[user, description] = client.commit((oid, Z64, b"data"), user=user, description=description)

    def info(specification, first=0, last=-20):
        return [entry["id"] for entry in client.call("undoInfo", first, last, specification)]

    assert info({"user_name": b"/ anna"}) == [undo_id(tids[b"/ anna", d]) for d in (b"y", b"x")]
    assert info({"user_name": b"/ anna", "description": b"x"}) == [undo_id(tids[b"/ anna", b"x"])]
    assert info({"user_name": b"/ carl"}) == []
    assert info({"description": b"y"}, 1, 2) == [undo_id(tids[b"/ anna", b"y"])]
    assert info({"no_such_key": b"y"}) == []
    assert len(info({})) == 4
    assert len(info(None)) == 4


def test_undo_restores_the_state_before(server, raw):
    client, other = raw(server), raw(server)
    oid = client.new_oid()
    first = client.commit((oid, Z64, record(1)))
    second = client.commit((oid, first, record(2)))
    txn = client.begin()
    client.async_("undoa", undo_id(second), txn)
    # The oids touched are the result of the vote: the client must drop them from its cache.
    assert list(client.call("vote", txn)) == [oid]
    tid = client.call("tpc_finish", txn)
    assert client.call("loadBefore", oid, MAXTID) == (record(1), tid, None)
    assert other.invalidated(tid) == [oid]


def test_undo_of_undo(server, raw):
    client = raw(server)
    oid = client.new_oid()
    first = client.commit((oid, Z64, record(1)))
    second = client.commit((oid, first, record(2)))
    third = undo(client, second)
    assert current(client, oid) == record(1)
    undo(client, third)
    assert current(client, oid) == record(2)


def test_undo_of_a_creation(server, raw):
    client = raw(server)
    oid = client.new_oid()
    first = client.commit((oid, Z64, record(1)))
    tid = undo(client, first)
    with pytest.raises(Fault) as fault:
        current(client, oid)
    assert fault.value.class_name == "ZODB.POSException.POSKeyError"
    undo(client, tid)
    assert current(client, oid) == record(1)


def test_undo_several_newest_first(server, raw):
    client = raw(server)
    oid = client.new_oid()
    first = client.commit((oid, Z64, record(1)))
    second = client.commit((oid, first, record(2)))
    third = client.commit((oid, second, record(3)))
    undo(client, third, second)
    assert current(client, oid) == record(1)


def test_undo_across_an_identical_state(server, raw):
    """What counts is the data, not which transaction wrote it."""
    client = raw(server)
    oid = client.new_oid()
    tid = Z64
    tids = []
    for value in (1, 2, 3, 2):
        tid = client.commit((oid, tid, record(value)))
        tids.append(tid)
    undo(client, tids[1])
    assert current(client, oid) == record(1)


def test_undo_refused_after_a_later_change(server, raw):
    server.log.allow("While voting", "raised exception", "_loadBack|tryToResolveConflict")
    client, other = raw(server), raw(server)
    oid = client.new_oid()
    first = client.commit((oid, Z64, record(1)))
    second = client.commit((oid, first, record(2)))
    third = client.commit((oid, second, record(3)))
    fault = refused(client, undo_id(second))
    assert fault.class_name == "ZODB.POSException.MultipleUndoErrors"
    ((failed, (class_name, state)),) = fault.state["_errs"]
    assert failed == oid
    assert class_name == "ZODB.POSException.UndoError"
    assert state["_reason"] == "Some data were modified by a later transaction"
    # Nothing stays locked or half done.
    assert current(client, oid) == record(3)
    other.commit((oid, third, record(4)))


def test_undo_of_an_unknown_transaction(server, raw):
    server.log.allow("While voting", "raised exception")
    fault = refused(raw(server), undo_id(p64(12345)))
    assert fault.class_name == "ZODB.POSException.UndoError"
    assert fault.state["_reason"] == "Invalid transaction id"


def test_undo_of_a_packed_transaction(make_server, raw):
    server = make_server()
    server.log.allow("While voting", "raised exception")
    client = raw(server)
    tid = p64(0x03D0000000000000)
    txn = client.begin(tid=tid, status="p")
    client.async_("restorea", p64(1), tid, b"data", None, txn)
    client.vote_finish(txn)
    assert list(client.call("undoLog", 0, 10)) == []
    fault = refused(client, undo_id(tid))
    assert fault.class_name == "ZODB.POSException.UndoError"
    assert fault.state["_reason"] == "non-undoable transaction"


@pytest.mark.parametrize("bad", [b"", b"short", b"!" * 12, b"A" * 400], ids=repr)
def test_undo_with_a_malformed_id(server, raw, bad):
    server.log.allow("While voting", "raised exception")
    client = raw(server)
    refused(client, bad)
    client.commit((client.new_oid(), Z64, b"data"))


def test_real_client_undoes(server, clients):
    client, reader = clients.storage(), clients.storage()
    oid = client.do("call", "new_oid")
    first = client.do("commit", (oid, Z64, record(1)), user="me", description="first")
    second = client.do("commit", (oid, first, record(2)), description="second")
    log = client.do("call", "undoLog", 0, 2)
    assert [entry["description"] for entry in log] == [b"second", b"first"]
    tid = client.do("undo", log[0]["id"])
    assert reader.do("call", "loadBefore", oid, MAXTID) == (record(1), tid, None)
    third = client.do("commit", (oid, tid, record(3)))
    assert third > tid > second
    server.log.allow("While voting", "raised exception")
    with pytest.raises(RemoteError) as error:
        client.do("undo", client.do("call", "undoLog", 0, 4)[2]["id"])
    assert error.value.name == "MultipleUndoErrors"
