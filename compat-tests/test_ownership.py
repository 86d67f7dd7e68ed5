"""Whose file it is: a server whose file or lock was taken away under it may lose nothing that it acknowledges.

Python's server looks at neither again once it runs.
"""

import pytest

from ledger import differs
from rawzeo import MAXTID, Z64, Fault, p64
from subject import Server

OURS, THEIRS = p64(1), p64(2)


@pytest.fixture
def owner(make_server, raw):
    """A server, a client of it, and the tid of the one object it has."""
    server = make_server()
    client = raw(server)
    return server, client, client.commit((OURS, Z64, b"first"))


def intruder(make_server, server: Server) -> Server:
    """A second server on the same file, as after somebody removed a "stale" lock."""
    server.data_fs.with_name("Data.fs.lock").unlink()
    second = make_server()
    second.stop()
    second.storages = server.storages
    # Python's leaves what was voted in the file, as damage that the second cuts off.
    second.log.allow("truncat", "Failure", "Traceback", "lock", "time-stamp", "index")
    return second.start()


def moved_away(server: Server):
    return server.data_fs.rename(server.data_fs.with_name("Data.fs.moved"))


def refuses(server: Server, *patterns: str) -> None:
    """The server must say so; where it does not, nothing is expected of its log."""
    if differs("writes-without-looking"):
        server.log.allow("")
    else:
        server.log.expect("refusing all further writes", *patterns)
        server.log.allow("refusing to write")


def tried(client, *stores) -> bytes | None:
    """The tid of a commit, None if it was refused."""
    try:
        return client.commit(*stores)
    except Fault as fault:
        assert fault.class_name == "ZODB.POSException.StorageSystemError", fault
        return None


def lost(server: Server, raw, acknowledged: dict[bytes, tuple[bytes, bytes]]) -> list[bytes]:
    """The oids of which a new server on the file does not have what was acknowledged."""
    server.start()
    client = raw(server)

    def kept(oid: bytes) -> bool:
        data, tid = acknowledged[oid]
        try:
            return client.call("loadSerial", oid, tid) == data
        except Fault:
            return False

    return [oid for oid in acknowledged if not kept(oid)]


@pytest.mark.parametrize("order", ["owner first", "intruder first"])
def test_two_servers_after_the_lock_was_removed(make_server, raw, owner, order):
    server, client, _ = owner
    second = intruder(make_server, server)
    refuses(server, "lock")
    stores = [(client, p64(10), b"owner's"), (raw(second), THEIRS, b"intruder's")]
    acknowledged = {}
    for writer, oid, data in stores if order == "owner first" else stores[::-1]:
        if tid := tried(writer, (oid, Z64, data)):
            acknowledged[oid] = (data, tid)
    assert acknowledged
    server.kill()
    second.kill()
    gone = lost(second, raw, acknowledged)
    assert bool(gone) == differs("writes-without-looking")


def test_second_server_between_vote_and_finish(make_server, raw, owner):
    server, client, _ = owner
    txn = client.begin()
    client.store(txn, p64(10), Z64, b"owner's" * 50)
    client.call("vote", txn)
    second = intruder(make_server, server)
    refuses(server, "lock")
    tid = raw(second).commit((THEIRS, Z64, b"intruder's"))
    if differs("writes-without-looking"):
        assert client.call("tpc_finish", txn)
        return
    with pytest.raises(Fault):
        client.call("tpc_finish", txn)
    client.close()
    assert server.stop() == 0
    second.kill()
    assert lost(second, raw, {THEIRS: (b"intruder's", tid)}) == []


def test_file_renamed_between_vote_and_finish(raw, owner):
    server, client, tid = owner
    txn = client.begin()
    client.store(txn, OURS, tid, b"second")
    client.call("vote", txn)
    moved = moved_away(server)
    before = moved.read_bytes()
    refuses(server, "removed or replaced")
    if differs("writes-without-looking"):
        assert client.call("tpc_finish", txn)
        return
    with pytest.raises(Fault):
        client.call("tpc_finish", txn)
    assert moved.read_bytes() == before
    client = raw(server)
    assert client.call("loadBefore", OURS, MAXTID) == (b"first", tid, None)
    assert client.call("lastTransaction") == tid


def test_replaced_file_is_read_but_not_written(raw, owner):
    server, client, tid = owner
    moved = moved_away(server)
    replacement = moved.read_bytes() * 2
    server.data_fs.write_bytes(replacement)
    refuses(server, "removed or replaced")
    for _ in range(2):
        new = tried(client, (p64(10), Z64, b"lost"))
        assert (new is not None) == differs("writes-without-looking")
        if new:
            break
    assert raw(server).call("loadBefore", OURS, MAXTID) == (b"first", tid, None)
    assert server.data_fs.read_bytes() == replacement


def test_what_another_process_appended_is_left_alone(raw, owner):
    server, client, tid = owner
    with server.data_fs.open("ab") as f:
        f.write(b"somebody else's" * 100)
    appended = server.data_fs.read_bytes()
    refuses(server, "another process has changed it")
    new = tried(client, (p64(10), Z64, b"lost"))
    assert (new is not None) == differs("writes-without-looking")
    assert (server.data_fs.read_bytes() == appended) == (new is None)
    assert raw(server).call("loadBefore", OURS, MAXTID) == (b"first", tid, None)
