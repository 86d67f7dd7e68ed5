"""The files: what the server leaves, Python opens; what Python or a crash left, the server serves."""

import json
import shutil
from pathlib import Path

import pytest

from file_checks import python_accepts
from ledger import differs
from rawzeo import MAXTID, Z64, Fault, p64, record
from subject import SUBJECT, TOP, Server, filestorage

DATA = TOP / "fixtures" / "data"


def names(group: str, kind: str) -> list[str]:
    """Fixtures of a group whose answers have a key."""
    answers = sorted((DATA / group).glob("*.json"))
    return [path.stem for path in answers if path.with_suffix(".fs").exists() and kind in json.loads(path.read_text())]


def unpack(text: str | None) -> bytes | None:
    if text is None:
        return None
    unit, _, count = text.partition("*")
    return bytes.fromhex(unit) * int(count or 1)


@pytest.fixture
def serve(make_server, tmp_path):
    """Starts a server on a copy of a fixture; returns it and Python's answers."""

    def start(group: str, name: str, index: str | None = None):
        directory = tmp_path / "served"
        directory.mkdir()
        shutil.copy(DATA / group / f"{name}.fs", directory / "Data.fs")
        if index is not None:
            shutil.copy(DATA / group / f"{index}.index", directory / "Data.fs.index")
        answers = json.loads((DATA / group / f"{name}.json").read_text())
        return make_server(directory="served"), answers

    return start


def check_current(client, answers) -> None:
    """Every current record, and the tid of the last transaction."""
    for oid, answer in answers["objects"].items():
        expected = answer["before"][MAXTID.hex()]
        if expected == "missing":
            with pytest.raises(Fault) as fault:
                client.call("loadBefore", bytes.fromhex(oid), MAXTID)
            assert fault.value.class_name == "ZODB.POSException.POSKeyError"
        else:
            data, serial, _ = expected
            found = client.call("loadBefore", bytes.fromhex(oid), MAXTID)
            assert found == (unpack(data), bytes.fromhex(serial), None)


def check_goes_on(server, client, answers) -> None:
    """Commits work, and Python opens the result."""
    taken = set(answers["objects"])
    oid = next(p64(n) for n in range(1, 1000) if p64(n).hex() not in taken)
    tid = client.commit((oid, Z64, record("after")))
    assert client.call("loadBefore", oid, MAXTID) == (record("after"), tid, None)
    assert tid.hex() > answers["last"]


def test_python_accepts_what_clients_wrote(make_server, clients, encoding):
    server = make_server(msgpack=encoding == "msgpack")
    client = clients.database(server.address)
    last = client.do("fill_scenarios.fill")
    client.do("close_storage")
    server.stop()
    python_accepts(server.data_fs)
    assert server.data_fs.with_name("Data.fs.index").exists()
    # And the server takes its own files back.
    server.start()
    again = clients.database(server.address)
    assert again.do("call", "lastTransaction") == last


def test_there_and_back_again(make_server, clients, tmp_path):
    """Python's server, ours and Python's again, on the same files; each adds to what the other wrote."""
    data_fs = tmp_path / "Data.fs"
    for turn, subject in enumerate(["runzeo", SUBJECT, "runzeo", SUBJECT]):
        # Each has a directory and a log of its own.
        server = make_server([filestorage(data_fs)], subject=subject)
        client = clients.database(server.address)
        client.do("app_scenarios.put", **{f"turn{turn}": turn})
        for earlier in range(turn + 1):
            assert client.do("app_scenarios.get", f"turn{earlier}") == earlier
        client.do("close_storage")
        server.stop()
        python_accepts(data_fs)


def test_killed_between_vote_and_finish(make_server, raw, tmp_path):
    """The voted transaction is gone, everything before it is there: for Python and after a restart."""
    server = make_server()
    client = raw(server)
    oid = client.new_oid()
    tid = client.commit((oid, Z64, record("kept")))
    txn = client.begin()
    client.store(txn, oid, tid, record("voted"))
    client.call("vote", txn)
    server.kill()
    copy = tmp_path / "copy.fs"
    shutil.copy(server.data_fs, copy)
    python_finds(copy, oid, tid)
    server.log.allow("truncat", "Ignoring index", "killed")
    server.start()
    client = raw(server)
    assert client.call("loadBefore", oid, MAXTID) == (record("kept"), tid, None)
    client.commit((oid, tid, record("after")))
    client.close()
    server.stop()
    python_accepts_records(server.data_fs)


def python_finds(path: Path, oid: bytes, tid: bytes) -> None:
    """Python repairs the file and has that revision."""
    from ZODB.FileStorage import FileStorage

    storage = FileStorage(str(path))
    try:
        assert storage.getTid(oid) == tid
    finally:
        storage.close()


def python_accepts_records(path: Path) -> None:
    """As `python_accepts`, for files whose root refers to nothing that fsrefs could follow."""
    from file_checks import open_counting, run_tool

    run_tool("fstest", path)
    storage, _ = open_counting(path)
    storage.close()


@pytest.mark.parametrize("name", names("damaged", "repaired"))
def test_damaged_tail(serve, raw, tmp_path, name):
    if name == "ones" and differs("non-ascii-status"):
        fails_to_start(tmp_path, "damaged", name)
        return
    server, answers = serve("damaged", name)
    server.log.expect("truncat|invalid")
    server.log.allow("It appears that there is invalid data", "time-stamp reduction")
    server.log.allow("in the future")
    repaired = answers["repaired"]
    kept = server.data_fs.with_name("Data.fs.tr0")
    assert (kept.read_bytes() if kept.exists() else None) == unpack(repaired["tr0"])
    assert server.data_fs.stat().st_size == repaired["size"]
    client = raw(server)
    check_current(client, answers)
    last = client.call("lastTransaction")
    if differs("last-tid-of-cut-tail"):
        # The next commit then has a tid after that of the damage, maybe centuries ahead.
        return
    assert last.hex() == answers["last"]
    check_goes_on(server, client, answers)
    client.close()
    server.stop()
    python_accepts_records(server.data_fs)


@pytest.mark.parametrize("name", names("damaged", "error"))
def test_damage_that_is_not_repaired(tmp_path, name):
    """No server, and the file as it was."""
    fails_to_start(tmp_path, "damaged", name)


def fails_to_start(directory: Path, group: str, name: str) -> None:
    original = DATA / group / f"{name}.fs"
    shutil.copy(original, directory / "Data.fs")
    server = Server(directory)
    with pytest.raises(RuntimeError) as error:
        server.start()
    if not differs("start-errors-without-path"):
        assert str(directory / "Data.fs") in str(error.value)
        assert "Traceback" not in str(error.value)
    assert server.data_fs.read_bytes() == original.read_bytes()


@pytest.mark.parametrize("name", names("odd", "last"))
def test_odd_file(serve, raw, tmp_path, name):
    if (name == "python_2" and differs("python-2-magic-refused")) or ("undone" in name and differs("undone-in-place")):
        fails_to_start(tmp_path, "odd", name)
        return
    server, answers = serve("odd", name)
    server.log.allow("invalid status", "previous pointer")
    client = raw(server)
    check_current(client, answers)
    assert client.call("lastTransaction").hex() == answers["last"]
    check_goes_on(server, client, answers)


@pytest.mark.parametrize("name", ["future", "backwards", "extensions_unreadable", "many_oids", "undos"])
def test_history(serve, raw, name):
    server, answers = serve("histories", name)
    server.log.allow("in the future", "time-stamp reduction", "previous pointer")
    client = raw(server)
    check_current(client, answers)
    assert client.call("lastTransaction").hex() == answers["last"]


@pytest.mark.parametrize(
    "index",
    ["current", "stale", "a_plain_dict", "b_of_buckets", "c_instance", "python_2_current", "garbage", "beyond_the_end"],
)
def test_index(serve, raw, index):
    server, answers = serve("indexes", "data", index)
    server.log.allow("[Ii]gnoring index", "loading index", "index")
    client = raw(server)
    check_current(client, answers)
    assert client.call("lastTransaction").hex() == answers["last"]
    client.close()
    server.stop()
    assert server.data_fs.with_name("Data.fs.index").read_bytes() == (DATA / "indexes" / "data.fs.index").read_bytes()
