"""Blobs under load, and a server killed in the middle of it."""

import pytest

from blobs import blob_file, bushy
from rawzeo import Z64, p64
from subject import wait_until

SERVER = {"blobs": True}


@pytest.mark.parametrize("size", [100, 25_000])
def test_readers_see_whole_revisions(server, blob_clients, size):
    """Clients that read what others write: each revision complete, never an older one after a newer."""
    names = ("left", "right")
    writers = [blob_clients.database(server) for _ in names]
    writers[0].do("blob_scenarios.put", **dict.fromkeys(names, b"00000000" * size))
    readers = [blob_clients.database(server) for _ in range(2)]
    writers[1].do("call", "ping")
    for reader in readers:
        reader.start("blob_scenarios.watch", names, 30, size)
    for writer, name in zip(writers, names, strict=True):
        writer.start("blob_scenarios.count_up", name, 30, size)
    for worker in (*writers, *readers):
        worker.result()


@pytest.mark.parametrize("size", [800, 200_000])
def test_acknowledged_blobs_survive_a_kill(make_server, blob_clients, size):
    """Killed under load: every revision that any client was told is committed has its file, complete."""
    server = make_server(blobs=True)
    writers = {p64(n): blob_clients.storage(server, wait_timeout=5) for n in range(1, 4)}
    for oid, worker in writers.items():
        worker.start("blob_scenarios.commit_until_killed", oid, size)

    def under_way():
        return all(len(list((server.blob_dir / bushy(oid)).glob("*.blob"))) > 12 for oid in writers)

    wait_until(under_way, "every client committed some")
    server.kill()
    acknowledged = {oid: worker.result() for oid, worker in writers.items()}
    server.log.allow("truncat", "time-stamp")
    server.start()
    reader = blob_clients.storage(server)
    for oid, tids in acknowledged.items():
        for before, tid in zip([Z64, *tids], tids, strict=False):
            expected = before * (size // 8)
            assert blob_file(server.blob_dir, oid, tid).read_bytes() == expected
        assert reader.do("blob_scenarios.load", oid, tids[-1]) == expected
        # At most one more, finished but not acknowledged any more; that one has its file, too.
        history = [entry["tid"] for entry in reader.do("call", "history", oid, len(tids) + 5)][::-1]
        assert history[: len(tids)] == tids
        assert len(history) <= len(tids) + 1
        assert blob_file(server.blob_dir, oid, history[-1]).exists()
