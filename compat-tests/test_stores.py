"""What can be put into a transaction: stores, restores, deletions, nothing at all, metadata of every form."""

import pytest

from ledger import differs
from rawzeo import MAXTID, Z64, Fault, p64, record, u64


def transactions(client, start=None, stop=None):
    """All transactions between two tids, with their records, through the wire's iterators."""
    iid = client.call("iterator_start", start, stop)
    result = []
    while (txn := client.call("iterator_next", iid)) is not None:
        rid = client.call("iterator_record_start", iid, txn[0])
        records = []
        while (each := client.call("iterator_record_next", rid)) is not None:
            records.append(each)
        result.append((txn, records))
    return result


def test_empty_transaction_gets_a_tid(server, raw):
    client, other = raw(server), raw(server)
    before = server.data_fs.stat().st_size
    tid = client.commit(description=b"nothing")
    assert client.call("lastTransaction") == tid
    tid_announced, oids = other.wait_call("invalidateTransaction")
    assert (tid_announced, list(oids)) == (tid, [])
    assert server.data_fs.stat().st_size > before
    ((txn, records),) = transactions(client, tid, tid)
    assert txn[0] == tid
    assert records == []


@pytest.mark.parametrize("serial", [None, Z64, p64(12345)], ids=["None", "zero", "any"])
def test_first_store_accepts_any_serial(server, raw, serial):
    client = raw(server)
    oid = client.new_oid()
    tid = client.commit((oid, serial, b"data"))
    assert client.call("loadBefore", oid, MAXTID) == (b"data", tid, None)


def test_store_of_an_oid_nobody_handed_out(server, raw):
    """Oids handed out afterwards are above it."""
    client = raw(server)
    high = p64(u64(client.new_oid()) + 1000)
    client.commit((high, Z64, b"data"))
    assert client.new_oid() > high


def test_same_oid_twice_in_a_transaction(server, raw):
    client, other = raw(server), raw(server)
    oid = client.new_oid()
    first = client.commit((oid, Z64, b"zero"))
    tid = client.commit((oid, first, b"one"), (oid, first, b"two"))
    assert client.call("loadBefore", oid, MAXTID) == (b"two", tid, None)
    assert client.call("loadSerial", oid, tid) == b"two"
    assert client.call("loadBefore", oid, tid) == (b"zero", first, tid)
    assert [e["tid"] for e in client.call("history", oid, 10)] == [tid, first]
    ((_, records),) = transactions(client, tid, tid)
    assert [data for _, _, data, _ in records] == [b"one", b"two"]
    assert set(other.invalidated(tid)) == {oid}


def test_delete_object(server, raw):
    client = raw(server)
    oid = client.new_oid()
    first = client.commit((oid, Z64, record(1)))
    txn = client.begin()
    client.async_("deleteObject", oid, first, txn)
    tid = client.vote_finish(txn)
    with pytest.raises(Fault) as fault:
        client.call("loadBefore", oid, MAXTID)
    assert fault.value.class_name == "ZODB.POSException.POSKeyError"
    assert client.call("loadBefore", oid, tid) == (record(1), first, tid)
    with pytest.raises(Fault):
        client.call("getTid", oid)
    with pytest.raises(Fault):
        client.call("loadSerial", oid, tid)
    newest = client.call("history", oid, 2)[0]
    assert (newest["tid"], newest["size"]) == (tid, 0)
    # The deletion counts as the current revision for a store.
    txn = client.begin()
    client.store(txn, oid, Z64, record(2))
    with pytest.raises(Fault) as fault:
        client.call("vote", txn)
    assert fault.value.class_name == "ZODB.POSException.ConflictError"
    again = client.commit((oid, tid, record(3)))
    assert client.call("loadBefore", oid, MAXTID) == (record(3), again, None)


@pytest.mark.parametrize(("known", "error"), [(True, "ConflictError"), (False, "POSKeyError")])
def test_delete_object_errors(server, raw, known, error):
    server.log.allow("While voting", "raised exception")
    client = raw(server)
    oid = client.new_oid()
    if known:
        client.commit((oid, Z64, record(1)))
    txn = client.begin()
    client.async_("deleteObject", oid, p64(77), txn)
    with pytest.raises(Fault) as fault:
        client.call("vote", txn)
    assert fault.value.class_name == f"ZODB.POSException.{error}"


def test_deletion_is_invalidated(server, raw):
    """Deleted objects are in the server's announcement, so that no cache keeps them."""
    client, other = raw(server), raw(server)
    oid = client.new_oid()
    first = client.commit((oid, Z64, record(1)))
    txn = client.begin()
    client.async_("deleteObject", oid, first, txn)
    tid = client.vote_finish(txn)
    assert other.invalidated(tid) == ([] if differs("deletion-not-invalidated") else [oid])


def test_restore_keeps_tid_and_status(make_server, raw):
    client = raw(make_server())
    oid = p64(5)
    tids = [p64(0x03D0000000000000 + n * 2**32) for n in range(3)]
    for n, (tid, status) in enumerate(zip(tids, "p  ", strict=True)):
        txn = client.begin(user=b"u", description=b"d", tid=tid, status=status)
        client.async_("restorea", oid, tid, b"data %d" % n, None, txn)
        assert client.vote_finish(txn) == tid
    assert client.call("loadBefore", oid, MAXTID) == (b"data 2", tids[2], None)
    assert [(t[0], t[1]) for t, _ in transactions(client)] == list(zip(tids, "p  ", strict=True))
    # An ordinary transaction goes on after the last one.
    assert client.commit((oid, tids[2], b"new")) > tids[2]


def test_restore_with_prev_txn_points_back(make_server, raw):
    client = raw(make_server())
    oid = p64(5)
    tids = [p64(0x03D0000000000000 + n * 2**32) for n in range(3)]
    for tid, data, prev in zip(tids, (b"same", b"other", b"same"), (None, None, tids[0]), strict=True):
        txn = client.begin(tid=tid)
        client.async_("restorea", oid, tid, data, prev, txn)
        client.vote_finish(txn)
    assert client.call("loadBefore", oid, MAXTID) == (b"same", tids[2], None)
    (_, ((_, tid, data, data_txn),)) = transactions(client)[-1]
    assert (tid, data, data_txn) == (tids[2], b"same", tids[0])


def test_restore_of_nothing_is_a_deletion(make_server, raw):
    client = raw(make_server())
    oid = p64(5)
    tids = [p64(0x03D0000000000000 + n * 2**32) for n in range(2)]
    for tid, data in zip(tids, (b"data", None), strict=True):
        txn = client.begin(tid=tid)
        client.async_("restorea", oid, tid, data, None, txn)
        client.vote_finish(txn)
    with pytest.raises(Fault):
        client.call("loadBefore", oid, MAXTID)
    assert transactions(client)[-1][1] == [(oid, tids[1], None, None)]


def test_restored_tid_in_the_past_is_accepted(make_server, raw):
    """Copying from another storage may do that; ordinary tids follow on what the storage says is last."""
    client = raw(make_server())
    client.commit((p64(1), Z64, b"now"))
    old = p64(0x03D0000000000000)
    txn = client.begin(tid=old)
    client.async_("restorea", p64(2), old, b"then", None, txn)
    assert client.vote_finish(txn) == old
    assert client.call("loadBefore", p64(2), MAXTID) == (b"then", old, None)


METADATA = [
    (b"", b"", {}),
    (b"user", b"description", {}),
    ("grüße".encode(), "\u4e2d\u6587".encode(), {"key": "value"}),
    (b"\xff\xfe", b"\x00\x01", {"n": 1, "big": 2**40, "float": 1.5, "none": None, "yes": True, "no": False}),
    (b"u" * 1000, b"d" * 60_000, {"k": "v" * 50_000}),
    (b"", b"", {"bytes": b"\x00\xff", "list": [1, [2, b"x"]], "dict": {"a": {"b": "c"}}}),
]


def untupled(value):
    """Msgpack has one kind of array."""
    if isinstance(value, (list, tuple)):
        return [untupled(v) for v in value]
    if isinstance(value, dict):
        return {k: untupled(v) for k, v in value.items()}
    return value


@pytest.mark.parametrize(("user", "description", "extension"), METADATA, ids=range(len(METADATA)))
def test_metadata_is_kept(server, raw, user, description, extension):
    client = raw(server)
    tid = client.commit((client.new_oid(), Z64, b"data"), user=user, description=description, extension=extension)
    ((txn, _),) = transactions(client, tid, tid)
    assert txn[:4] == (tid, " ", user, description)
    assert untupled(txn[4]) == untupled(extension)
    entry = client.call("undoLog", 0, 1)[0]
    assert entry["user_name"] == user
    assert entry["description"] == description
    assert untupled({k: entry[k] for k in extension}) == untupled(extension)


def test_extension_as_bytes_is_kept(server, raw):
    """A client that copies transactions may hand over the pickle as it found it, here one of Python 2."""
    pickle = b"(dU\x01aK\x07s."
    client = raw(server)
    tid = client.commit((client.new_oid(), Z64, b"data"), extension=pickle)
    ((txn, _),) = transactions(client, tid, tid)
    assert txn[4] == {"a": 7}
    assert pickle in server.data_fs.read_bytes()


@pytest.mark.parametrize(
    ("field", "text"),
    [("user", "user name too long"), ("description", "description too long"), ("extension", "too much extension data")],
)
def test_metadata_too_long(server, raw, field, text):
    server.log.allow("While voting", "raised exception")
    client, other = raw(server), raw(server)
    value = {"k": "v" * 65_536} if field == "extension" else b"x" * 65_536
    txn = client.begin(**{field: value})
    client.store(txn, client.new_oid(), Z64, b"data")
    with pytest.raises(Fault) as fault:
        client.call("vote", txn)
    assert fault.value.class_name == "ZODB.FileStorage.FileStorage.FileStorageError"
    assert tuple(fault.value.state) == (text,)
    for each in (client, other):
        each.commit((each.new_oid(), Z64, b"data"))


def test_metadata_of_the_greatest_length(server, raw):
    client = raw(server)
    user, description = b"u" * 65_535, b"d" * 65_535
    tid = client.commit((client.new_oid(), Z64, b"data"), user=user, description=description)
    ((txn, _),) = transactions(client, tid, tid)
    assert txn[2:4] == (user, description)


def test_new_oids(server, raw):
    client, other = raw(server), raw(server)
    batches = [client.call("new_oids"), other.call("new_oids", 50), client.call("new_oids", 5000)]
    batches += [other.call("new_oids", 0), other.call("new_oids", -5)]
    assert [len(batch) for batch in batches] == [100, 50, 100, 1, 1]
    oids = [oid for batch in batches for oid in batch]
    assert len(set(oids)) == len(oids)
    assert all(len(oid) == 8 for oid in oids)


def test_quota(make_server, raw):
    from subject import filestorage

    server = make_server([filestorage("Data.fs", quota="1mb")])
    server.log.allow("While voting", "raised exception")
    client = raw(server)
    tid = client.commit((p64(1), Z64, b"x" * 700_000))
    txn = client.begin()
    client.store(txn, p64(2), Z64, b"x" * 700_000)
    client.store(txn, p64(3), Z64, b"x")
    with pytest.raises(Fault) as fault:
        client.call("vote", txn)
    assert fault.value.class_name == "ZODB.FileStorage.FileStorage.FileStorageQuotaError"
    assert client.call("lastTransaction") == tid
    client.commit((p64(1), tid, b"small"))
