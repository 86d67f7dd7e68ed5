"""Blobs outlive the process: what was acknowledged is there, with its content."""

import time

import pytest

from blobs import blob_file, content, files
from history import nth_tid
from ledger import differs
from rawzeo import Z64, p64, record
from subject import SUBJECT, filestorage, wait_until

WAYS = pytest.mark.parametrize("kill", [False, True], ids=["stop", "kill"])


@WAYS
def test_blobs_are_there(make_server, blob_clients, kill):
    server = make_server(blobs=True)
    client = blob_clients.database(server)
    blobs = {f"blob {n}": content(n * 10_000, n) for n in range(10)}
    made = client.do("blob_scenarios.put", **blobs)
    server.restart(kill=kill)
    reader = blob_clients.database(server)
    assert reader.do("blob_scenarios.get_all", list(blobs)) == blobs
    assert files(server.blob_dir) >= {
        str(blob_file(server.blob_dir, *each).relative_to(server.blob_dir)) for each in made.values()
    }
    # The old client is connected again, too.
    wait_until(lambda: client.do("is_connected"), "the client is connected again")
    client.do("blob_scenarios.change", "blob 0", b"changed")


@WAYS
@pytest.mark.parametrize("phase", ["stored", "voted"])
def test_an_unfinished_blob_is_not(make_server, blob_clients, kill, phase):
    """Nothing is served that was not committed, and the next transaction is not in the way of what is left."""
    server = make_server(blobs=True)
    server.log.allow("truncat", "time-stamp")
    oid = p64(1)
    client = blob_clients.storage(server)
    tid = client.do("blob_scenarios.commit", (oid, Z64, b"kept"))
    before = files(server.blob_dir)
    client.do("begin", "txn")
    client.do("blob_scenarios.store", "txn", oid, tid, b"lost")
    # The answer comes after the server has taken up the blob.
    client.do("blob_scenarios.vote", "txn") if phase == "voted" else client.do("call", "history", oid, 1)
    if kill:
        server.kill()
        server.start()
    else:
        server.stop()
    if not differs("failed-votes-leave-blobs"):
        assert files(server.blob_dir) == before
    if not kill:
        server.start()
    reader = blob_clients.storage(server)
    assert reader.do("load", oid)[1] == tid
    assert reader.do("blob_scenarios.load", oid, tid) == b"kept"
    new = reader.do("blob_scenarios.commit", (oid, tid, b"new"))
    assert reader.do("blob_scenarios.load", oid, new) == b"new"


@pytest.mark.parametrize("first", ["runzeo", SUBJECT])
def test_the_same_transaction_after_a_kill(make_server, blob_clients, first):
    """Copied with its tid, and once more after it was lost: the file of the first try is not in the way."""
    server = make_server(subject=first, blobs=True)
    server.log.allow("truncat", "time-stamp")
    oid, tid = p64(1), nth_tid(1)
    client = blob_clients.storage(server)
    client.do("begin", "txn", tid=tid)
    client.do("blob_scenarios.store", "txn", oid, Z64, b"first try, longer than the second")
    client.do("blob_scenarios.vote", "txn")
    server.kill()
    server.subject = SUBJECT
    server.start()
    client = blob_clients.storage(server)
    assert client.do("blob_scenarios.commit", (oid, Z64, b"second try"), tid=tid) == tid
    assert blob_file(server.blob_dir, oid, tid).read_bytes() == b"second try"
    assert client.do("blob_scenarios.load", oid, tid) == b"second try"


def packing_list(server):
    return server.blob_dir / ".removed"


def test_a_list_of_removals_is_of_one_database(make_server, blob_clients):
    """What a pack that was killed has left to do is done with its own data file, and with no other one."""
    server = make_server(blobs=True)
    server.log.allow("removed", "time-stamp")
    oid, gone = p64(1), p64(2)
    client = blob_clients.storage(server)
    tid = client.do("blob_scenarios.commit", (oid, Z64, b"kept"))
    server.stop()
    kept, stray = blob_file(server.blob_dir, oid, tid), blob_file(server.blob_dir, gone, tid)
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"left out by the pack")
    packing_list(server).write_text(
        f"zeolite, removed after {tid.hex()}\n{oid.hex()}{tid.hex()}\n{gone.hex()}{tid.hex()}\n"
    )
    # Another path, as by mistake. Python empties the blob directory when it makes a data file.
    if not differs("blobs-wiped-without-data-file"):
        storages, server.storages = server.storages, [
            each.replace(str(server.data_fs), f"{server.data_fs}.typo") for each in server.storages
        ]
        server.start()
        wait_until(lambda: "no blob on it is removed" in server.log.text(), "the server has looked at the list")
        server.stop()
        server.storages = storages
        assert stray.exists()
        assert packing_list(server).exists()
        assert kept.read_bytes() == b"kept"
    server.start()
    assert blob_clients.storage(server).do("blob_scenarios.load", oid, tid) == b"kept"
    # Python never reads the list again, and removes nothing.
    if not differs("pack-forgets-blobs"):
        wait_until(lambda: not packing_list(server).exists(), "the list is worked off")
    assert kept.exists()
    assert stray.exists() is differs("pack-forgets-blobs")


def test_stopped_in_a_pack(make_server, blob_clients, raw):
    """SIGTERM while it packs, and a start with another data file: all blobs are there."""
    server = make_server(directory="stopped", blobs=True)
    server.log.allow("pack", "removed", "time-stamp", "closing")
    server.stop()
    server.storages = [
        filestorage(server.data_fs, blob_dir=server.blob_dir, pack_gc=False),
        "%define zeolite_pack_rate 100KB",
    ]
    server.start()
    client = blob_clients.storage(server)
    oid = p64(1)
    tids = [Z64]
    for n in range(3):
        tids.append(client.do("blob_scenarios.commit", (oid, tids[-1], b"version %d" % n)))
    packer = raw(server)
    packer.commit(*[(p64(100 + n), Z64, record("x" * 20_000)) for n in range(50)])
    packer.start("pack", time.time() + 10, False)
    old = server.data_fs.with_name("Data.fs.old")
    wait_until(lambda: packing_list(server).exists() or old.exists(), "the pack has blobs to remove")
    server.stop()
    if not differs("blobs-wiped-without-data-file"):
        assert not old.exists()
        right = server.storages[0]
        server.storages[0] = right.replace(str(server.data_fs), f"{server.data_fs}.typo")
        server.start()
        server.stop()
        server.storages[0] = right
        for n, tid in enumerate(tids[1:]):
            assert blob_file(server.blob_dir, oid, tid).read_bytes() == b"version %d" % n
    server.start()
    assert blob_clients.storage(server).do("blob_scenarios.load", oid, tids[-1]) == b"version 2"
