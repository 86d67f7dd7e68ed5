"""Read-only: by configuration of the server, of the storage, or by the client's own wish."""

import pytest

from clients import RemoteError
from rawzeo import MAXTID, Z64, Fault, p64
from subject import filestorage

READ_ONLY = "ZODB.POSException.ReadOnlyError"
# Calls that write, or are of no use but for that.
WRITES = [
    ("new_oids", (5,)),
    ("tpc_begin", (1, b"", b"", {}, None, " ")),
    ("storea", (p64(1), Z64, b"data", 1)),
    ("restorea", (p64(1), Z64, b"data", None, 1)),
    ("deleteObject", (p64(1), Z64, 1)),
    ("checkCurrentSerialInTransaction", (p64(1), Z64, 1)),
    ("undoa", (b"AAAAAAAAAAA=", 1)),
    ("vote", (1,)),
    ("tpc_finish", (1,)),
    ("tpc_abort", (1,)),
]


def refused(client, method, *args) -> None:
    with pytest.raises(Fault) as fault:
        client.call(method, *args)
    assert fault.value.class_name == READ_ONLY
    assert tuple(fault.value.state) == ()


@pytest.mark.parametrize(("method", "args"), WRITES)
def test_writing_is_refused(server, raw, method, args):
    server.log.allow("raised exception")
    client = raw(server, read_only=True)
    refused(client, method, *args)
    client.sync()


def test_async_writing_closes(make_server, raw):
    server = make_server()
    server.log.allow("raised exception")
    client = raw(server, read_only=True)
    client.begin()
    client.wait_closed()


def test_reading_is_not(server, raw):
    writer, reader = raw(server), raw(server, read_only=True)
    oid = writer.new_oid()
    tid = writer.commit((oid, Z64, b"data"))
    assert reader.call("loadBefore", oid, MAXTID) == (b"data", tid, None)
    assert reader.call("history", oid)[0]["tid"] == tid
    assert reader.call("undoLog", 0, 1)[0]["size"] > 0
    assert reader.call("iterator_start", tid, None) == 0
    assert reader.call("iterator_next", 0)[0] == tid
    assert reader.call("getInvalidations", tid) is not None


@pytest.mark.parametrize("where", ["server", "storage"])
def test_read_only_by_configuration(make_server, raw, where):
    server = make_server()
    tid = raw(server).commit((p64(1), Z64, b"data"))
    server.stop()
    if where == "server":
        server.zeo["read_only"] = True
    else:
        server.storages = [filestorage(server.data_fs, read_only=True)]
    server.start()
    server.log.allow("raised exception")
    client = raw(server, register=False)
    refused(client, "register", "1", False)
    assert client.register("1", True) == tid
    assert client.call("loadBefore", p64(1), MAXTID) == (b"data", tid, None)
    refused(client, "new_oids", 1)


def test_read_only_storage_leaves_no_files(make_server, raw):
    server = make_server()
    raw(server).commit((p64(1), Z64, b"data"))
    server.stop()
    server.storages = [filestorage(server.data_fs, read_only=True)]
    for suffix in (".lock", ".tmp", ".index"):
        server.data_fs.with_name("Data.fs" + suffix).unlink(missing_ok=True)
    before = sorted(p.name for p in server.directory.glob("Data.fs*"))
    server.start()
    raw(server, read_only=True).call("loadBefore", p64(1), MAXTID)
    server.stop()
    assert sorted(p.name for p in server.directory.glob("Data.fs*")) == before == ["Data.fs"]


def test_real_read_only_client(server, clients):
    writer = clients.storage()
    oid = writer.do("call", "new_oid")
    tid = writer.do("commit", (oid, Z64, b"data"))
    reader = clients.storage(read_only=True)
    assert reader.do("call", "isReadOnly")
    assert reader.do("call", "loadBefore", oid, MAXTID) == (b"data", tid, None)
    with pytest.raises(RemoteError) as error:
        reader.do("call", "new_oid")
    assert error.value.name == "ReadOnlyError"


def test_real_client_falls_back(make_server, clients):
    server = make_server(read_only=True)
    server.log.allow("raised exception")
    client = clients.storage(server.address, read_only_fallback=True)
    assert client.do("call", "isReadOnly")
    assert client.do("call", "lastTransaction") == Z64
    with pytest.raises(RemoteError) as error:
        client.do("begin", "txn")
    assert error.value.name == "ReadOnlyError"
