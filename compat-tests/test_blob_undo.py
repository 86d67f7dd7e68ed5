"""Undo of transactions with blobs: each revision that undo makes has a file of its own."""

import base64

import pytest

from blobs import blob_file, content, files
from clients import RemoteError
from ledger import differs
from rawzeo import Z64
from subject import blobstorage, filestorage

SERVER = {"blobs": True}
ONE, TWO, THREE = (content(70_000, n) for n in range(3))


def undo_id(tid: bytes) -> bytes:
    return base64.encodebytes(tid).rstrip()


class History:
    """Revisions of one blob."""

    def __init__(self, server, blob_clients, *contents: bytes) -> None:
        self.server = server
        self.client = blob_clients.storage(server)
        self.reader = blob_clients.storage(server)
        self.oid = self.client.do("call", "new_oid")
        self.tids: list[bytes] = []
        for data in contents:
            self.store(data)

    def store(self, data: bytes) -> None:
        serial = self.tids[-1] if self.tids else Z64
        self.tids.append(self.client.do("blob_scenarios.commit", (self.oid, serial, data)))

    def undo(self, n: int) -> None:
        """Undoes the nth revision, which makes another one."""
        self.tids.append(self.client.do("undo", undo_id(self.tids[n])))

    def contents(self) -> list[bytes]:
        """The content of each revision, as another client gets it."""
        return [self.reader.do("blob_scenarios.load", self.oid, tid) for tid in self.tids]

    def file(self, n: int):
        return blob_file(self.server.blob_dir, self.oid, self.tids[n])


@pytest.fixture
def history(server, blob_clients):
    return lambda *contents: History(server, blob_clients, *contents)


def test_undo_of_a_change(history):
    blob = history(ONE, TWO)
    blob.undo(1)
    assert blob.contents() == [ONE, TWO, ONE]


def test_undo_of_undo(history):
    blob = history(ONE, TWO)
    blob.undo(1)
    blob.undo(2)
    blob.undo(3)
    assert blob.contents() == [ONE, TWO, ONE, TWO, ONE]


def test_undo_of_a_creation(history):
    blob = history(ONE)
    blob.undo(0)
    assert not blob.file(1).exists()
    with pytest.raises(RemoteError) as error:
        blob.reader.do("load", blob.oid)
    assert error.value.name == "POSKeyError"
    blob.undo(1)
    assert blob.file(2).read_bytes() == ONE


def test_undo_across_newer_changes(history):
    """All records of blobs are equal, so that nothing looks changed in between: the newer content goes."""
    blob = history(ONE, TWO, THREE)
    blob.undo(1)
    assert blob.contents() == [ONE, TWO, THREE, ONE]


def test_undo_of_empty_content(history):
    blob = history(b"", ONE)
    blob.undo(1)
    assert blob.contents() == [b"", ONE, b""]


def test_undo_of_many_blobs(server, blob_clients):
    client = blob_clients.storage(server)
    oids = [client.do("call", "new_oid") for _ in range(10)]
    first = client.do("blob_scenarios.commit", *((oid, Z64, b"1" + oid) for oid in oids))
    second = client.do("blob_scenarios.commit", *((oid, first, b"2" + oid) for oid in oids))
    tid = client.do("undo", undo_id(second))
    assert [client.do("blob_scenarios.load", oid, tid) for oid in oids] == [b"1" + oid for oid in oids]


def test_undone_revisions_go_on(history):
    blob = history(ONE, TWO)
    blob.undo(1)
    blob.store(THREE)
    assert blob.contents() == [ONE, TWO, ONE, THREE]
    blob.undo(3)
    assert blob.contents()[-1] == ONE


def test_files_of_undone_revisions_look_like_others(history):
    blob = history(ONE, TWO)
    blob.undo(1)
    assert blob.file(2).stat().st_mode == blob.file(0).stat().st_mode
    assert not (blob.file(2).stat().st_mode & 0o222)


def test_undo_that_is_aborted(server, history):
    blob = history(ONE, TWO)
    before = files(server.blob_dir)
    blob.client.do("begin", "undo")
    blob.client.do("blob_scenarios.undo", "undo", undo_id(blob.tids[1]))
    blob.client.do("blob_scenarios.vote", "undo")
    blob.client.do("abort", "undo")
    assert files(server.blob_dir) == before
    assert blob.contents() == [ONE, TWO]


def test_undo_without_the_file(server, history):
    """The content to go back to is lost: the undo is refused, and nothing else is."""
    server.log.allow("raised exception", "While voting", "No blob file")
    blob = history(ONE, TWO)
    blob.file(0).unlink()
    before = files(server.blob_dir)
    with pytest.raises(RemoteError) as error:
        blob.client.do("undo", undo_id(blob.tids[1]))
    assert error.value.name == "POSKeyError"
    assert error.value.remote_args == (f"No blob file at {blob.file(0)}", blob.oid, blob.tids[0])
    assert bool(files(server.blob_dir) - before) is differs("failed-votes-leave-blobs")
    blob.store(THREE)
    assert blob.file(2).read_bytes() == THREE


def test_undo_by_an_application(server, blob_clients):
    client = blob_clients.database(server)
    client.do("blob_scenarios.put", blob=ONE)
    client.do("blob_scenarios.change", "blob", TWO)
    client.do("app_scenarios.undo_last")
    assert blob_clients.database(server).do("blob_scenarios.get", "blob") == ONE


def test_undo_in_a_wrapped_storage(make_server, blob_clients):
    """<blobstorage> around a file storage undoes in its own way; what clients see is the same."""
    server = make_server([blobstorage(filestorage("Data.fs", ""))])
    blob = History(server, blob_clients, ONE, TWO)
    blob.undo(1)
    assert blob.contents() == [ONE, TWO, ONE]
    blob.undo(2)
    assert blob.contents() == [ONE, TWO, ONE, TWO]
