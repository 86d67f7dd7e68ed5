"""What a pack does with a MappingStorage, and with its blobs."""

from __future__ import annotations

import itertools
import time

import pytest
from ZODB.TimeStamp import TimeStamp

from blobs import files
from ledger import differs
from packs import linked, packer, refused, server_class, state
from rawzeo import ROOT, Z64, p64
from subject import blobstorage, section

A, B = p64(1), p64(2)


@pytest.fixture
def mapping(make_server):
    return make_server([section("mappingstorage", "1")])


def test_mapping_storage(mapping, raw, clients):
    """Old revisions go as of the pack time; garbage is what nothing refers to now, in whatever revision is left."""
    client = raw(mapping)
    one, two = linked(), linked()
    tids = [client.commit((ROOT, Z64, linked(A, B)), (A, Z64, one), (B, Z64, one))]
    tids.append(client.commit((A, tids[0], two)))
    tids.append(client.commit((ROOT, tids[0], linked(A))))
    tids.append(client.commit((A, tids[1], one)))
    times = [TimeStamp(tid).timeTime() for tid in tids]
    stops = [sum(pair) / 2 for pair in itertools.pairwise(times)]
    worker = packer(clients, mapping)
    worker.do("call", "pack", stops[2])
    assert [state(client, A, tid) for tid in (tids[0], tids[1], tids[3])] == [None, two, one]
    assert state(client, B) is None
    assert client.call("lastTransaction") == tids[3]
    assert [(txn[0], txn[1]) for txn in worker.do("iterate")] == [(tids[1], " "), (tids[2], " "), (tids[3], " ")]
    # Again to the same time, or to an earlier one: nothing.
    worker.do("call", "pack", stops[2])
    if differs("mapping-packs-no-earlier"):
        mapping.log.allow("later time")
        assert server_class(refused(worker, stops[1])) == "builtins.ValueError"
    else:
        worker.do("call", "pack", stops[1])
    assert [state(client, A, tid) for tid in (tids[1], tids[3])] == [two, one]
    worker.do("call", "pack", times[3] + 60)
    assert [state(client, A, tid) for tid in (tids[1], tids[3])] == [None, one]
    assert [txn[0] for txn in worker.do("iterate")] == tids[2:]
    assert worker.do("call", "getSize") == client.call("get_info")["size"]


def test_empty_mapping_storage(mapping, clients):
    packer(clients, mapping).do("call", "pack", time.time())


def test_mapping_storage_with_a_dangling_reference(mapping, raw, clients):
    mapping.log.allow("KeyError", "refer")
    client = raw(mapping)
    root, one = linked(A, B), linked()
    client.commit((ROOT, Z64, root), (A, Z64, one))
    worker = packer(clients, mapping)
    if differs("mapping-pack-loses-all"):
        refused(worker, time.time() + 60)
        assert state(client, ROOT) is None
        return
    worker.do("call", "pack", time.time() + 60)
    assert (state(client, ROOT), state(client, A)) == (root, one)


def test_application_on_a_mapping_storage(mapping, clients):
    worker = clients.database(mapping.address)
    worker.do("app_scenarios.make_trees", 300)
    worker.do("app_scenarios.delete_from_trees", 0, 100)
    worker.do("call", "pack")
    assert worker.do("app_scenarios.read_trees") == (200, 200)
    worker.do("app_scenarios.delete_from_trees", 100, 110)
    assert worker.do("app_scenarios.read_trees") == (190, 190)


def test_files_of_blobs_go_with_their_revisions(make_server, clients, tmp_path):
    """All but the newest of a blob that stays, and those of what nothing refers to."""
    server = make_server([blobstorage(section("mappingstorage", "1"), blob_dir=tmp_path / "blobs")])
    worker = clients.storage(server.address, blob_dir=str(tmp_path / "cache"))
    worker.do("commit", (ROOT, Z64, linked(A)))
    old = worker.do("blob_scenarios.commit", (A, Z64, b"old"))
    worker.do("blob_scenarios.commit", (A, old, b"now"))
    worker.do("blob_scenarios.commit", (B, Z64, b"garbage"))
    worker.do("call", "pack", time.time() + 60)
    assert [(tmp_path / "blobs" / name).read_bytes() for name in files(tmp_path / "blobs")] == [b"now"]
