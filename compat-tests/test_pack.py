"""What a pack does, and what applications see of it, with real clients."""

from __future__ import annotations

import base64
import random
import time

import pytest

import pack_records
from clients import Clients, RemoteError, Worker
from file_checks import python_accepts
from history import nth_tid
from ledger import differs
from packs import KEY_ERROR, linked, moment, packer, refused, server_class, state, write
from rawzeo import ROOT, Z64, Fault, RawClient, p64
from subject import Server, filestorage, wait_until

A, B, C, D = (p64(n) for n in range(1, 5))
YEAR_S = 365 * 86400


def old_of(server: Server):
    return server.data_fs.with_name("Data.fs.old")


@pytest.fixture
def versions(make_server, raw):
    """A server with five transactions: B becomes garbage in the fourth."""
    server = make_server()
    client = raw(server)
    one, two = linked(), linked()
    tids = write(
        client,
        {ROOT: linked(A, B), A: one, B: one},
        {A: two},
        {B: two},
        {ROOT: linked(A)},
        {A: one},
    )
    return server, client, tids, one, two


def test_old_revisions_and_garbage_go(versions, clients):
    server, client, tids, one, two = versions
    before = server.data_fs.stat().st_size
    worker = packer(clients, server)
    worker.do("call", "pack", moment(10))
    assert server.data_fs.stat().st_size < before
    assert (state(client, A), state(client, B)) == (one, None)
    assert [state(client, A, tid) for tid in (tids[0], tids[1], tids[4])] == [None, None, one]
    assert [txn[0] for txn in worker.do("iterate")] == [tids[3], tids[4]]
    assert [txn[1] for txn in worker.do("iterate")] == ["p", "p"]
    assert [oid for oid, _, _ in worker.do("record_iternext")] == [ROOT, A]
    server.stop()
    python_accepts(server.data_fs)


@pytest.mark.parametrize("n", [3, 2.5], ids=["at", "before"])
def test_up_to_a_time(versions, clients, n):
    """What was current at the time stays, with all that came later; the transaction at the time belongs to it."""
    server, client, tids, one, two = versions
    worker = packer(clients, server)
    worker.do("call", "pack", moment(n))
    assert [state(client, A, tid) for tid in (tids[0], tids[1], tids[4])] == [None, two, one]
    assert [state(client, B, tid) for tid in (tids[0], tids[2])] == [None, None if n == 3 else two]
    statuses = {txn[0]: txn[1] for txn in worker.do("iterate")}
    if n == 3:
        assert statuses == {tids[1]: "p", tids[3]: "p", tids[4]: " "}
    else:
        assert statuses == {tids[0]: "p", tids[1]: "p", tids[2]: "p", tids[3]: " ", tids[4]: " "}
    server.stop()
    python_accepts(server.data_fs)


def test_nothing_before_the_first(versions, clients):
    server, *_ = versions
    before = server.data_fs.read_bytes()
    packer(clients, server).do("call", "pack", moment(-1))
    assert server.data_fs.read_bytes() == before
    assert not old_of(server).exists()


def test_twice(versions, clients):
    """The second does nothing. Python's removes the copy that the first one left, all the same."""
    server, *_ = versions
    before = server.data_fs.read_bytes()
    worker = packer(clients, server)
    worker.do("call", "pack", moment(10))
    packed = server.data_fs.read_bytes()
    assert old_of(server).read_bytes() == before
    worker.do("call", "pack", moment(10))
    worker.do("call", "pack", moment(2))
    assert server.data_fs.read_bytes() == packed
    assert old_of(server).exists() is not differs("pack-removes-old-first")


def test_the_future(make_server, clients):
    """What is committed after a pack to the future is not packed, and can be undone."""
    server = make_server()
    worker = clients.database(server.address)
    worker.do("app_scenarios.put", x=1)
    worker.do("call", "pack", time.time() + 10 * YEAR_S)
    worker.do("app_scenarios.put", x=2)
    worker.do("app_scenarios.undo_last")
    assert worker.do("app_scenarios.get", "x") == 1
    assert worker.do("iterate")[-1][1] == " "
    # Without a time: now.
    worker.do("call", "pack")
    assert [txn[1] for txn in worker.do("iterate")] == ["p"]


def test_days(make_server, clients):
    server = make_server()
    worker = clients.database(server.address)
    worker.do("app_scenarios.put", x=1)
    worker.do("app_scenarios.put", x=2)
    size = server.data_fs.stat().st_size
    worker.do("call", "pack", days=1)
    assert server.data_fs.stat().st_size == size
    worker.do("call", "pack", days=0)
    assert server.data_fs.stat().st_size < size


def test_without_waiting(versions, clients):
    server, client, *_ = versions
    before = server.data_fs.stat().st_size
    assert packer(clients, server).do("call", "pack", moment(10), wait=False) is None
    wait_until(lambda: server.data_fs.stat().st_size < before, "the file is packed")
    wait_until(lambda: "complete" in server.log.text(), "the log says so")


def test_an_empty_storage(make_server, clients):
    server = make_server()
    packer(clients, server).do("call", "pack", time.time())
    assert server.data_fs.read_bytes() == b"FS30"


@pytest.mark.parametrize("keep_old", [True, False])
def test_keep_old(make_server, raw, clients, tmp_path, keep_old):
    data_fs = tmp_path / "Data.fs"
    server = make_server([filestorage(data_fs, pack_keep_old=keep_old)])
    write(raw(server), {ROOT: linked()}, {ROOT: linked()})
    before = data_fs.read_bytes()
    packer(clients, server).do("call", "pack", moment(10))
    assert data_fs.read_bytes() != before
    old = data_fs.with_name("Data.fs.old")
    assert (old.read_bytes() if old.exists() else None) == (before if keep_old else None)
    assert not data_fs.with_name("Data.fs.pack").exists()


def test_without_gc(make_server, raw, clients, tmp_path):
    server = make_server([filestorage(tmp_path / "Data.fs", pack_gc=False)])
    client = raw(server)
    one, two = linked(), linked()
    tids = write(client, {ROOT: linked(), A: one}, {A: two})
    packer(clients, server).do("call", "pack", moment(10))
    assert (state(client, A, tids[0]), state(client, A)) == (None, two)


def test_read_only_clients_may_pack(versions, clients):
    server, *_ = versions
    before = server.data_fs.stat().st_size
    packer(clients, server, read_only=True).do("call", "pack", moment(10))
    assert server.data_fs.stat().st_size < before


def test_read_only_servers_may_pack(versions, clients):
    """The server is read-only for its clients; the storage is not."""
    server, *_ = versions
    before = server.data_fs.stat().st_size
    server.stop()
    server.zeo["read_only"] = True
    server.start()
    packer(clients, server, read_only=True).do("call", "pack", moment(10))
    assert server.data_fs.stat().st_size < before


def test_read_only_storages_may_not(versions, clients):
    server, *_ = versions
    before = server.data_fs.read_bytes()
    server.stop()
    server.storages = [filestorage(server.data_fs, read_only=True)]
    server.start()
    server.log.allow("ReadOnlyError", "read-only")
    error = refused(packer(clients, server, read_only=True), moment(10))
    assert error.class_name == "ZODB.POSException.ReadOnlyError"
    assert server.data_fs.read_bytes() == before


def test_two_at_once(versions, raw, clients):
    """A pack waits for a transaction that was voted. Meanwhile reading works, and another pack is refused."""
    server, client, *_ = versions
    server.log.allow("packing", "Undo")
    before = server.data_fs.stat().st_size
    txn = client.begin()
    client.store(txn, C, Z64, linked())
    client.call("vote", txn)
    workers = [packer(clients, server) for _ in range(2)]
    for worker in workers:
        worker.start("call", "pack", moment(10))
    wait_until(lambda: not all(worker.running() for worker in workers), "one of them is refused")
    refused_one, other = sorted(workers, key=Worker.running)
    with pytest.raises(RemoteError, match="Already packing") as error:
        refused_one.result()
    assert server_class(error.value) == "ZODB.FileStorage.FileStorage.FileStorageError"
    reader = raw(server)
    assert state(reader, A) is not None
    assert undo_log_works(reader) is not differs("no-undo-log-while-packing")
    assert other.running()
    tid = client.call("tpc_finish", txn)
    other.result()
    assert server.data_fs.stat().st_size < before
    assert reader.call("lastTransaction") == tid
    assert state(reader, C) is not None
    # And again, now that nothing is under way.
    refused_one.do("call", "pack", moment(10))


def undo_log_works(client: RawClient) -> bool:
    try:
        return len(client.call("undoLog", 0, 20)) > 0
    except Fault as fault:
        assert fault.class_name == "ZODB.POSException.UndoError"
        return False


def test_whoever_asked_is_gone(versions, raw, clients, client_processes):
    """The pack goes on without its client, and so does the server without the client that the pack waited for."""
    server, client, *_ = versions
    before = server.data_fs.stat().st_size
    txn = client.begin()
    client.store(txn, C, Z64, linked())
    client.call("vote", txn)
    worker = packer(clients, server)
    worker.start("call", "pack", moment(10))
    wait_until(lambda: "started..." in server.log.text(), "the pack began")
    worker.kill()
    client.close()
    wait_until(lambda: server.data_fs.stat().st_size < before, "the file is packed")
    raw(server).commit((D, Z64, linked()))


def test_undo_ends_at_the_pack(versions, clients):
    server, client, tids, one, two = versions
    worker = packer(clients, server)
    worker.do("call", "pack", moment(3.5))
    assert [entry["description"] for entry in worker.do("call", "undoLog", 0, 20)] == [b"number 4"]
    assert [entry["tid"] for entry in worker.do("call", "history", A, 20)] == [tids[4], tids[1]]
    server.log.allow("UndoError", "undo")
    with pytest.raises(RemoteError) as error:
        worker.do("undo", undo_id(tids[3]))
    assert server_class(error.value) == "ZODB.POSException.UndoError"
    with pytest.raises(RemoteError) as error:
        worker.do("undo", undo_id(tids[2]))
    assert server_class(error.value) == "ZODB.POSException.UndoError"
    worker.do("undo", undo_id(tids[4]))
    assert state(client, A) == two
    server.stop()
    python_accepts(server.data_fs)


def undo_id(tid: bytes) -> bytes:
    return base64.encodebytes(tid).rstrip()


def test_history_across_the_pack(versions, clients):
    server, client, tids, *_ = versions
    worker = packer(clients, server)
    worker.do("call", "pack", moment(10))
    assert [entry["tid"] for entry in worker.do("call", "history", A, 20)] == [tids[4]]
    assert list(worker.do("call", "undoLog", 0, 20)) == []
    assert worker.do("call", "getTid", A) == tids[4]
    with pytest.raises(RemoteError) as error:
        worker.do("call", "loadSerial", A, tids[1])
    assert error.value.class_name == KEY_ERROR
    # Between the two there was nothing that is still known.
    assert client.call("loadBefore", A, tids[4]) is None


def test_everybody_hears_of_the_size(versions, clients):
    server, *_ = versions
    first, second = packer(clients, server), packer(clients, server)
    before = second.do("call", "getSize")
    assert before == server.data_fs.stat().st_size
    first.do("call", "pack", moment(10))
    size = server.data_fs.stat().st_size
    assert size < before
    for worker in (first, second):
        wait_until(lambda worker=worker: worker.do("call", "getSize") == size, "the client knows the new size")
        assert worker.do("call", "__len__") == 2


def test_conflicts_are_still_seen(make_server, clients):
    server = make_server()
    worker = clients.database(server.address)
    worker.do("app_scenarios.put_mapping", "m", {"n": 0})
    for name in ("one", "other"):
        worker.do("app_scenarios.open_connection", name)
        worker.do("app_scenarios.read", name, "m", "n")
    worker.do("app_scenarios.change", "one", "m", "n", 1)
    worker.do("app_scenarios.commit", "one")
    worker.do("app_scenarios.change", "other", "m", "n", 2)
    server.log.allow("ConflictError")
    worker.do("call", "pack")
    with pytest.raises(RemoteError) as error:
        worker.do("app_scenarios.commit", "other")
    assert error.value.class_name == "ZODB.POSException.ConflictError"
    worker.do("app_scenarios.abort", "other")
    worker.do("app_scenarios.change", "other", "m", "n", 3)
    worker.do("app_scenarios.commit", "other")
    assert worker.do("app_scenarios.get_mapping", "m") == {"n": 3}


def test_open_connections_go_on(make_server, clients):
    """A connection in the middle of a transaction reads what it has not read yet, as of its own time."""
    server = make_server()
    worker, other = clients.database(server.address), clients.database(server.address)
    worker.do("app_scenarios.put_mapping", "a", {"n": 0})
    worker.do("app_scenarios.put_mapping", "b", {"n": 0})
    tid = worker.do("app_scenarios.last_transaction")
    wait_until(lambda: other.do("app_scenarios.last_transaction") >= tid, "the other knows")
    other.do("app_scenarios.open_connection", "open")
    assert other.do("app_scenarios.read", "open", "a", "n") == 0
    worker.do("call", "pack", time.time() + YEAR_S)
    assert other.do("app_scenarios.read", "open", "b", "n") == 0
    other.do("app_scenarios.change", "open", "b", "n", 1)
    other.do("app_scenarios.commit", "open")
    assert other.do("app_scenarios.get_mapping", "b") == {"n": 1}


def test_persistent_caches(make_server, clients, tmp_path):
    """A cache from before the pack is as good after it, and after a restart of the server."""
    server = make_server()
    worker = clients.database(server.address, client="cache", var=str(tmp_path))
    for n in range(5):
        worker.do("app_scenarios.put_mapping", f"m{n % 2}", {"n": n})
    worker.do("close_storage")
    other = clients.database(server.address)
    other.do("call", "pack")
    other.do("app_scenarios.put_mapping", "m0", {"n": 10})
    for restart in (False, True):
        if restart:
            server.restart()
        worker.do("open_database", server.address, client="cache", var=str(tmp_path))
        assert worker.do("verify_result") == ("quick verification" if not restart else "Cache up to date")
        assert worker.do("app_scenarios.get_mapping", "m0") == {"n": 10}
        assert worker.do("app_scenarios.get_mapping", "m1") == {"n": 3}
        worker.do("close_storage")


def test_the_newest_transaction_stays(make_server, raw, clients, tmp_path):
    """The newest transaction wrote only garbage. Clients have seen its tid: the storage may not fall behind it."""
    server = make_server()
    client = raw(server)
    tids = write(client, {ROOT: linked()}, {ROOT: linked()}, {A: linked()})
    worker = clients.storage(server.address, client="cache", var=str(tmp_path))
    worker.do("load", ROOT)
    worker.do("close_storage")
    packer(clients, server).do("call", "pack", moment(10))
    assert client.call("lastTransaction") == tids[2]
    assert state(client, A) is None
    server.restart()
    client = raw(server)
    if differs("pack-loses-newest"):
        assert client.call("lastTransaction") == tids[1]
        with pytest.raises(RemoteError):
            worker.do("open_storage", server.address, client="cache", var=str(tmp_path), wait_timeout=1)
        return
    assert client.call("lastTransaction") == tids[2]
    worker.do("open_storage", server.address, client="cache", var=str(tmp_path))
    assert worker.do("load", ROOT)[1] == tids[1]
    newest = worker.do("iterate")[-1]
    assert (newest[0], newest[1], newest[5]) == (tids[2], "p", [])
    server.stop()
    python_accepts(server.data_fs)


def test_garbage_that_is_linked_anew(make_server, raw, clients):
    """Garbage at the pack time, but a later transaction refers to it: Python leaves a reference that leads nowhere."""
    server = make_server()
    client = raw(server)
    record = linked()
    write(client, {ROOT: linked(A), A: linked(B), B: record}, {ROOT: linked()}, {C: linked(A)}, {ROOT: linked(C)})
    packer(clients, server).do("call", "pack", moment(1.5))
    lost = differs("pack-loses-relinked")
    assert (state(client, A) is None, state(client, B)) == (lost, None if lost else record)
    server.stop()
    if not lost:
        python_accepts(server.data_fs)


def test_what_an_undo_brings_back(make_server, raw, clients):
    """At the pack time nothing refers to A and B; an undo after it leads back to a root that does."""
    server = make_server()
    client = raw(server)
    a, b = linked(B), linked()
    tids = write(client, {ROOT: linked(A), A: a, B: b}, {ROOT: linked()})
    txn = client.begin(tid=nth_tid(2))
    client.async_("undoa", undo_id(tids[1]), txn)
    client.vote_finish(txn)
    client.commit((C, Z64, linked()), tid=nth_tid(3))
    packer(clients, server).do("call", "pack", moment(1.5))
    assert (state(client, A), state(client, B)) == (a, b)
    # And as garbage, once the undo is packed.
    packer(clients, server).do("call", "pack", moment(10))
    assert (state(client, A), state(client, C)) == (a, None)
    server.stop()
    python_accepts(server.data_fs)


@pytest.mark.parametrize("what", ["dangling", "deleted"])
def test_references_that_lead_nowhere(make_server, raw, clients, what):
    server = make_server()
    server.log.allow("pack", "KeyError", "refers to", "references")
    client = raw(server)
    one, two = linked(), linked()
    tids = write(client, {ROOT: linked(A, B), A: one} | ({B: one} if what == "deleted" else {}), {A: two})
    if what == "deleted":
        txn = client.begin(tid=nth_tid(2))
        client.async_("deleteObject", B, tids[0], txn)
        client.vote_finish(txn)
    before = server.data_fs.read_bytes()
    worker = packer(clients, server)
    if differs("pack-dies-of-dangling"):
        assert refused(worker, moment(10)).class_name == "builtins.KeyError"
        assert server.data_fs.read_bytes() == before
        return
    worker.do("call", "pack", moment(10))
    assert (state(client, A), state(client, A, tids[0]), state(client, B)) == (two, None, None)
    assert "0x02, which does not exist" in server.log.text()


@pytest.mark.parametrize("form", ["unreadable", "framed"])
def test_records_that_cannot_be_read(make_server, raw, clients, form):
    """Of protocols 4 and 5, which no ZODB reads, and broken ones: these may refer to anything, so no object goes."""
    server = make_server()
    server.log.allow("pack", "rror", "references")
    client = raw(server)
    one, two = linked(), linked()
    broken = getattr(pack_records, form)(random.Random(1), [B], [])
    tids = write(client, {ROOT: linked(A), A: broken, B: one, C: one}, {B: two})
    before = server.data_fs.read_bytes()
    worker = packer(clients, server)
    if differs("pack-dies-of-unreadable"):
        refused(worker, moment(10))
        assert server.data_fs.read_bytes() == before
        return
    worker.do("call", "pack", moment(10))
    assert (state(client, A), state(client, B), state(client, B, tids[0])) == (broken, two, None)
    assert state(client, C) == (one if form == "unreadable" else None)
    assert ("cannot be read" in server.log.text()) is (form == "unreadable")


def test_no_root(make_server, raw, clients):
    """Without a root object everything would be garbage: that is refused."""
    server = make_server()
    server.log.allow("pack", "KeyError")
    write(raw(server), {A: linked()}, {A: linked()})
    before = server.data_fs.read_bytes()
    refused(packer(clients, server), moment(10))
    assert server.data_fs.read_bytes() == before


def test_undo_of_an_object_stored_twice(make_server, raw, clients):
    """After the pack time an undo leads back to the second of two records in one transaction."""
    server = make_server()
    server.log.allow("pack", "AssertionError")
    client = raw(server)
    draft, final, later = linked(), linked(A), linked()
    (tid, *_) = write(client, {ROOT: linked(A)})
    txn = client.begin(tid=nth_tid(1))
    client.store(txn, A, Z64, draft)
    client.store(txn, A, Z64, final)
    second = client.vote_finish(txn)
    third = client.commit((A, second, later), (ROOT, tid, linked(A)), tid=nth_tid(2))
    txn = client.begin(tid=nth_tid(3))
    client.async_("undoa", undo_id(third), txn)
    client.vote_finish(txn)
    # The first transaction makes the pack worth while.
    worker = packer(clients, server)
    client.commit((B, Z64, linked()), tid=nth_tid(4))
    before = server.data_fs.read_bytes()
    if differs("pack-finds-the-wrong-record"):
        refused(worker, moment(0.5))
        assert server.data_fs.read_bytes() == before
        return
    worker.do("call", "pack", moment(0.5))
    assert state(client, A) == final
    server.stop()
    python_accepts(server.data_fs)


def test_undo_across_a_pack_without_gc(make_server, raw, clients, tmp_path):
    """After the pack time an undo leads back to a revision that was not current any more at the pack time."""
    server = make_server([filestorage(tmp_path / "Data.fs", pack_gc=False)])
    server.log.allow("pack", "Error")
    client = raw(server)
    one = linked()
    tids = write(client, {ROOT: linked(A)}, {A: one}, {A: linked()})
    txn = client.begin(tid=nth_tid(3))
    client.async_("undoa", undo_id(tids[2]), txn)
    client.vote_finish(txn)
    data_fs = tmp_path / "Data.fs"
    before = data_fs.read_bytes()
    worker = packer(clients, server)
    if differs("pack-without-gc-loses-revisions"):
        refused(worker, moment(2.5))
        assert data_fs.read_bytes() == before
        return
    worker.do("call", "pack", moment(2.5))
    assert state(client, A) == one
    server.stop()
    python_accepts(data_fs)


def test_killed_between_two_renames(versions, raw):
    """Python's pack can be killed where there is no data file: nobody may take that for a new database."""
    server, *_ = versions
    server.stop()
    server.data_fs.rename(server.data_fs.with_name("Data.fs.pack"))
    old_of(server).write_bytes(b"the database before the pack")
    if differs("pack-renames-in-two-steps"):
        server.start()
        assert len(raw(server).call("undoLog", 0, 20)) == 0
        return
    server.log.allow("is missing")
    with pytest.raises(RuntimeError, match="Rename .*Data.fs.pack to .*Data.fs"):
        server.start()
    assert not server.data_fs.exists()


def test_partial_file_of_a_killed_pack(versions, raw):
    server, *_ = versions
    server.stop()
    partial = server.data_fs.with_name("Data.fs.pack")
    partial.write_bytes(b"FS30 and no more")
    server.start()
    assert state(raw(server), A) is not None
    assert partial.exists() is differs("pack-leaves-partial-file")
