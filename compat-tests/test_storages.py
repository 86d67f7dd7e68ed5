"""Several storages behind one address, and the names they go by."""

import pytest

from rawzeo import MAXTID, Z64, Fault, p64
from subject import filestorage, section


def test_storages_are_apart(make_server, raw, tmp_path):
    server = make_server([filestorage(tmp_path / "a.fs", "main"), filestorage(tmp_path / "b.fs", "catalog")])
    main, other, catalog = raw(server, storage="main"), raw(server, storage="main"), raw(server, storage="catalog")
    tid = main.commit((p64(1), Z64, b"main"))
    assert catalog.call("lastTransaction") == Z64
    with pytest.raises(Fault):
        catalog.call("loadBefore", p64(1), MAXTID)
    assert other.invalidated(tid) == [p64(1)]
    catalog.sync()
    assert catalog.announced() == []
    # One commit lock each.
    txn = main.begin()
    main.store(txn, p64(1), tid, b"again")
    main.call("vote", txn)
    catalog.commit((p64(1), Z64, b"catalog"))
    main.call("tpc_finish", txn)


def test_names_are_lower_cased(make_server, raw, tmp_path):
    server = make_server([filestorage(tmp_path / "a.fs", "Main")])
    server.log.allow("raised exception")
    assert raw(server, storage="main").call("lastTransaction") == Z64
    with pytest.raises(Fault) as fault:
        raw(server, storage="Main")
    assert fault.value.class_name == "builtins.ValueError"


def test_the_unnamed_storage_is_called_1(make_server, raw, tmp_path):
    server = make_server([filestorage(tmp_path / "a.fs", ""), filestorage(tmp_path / "b.fs", "2")])
    for name in ("1", "2"):
        assert raw(server, storage=name).call("lastTransaction") == Z64


def test_storage_beside_a_read_only_one(make_server, raw, tmp_path):
    (tmp_path / "b.fs").write_bytes(b"FS30")
    server = make_server([filestorage(tmp_path / "a.fs", "1"), filestorage(tmp_path / "b.fs", "2", read_only=True)])
    server.log.allow("raised exception")
    raw(server).commit((p64(1), Z64, b"data"))
    with pytest.raises(Fault) as fault:
        raw(server, storage="2")
    assert fault.value.class_name == "ZODB.POSException.ReadOnlyError"


@pytest.fixture
def mapping(make_server, encoding):
    return make_server([section("mappingstorage", "1", name="In memory")], msgpack=encoding == "msgpack")


def test_mapping_storage(mapping, raw):
    client, other = raw(mapping), raw(mapping)
    info = client.call("get_info")
    assert info["name"] == "In memory"
    assert info["supportsUndo"] is False
    assert info["supports_record_iternext"] is False
    interfaces = {name for module, name in info["interfaces"] if module == "ZODB.interfaces"}
    assert "IStorageIteration" in interfaces
    assert not interfaces & {"IStorageUndoable", "IBlobStorage", "IStorageRestoreable"}
    oid = client.new_oid()
    first = client.commit((oid, Z64, b"one"), user=b"u", description=b"d", extension={"k": 1})
    second = client.commit((oid, first, b"two"))
    assert client.call("loadBefore", oid, MAXTID) == (b"two", second, None)
    assert client.call("loadBefore", oid, second) == (b"one", first, second)
    assert client.call("loadBefore", oid, first) is None
    assert client.call("loadSerial", oid, first) == b"one"
    assert other.invalidated(second) == [oid]
    assert other.announced() == [first, second]
    assert list(client.call("undoLog", 0, 20)) == []
    assert [entry["tid"] for entry in client.call("history", oid, 5)] == [second, first]
    iid = client.call("iterator_start", None, None)
    assert client.call("iterator_next", iid)[:4] == (first, " ", b"u", b"d")
    with pytest.raises(Fault) as fault:
        client.call("loadBefore", p64(2**40), MAXTID)
    assert fault.value.class_name == "ZODB.POSException.POSKeyError"


def test_mapping_storage_conflict(mapping, raw):
    client, other = raw(mapping), raw(mapping)
    oid = client.new_oid()
    first = client.commit((oid, Z64, b"one"))
    second = client.commit((oid, first, b"two"))
    txn = other.begin()
    other.store(txn, oid, first, b"three")
    with pytest.raises(Fault) as fault:
        other.call("vote", txn)
    assert fault.value.class_name == "ZODB.POSException.ConflictError"
    assert tuple(fault.value.state["serials"]) == (second, first)


def test_real_client_on_a_mapping_storage(mapping, clients):
    client, reader = clients.storage(mapping.address), clients.storage(mapping.address)
    oid = client.do("call", "new_oid")
    tid = client.do("commit", (oid, Z64, b"data"))
    assert reader.do("call", "loadBefore", oid, MAXTID) == (b"data", tid, None)
    assert not client.do("call", "supportsUndo")
    assert [txn[0] for txn in reader.do("iterate")] == [tid]
