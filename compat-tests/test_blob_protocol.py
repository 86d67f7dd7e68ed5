"""Blobs on the wire: chunks in, chunks out, and nothing left of what was not committed."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blobs import files
from ledger import differs, skip_where_differs
from rawzeo import MAXTID, Z64, Closed, Fault, Message, RawClient, p64, record, u64
from subject import Server, filestorage, wait_until

CHUNK = 59_000
BLOB = b"\x80\x03cZODB.blob\nBlob\nq\x00.\x80\x03N."

POS_KEY = "ZODB.POSException.POSKeyError"
TRANSACTION = "ZODB.POSException.StorageTransactionError"
TYPE = "builtins.TypeError"


class BlobServer:
    """A server with a blob directory."""

    def __init__(self, make_server: Callable[..., Server], tmp_path: Path, encoding: str, **zeo: object) -> None:
        self.directory = tmp_path / "blobs"
        storage = filestorage(tmp_path / "Data.fs", blob_dir=self.directory)
        self.server = make_server([storage], msgpack=encoding == "msgpack", **zeo)

    def oid_directory(self, oid: bytes) -> Path:
        return self.directory.joinpath(*(f"0x{byte:02x}" for byte in oid))

    def path(self, oid: bytes, tid: bytes) -> Path:
        return self.oid_directory(oid) / f"0x{tid.hex()}.blob"

    def files(self) -> set[Path]:
        """Every file that holds content, committed or not."""
        return {self.directory / name for name in files(self.directory)}

    def wait_for_files(self, *expected: Path) -> None:
        wait_until(lambda: self.files() == set(expected), f"{self.files()} become {expected}")


@pytest.fixture
def blobs(make_server, tmp_path, encoding) -> BlobServer:
    return BlobServer(make_server, tmp_path, encoding)


def pieces(content: bytes, size: int = CHUNK) -> Iterator[bytes]:
    return (content[i : i + size] for i in range(0, len(content), size))


def upload(client: RawClient, txn: int, oid: bytes, serial: bytes, content: bytes, size: int = CHUNK) -> None:
    """As a client does it: the record, then the blob."""
    client.store(txn, oid, serial, BLOB)
    client.async_("storeBlobStart")
    for piece in pieces(content, size):
        client.async_("storeBlobChunk", piece)
    client.async_("storeBlobEnd", oid, serial, BLOB, txn)


def commit_blob(client: RawClient, content: bytes, oid: bytes | None = None, serial: bytes = Z64) -> tuple[bytes, bytes]:
    """One blob in a transaction of its own: its oid and tid."""
    oid = oid or client.new_oid()
    txn = client.begin()
    upload(client, txn, oid, serial, content)
    return oid, client.vote_finish(txn)


def messages_of(client: RawClient, msgid: int) -> list[Message]:
    """What comes until the reply to `msgid`, and that."""
    seen = []
    while not (seen and seen[-1].is_reply and seen[-1].msgid == msgid):
        seen.append(client.receive())
    return seen


def download(client: RawClient, oid: bytes, tid: bytes) -> bytes:
    seen = messages_of(client, client.start("sendBlob", oid, tid))
    assert not seen[-1].flags, seen[-1]
    return b"".join(message.args[2] for message in seen if message.name == "receiveBlobChunk")


def fault_of(call: Callable[[], object]) -> Fault:
    with pytest.raises(Fault) as caught:
        call()
    return caught.value


# There and back


@pytest.mark.parametrize("length", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 4 * CHUNK, 9 * CHUNK + 5, 3 << 20])
def test_messages_of_a_blob(blobs, raw, length):
    content = os.urandom(length)
    writer, reader = raw(blobs.server), raw(blobs.server)
    oid = writer.new_oid()
    txn = writer.begin()
    upload(writer, txn, oid, Z64, content)
    assert list(writer.call("vote", txn)) == []
    tid = writer.call("tpc_finish", txn)
    assert set(reader.invalidated(tid)) == {oid}
    assert reader.call("loadBefore", oid, MAXTID) == (BLOB, tid, None)

    msgid = reader.start("sendBlob", oid, tid)
    seen = messages_of(reader, msgid)
    assert [message.name for message in seen] == [
        "receiveBlobStart",
        *["receiveBlobChunk" for _ in pieces(content)],
        "receiveBlobStop",
        ".reply",
    ]
    assert seen[0].args == seen[-2].args == (oid, tid)
    assert [message.args for message in seen[1:-2]] == [(oid, tid, piece) for piece in pieces(content)]
    assert seen[-1].args is None
    assert all(message.msgid == 0 and message.flags is True for message in seen[:-1])

    path = blobs.path(oid, tid)
    assert path.read_bytes() == content
    assert not path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    blobs.wait_for_files(path)


@pytest.mark.parametrize("size", [7, CHUNK, (1 << 20) + 1, 5 << 20])
def test_chunks_of_any_size(blobs, raw, size):
    client = raw(blobs.server)
    content = os.urandom(min(size * 1000, 5 << 20))
    oid = client.new_oid()
    txn = client.begin()
    upload(client, txn, oid, Z64, content, size)
    tid = client.vote_finish(txn)
    assert download(client, oid, tid) == content


def test_empty_chunks(blobs, raw):
    client = raw(blobs.server)
    oid = client.new_oid()
    txn = client.begin()
    client.async_("storeBlobStart")
    for piece in (b"", b"one", b"", b"two", b""):
        client.async_("storeBlobChunk", piece)
    client.async_("storeBlobEnd", oid, Z64, BLOB, txn)
    assert download(client, oid, client.vote_finish(txn)) == b"onetwo"


def test_calls_with_replies(blobs, raw):
    client = raw(blobs.server)
    oid = client.new_oid()
    txn = client.begin()
    assert client.call("storeBlobStart") is None
    assert client.call("storeBlobChunk", b"content") is None
    assert client.call("storeBlobChunk", b"x" * (2 << 20)) is None
    assert client.call("storeBlobEnd", oid, Z64, BLOB, txn) is None
    assert download(client, oid, client.vote_finish(txn)) == b"content" + b"x" * (2 << 20)


def test_revisions_keep_their_content(blobs, raw):
    client = raw(blobs.server)
    oid, first = commit_blob(client, b"first")
    _, second = commit_blob(client, b"second", oid, first)
    assert (download(client, oid, first), download(client, oid, second)) == (b"first", b"second")
    blobs.wait_for_files(blobs.path(oid, first), blobs.path(oid, second))


def test_blobs_come_after_all_else_and_the_last_one_first(blobs, raw):
    """That is the order of the records in the file."""
    client = raw(blobs.server)
    oids = [client.new_oid() for _ in range(4)]
    txn = client.begin()
    for oid in oids[:3]:
        client.async_("storeBlobStart")
        client.async_("storeBlobChunk", oid)
        client.async_("storeBlobEnd", oid, Z64, BLOB, txn)
    client.store(txn, oids[3], Z64, b"plain")
    tid = client.vote_finish(txn)
    iid = client.call("iterator_start", tid, tid)
    client.call("iterator_next", iid)
    rid = client.call("iterator_record_start", iid, tid)
    assert [client.call("iterator_record_next", rid)[0] for _ in oids] == [oids[3], oids[2], oids[1], oids[0]]
    assert [download(client, oid, tid) for oid in oids[:3]] == oids[:3]


def test_blobs_survive_a_restart(blobs, raw):
    oid, tid = commit_blob(raw(blobs.server), b"content" * 100_000)
    blobs.server.restart(kill=True)
    assert download(raw(blobs.server), oid, tid) == b"content" * 100_000


def test_capabilities(blobs, raw, make_server, encoding):
    def interfaces(server: Server) -> set[str]:
        return {name for module, name in raw(server).call("get_info")["interfaces"] if "Blob" in name}

    assert interfaces(blobs.server) == {"IBlobStorage", "IBlobStorageRestoreable"}
    assert interfaces(make_server(msgpack=encoding == "msgpack")) == set()


# Errors


def test_no_such_blob(blobs, raw):
    client = raw(blobs.server)
    oid, tid = commit_blob(client, b"content")
    plain = client.new_oid()
    written = client.commit((plain, Z64, b"plain"))
    for missing in [(oid, p64(u64(tid) - 1)), (p64(4711), tid), (plain, written)]:
        fault = fault_of(lambda missing=missing: client.call("sendBlob", *missing))
        assert fault.class_name == POS_KEY
        assert tuple(fault.state) == (f"No blob file at {blobs.path(*missing)}", *missing)
    assert not client.calls("receiveBlobStart")
    client.async_("sendBlob", oid, tid)
    assert client.wait_call("receiveBlobStop") == (oid, tid)


def test_a_storage_without_blobs(server, raw):
    server.log.allow("raised exception")
    client = raw(server)
    txn = client.begin()
    for method, args in [("sendBlob", (p64(1), p64(2))), ("storeBlobStart", ())]:
        fault = fault_of(lambda method=method, args=args: client.call(method, *args))
        assert (fault.class_name, tuple(fault.state)) == (TYPE, ("Blobs are not supported",))
    client.call("tpc_abort", txn)
    client.async_("storeBlobStart")
    client.wait_closed()


def test_chunk_and_end_without_start(blobs, raw):
    blobs.server.log.allow("raised exception")
    client = raw(blobs.server)
    oid = client.new_oid()
    txn = client.begin()
    assert fault_of(lambda: client.call("storeBlobChunk", b"content")).class_name == TYPE
    assert fault_of(lambda: client.call("storeBlobEnd", oid, Z64, BLOB, txn)).class_name == TYPE
    # None of it has harmed the transaction.
    upload(client, txn, oid, Z64, b"content")
    assert download(client, oid, client.vote_finish(txn)) == b"content"


@pytest.mark.parametrize("method", ["storeBlobChunk", "storeBlobEnd"])
def test_async_errors_close(blobs, raw, method):
    blobs.server.log.allow("raised exception")
    client = raw(blobs.server)
    txn = client.begin()
    client.async_(method, *((b"content",) if method == "storeBlobChunk" else (p64(1), Z64, BLOB, txn)))
    client.wait_closed()
    assert not blobs.files()


def test_second_start(blobs, raw):
    """One upload of a connection at a time; the first one goes on."""
    blobs.server.log.allow("raised exception")
    client = raw(blobs.server)
    oid = client.new_oid()
    txn = client.begin()
    client.async_("storeBlobStart")
    client.async_("storeBlobChunk", b"one")
    assert fault_of(lambda: client.call("storeBlobStart")).class_name == "builtins.AssertionError"
    client.async_("storeBlobChunk", b"two")
    client.async_("storeBlobEnd", oid, Z64, BLOB, txn)
    assert download(client, oid, client.vote_finish(txn)) == b"onetwo"


def test_upload_without_a_transaction(blobs, raw):
    blobs.server.log.allow("raised exception", "no current transaction")
    client = raw(blobs.server)
    if differs("uploads-before-transactions"):
        client.call("storeBlobStart")
        client.call("storeBlobChunk", b"content")
    else:
        assert fault_of(lambda: client.call("storeBlobStart")).class_name == TRANSACTION
    fault = fault_of(lambda: client.call("storeBlobEnd", p64(1), Z64, BLOB, 4711))
    assert (fault.class_name, tuple(fault.state)) == (TRANSACTION, (None, 4711))
    client.close()
    if not differs("unfinished-uploads-stay"):
        blobs.wait_for_files()


def test_end_for_another_transaction(blobs, raw):
    blobs.server.log.allow("raised exception", "invalid; current transaction")
    client = raw(blobs.server)
    txn = client.begin()
    client.async_("storeBlobStart")
    fault = fault_of(lambda: client.call("storeBlobEnd", p64(1), Z64, BLOB, txn + 1))
    assert (fault.class_name, tuple(fault.state)) == (TRANSACTION, (txn, txn + 1))


def test_read_only_clients_read_blobs(blobs, raw):
    blobs.server.log.allow("raised exception")
    oid, tid = commit_blob(raw(blobs.server), b"content")
    client = raw(blobs.server, read_only=True)
    assert download(client, oid, tid) == b"content"
    for method, args in [
        ("storeBlobEnd", (p64(1), Z64, BLOB, 1)),
        ("storeBlobShared", (p64(1), Z64, BLOB, "x.tmp", 1)),
        *([] if differs("uploads-before-transactions") else [("storeBlobStart", ())]),
    ]:
        fault = fault_of(lambda method=method, args=args: client.call(method, *args))
        assert fault.class_name == "ZODB.POSException.ReadOnlyError"


def test_conflict(blobs, raw):
    blobs.server.log.allow("raised exception")
    client = raw(blobs.server)
    oid, first = commit_blob(client, b"first")
    _, second = commit_blob(client, b"second", oid, first)
    txn = client.begin()
    upload(client, txn, oid, first, b"too late")
    assert fault_of(lambda: client.call("vote", txn)).class_name == "ZODB.POSException.ConflictError"
    client.call("tpc_abort", txn)
    blobs.wait_for_files(blobs.path(oid, first), blobs.path(oid, second))


def test_resolution_by_the_client_keeps_the_blob(make_server, tmp_path, encoding, raw):
    """The conflict is another object's; the transaction is voted a second time."""
    blobs = BlobServer(make_server, tmp_path, encoding, client_conflict_resolution=True)
    client = raw(blobs.server)
    plain = client.new_oid()
    base = client.commit((plain, Z64, record(0)))
    committed = client.commit((plain, base, record(1)))
    oid = client.new_oid()
    txn = client.begin()
    client.store(txn, plain, base, record(2))
    upload(client, txn, oid, Z64, b"content")
    (conflict,) = client.call("vote", txn)
    assert conflict["oid"] == plain
    client.store(txn, plain, committed, record(3))
    assert list(client.call("vote", txn)) == []
    tid = client.call("tpc_finish", txn)
    if differs("blobs-lost-in-resolution"):
        assert fault_of(lambda: client.call("sendBlob", oid, tid)).class_name == POS_KEY
    else:
        assert download(client, oid, tid) == b"content"


# Nothing is left


@pytest.mark.parametrize("end", ["abort", "disconnect"])
@pytest.mark.parametrize("phase", ["arriving", "arrived", "voted"])
def test_what_is_not_committed_leaves_no_file(blobs, raw, phase, end):
    client = raw(blobs.server)
    oid, first = commit_blob(client, b"committed")
    txn = client.begin()
    if phase != "arriving":
        upload(client, txn, oid, first, b"x" * (3 << 20))
        upload(client, txn, client.new_oid(), Z64, b"small")
    if phase == "voted":
        client.call("vote", txn)
    if phase == "arriving":
        client.async_("storeBlobStart")
        for _ in range(40):
            client.async_("storeBlobChunk", b"x" * CHUNK)
    client.sync()
    assert blobs.files() > {blobs.path(oid, first)}
    if end == "abort":
        client.call("tpc_abort", txn)
    else:
        client.close()
    if phase == "arriving" and differs("unfinished-uploads-stay"):
        return
    blobs.wait_for_files(blobs.path(oid, first))
    # And the next one works as if nothing had been.
    other = raw(blobs.server)
    _, second = commit_blob(other, b"again", oid, first)
    assert download(other, oid, second) == b"again"
    blobs.wait_for_files(blobs.path(oid, first), blobs.path(oid, second))


def test_failed_vote_leaves_no_file(blobs, raw):
    blobs.server.log.allow("raised exception", "While voting", "delayed method")
    client = raw(blobs.server)
    oid, tid = commit_blob(client, b"committed")
    txn = client.begin()
    upload(client, txn, client.new_oid(), Z64, b"x" * (2 << 20))
    client.async_("undoa", b"nonsense", txn)
    fault_of(lambda: client.call("vote", txn))
    client.call("tpc_abort", txn)
    blobs.wait_for_files(blobs.path(oid, tid))


# A directory shared with the client


def put_beside(blobs: BlobServer, oid: bytes, name: str, content: bytes) -> Path:
    directory = blobs.oid_directory(oid)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["0x00abc.tmp-", "x.tmp", "x.tmpw"])
def test_shared_directory(blobs, raw, name):
    client = raw(blobs.server)
    oid = client.new_oid()
    put_beside(blobs, oid, name, b"content")
    txn = client.begin()
    client.store(txn, oid, Z64, BLOB)
    client.async_("storeBlobShared", oid, Z64, BLOB, name, txn)
    tid = client.vote_finish(txn)
    path = blobs.path(oid, tid)
    blobs.wait_for_files(path)
    assert path.read_bytes() == b"content"
    assert not path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)


@pytest.mark.parametrize("end", ["abort", "disconnect"])
@pytest.mark.parametrize("phase", ["collecting", "voted"])
def test_shared_directory_nothing_left(blobs, raw, phase, end):
    client = raw(blobs.server)
    oid = client.new_oid()
    put_beside(blobs, oid, "x.tmp-", b"content")
    txn = client.begin()
    client.call("storeBlobShared", oid, Z64, BLOB, "x.tmp-", txn)
    if phase == "voted":
        client.call("vote", txn)
    if end == "abort":
        client.call("tpc_abort", txn)
    else:
        client.close()
    blobs.wait_for_files()


@pytest.mark.parametrize("name", ["../x.tmp", "/etc/passwd", "a/b.tmp", "x", "", ".blob", "x.tmpxx", "x.tmp.blob"])
def test_shared_directory_bad_names(blobs, raw, name):
    blobs.server.log.allow("raised exception")
    blobs.server.log.expect("under attack.*bad filename to storeBlobShared")
    client = raw(blobs.server)
    txn = client.begin()
    fault = fault_of(lambda: client.call("storeBlobShared", client.new_oid(), Z64, BLOB, name, txn))
    assert (fault.class_name, tuple(fault.state)) == ("builtins.ValueError", (name,))
    client.async_("storeBlobShared", p64(1), Z64, BLOB, name, txn)
    client.wait_closed()


def test_shared_directory_missing_file(blobs, raw):
    """The client hears of it at the vote."""
    blobs.server.log.allow("raised exception", "While voting", "delayed method", ".tmp")
    client = raw(blobs.server)
    oid = client.new_oid()
    txn = client.begin()
    client.store(txn, oid, Z64, BLOB)
    client.async_("storeBlobShared", oid, Z64, BLOB, "missing.tmp-", txn)
    fault_of(lambda: client.call("vote", txn))
    client.call("tpc_abort", txn)
    commit_blob(client, b"the next one")


# Large ones, slow ones, hostile ones


def large_blob(blobs: BlobServer, client: RawClient, length: int) -> tuple[bytes, bytes]:
    """A committed blob of zeros that takes no disk."""
    oid, tid = commit_blob(client, b"")
    path = blobs.path(oid, tid)
    path.chmod(0o644)
    os.truncate(path, length)
    return oid, tid


def descriptors(blobs: BlobServer) -> int:
    """How many files of blobs the server has open."""
    count = 0
    for entry in Path(f"/proc/{blobs.server.pid}/fd").iterdir():
        try:
            target = os.readlink(entry)
            count += target.startswith(str(blobs.directory)) and target.endswith(".blob")
        except FileNotFoundError:
            continue
    return count


def test_a_client_that_does_not_read(blobs, raw):
    """It costs a descriptor and next to no memory; others go on, and when it goes nothing stays."""
    bystander = raw(blobs.server)
    oid, tid = large_blob(blobs, bystander, 1 << 30)
    download(bystander, *commit_blob(bystander, b"warm" * 500_000))
    before_kib = blobs.server.memory_kib()
    lazy = [raw(blobs.server) for _ in range(10)]
    for client in lazy:
        client.start("sendBlob", oid, tid)
        client.start("sendBlob", oid, tid)
        client.wait_call("receiveBlobStart")
    for n in range(300):
        other, written = commit_blob(bystander, b"%d" % n)
        assert bystander.call("loadBefore", other, MAXTID)[1] == written
        assert download(bystander, other, written) == b"%d" % n
    assert blobs.server.memory_kib() - before_kib < 40 << 10
    # One more for a moment, of what has just been committed.
    wait_until(lambda: descriptors(blobs) <= len(lazy), "one for each blob that is being sent")
    for client in lazy:
        client.close()
    if not differs("blobs-left-open"):
        wait_until(lambda: descriptors(blobs) == 0, "the blob is closed")


def test_other_replies_go_in_between(blobs, raw):
    writer, reader = raw(blobs.server), raw(blobs.server)
    length = 64 << 20
    oid, tid = large_blob(blobs, writer, length)
    msgid = reader.start("sendBlob", oid, tid)
    reader.wait_call("receiveBlobStart")
    ping = reader.start("ping")
    plain, written = commit_blob(writer, b"plain")
    seen = messages_of(reader, msgid)
    if not differs("blobs-hold-replies-up"):
        assert any(message.is_reply and message.msgid == ping for message in seen[:-1])
        assert any(message.name == "invalidateTransaction" and message.args[0] == written for message in seen)
    assert sum(len(message.args[2]) for message in seen if message.name == "receiveBlobChunk") == length
    assert reader.reply(ping) is None


def test_blobs_of_one_client_come_one_after_another(blobs, raw):
    client = raw(blobs.server)
    contents = [bytes([n]) * (n * 300_000) for n in range(5)]
    stored = [commit_blob(client, content) for content in contents]
    started = [client.start("sendBlob", *each) for each in stored]
    client.reply(started[-1])
    calls = [message for message in client.received if message.name.startswith("receiveBlob")]
    for (oid, tid), content in zip(stored, contents, strict=True):
        of_this = 2 + len(list(pieces(content)))
        mine, calls = calls[:of_this], calls[of_this:]
        assert all(tuple(message.args[:2]) == (oid, tid) for message in mine)
        assert [mine[0].name, mine[-1].name] == ["receiveBlobStart", "receiveBlobStop"]
        assert b"".join(message.args[2] for message in mine[1:-1]) == content
    assert not calls
    assert [message.msgid for message in client.received if message.is_reply][-5:] == started


def test_upload_larger_than_memory(blobs, raw):
    client = raw(blobs.server)
    commit_blob(client, b"warm" * 1_000_000)
    before_kib = blobs.server.memory_kib()
    oid = client.new_oid()
    txn = client.begin()
    client.async_("storeBlobStart")
    for _ in range(1200):
        client.async_("storeBlobChunk", b"x" * CHUNK)
    client.async_("storeBlobEnd", oid, Z64, BLOB, txn)
    client.call("vote", txn)
    assert blobs.server.memory_kib() - before_kib < 24 << 10
    tid = client.call("tpc_finish", txn)
    assert blobs.path(oid, tid).stat().st_size == 1200 * CHUNK


def test_a_storm_of_chunks(blobs, raw):
    client, bystander = raw(blobs.server), raw(blobs.server)
    plain = bystander.new_oid()
    written = bystander.commit((plain, Z64, b"plain"))
    txn = client.begin()
    client.async_("storeBlobStart")
    empty, single = (client.encode(0, True, "storeBlobChunk", (chunk,)) for chunk in (b"", b"x"))
    storm = b"".join(len(body).to_bytes(4, "big") + body for body in (empty, single))
    for _ in range(20):
        client.send_bytes(storm * 1000)
        assert bystander.call("loadBefore", plain, MAXTID) == (b"plain", written, None)
    client.async_("storeBlobEnd", plain, written, BLOB, txn)
    tid = client.vote_finish(txn)
    assert blobs.path(plain, tid).read_bytes() == b"x" * 20_000


def test_many_blobs_in_one_transaction(blobs, raw):
    """More than a process may have files open."""
    client = raw(blobs.server)
    count = 1500
    resource.prlimit(blobs.server.pid, resource.RLIMIT_NOFILE, (256, 256))
    oids = [oid for _ in range(count // 100) for oid in client.call("new_oids", 100)]
    txn = client.begin()
    for oid in oids:
        upload(client, txn, oid, Z64, oid)
    tid = client.vote_finish(txn)
    wait_until(lambda: len(blobs.files()) == count, "each blob has its file, and there is no other")
    assert download(client, oids[-1], tid) == oids[-1]
    with_another = raw(blobs.server)
    assert download(with_another, oids[0], tid) == oids[0]


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("storeBlobChunk", (None,)),
        ("storeBlobChunk", (4711,)),
        ("storeBlobChunk", ()),
        ("storeBlobStart", (1,)),
        ("sendBlob", (p64(1),)),
        ("sendBlob", (None, None)),
        ("storeBlobEnd", (p64(1),)),
        ("storeBlobShared", (p64(1), Z64, BLOB, None, 1000)),
    ],
)
def test_malformed_arguments(blobs, raw, method, args):
    blobs.server.log.allow(".")
    client = raw(blobs.server)
    client.begin()
    if method != "storeBlobStart":
        client.call("storeBlobStart")
    try:
        fault_of(lambda: client.call(method, *args))
    except Closed:
        pytest.fail("an error is no reason to close a connection that waits for the reply")
    commit_blob(raw(blobs.server), b"others go on")
