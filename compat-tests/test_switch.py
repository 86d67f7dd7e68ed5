"""From Python's server to the subject and back, on the same files."""

from pathlib import Path

import pytest

from clients import Clients
from history import play
from ledger import differs
from rawzeo import MAXTID, Z64, Fault, p64, record, registered
from subject import SUBJECT, Server, wait_until

OTHER = {"python first": ("runzeo", SUBJECT), "subject first": (SUBJECT, "runzeo")}


@pytest.fixture
def examiner(client_processes, generation):
    """Python's FileStorage, of each generation."""
    return Clients(client_processes, generation).worker()


def played(server: Server) -> list[bytes]:
    client = registered(server.address)
    tids = play(client)
    client.close()
    return tids


def switch(server: Server, subject: str) -> Server:
    """The same directory, the same zeo.conf, another program."""
    if server.process is not None:
        server.stop()
    server.subject = subject
    return server.start()


def index_of(path: Path) -> Path:
    return path.with_name(path.name + ".index")


def test_the_same_history_leaves_the_same_bytes(make_server, encoding):
    files = []
    for subject in ("runzeo", SUBJECT):
        server = make_server(subject=subject, msgpack=encoding == "msgpack")
        played(server)
        server.stop()
        files.append(server.data_fs)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert index_of(files[0]).read_bytes() == index_of(files[1]).read_bytes()


def test_python_opens_what_the_subject_wrote(make_server, examiner):
    server = make_server()
    tids = played(server)
    client = registered(server.address)
    served = {oid: client.call("loadBefore", oid, MAXTID) for oid in map(p64, (0, 1, 2, 4))}
    server.stop()
    path = str(server.data_fs)
    examiner.do("file_scenarios.run_fstest", path)
    opened = examiner.do("file_scenarios.open_file", path)
    assert opened["used_index"]
    assert opened["warnings"] == []
    assert opened["last_tid"] == tids[-1]
    assert {oid: opened["objects"][oid] for oid in served} == {oid: v[:2] for oid, v in served.items()}
    assert opened["objects"][p64(3)] is None
    dump = examiner.do("file_scenarios.dump", path)
    assert [txn[0] for txn in dump] == tids
    assert [txn[1] for txn in dump] == [" "] * 9 + ["p"] + [" "] * 4


def test_the_index_is_what_python_would_write(make_server, examiner):
    server = make_server()
    played(server)
    server.stop()
    index = index_of(server.data_fs)
    written = index.read_bytes()
    index.unlink()
    examiner.do("file_scenarios.save_index", str(server.data_fs))
    assert index.read_bytes() == written


def test_a_database_is_copied_through_the_server(make_server, examiner):
    """copyTransactionsFrom: every transaction with its tid, status, metadata and back pointers."""
    source, target = make_server(subject="runzeo"), make_server()
    played(source)
    source.stop()
    examiner.do("open_storage", target.address)
    examiner.do("file_scenarios.copy_from", str(source.data_fs))
    examiner.do("close_storage")
    target.stop()
    dumps = [examiner.do("file_scenarios.dump", str(server.data_fs)) for server in (source, target)]
    assert dumps[0] == dumps[1]
    examiner.do("file_scenarios.run_fstest", str(target.data_fs))


@pytest.mark.parametrize("order", OTHER)
def test_there_and_back(make_server, raw, order):
    """Each program goes on where the other stopped."""
    first, second = OTHER[order]
    server = make_server(subject=first)
    serial = Z64
    tids = []
    for turn in range(4):
        if turn:
            switch(server, (first, second)[turn % 2])
        client = raw(server)
        assert client.call("lastTransaction") == serial
        for n in range(3):
            serial = client.commit((p64(1), serial, record((turn, n))), user=b"turn %d" % turn, extension={"n": n})
            tids.append(serial)
        for tid, (data, _) in zip(tids, history_of(client, p64(1), len(tids)), strict=True):
            assert client.call("loadSerial", p64(1), tid) == data
        client.close()
    assert tids == sorted(tids)


def history_of(client, oid: bytes, count: int) -> list[tuple[bytes, bytes]]:
    """(data, tid) of each revision, oldest first."""
    tids = [entry["tid"] for entry in client.call("history", oid, count)][::-1]
    return [(client.call("loadSerial", oid, tid), tid) for tid in tids]


@pytest.mark.parametrize("order", OTHER)
def test_everything_is_read_alike(make_server, raw, order):
    """A history written by one is served by the other as it was."""

    def answers():
        client = raw(server)
        oids = [p64(n) for n in range(5)] + [p64(0x1_0203_0405_0607)]
        result = []
        for oid in oids:
            result.append([(e["tid"], e["size"], e["description"]) for e in client.call("history", oid, 20)])
            for tid in (*tids, MAXTID):
                result.append(attempt(client, "loadBefore", oid, tid))
                result.append(attempt(client, "loadSerial", oid, tid))
        result.append([dict(entry) for entry in client.call("undoLog", 0, 100)])
        info = client.call("get_info")
        result.append((info["length"], info["size"]))
        iid = client.call("iterator_start", None, None)
        while (txn := client.call("iterator_next", iid)) is not None:
            result.append(txn)
            rid = client.call("iterator_record_start", iid, txn[0])
            while (each := client.call("iterator_record_next", rid)) is not None:
                result.append(each)
        # Restores are not announced while the server runs, but are in the queue it makes at its start.
        result.append(sorted(set(client.call("getInvalidations", tids[0])[1]) - {p64(3)}))
        client.close()
        return result

    first, second = OTHER[order]
    server = make_server(subject=first)
    tids = played(server)
    before = answers()
    switch(server, second)
    assert answers() == before


def attempt(client, method, *args):
    try:
        return client.call(method, *args)
    except Fault as fault:
        return fault.class_name, tuple(fault.state)


@pytest.mark.parametrize("order", OTHER)
def test_applications_follow(make_server, client_processes, generation, order):
    """A running application's client lives through the switch.

    It makes no new objects: Python's server would hand out oids that the client has in stock.
    """
    first, second = OTHER[order]
    server = make_server(subject=first)
    worker = Clients(client_processes, generation, server.address).database()
    worker.do("app_scenarios.make_trees", 500)
    for n, subject in enumerate((second, first)):
        switch(server, subject)
        wait_until(lambda: worker.do("is_connected"), "the client is connected again")
        worker.do("app_scenarios.delete_from_trees", 100 * n, 100 * (n + 1))
        left = 400 - 100 * n
        assert worker.do("app_scenarios.read_trees") == (left, left)
    worker.do("close_storage")
    server.stop()
    assert worker.do("file_scenarios.run_fsrefs", str(server.data_fs)) == ""
    worker.do("file_scenarios.run_fstest", str(server.data_fs))


def test_index_survives_the_same_oid_twice(make_server, examiner):
    """Blob clients store an oid twice in one transaction; the index must be taken all the same."""
    server = make_server()
    client = registered(server.address)
    tid = client.commit((p64(1), Z64, record(1)), (p64(2), Z64, record(2)))
    client.commit((p64(1), tid, record(3)), (p64(1), tid, record(4)))
    client.close()
    mark = server.log.size()
    server.restart()
    server.stop()
    index_lost = differs("index-lost-on-double-store")
    assert ("Ignoring index" in server.log.text(mark)) is index_lost
    opened = examiner.do("file_scenarios.open_file", str(server.data_fs))
    assert opened["objects"][p64(1)][0] == record(4)
    assert opened["used_index"] is not index_lost
