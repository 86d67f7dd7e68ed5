"""Reading: loadBefore, loadSerial, getTid, history, record_iternext, over real clients and raw ones."""

import pytest

from clients import RemoteError
from rawzeo import MAXTID, Z64, Fault, p64, tid_of, u64

UNKNOWN = p64(2**48)


@pytest.fixture
def three(server, raw):
    """An object with three revisions: a raw client, its oid, its tids."""
    client = raw(server)
    oid = client.new_oid()
    tids = [Z64]
    for data in (b"one", b"two", b"three"):
        tids.append(client.commit((oid, tids[-1], data), user=b"user", description=b"about " + data))
    return client, oid, tids[1:]


def test_load_before_picks_the_revision(three):
    client, oid, (first, second, third) = three
    newest, middle, oldest = (b"three", third, None), (b"two", second, third), (b"one", first, second)
    after = p64(u64(third) + 1)
    for tid, expected in [
        (MAXTID, newest),
        (after, newest),
        (third, middle),
        (p64(u64(third) - 1), middle),
        (p64(u64(second) + 1), middle),
        (second, oldest),
        (p64(u64(first) + 1), oldest),
        (first, None),
        (Z64, None),
    ]:
        reply = client.call("loadBefore", oid, tid)
        assert reply == expected
        assert reply is None or type(reply) is tuple


def test_load_before_reply_echoes_the_tuple_id(three):
    client, oid, tids = three
    client.send((oid, MAXTID), False, "loadBefore", (oid, MAXTID))
    message = client.receive()
    assert message.msgid == (oid, MAXTID)
    assert message.args == (b"three", tids[-1], None)


def test_load_serial_and_get_tid(three):
    client, oid, tids = three
    assert [client.call("loadSerial", oid, tid) for tid in tids] == [b"one", b"two", b"three"]
    assert client.call("getTid", oid) == tids[-1]


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("loadBefore", (UNKNOWN, MAXTID)),
        ("getTid", (UNKNOWN,)),
        ("loadSerial", (UNKNOWN, p64(1))),
        ("history", (UNKNOWN,)),
    ],
)
def test_unknown_object(server, raw, method, args):
    with pytest.raises(Fault) as fault:
        raw(server).call(method, *args)
    assert fault.value.class_name == "ZODB.POSException.POSKeyError"
    assert tuple(fault.value.state) == (UNKNOWN,)


def test_load_serial_of_an_unknown_revision(three):
    client, oid, tids = three
    with pytest.raises(Fault) as fault:
        client.call("loadSerial", oid, p64(u64(tids[0]) + 1))
    assert fault.value.class_name == "ZODB.POSException.POSKeyError"
    assert tuple(fault.value.state) == (oid,)


def test_history(three):
    client, oid, tids = three
    entries = list(client.call("history", oid, 10))
    assert [entry["tid"] for entry in entries] == tids[::-1]
    newest = entries[0]
    assert set(newest) == {"tid", "time", "user_name", "description", "size"}
    assert newest["user_name"] == b"user"
    assert newest["description"] == b"about three"
    assert newest["size"] == 5
    assert isinstance(newest["time"], float)
    assert [e["tid"] for e in client.call("history", oid)] == tids[-1:]
    assert [e["tid"] for e in client.call("history", oid, 2)] == tids[:0:-1]


def test_history_time_is_that_of_the_tid(three):
    client, oid, tids = three
    for entry in client.call("history", oid, 3):
        # A float of seconds is coarser than a tid.
        assert abs(u64(tid_of(entry["time"])) - u64(entry["tid"])) < 2**32 / 60 / 1000


def test_history_merges_the_extension(server, raw):
    client = raw(server)
    oid = client.new_oid()
    client.commit((oid, Z64, b"data"), extension={"key": "value", "size": "overridden", "n": 7})
    (entry,) = client.call("history", oid)
    assert entry["key"] == "value"
    assert entry["n"] == 7
    assert entry["size"] == 4


def test_record_iternext_visits_every_current_record(make_server, raw):
    client = raw(make_server())
    oids = [Z64, *client.call("new_oids", 4)]
    tid = client.commit(*[(oid, Z64, b"old " + oid) for oid in oids])
    tid2 = client.commit((oids[2], tid, b"new"))
    seen = []
    following = None
    while True:
        oid, serial, data, following = client.call("record_iternext", following)
        seen.append((oid, serial, data))
        if following is None:
            break
    expected = [(oid, tid, b"old " + oid) for oid in oids]
    expected[2] = (oids[2], tid2, b"new")
    assert seen == expected


def test_record_iternext_of_an_empty_storage(make_server, raw):
    server = make_server()
    server.log.allow("record_iternext")
    client = raw(server)
    with pytest.raises(Fault) as fault:
        client.call("record_iternext", None)
    assert fault.value.class_name == "builtins.ValueError"
    client.sync()


def test_get_info(server, raw):
    client = raw(server)
    client.commit((client.new_oid(), Z64, b"data"))
    info = client.call("get_info")
    assert set(info) == {"length", "size", "name", "supportsUndo", "supports_record_iternext", "interfaces"}
    assert info["name"] == str(server.data_fs)
    assert info["length"] > 0
    assert info["size"] == server.data_fs.stat().st_size
    assert info["supportsUndo"] is True
    assert info["supports_record_iternext"] is True
    interfaces = {name for module, name in info["interfaces"] if module == "ZODB.interfaces"}
    assert {
        "IStorageIteration",
        "IStorageUndoable",
        "IStorageRestoreable",
        "IStorageCurrentRecordIteration",
        "IExternalGC",
    } <= interfaces


def test_big_record(server, clients):
    client = clients.storage()
    oid = client.do("call", "new_oid")
    data = bytes(range(256)) * 20_000
    tid = client.do("commit", (oid, Z64, data))
    reader = clients.storage()
    assert reader.do("call", "loadBefore", oid, MAXTID) == (data, tid, None)


def test_real_client_reads(server, clients):
    client = clients.storage()
    oid = client.do("call", "new_oid")
    first = client.do("commit", (oid, Z64, b"one"), user="somebody", description="a text with \u00e4")
    second = client.do("commit", (oid, first, b"two"))
    reader = clients.storage()
    assert reader.do("call", "loadBefore", oid, MAXTID) == (b"two", second, None)
    assert reader.do("call", "loadBefore", oid, second) == (b"one", first, second)
    assert reader.do("call", "loadBefore", oid, first) is None
    assert reader.do("call", "loadSerial", oid, first) == b"one"
    assert reader.do("call", "getTid", oid) == second
    oldest = reader.do("call", "history", oid, 5)[-1]
    assert oldest["tid"] == first
    assert oldest["user_name"] == b"somebody"
    assert oldest["description"] == "a text with \u00e4".encode()
    assert reader.do("call", "lastTransaction") == second
    with pytest.raises(RemoteError) as error:
        reader.do("call", "loadBefore", UNKNOWN, MAXTID)
    assert error.value.name == "POSKeyError"
    assert error.value.remote_args == (UNKNOWN,)


def test_real_client_iterates_records(make_server, encoding, clients):
    server = make_server(msgpack=encoding == "msgpack")
    client = clients.storage(server.address)
    oids = [client.do("call", "new_oid") for _ in range(5)]
    tid = client.do("commit", *[(oid, Z64, b"data") for oid in oids])
    assert client.do("record_iternext") == [(oid, tid, b"data") for oid in sorted(oids)]
    assert client.do("call", "__len__") == 5
