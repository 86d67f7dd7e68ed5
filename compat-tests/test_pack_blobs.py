"""What packs do with the files of blobs, and what is left when the server is killed in one.

Which files go with random histories, and which are kept beside the others, is in test_pack_histories.py.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from blobs import blob_file, content, files
from clients import GENERATIONS, Clients, Worker
from ledger import differs, skip_where_differs
from pack_model import transactions
from pack_records import BLOB
from rawzeo import Z64, p64, record
from subject import Server, blobstorage, filestorage, wait_until
from test_pack_meanwhile import ROOT, Held, has_partial_file, referring, status

KEPT = [p64(n) for n in range(100, 200)]
GARBAGE = [p64(n) for n in range(300, 600)]
FAT = p64(9)


def client_of(server: Server, pool, directory: Path) -> Worker:
    return Clients(pool, GENERATIONS[0], server.address).storage(blob_dir=str(directory / "cache"))


@pytest.mark.parametrize("referred", [False, True])
def test_a_blob_that_comes_back_after_the_pack_time(make_server, client_processes, tmp_path, referred):
    """Nothing referred to it then, and perhaps something does later. What was stored later stays in any case."""
    server = make_server(blobs=True)
    client = client_of(server, client_processes, tmp_path)
    (blob,) = KEPT[:1]
    root = client.do("commit", (ROOT, Z64, referring()))
    old = client.do("blob_scenarios.commit", (blob, Z64, b"old"))
    stop = time.time()
    wait_until(lambda: time.time() > stop + 0.01, "the clock goes on")
    new = client.do("blob_scenarios.commit", (blob, old, b"new"))
    if referred:
        client.do("commit", (ROOT, root, referring(blob)))
    client.do("call", "pack", stop)
    paths = {tid: blob_file(server.blob_dir, blob, tid) for tid in (old, new)}
    assert paths[old].exists() == (referred and not differs("pack-loses-relinked"))
    if differs("pack-removes-live-blobs"):
        assert not paths[new].exists()
    else:
        assert paths[new].read_bytes() == b"new"


class Filled:
    """A server with blobs that stay, old revisions of them, blobs that go, and files that are no blobs."""

    def __init__(self, make_server, pool, directory: Path, keep_old: bool, rate: str | None, packed: bool) -> None:
        self.section = filestorage(directory / "Data.fs", pack_keep_old=keep_old, blob_dir=directory / "blobs")
        settings = [f"%define zeolite_pack_rate {rate}"] if rate else []
        self.server = server = make_server([*settings, self.section])
        server.data_fs, server.blob_dir = directory / "Data.fs", directory / "blobs"
        client = client_of(server, pool, directory)
        fat = client.do("commit", (ROOT, Z64, referring(*KEPT)), (FAT, Z64, record(os.urandom(2_000_000))))
        stores = [(oid, Z64, content(50, n)) for n, oid in enumerate([*KEPT, *GARBAGE])]
        first = client.do("blob_scenarios.commit", *stores)
        if packed:
            # What stays has a second name beside then.
            client.do("call", "pack", time.time() + 1)
            client.do("blob_scenarios.commit", *stores[len(KEPT) :])
        client.do("blob_scenarios.commit", *((oid, first, content(60, n)) for n, oid in enumerate(KEPT)))
        self.newest = fat
        client.do("close_storage")
        # Nobody's business.
        stray = str(blob_file(Path(), KEPT[0], p64(1)))
        self.foreign = {name: name.encode() for name in ("README", "0x00/notes.txt", stray)}
        for name, data in self.foreign.items():
            (server.blob_dir / name).write_bytes(data)
        self.before = self.contents()
        self.records = self.blob_files()
        self._inode = server.data_fs.stat().st_ino

    def contents(self, suffix: str = "") -> dict[str, bytes]:
        directory = self.server.blob_dir.with_name(self.server.blob_dir.name + suffix)
        return {name: (directory / name).read_bytes() for name in files(directory) - {".removed"}}

    def blob_files(self) -> set[str]:
        """Those that the records in the data file need."""
        every = transactions(self.server.data_fs.read_bytes())
        return {
            str(blob_file(Path(), record.oid, record.tid))
            for transaction in every
            for record in transaction.records
            if record.data == BLOB
        }

    def with_files(self, blobs: set[str]) -> dict[str, bytes]:
        """What there is if only these blobs are there."""
        return {name: data for name, data in self.before.items() if name in blobs or name in self.foreign}

    def is_packed(self) -> bool:
        """Whether there is another data file now; in the middle of the swap there is none under that name."""
        try:
            return self.server.data_fs.stat().st_ino != self._inode
        except FileNotFoundError:
            return False

    def start_again(self) -> None:
        """Without a limit to the speed of packs."""
        self.server.storages = [self.section]
        self.server.start()


@pytest.mark.parametrize("keep_old", [False, True], ids=["removed", "kept"])
@pytest.mark.parametrize("moment", ["copying", "last step", "removing", "removing again"])
def test_killed_in_a_pack(make_server, client_processes, raw, tmp_path, keep_old, moment):
    """Every blob that has a record is there, every other one goes with the next start, and nothing else is touched."""
    if not moment.startswith("removing"):
        skip_where_differs("no-pack-progress")
    rate = "1kb" if moment == "copying" else None
    filled = Filled(make_server, client_processes, tmp_path, keep_old, rate, packed=moment == "removing again")
    server = filled.server
    server.log.allow("truncat", "Ignoring index", "a pack was interrupted in its last step")
    match moment:
        case "copying":
            raw(server).start("pack", time.time() + 1)
            wait_until(lambda: "packing" in status(server), "the server packs")
        case "last step":
            Held(server, raw, (FAT, filled.newest, record("held")))
            assert (server.blob_dir / ".removed").stat().st_size > 0
        case "removing" | "removing again":
            raw(server).start("pack", time.time() + 1)
            deadline = time.monotonic() + 20
            while not filled.is_packed():
                assert time.monotonic() < deadline
            # Not a pause, but how far the server gets is left to chance.
            for _ in range(random.choice([0, 0, 1_000, 10_000, 100_000])):
                pass
    server.kill()
    packed = filled.is_packed()
    assert packed == moment.startswith("removing")
    needed = filled.blob_files()
    assert packed == (needed < filled.records)
    # What goes has no name, or lies in `tmp` for a moment.
    now = {name: content for name, content in filled.contents().items() if not name.startswith("tmp/zeolite-upload-")}
    assert now.items() <= filled.before.items()
    assert needed <= now.keys()
    filled.start_again()
    if differs("pack-forgets-blobs"):
        return
    wait_until(lambda: not (server.blob_dir / ".removed").exists(), "what was left over is worked off")
    assert not has_partial_file(server)
    assert filled.contents() == filled.with_files(needed)
    if packed and keep_old:
        assert filled.before.items() == filled.contents(".old").items() | filled.foreign.items()
    client = raw(server)
    assert client.call("pack", time.time() + 1) is None
    current = {str(blob_file(Path(), oid, client.call("history", oid, 1)[0]["tid"])) for oid in KEPT}
    assert filled.blob_files() == current
    assert filled.contents() == filled.with_files(current)


@pytest.mark.parametrize("around", [False, True], ids=["blob-dir", "blobstorage"])
def test_what_was_kept_once_nothing_is(make_server, client_processes, tmp_path, around):
    """It goes with the next pack, but <blobstorage> has nothing to do with it."""
    data_fs, blob_dir, old = (tmp_path / name for name in ("Data.fs", "blobs", "blobs.old"))
    server = make_server([filestorage(data_fs, blob_dir=blob_dir)])

    def pack(oid: bytes, root: bytes) -> bytes:
        client = client_of(server, client_processes, tmp_path)
        root = client.do("commit", (ROOT, root, referring(oid)))
        first = client.do("blob_scenarios.commit", (oid, Z64, b"first"))
        second = client.do("blob_scenarios.commit", (oid, first, b"second"))
        client.do("call", "pack", time.time() + 1)
        client.do("close_storage")
        assert not blob_file(blob_dir, oid, first).exists()
        assert blob_file(blob_dir, oid, second).exists()
        return root

    root = pack(KEPT[0], Z64)
    kept = files(old)
    assert len(kept) == 2
    server.stop()
    server.storages = [
        blobstorage(filestorage(data_fs), blob_dir=blob_dir)
        if around
        else filestorage(data_fs, blob_dir=blob_dir, pack_keep_old=False)
    ]
    server.start()
    pack(KEPT[1], root)
    assert old.exists() is around
    assert not around or files(old) == kept
