"""Blobs as applications use them: what one client stores, others read."""

import pytest

from blobs import SHARINGS, BlobClients, blob_file, bushy, content, files, hex_name
from clients import GENERATIONS, Clients, RemoteError
from ledger import differs
from rawzeo import MAXTID, p64

SERVER = {"blobs": True}
# What a client sends and a server answers in one message.
CHUNK = 59_000


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 10 << 20])
def test_content_reaches_others(server, blob_clients, size):
    writer = blob_clients.database(server)
    data = content(size)
    oid, tid = writer.do("blob_scenarios.put", blob=data)["blob"]
    assert blob_file(server.blob_dir, oid, tid).read_bytes() == data
    reader = blob_clients.database(server)
    assert reader.do("blob_scenarios.get", "blob") == data
    # What a writer keeps is what the server has.
    assert writer.do("blob_scenarios.get", "blob") == data


def test_many_in_one_transaction(server, blob_clients):
    writer = blob_clients.database(server)
    blobs = {f"blob {n}": content(n * 1000, n) for n in range(100)}
    made = writer.do("blob_scenarios.put", **blobs)
    assert len({tid for _, tid in made.values()}) == 1
    reader = blob_clients.database(server)
    assert reader.do("blob_scenarios.get_all", list(blobs)) == blobs


def test_all_kinds_of_clients_together(server, client_processes, tmp_path):
    kinds = [BlobClients(Clients(client_processes, g), s, tmp_path / g) for g in GENERATIONS for s in SHARINGS]
    blobs = {f"of {n}": content(100_000, n) for n in range(len(kinds))}
    for kind, (name, data) in zip(kinds, blobs.items(), strict=True):
        kind.database(server).do("blob_scenarios.put", **{name: data})
    for kind in kinds:
        assert kind.database(server).do("blob_scenarios.get_all", list(blobs)) == blobs


def test_old_revisions(server, blob_clients):
    writer = blob_clients.database(server)
    contents = [content(100, n) for n in range(4)]
    revisions = [writer.do("blob_scenarios.put", old=contents[0])["old"]]
    revisions += [writer.do("blob_scenarios.change", "old", data) for data in contents[1:]]
    reader = blob_clients.database(server)
    for (oid, tid), data in zip(revisions, contents, strict=True):
        assert reader.do("blob_scenarios.load", oid, tid) == data
    for (_, tid), before in zip(revisions[1:], contents, strict=False):
        assert reader.do("blob_scenarios.get_before", "old", tid) == before
    assert reader.do("blob_scenarios.get", "old") == contents[-1]


def test_others_see_changes(server, blob_clients):
    """A reader that has the old content in its hands gets the new one with the next transaction."""
    writer = blob_clients.database(server)
    writer.do("blob_scenarios.put", seen=b"one")
    reader = blob_clients.database(server)
    assert reader.do("blob_scenarios.get", "seen") == b"one"
    _, tid = writer.do("blob_scenarios.change", "seen", b"two")
    reader.do("call", "ping")
    if reader.do("app_scenarios.last_transaction") >= tid:
        assert reader.do("blob_scenarios.get", "seen") == b"two"
    else:
        assert differs("replies-overtake-invalidations")


@pytest.mark.parametrize(("mode", "result"), [("w", b"new"), ("a", b"old contentnew"), ("r+", b"new content")])
def test_ways_to_change(server, blob_clients, mode, result):
    writer = blob_clients.database(server)
    writer.do("blob_scenarios.put", changed=b"old content")
    oid, tid = writer.do("blob_scenarios.change", "changed", b"new", mode)
    reader = blob_clients.database(server)
    assert reader.do("blob_scenarios.load", oid, tid) == result


def test_consumed_file(server, blob_clients, tmp_path):
    writer = blob_clients.database(server)
    data = content(200_000)
    assert not writer.do("blob_scenarios.consume", "consumed", data, str(tmp_path))
    reader = blob_clients.database(server)
    assert reader.do("blob_scenarios.get", "consumed") == data


def test_savepoints(server, blob_clients):
    writer = blob_clients.database(server)
    before = files(server.blob_dir)
    writer.do("blob_scenarios.savepoints", "saved")
    reader = blob_clients.database(server)
    assert reader.do("blob_scenarios.get", "saved") == b"first, second, third"
    assert reader.do("app_scenarios.get", "saved never") is None
    assert len(files(server.blob_dir) - before) == 1


def test_twice_in_a_transaction(server, blob_clients):
    """No application does that: a savepoint in between keeps one file. The first file wins, the record is the same."""
    writer = blob_clients.storage(server)
    oid = writer.do("call", "new_oid")
    before = files(server.blob_dir)
    tid = writer.do("blob_scenarios.commit", (oid, bytes(8), b"first"), (oid, bytes(8), b"second"))
    assert len(files(server.blob_dir) - before) == 1
    reader = blob_clients.storage(server)
    assert reader.do("blob_scenarios.load", oid, tid) == b"first"


def test_conflicts_are_never_resolved(server, blob_clients):
    first = blob_clients.database(server)
    oid, _ = first.do("blob_scenarios.put", fought=b"before")["fought"]
    second = blob_clients.database(server)
    before = files(server.blob_dir)
    for worker, name in ((first, "first"), (second, "second")):
        worker.do("app_scenarios.open_connection", name)
        worker.do("blob_scenarios.open_blob", name, "fought")
    first.do("app_scenarios.commit", "first")
    with pytest.raises(RemoteError) as error:
        second.do("app_scenarios.commit", "second")
    assert error.value.name == "ConflictError"
    second.do("app_scenarios.abort", "second")
    assert first.do("blob_scenarios.get", "fought") == b"first"
    last = first.do("app_scenarios.last_transaction")
    assert files(server.blob_dir) - before == {f"{bushy(oid)}/{hex_name(last)}.blob"}


def test_a_file_that_is_gone(server, blob_clients):
    server.log.allow("raised exception", "No blob file")
    writer = blob_clients.database(server)
    oid, tid = writer.do("blob_scenarios.put", gone=b"content")["gone"]
    path = blob_file(server.blob_dir, oid, tid)
    path.unlink()
    reader = blob_clients.database(server)
    with pytest.raises(RemoteError) as error:
        reader.do("blob_scenarios.get", "gone")
    assert error.value.name == "POSKeyError"
    assert error.value.remote_args == (f"No blob file at {path}", oid, tid)
    # The record is still served, and so is everything else.
    assert reader.do("call", "loadBefore", oid, MAXTID)[1] == tid
    writer.do("blob_scenarios.change", "gone", b"again")


def test_a_blob_that_never_was(server, blob_clients):
    server.log.allow("raised exception", "No blob file")
    client = blob_clients.storage(server)
    oid, tid = p64(1 << 40), p64(1 << 50)
    with pytest.raises(RemoteError) as error:
        client.do("blob_scenarios.load", oid, tid)
    assert error.value.name == "POSKeyError"
    assert error.value.remote_args == (f"No blob file at {blob_file(server.blob_dir, oid, tid)}", oid, tid)


def test_a_server_without_blobs(make_server, blob_clients):
    server = make_server()
    if blob_clients.shared:
        server.blob_dir.mkdir()
        (server.blob_dir / ".layout").write_text("bushy")
        (server.blob_dir / "tmp").mkdir()
    client = blob_clients.database(server)
    with pytest.raises(RemoteError) as error:
        client.do("blob_scenarios.put", blob=b"content")
    assert error.value.name == "Unsupported"
    assert error.value.text.startswith("Storing Blobs in ")
    client.do("app_scenarios.put", still="served")


def test_capabilities(make_server, raw):
    def interfaces(server):
        return {name for _, name in raw(server).call("get_info")["interfaces"]}

    without, with_blobs = interfaces(make_server()), interfaces(make_server(blobs=True))
    assert with_blobs - without == {"IBlobStorage", "IBlobStorageRestoreable"}
    assert not without - with_blobs
