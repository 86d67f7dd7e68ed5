"""Random histories, packed: what is left, byte by byte, of records and of blobs, and that Python and its tools find
nothing wrong with it.

Python's server has to leave what Python's own pack leaves, and so has ours, but for the differences of the ledger: these
are what pack_model.py adds to the rules. Where none played a part, the model is held against Python's pack itself.

    COMPAT_PACK_SEED=123    that history alone; a failure names its seed
    COMPAT_PACK_SEEDS=1000  so many of them
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from ZODB.FileStorage import FileStorage
from ZODB.FileStorage.fspack import PackError
from ZODB.POSException import POSKeyError
from ZODB.scripts import fsrefs, fstest
from ZODB.serialize import referencesf
from ZODB.utils import load_current

import pack_model
from blobs import LOCK, blob_file, bushy
from clients import GENERATIONS, Clients, RemoteError, Worker
from file_checks import open_counting
from ledger import ENTRIES, differs
from pack_histories import History
from rawzeo import MAXTID, Fault, RawClient, registered, tid_of
from subject import SUBJECT, Server, filestorage

BATCH = 10
COUNT = int(os.environ.get("COMPAT_PACK_SEEDS", 1000 if os.environ.get("COMPAT_LONG") else 60))
ALONE = os.environ.get("COMPAT_PACK_SEED")
BATCHES = [[int(ALONE)]] if ALONE else [list(range(n, min(n + BATCH, COUNT))) for n in range(0, COUNT, BATCH)]
ROUNDS = 2

# How Python's pack ends where ours goes on: entries of the ledger.
ENDS_WITH = {
    KeyError: {"pack-dies-of-dangling"},
    AssertionError: {"pack-finds-the-wrong-record", "pack-without-gc-loses-revisions"},
    PackError: {"pack-finds-the-wrong-record", "pack-without-gc-loses-revisions"},
}
UNREADABLE = {"pack-dies-of-unreadable"}


@dataclass
class Trees:
    """A blob directory, and what a pack keeps beside it: the content of files by name."""

    files: dict[str, bytes]
    old: dict[str, bytes] | None
    # Names in both that are of one file.
    linked: set[str]

    @classmethod
    def of(cls, blob_dir: Path) -> Trees:
        old_dir = blob_dir.with_name(blob_dir.name + ".old")
        files, old = _files(blob_dir), _files(old_dir) if old_dir.exists() else None
        linked = {name for name in files if old and name in old and (blob_dir / name).samefile(old_dir / name)}
        return cls(files, old, linked)

    def packed(self, removed: pack_model.Removed, keep_old: bool) -> tuple[Trees, set[str]]:
        """After a pack: what is removed is kept, and what stays is linked to, if anything is kept at all. And what
        stays of objects that Python takes for gone."""
        # With an object that is gone goes what aborted transactions have left there.
        objects = tuple(bushy(oid) + "/" for oid in removed.objects)
        of_objects = {name for name in self.files if name.startswith(objects)}
        live = {str(blob_file(Path(), *revision)) for revision in removed.live}
        gone = {str(blob_file(Path(), *revision)) for revision in removed.revisions} | (of_objects - live)
        files = {name: data for name, data in self.files.items() if name not in gone}
        after = Trees(files, dict(self.files), set(files)) if keep_old else Trees(files, None, set())
        return after, of_objects & live


def _files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        # An empty list is what Python's pack leaves if there was nothing to do.
        if path.is_file() and path.name not in (".removed", LOCK)
    }


class Story:
    """One history, packed and going on: the server's files, and copies on which Python packs."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.seed = seed
        self.name = f"seed{seed}"
        directory.mkdir()
        (directory / "scratch").mkdir()
        self.data_fs = directory / "Data.fs"
        self._scratch = directory / "scratch" / "Data.fs"
        self.blob_dir = directory / "blobs"
        self.history = History(self.data_fs, self.blob_dir, seed)
        self.gc = self.history.choice.random() < 0.8
        self.keep_old = self.history.choice.random() < 0.5
        self.times: list[float] = []

    def grow(self) -> None:
        self.history.grow(self.history.choice.randint(1, 40))
        self.times = self.history.pack_times()

    def section(self) -> str:
        keys = {"pack_gc": self.gc, "pack_keep_old": self.keep_old, "blob_dir": self.blob_dir}
        return filestorage(self.data_fs, self.name, **keys)

    def files(self) -> dict[str, bytes]:
        """What there is beside the index and the lock."""
        aside = ("Data.fs.index", "Data.fs.lock", "Data.fs.oids", "Data.fs.tmp")
        return {
            path.name: path.read_bytes()
            for path in self.data_fs.parent.glob("Data.fs*")
            if path.name not in aside and not path.name.startswith("Data.fs.tr")
        }

    def expected(self, time: float) -> tuple[dict[str, bytes], Trees, bool]:
        """The files after a pack, those of blobs, and whether it ends well."""
        before, blobs_before = self.files(), Trees.of(self.blob_dir)
        python, python_blobs, error = self._python_pack(before, time)
        model = pack_model.pack(before["Data.fs"], tid_of(time), self.gc)
        blobs, live = blobs_before, set()
        if model.data is not None:
            removed = pack_model.removed(before["Data.fs"], model.data, tid_of(time))
            blobs, live = blobs_before.packed(removed, self.keep_old)
        assert model.differences <= set(ENTRIES)
        if error is not None:
            assert model.refused or model.differences & ENDS_WITH.get(type(error), UNREADABLE), repr(error)
        elif not model.differences:
            assert python["Data.fs"] == (model.data or before["Data.fs"]), "the model is wrong"
            self._check_blobs(python_blobs, blobs, live, model.data is not None)
        if SUBJECT == "runzeo":
            return python, python_blobs, error is None
        if model.data is None:
            return before, blobs, not model.refused
        after = {"Data.fs": model.data}
        if self.keep_old:
            after["Data.fs.old"] = before["Data.fs"]
        return after, blobs, True

    def _check_blobs(self, python: Trees, model: Trees, live: set[str], packed: bool) -> None:
        """The model is what Python's pack leaves, but for the ledger."""
        if live:
            assert "pack-removes-live-blobs" in ENTRIES
        assert python.files == {name: data for name, data in model.files.items() if name not in live}
        if not packed:
            assert "pack-removes-old-first" in ENTRIES
            assert python.old is None
        else:
            assert python.old == model.old
            assert python.linked == model.linked - live

    def _python_pack(self, before: dict[str, bytes], time: float) -> tuple[dict[str, bytes], Trees, Exception | None]:
        blob_dir = self._scratch.with_name("blobs")
        shutil.rmtree(self._scratch.parent)
        self._scratch.parent.mkdir()
        for suffix in ("", ".old"):
            if (kept := self.blob_dir.with_name("blobs" + suffix)).exists():
                shutil.copytree(kept, blob_dir.with_name("blobs" + suffix))
        for name, data in before.items():
            self._scratch.with_name(name).write_bytes(data)
        keys = {"pack_gc": self.gc, "pack_keep_old": self.keep_old, "blob_dir": str(blob_dir)}
        storage = FileStorage(str(self._scratch), **keys)
        error = None
        try:
            storage.pack(time, referencesf)
        except Exception as e:
            error = e
        storage.close()
        left = [self._scratch.with_name(name) for name in ("Data.fs", "Data.fs.old", "Data.fs.pack")]
        return {path.name: path.read_bytes() for path in left if path.exists()}, Trees.of(blob_dir), error


def differing(got: bytes, expected: bytes) -> str:
    """Where two files differ, record by record."""
    lines = [[line for txn in pack_model.transactions(data) for line in _lines(txn)] for data in (got, expected)]
    for n, (ours, theirs) in enumerate(zip(*lines, strict=False)):
        if ours != theirs:
            return "\n".join(["got", *lines[0][max(0, n - 3) : n + 4], "expected", *lines[1][max(0, n - 3) : n + 4]])
    return f"{len(lines[0])} records and transactions instead of {len(lines[1])}"


def _lines(txn: pack_model.Transaction) -> Iterator[str]:
    yield f"transaction {txn.tid.hex()} {txn.status!r} {txn.header[23:60]!r}"
    for record in txn.records:
        yield f"  {record.position} {record.oid.hex()} {record.tid.hex()} back {record.back} {len(record.data)} bytes"


def pack(story: Story, worker: Worker, server: Server, raw: RawClient, time: float) -> None:
    before = story.files()
    expected, blobs, ends_well = story.expected(time)
    try:
        worker.do("call", "pack", time)
        ended_well = True
    except RemoteError:
        ended_well = False
    assert ended_well is ends_well
    after = story.files()
    if after["Data.fs"] != expected["Data.fs"]:
        pytest.fail(differing(after["Data.fs"], expected["Data.fs"]))
    assert sorted(after) == sorted(expected)
    assert after == expected
    assert Trees.of(story.blob_dir) == blobs
    assert raw.call("lastTransaction") >= pack_model.transactions(before["Data.fs"])[-1].tid


def serves_what_is_there(story: Story, raw: RawClient) -> None:
    """Every revision that was ever written, current or not, is what Python finds in the file, or is not there."""
    copy = story.data_fs.with_name("scratch") / "served.fs"
    shutil.copy(story.data_fs, copy)
    storage = FileStorage(str(copy), read_only=True)
    try:
        for oid in {oid for oid, _ in story.history.revisions}:
            assert attempt(raw, "loadBefore", oid, MAXTID) == current(storage, oid)
        for oid, tid in story.history.revisions:
            assert attempt(raw, "loadSerial", oid, tid) == revision(storage, oid, tid)
    finally:
        storage.close()


def attempt(raw: RawClient, *call):
    try:
        return raw.call(*call)
    except Fault as fault:
        assert fault.class_name == "ZODB.POSException.POSKeyError"
        return None


def current(storage: FileStorage, oid: bytes):
    try:
        return (*load_current(storage, oid), None)
    except POSKeyError:
        return None


def revision(storage: FileStorage, oid: bytes, tid: bytes):
    try:
        return storage.loadSerial(oid, tid)
    except POSKeyError:
        return None


def dangling(path: Path) -> set[tuple[str, str]]:
    """References that lead nowhere, as fsrefs finds them: from where, and to where."""
    complaints = io.StringIO()
    with redirect_stdout(complaints):
        fsrefs.main(str(path))
    found, source = set(), ""
    for line in complaints.getvalue().splitlines():
        if line.startswith("oid "):
            source = line.split()[1]
        elif line.startswith("\toid "):
            found.add((source, line.split()[1]))
    return found


def python_accepts(story: Story, complaints: set[tuple[str, str]] | None) -> None:
    """The tools find nothing that they did not find before, and the index needs no scan."""
    fstest.check(str(story.data_fs))
    if complaints is not None and not differs("pack-loses-relinked"):
        assert dangling(story.data_fs) <= complaints
    storage, start = open_counting(story.data_fs)
    served = dict(storage._index.items())
    storage.close()
    if not differs("index-lost-on-double-store") and len(served) > 0:
        every = pack_model.transactions(story.data_fs.read_bytes())
        last = next([record.oid for record in txn.records] for txn in reversed(every) if txn.records)
        # Python does not believe in the end of such a file: the index is of an earlier one.
        if len(last) == len(set(last)):
            assert start == story.data_fs.stat().st_size, "Python scanned the file"
    index = story.data_fs.with_name("Data.fs.index")
    aside = index.rename(index.with_name("aside")) if index.exists() else None
    storage, _ = open_counting(story.data_fs)
    assert dict(storage._index.items()) == served, "the index differs from what a scan finds"
    storage.close()
    if aside:
        aside.rename(index)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seeds", BATCHES, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_pack_leaves_what_it_must(make_server, client_processes, tmp_path, seeds):
    stories = [Story(tmp_path / str(seed), seed) for seed in seeds]
    generation = GENERATIONS[seeds[0] // BATCH % 2]
    server = None
    for _ in range(ROUNDS):
        found = {}
        for story in stories:
            story.grow()
            found[story] = dangling(story.data_fs) if story.history.temper != "odd" else None
        if server is None:
            server = make_server([story.section() for story in stories], msgpack=seeds[0] // BATCH % 3 == 0)
        else:
            server.start()
        server.log.allow("pack", "refer", "KeyError", "Error")
        for story in stories:
            print(f"seed {story.seed}: {story.history.temper}, gc {story.gc}, keep-old {story.keep_old}, {story.times}")
            raw = registered(server.address, story.name)
            worker = Clients(client_processes, generation, server.address).storage(storage=story.name)
            for time in story.times:
                pack(story, worker, server, raw, time)
            serves_what_is_there(story, raw)
            raw.close()
            client_processes.end_test()
        server.stop()
        for story in stories:
            print(f"Python reads what is left of seed {story.seed}")
            python_accepts(story, found[story])
