"""Databases with blobs: from Python's server to the subject and back, and copied."""

import base64

import pytest

from blobs import blob_file, content, lawn, tree
from clients import RemoteError
from history import nth_tid
from rawzeo import Z64, p64
from subject import SUBJECT, Server
from test_switch import OTHER, switch

A, B, C = p64(1), p64(2), p64(0x0123_4567_89AB_CDEF)
# Each step is a transaction: new contents of blobs, or the number of the step to undo.
STEPS = [
    {A: content(150_000, 1), B: b"", C: b"c"},
    {A: content(100, 2)},
    {A: b"third", C: content(59_000, 3)},
    2,
    3,
    {B: b"no longer empty"},
    1,
    0,
]


class History:
    """STEPS played on a server, some of them at a time, with tids given."""

    def __init__(self) -> None:
        self.tids: list[bytes] = []
        self.changed: list[set[bytes]] = []
        self.current: dict[bytes, bytes] = {}

    def play(self, server: Server, blob_clients, steps: list) -> None:
        client = blob_clients.storage(server)
        for step in steps:
            tid = nth_tid(len(self.tids))
            if isinstance(step, dict):
                self.changed.append(set(step))
                blobs = [(oid, self.current.get(oid, Z64), data) for oid, data in step.items()]
                client.do("blob_scenarios.commit", *blobs, tid=tid)
            else:
                self.changed.append(self.changed[step])
                client.do("begin", "undo", tid=tid)
                client.do("blob_scenarios.undo", "undo", base64.encodebytes(self.tids[step]).rstrip())
                client.do("finish", "undo")
            self.current.update(dict.fromkeys(self.changed[-1], tid))
            self.tids.append(tid)
        client.do("close")


def test_the_same_history_leaves_the_same_files(make_server, blob_clients, encoding):
    data, blobs = [], []
    for subject in ("runzeo", SUBJECT):
        server = make_server(subject=subject, blobs=True, umask=0o027, msgpack=encoding == "msgpack")
        History().play(server, blob_clients, STEPS)
        server.stop()
        data.append(server.data_fs.read_bytes())
        blobs.append(tree(server.blob_dir))
    assert len([name for name in blobs[0] if name.endswith(".blob")]) == 12
    assert blobs[0] == blobs[1]
    assert data[0] == data[1]


@pytest.mark.parametrize("order", OTHER)
@pytest.mark.parametrize("layout", ["bushy", "lawn"])
def test_there_and_back(make_server, blob_clients, tmp_path, order, layout):
    """Each program goes on where the other stopped, and in the end all is as if one had done it alone."""
    servers = []
    for name, subjects in (("alone", ("runzeo", "runzeo")), ("changing", OTHER[order])):
        directory = tmp_path / name / "blobs"
        directory.mkdir(parents=True)
        (directory / ".layout").write_text(layout)
        (tmp_path / name / "Data.fs").write_bytes(b"FS30")
        server = make_server(directory=name, subject=subjects[0], blobs=True)
        server.log.allow("lawn")
        history = History()
        for n in range(0, len(STEPS), 2):
            if n:
                switch(server, subjects[n // 2 % 2])
            history.play(server, blob_clients, STEPS[n : n + 2])
        server.stop()
        servers.append(server)
    assert tree(servers[0].blob_dir) == tree(servers[1].blob_dir)
    assert servers[0].data_fs.read_bytes() == servers[1].data_fs.read_bytes()


def test_python_reads_what_the_subject_wrote(make_server, blob_clients, clients):
    server = make_server(blobs=True)
    history = History()
    history.play(server, blob_clients, STEPS)
    server.stop()
    revisions = [(A, history.tids[n]) for n in (0, 1, 2, 3, 4)] + [(B, history.tids[0]), (C, history.tids[3])]
    contents = clients.worker().do(
        "blob_scenarios.read_files", str(server.data_fs), str(server.blob_dir), revisions
    )
    first, second, third = (STEPS[n][A] for n in range(3))
    assert contents == [first, second, third, second, third, b"", b"c"]


def test_everything_is_copied_from_the_server(make_server, blob_clients, tmp_path):
    """A backup by copyTransactionsFrom, with Python's own FileStorage: the same transactions, the same files."""
    server = make_server(blobs=True)
    History().play(server, blob_clients, STEPS)
    target = tmp_path / "copy"
    blob_clients.storage(server).do("blob_scenarios.copy_to_file", str(tmp_path / "copy.fs"), str(target))
    server.stop()

    def contents(directory):
        return {name: data for name, (_, data) in tree(directory).items() if name.endswith(".blob")}

    assert contents(target) == contents(server.blob_dir)
    worker = blob_clients.worker()
    dumps = [worker.do("file_scenarios.dump", str(path)) for path in (server.data_fs, tmp_path / "copy.fs")]
    assert dumps[0] == dumps[1]


def test_records_are_copied_into_the_server(make_server, blob_clients):
    """The protocol has no restoreBlob: copyTransactionsFrom takes the records only, and the files are to be copied beside."""
    source, target = make_server(subject="runzeo", blobs=True), make_server(blobs=True)
    history = History()
    history.play(source, blob_clients, STEPS)
    source.stop()
    target.log.allow("raised exception", "No blob file")
    client = blob_clients.storage(target)
    client.do("file_scenarios.copy_from", str(source.data_fs))
    with pytest.raises(RemoteError) as error:
        client.do("blob_scenarios.load", A, history.tids[0])
    assert error.value.name == "POSKeyError"
    copied = blob_file(target.blob_dir, A, history.tids[0])
    copied.parent.mkdir(parents=True, exist_ok=True)
    copied.write_bytes(blob_file(source.blob_dir, A, history.tids[0]).read_bytes())
    assert client.do("blob_scenarios.load", A, history.tids[0]) == STEPS[0][A]
