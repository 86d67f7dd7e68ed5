"""`pack` on the wire: when the reply comes, who hears of it, and what else goes on."""

from __future__ import annotations

import json
import time

import pytest

from ledger import differs, skip_where_differs
from rawzeo import MAXTID, Z64, Fault, RawClient, record, ruok
from subject import Server, filestorage, wait_until

FILE_STORAGE = "ZODB.FileStorage.FileStorage.FileStorageError"
READ_ONLY = "ZODB.POSException.ReadOnlyError"
ROOT = Z64


@pytest.fixture
def server(make_server, encoding) -> Server:
    return make_server(msgpack=encoding == "msgpack")


def fill(client: RawClient, revisions: int = 5) -> bytes:
    """Revisions of the root object; the tid of the newest."""
    tid = Z64
    for n in range(revisions):
        tid = client.commit((ROOT, tid, record(n)))
    return tid


def later() -> float:
    return time.time() + 1


def history(client: RawClient) -> list[bytes]:
    return [entry["tid"] for entry in client.call("history", ROOT, 100)]


def fault_of(client: RawClient, *args: object) -> Fault:
    with pytest.raises(Fault) as caught:
        client.call("pack", *args)
    return caught.value


@pytest.mark.parametrize("wait", [(), (True,), (1,), (False,), (0,)], ids=repr)
def test_everybody_hears_the_new_size(server, raw, wait):
    client, others = raw(server), [raw(server), raw(server, read_only=True)]
    newest = fill(client)
    size = server.data_fs.stat().st_size
    client.sync()
    client.received.clear()
    msgid = client.start("pack", later(), *wait)
    assert client.reply(msgid) is None
    names = [message.name for message in client.received]
    if wait in ((), (True,), (1,)):
        assert names == ["info", ".reply"]
    (told,) = client.wait_call("info")
    assert (told["length"], told["size"]) == (1, server.data_fs.stat().st_size)
    assert told["size"] < size
    for other in others:
        assert other.wait_call("info") == (told,)
    assert history(client) == [newest]
    started, complete = (
        [each.text for each in server.log.records() if "pack(time=" in each.text and word in each.text]
        for word in ("started...", "complete")
    )
    assert (len(started), len(complete)) == (1, 1)


def test_loads_and_commits_after_a_pack(server, raw):
    client, other = raw(server), raw(server)
    newest = fill(client)
    client.call("pack", later())
    assert client.call("loadBefore", ROOT, MAXTID) == (record(4), newest, None)
    again = other.commit((ROOT, newest, record("after")))
    assert client.invalidated(again) == [ROOT]
    assert client.call("loadBefore", ROOT, MAXTID) == (record("after"), again, None)
    server.restart(kill=True)
    assert raw(server).call("loadBefore", ROOT, MAXTID) == (record("after"), again, None)


@pytest.mark.parametrize("number", [int, float])
def test_as_of_a_time(server, raw, number):
    """What was current then, and later, stays."""
    client = raw(server)
    fill(client)
    boundary = int(time.time()) + 1
    wait_until(lambda: time.time() > boundary + 0.1, "a second has gone by")
    last_before = client.call("history", ROOT, 1)[0]["tid"]
    tid = client.commit((ROOT, last_before, record("later")))
    client.call("pack", number(boundary))
    assert history(client) == [tid, last_before]


def test_nothing_to_pack(server, raw):
    client = raw(server)
    client.call("pack", later())
    newest = fill(client)
    client.call("pack", 1.0)
    assert len(history(client)) == 5
    client.call("pack", later())
    client.call("pack", later())
    assert history(client) == [newest]


def test_a_client_that_may_not_write_may_pack(server, raw):
    newest = fill(raw(server))
    client = raw(server, read_only=True)
    assert client.call("pack", later()) is None
    assert history(client) == [newest]


def test_a_read_only_storage(make_server, tmp_path, raw, encoding):
    path = tmp_path / "Data.fs"
    server = make_server([filestorage(path)], msgpack=encoding == "msgpack")
    fill(raw(server))
    server.stop()
    server = make_server([filestorage(path, read_only=True)], msgpack=encoding == "msgpack")
    server.log.allow("pack", "delayed method")
    client = raw(server, read_only=True)
    fault = fault_of(client, later())
    assert (fault.class_name, tuple(fault.state)) == (READ_ONLY, ())
    assert client.call("pack", later(), False) is None
    assert len(history(client)) == 5


def test_a_read_only_server(make_server, tmp_path, raw, encoding):
    path = tmp_path / "Data.fs"
    server = make_server([filestorage(path)], msgpack=encoding == "msgpack")
    newest = fill(raw(server))
    server.stop()
    server = make_server([filestorage(path)], msgpack=encoding == "msgpack", read_only=True)
    client = raw(server, read_only=True)
    client.call("pack", later())
    assert history(client) == [newest]


@pytest.mark.parametrize(
    ("when", "class_name"),
    [
        (float("nan"), "builtins.ValueError"),
        (float("inf"), "builtins.OverflowError"),
        (1e300, "builtins.OverflowError"),
        (-3e9, "builtins.ValueError"),
        (-2208988800, FILE_STORAGE),
        ("1", "builtins.TypeError"),
        (b"1", "builtins.TypeError"),
        (None, "builtins.TypeError"),
    ],
    ids=repr,
)
def test_bad_times(server, raw, when, class_name):
    server.log.allow("pack", "delayed method")
    client = raw(server)
    fill(client)
    assert fault_of(client, when).class_name == class_name
    assert client.call("pack", when, False) is None
    client.sync()
    assert len(history(client)) == 5


def test_one_pack_at_a_time(server, raw):
    """A transaction that is voted holds the pack up at its last step, and nobody else."""
    server.log.allow("pack", "delayed method")
    writer, reader = raw(server), raw(server)
    newest = fill(writer)
    txn = writer.begin()
    writer.store(txn, ROOT, newest, record("held"))
    writer.call("vote", txn)
    packers = [raw(server), raw(server)]
    msgids = {packer: packer.start("pack", later()) for packer in packers}
    # One of them is refused; which one, nobody knows.
    refused = wait_until(
        lambda: next((packer for packer in packers if not packer.waits(msgids[packer])), None), "one is refused"
    )
    (waiting,) = (packer for packer in packers if packer is not refused)
    with pytest.raises(Fault) as fault:
        refused.reply(msgids[refused])
    assert (fault.value.class_name, tuple(fault.value.state)) == (FILE_STORAGE, ("Already packing",))
    assert reader.call("loadBefore", ROOT, MAXTID) == (record(4), newest, None)
    if not differs("no-pack-progress"):
        for status in (json.loads(ruok(server.address))["1"], reader.call("server_status")):
            packing = status["packing"]
            assert set(packing) == {"phase", "done", "total", "started"}
            assert isinstance(packing["phase"], str)
            assert 0 <= packing["done"] <= packing["total"]
            assert abs(packing["started"] - time.time()) < 60
    assert waiting.waits(msgids[waiting])
    tid = writer.call("tpc_finish", txn)
    assert waiting.reply(msgids[waiting]) is None
    assert history(reader)[0] == tid
    assert "packing" not in reader.call("server_status")
    assert "packing" not in json.loads(ruok(server.address))["1"]


def test_the_client_goes_away(server, raw):
    client, other = raw(server), raw(server)
    newest = fill(client)
    txn = other.begin()
    other.store(txn, ROOT, newest, record("held"))
    other.call("vote", txn)
    client.start("pack", later())
    wait_until(lambda: "started..." in server.log.text(), "the pack has started")
    client.close()
    tid = other.call("tpc_finish", txn)
    wait_until(lambda: "complete" in server.log.text(), "the pack is complete")
    assert history(other) == [tid, newest] or history(other) == [tid]


def test_a_stop_does_not_wait_for_a_pack(server, raw):
    skip_where_differs("packs-hold-stops-up")
    server.log.allow("pack")
    client, packer = raw(server), raw(server)
    newest = fill(client)
    txn = client.begin()
    client.store(txn, ROOT, newest, record("held"))
    client.call("vote", txn)
    packer.start("pack", later())
    wait_until(lambda: "packing" in json.loads(ruok(server.address))["1"], "the pack has come to its last step")
    assert server.stop() == 0
    server.start()
    assert len(history(raw(server))) == 5
