"""Data.fs files that something happened to: cut tails, leftovers, both magics, every generation of index."""

import pytest
from zodbpickle import pickle

from history import play
from ledger import differs
from rawzeo import MAXTID, Z64, RawClient, p64, record, registered, u64


@pytest.fixture
def stopped(make_server):
    """A stopped server whose file has three transactions, the tids, and where each ends in the file."""
    server = make_server()
    client = registered(server.address)
    tids, ends = [], []
    for n in range(3):
        tids.append(client.commit((p64(1), tids[-1] if tids else Z64, record(n)), (p64(2 + n), Z64, record(n))))
        ends.append(server.data_fs.stat().st_size)
    client.close()
    server.stop()
    return server, tids, ends


def damage(server, data: bytes) -> None:
    server.data_fs.write_bytes(data)
    server.log.allow("truncat", "Ignoring index", "index")


def serves(server, raw, tids) -> RawClient:
    """The server serves exactly these transactions, and takes another."""
    client = raw(server)
    iid = client.call("iterator_start", None, None)
    seen = []
    while (txn := client.call("iterator_next", iid)) is not None:
        seen.append(txn[0])
    assert seen == tids
    assert client.call("loadBefore", p64(1), MAXTID)[:2] == (record(len(tids) - 1), tids[-1])
    if not differs("last-tid-of-cut-tail"):
        assert client.call("lastTransaction") == tids[-1]
    assert client.commit((p64(1), tids[-1], record("new"))) > tids[-1]
    return client


def cut_off(server) -> list[bytes]:
    return [path.read_bytes() for path in sorted(server.directory.glob("Data.fs.tr*"))]


@pytest.mark.parametrize("index", ["kept", "missing"])
@pytest.mark.parametrize("missing", [1, 8, 50, 150])
def test_last_transaction_incomplete(stopped, raw, missing, index):
    server, tids, ends = stopped
    data = server.data_fs.read_bytes()
    damage(server, data[:-missing])
    if index == "missing":
        (server.directory / "Data.fs.index").unlink()
    server.start()
    serves(server, raw, tids[:2])
    assert cut_off(server) == [data[ends[1] : -missing]]


def test_last_transaction_voted_only(stopped, raw):
    server, tids, ends = stopped
    data = bytearray(server.data_fs.read_bytes())
    data[ends[1] + 16 : ends[1] + 17] = b"c"
    damage(server, bytes(data))
    server.start()
    serves(server, raw, tids[:2])
    assert cut_off(server) == [bytes(data[ends[1] :])]


def test_a_few_stray_bytes_at_the_end(stopped, raw):
    server, tids, _ = stopped
    damage(server, server.data_fs.read_bytes() + b"stray")
    server.start()
    serves(server, raw, tids)


def test_zeros_at_the_end(stopped, raw):
    """What a file system leaves after a power failure."""
    server, tids, _ = stopped
    damage(server, server.data_fs.read_bytes() + bytes(5000))
    server.log.allow("time-stamp reduction", "invalid status", "invalid transaction header")
    server.start()
    serves(server, raw, tids)
    assert cut_off(server) == [bytes(5000)]


def test_earlier_cut_off_tails_are_kept(stopped, raw):
    server, tids, ends = stopped
    (server.directory / "Data.fs.tr0").write_bytes(b"earlier")
    data = server.data_fs.read_bytes()
    damage(server, data[:-5])
    server.start()
    assert cut_off(server) == [b"earlier", data[ends[1] : -5]]


def test_empty_file_gets_its_magic(make_server, raw):
    server = make_server()
    server.stop()
    server.data_fs.write_bytes(b"")
    server.start()
    assert server.data_fs.read_bytes() == b"FS30"
    assert raw(server).call("lastTransaction") == Z64


@pytest.mark.parametrize("content", [b"FS", b"PK\x03\x04 not a database", b"FS20" + bytes(100)])
def test_what_is_no_data_fs_is_refused_and_left_alone(make_server, content):
    server = make_server()
    server.stop()
    server.data_fs.write_bytes(content)
    server.log.allow(".")
    with pytest.raises(RuntimeError):
        server.start()
    assert server.data_fs.read_bytes() == content


def test_python_2_magic(stopped, raw):
    server, tids, _ = stopped
    damage(server, b"FS21" + server.data_fs.read_bytes()[4:])
    if differs("python-2-magic-refused"):
        with pytest.raises(RuntimeError):
            server.start()
        return
    server.start()
    client = serves(server, raw, tids)
    client.close()
    server.stop()
    assert server.data_fs.read_bytes()[:4] == b"FS21"


def index_in_generation(generation: str, positions: dict[bytes, int], end: int) -> bytes:
    """The index file as older versions wrote it."""
    if generation == "plain dict":
        return pickle.dumps({"index": positions, "pos": end, "oid": max(positions), "vindex": {}}, 1)
    prefixes: dict[bytes, dict[bytes, int]] = {}
    for oid, position in sorted(positions.items()):
        prefixes.setdefault(oid[:6], {})[oid[6:]] = position
    blobs = [
        (prefix, b"".join(bucket) + b"".join(p64(position)[2:] for position in bucket.values()))
        for prefix, bucket in prefixes.items()
    ]
    if generation == "python 3":
        return b"".join(pickle.dumps(each, 3) for each in (end, *blobs, None))
    # Python 2 wrote byte strings where Python 3 needs bytes: protocol 1, opcodes U and T.
    parts = [b"J" + end.to_bytes(4, "little") + b"."]
    for prefix, blob in blobs:
        parts.append(b"(U\x06" + prefix + b"T" + len(blob).to_bytes(4, "little") + blob + b"t.")
    return b"".join(parts) + b"N."


def positions(data: bytes) -> dict[bytes, int]:
    """oid -> position of the current record, by a scan."""
    result = {}
    pos = 4
    while pos < len(data):
        end = pos + u64(data[pos + 8 : pos + 16])
        lengths = (int.from_bytes(data[pos + at : pos + at + 2], "big") for at in (17, 19, 21))
        at = pos + 23 + sum(lengths)
        while at < end:
            result[data[at : at + 8]] = at
            at += 42 + (u64(data[at + 34 : at + 42]) or 8)
        pos = end + 8
    return result


@pytest.mark.parametrize("generation", ["plain dict", "python 2", "python 3"])
def test_index_generations(make_server, raw, generation):
    server = make_server()
    client = registered(server.address)
    tids = play(client)
    expected = [client.call("history", p64(n), 9) for n in (0, 1, 2, 4)]
    client.close()
    server.stop()
    data = server.data_fs.read_bytes()
    index = server.directory / "Data.fs.index"
    index.write_bytes(index_in_generation(generation, positions(data), len(data)))
    server.log.allow("loading index", "index")
    server.start()
    client = raw(server)
    assert client.call("lastTransaction") == tids[-1]
    assert [client.call("history", p64(n), 9) for n in (0, 1, 2, 4)] == expected


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x03K\x04.\x80\x03N.", b"\x80\x03}q\x00."])
def test_bad_index_is_rebuilt(stopped, raw, content):
    server, tids, _ = stopped
    index = server.directory / "Data.fs.index"
    good = index.read_bytes()
    index.write_bytes(content)
    server.log.allow("index")
    server.start()
    server.stop()
    assert index.read_bytes() == good
    server.start()
    serves(server, raw, tids)


def test_index_older_than_the_file(stopped, raw):
    """As after a kill: the index covers the first transactions only."""
    server, tids, ends = stopped
    data = server.data_fs.read_bytes()
    index = server.directory / "Data.fs.index"
    index.write_bytes(index_in_generation("python 3", positions(data[: ends[1]]), ends[1]))
    mark = server.log.size()
    server.start()
    serves(server, raw, tids)
    assert "Ignoring index" not in server.log.text(mark)


def test_clock_that_was_ahead(make_server, raw):
    """The last transaction lies in the future: tids go on after it."""
    server = make_server()
    client = raw(server)
    future = p64(0x0500_0000_0000_0000)
    txn = client.begin(tid=future)
    client.async_("restorea", p64(1), future, record(0), None, txn)
    client.vote_finish(txn)
    client.close()
    server.restart()
    server.log.allow("future")
    client = raw(server)
    assert client.call("lastTransaction") == future
    assert client.commit((p64(1), future, record(1))) == p64(u64(future) + 1)
