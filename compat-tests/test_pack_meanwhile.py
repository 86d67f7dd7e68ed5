"""What clients do while the server packs, and what they had begun before the files changed places."""

from __future__ import annotations

import base64
import json
import os
import time

import pytest

from ledger import skip_where_differs
from rawzeo import MAXTID, Z64, Closed, Fault, RawClient, p64, record, ruok
from subject import Server, filestorage, wait_until

ROOT, GARBAGE, BELOW, OTHER = (p64(n) for n in range(4))


def referring(*oids: bytes) -> bytes:
    """The record of an object that refers to others."""
    return b"\x80\x03cm\nC\nq\x00.\x80\x03(" + b"".join(b"C\x08" + oid + b"Q" for oid in oids) + b"t."


def fill(client: RawClient) -> bytes:
    """GARBAGE and what is below it, to which the root refers no more; the newest tid."""
    root, garbage = referring(GARBAGE, OTHER), referring(BELOW)
    tid = client.commit((ROOT, Z64, root), (GARBAGE, Z64, garbage), *((oid, Z64, record(0)) for oid in (BELOW, OTHER)))
    return client.commit((ROOT, tid, referring(OTHER)))


def current(client: RawClient, oid: bytes) -> bytes | None:
    try:
        return client.call("loadBefore", oid, MAXTID)[0]
    except Fault as fault:
        assert fault.class_name == "ZODB.POSException.POSKeyError"
        return None


def status(server: Server) -> dict:
    return json.loads(ruok(server.address))["1"]


def has_partial_file(server: Server) -> bool:
    return server.data_fs.with_name("Data.fs.pack").exists()


class Held:
    """A pack that has done all but its last step, for which it waits: a transaction is voted."""

    def __init__(self, server: Server, raw, *stores: tuple[bytes, bytes, bytes], wait: tuple[object, ...] = ()) -> None:
        self._writer = raw(server)
        self.packer = raw(server)
        self._txn = self._writer.begin()
        for store in stores:
            self._writer.store(self._txn, *store)
        self._writer.call("vote", self._txn)
        self.msgid = self.packer.start("pack", time.time() + 1, *wait)
        # Nobody else asks for the turn.
        wait_until(lambda: status(server)["waiting"] == 1, "the pack has come to its last step")

    def finish(self) -> bytes:
        return self._writer.call("tpc_finish", self._txn)


def test_a_new_reference_to_what_is_left_out(make_server, raw, encoding):
    """The pack fails, and has changed nothing; the next one sees the reference in time."""
    skip_where_differs("pack-loses-relinked")
    server = make_server(msgpack=encoding == "msgpack")
    server.log.expect("pack again")
    reader = raw(server)
    newest = fill(reader)
    before = server.data_fs.read_bytes()
    held = Held(server, raw, (ROOT, newest, referring(OTHER, GARBAGE)))
    tid = held.finish()
    with pytest.raises(Fault) as caught:
        held.packer.reply(held.msgid)
    assert caught.value.class_name == "ZODB.FileStorage.FileStorage.FileStorageError"
    assert "nothing has changed, pack again" in caught.value.state[0]
    assert not has_partial_file(server)
    assert "packing" not in status(server)
    assert server.data_fs.read_bytes().startswith(before)
    assert len(reader.call("history", ROOT, 9)) == 3
    assert raw(server).call("pack", time.time() + 1) is None
    for client in (reader, held.packer):
        assert (current(client, GARBAGE), current(client, BELOW)) == (referring(BELOW), record(0))
    assert [entry["tid"] for entry in reader.call("history", ROOT, 9)] == [tid]
    server.restart(kill=True)
    assert current(raw(server), BELOW) == record(0)


@pytest.mark.parametrize("wait", [True, False], ids=["gone", "does not wait"])
def test_a_failure_that_no_client_hears_of(make_server, raw, wait):
    """The log has it, with the reason."""
    skip_where_differs("pack-loses-relinked")
    server = make_server()
    server.log.allow("pack again")
    newest = fill(raw(server))
    held = Held(server, raw, (ROOT, newest, referring(OTHER, GARBAGE)), wait=(wait,))
    if wait:
        connections = status(server)["connections"]
        held.packer.close()
        wait_until(lambda: status(server)["connections"] < connections, "the client is gone")
    held.finish()
    failed = wait_until(lambda: [each for each in server.log.serious() if "pack again" in each.text], "the log has it")
    (line,) = (each for each in failed if "pack(time=" in each.text)
    assert "failed: FileStorageError" in line.text


def test_what_was_begun_before_goes_on_after(make_server, raw, encoding):
    """Iterators go through the file as it was. Loads, commits and new iterators are about what there is now."""
    server = make_server(msgpack=encoding == "msgpack")
    client = raw(server)
    newest = fill(client)
    first = client.call("history", ROOT, 9)[-1]["tid"]
    iid = client.call("iterator_start", None, None)
    assert client.call("iterator_next", iid)[0] == first
    rid = client.call("iterator_record_start", iid, first)
    assert client.call("iterator_record_next", rid)[0] == ROOT
    writer, packer = raw(server), raw(server)
    txn = writer.begin()
    writer.store(txn, OTHER, first, record("voted"))
    writer.call("vote", txn)
    msgid = packer.start("pack", time.time() + 1)
    wait_until(lambda: "started..." in server.log.text(), "the pack has started")
    assert current(client, GARBAGE) == referring(BELOW)
    tid = writer.call("tpc_finish", txn)
    assert packer.reply(msgid) is None
    assert current(client, GARBAGE) is None
    assert [client.call("iterator_record_next", rid)[0] for _ in range(3)] == [GARBAGE, BELOW, OTHER]
    assert client.call("iterator_next", iid)[0] == newest
    client.commit((OTHER, tid, record("after")))
    assert current(raw(server), OTHER) == record("after")
    fresh = client.call("iterator_start", None, None)
    rid = client.call("iterator_record_start", fresh, client.call("iterator_next", fresh)[0])
    assert client.call("iterator_record_next", rid)[0] in (ROOT, OTHER)


def slow(make_server, directory, rate: str) -> Server:
    """A server whose packs take long."""
    return make_server([f"%define zeolite_pack_rate {rate}", filestorage(directory / "Data.fs")])


def fat(client: RawClient, size: int = 3_000_000) -> bytes:
    """An old revision of so many random bytes, that the pack has to read; the newest tid."""
    for oid in range(10, 20):
        client.commit((p64(oid), Z64, record(os.urandom(size // 10))))
    return fill(client)


def undo(client: RawClient, tid: bytes) -> bytes:
    txn = client.begin()
    client.async_("undoa", base64.encodebytes(tid).rstrip(), txn)
    try:
        return client.vote_finish(txn)
    except Fault:
        client.call("tpc_abort", txn)
        raise


def test_undo_meanwhile(make_server, tmp_path, raw):
    """Not of what becomes packed. Any other works, and what it led back to is there after the pack."""
    skip_where_differs("no-pack-progress")
    skip_where_differs("undoes-what-it-packs")
    server = slow(make_server, tmp_path, "1MB")
    server.data_fs = tmp_path / "Data.fs"
    server.log.allow("UndoError")
    client, packer = raw(server), raw(server)
    newest = fat(client)
    stop = time.time()
    wait_until(lambda: time.time() > stop + 0.01, "the clock goes on")
    later = client.commit((OTHER, client.call("history", OTHER, 1)[0]["tid"], record("later")))
    msgid = packer.start("pack", stop)
    wait_until(lambda: "packing" in status(server), "the server packs")
    with pytest.raises(Fault) as caught:
        undo(client, newest)
    assert "maintenance" in str(caught.value)
    undone = undo(client, later)
    assert packer.waits(msgid), "the pack was over too early for this test"
    assert packer.reply(msgid) is None
    assert current(client, OTHER) == record(0)
    assert [entry["tid"] for entry in client.call("history", OTHER, 9)][:2] == [undone, later]
    with pytest.raises(Fault):
        undo(client, newest)
    server.restart(kill=True)
    client = raw(server)
    assert current(client, OTHER) == record(0)
    undo(client, undone)
    assert current(client, OTHER) == record("later")


def test_a_stop_gives_the_pack_up(make_server, tmp_path, raw):
    """This pack would take an hour."""
    skip_where_differs("packs-hold-stops-up")
    server = slow(make_server, tmp_path, "1kb")
    server.data_fs = tmp_path / "Data.fs"
    server.log.expect("pack is given up")
    client = raw(server)
    newest = fat(client)
    before = server.data_fs.read_bytes()
    packer = raw(server)
    msgid = packer.start("pack", time.time() + 1)
    wait_until(lambda: "packing" in status(server), "the server packs")
    assert server.stop() == 0
    assert not has_partial_file(server)
    assert server.data_fs.read_bytes() == before
    try:
        with pytest.raises(Fault):
            packer.reply(msgid)
    except Closed:
        pass
    server.start()
    assert len(raw(server).call("history", ROOT, 9)) == 2
    assert raw(server).call("lastTransaction") == newest
