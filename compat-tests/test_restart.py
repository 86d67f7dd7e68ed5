"""What outlives the process: everything acknowledged, and every oid handed out."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from clients import RemoteError
from ledger import differs
from rawzeo import MAXTID, Z64, Closed, Fault, p64, registered, u64
from subject import wait_until

WAYS = pytest.mark.parametrize("kill", [False, True], ids=["stop", "kill"])


@WAYS
def test_commits_are_there(make_server, raw, kill):
    server = make_server()
    client = raw(server)
    expected = {}
    for n in range(1, 30):
        expected[p64(n)] = (b"data %d" % n, client.commit((p64(n), Z64, b"data %d" % n)), None)
    client.close()
    server.restart(kill=kill)
    client = raw(server)
    assert {oid: client.call("loadBefore", oid, MAXTID) for oid in expected} == expected
    last = expected[p64(29)][1]
    assert client.call("lastTransaction") == last
    assert client.commit((p64(1), expected[p64(1)][1], b"more")) > last


def commit_until_killed(server, oid: bytes, acknowledged: list[bytes]) -> None:
    client = registered(server.address)
    serial = Z64
    with contextlib.suppress(Closed, ConnectionError):
        while True:
            serial = client.commit((oid, serial, b"after " + serial))
            acknowledged.append(serial)
    client.close()


def test_acknowledged_commits_survive_a_kill(make_server, raw):
    """Killed under load: what any client was told is committed is there, complete and in order."""
    server = make_server()
    acknowledged: dict[bytes, list[bytes]] = {p64(n): [] for n in range(1, 5)}
    with ThreadPoolExecutor(len(acknowledged)) as pool:
        running = [pool.submit(commit_until_killed, server, oid, tids) for oid, tids in acknowledged.items()]
        wait_until(lambda: all(len(tids) >= 15 for tids in acknowledged.values()), "every client committed some")
        server.kill()
        for each in running:
            each.result()
    server.log.allow("truncat")
    server.start()
    client = raw(server)
    for oid, tids in acknowledged.items():
        for before, tid in zip([Z64, *tids], tids, strict=False):
            assert client.call("loadSerial", oid, tid) == b"after " + before
        # At most one more, finished but not acknowledged any more.
        history = [entry["tid"] for entry in client.call("history", oid, len(tids) + 5)][::-1]
        assert history[: len(tids)] == tids
        assert len(history) <= len(tids) + 1


def test_clean_stop_exit_code(make_server):
    server = make_server()
    assert server.stop() == 0
    server.start()


def test_stop_with_clients_and_a_voted_transaction(make_server, raw):
    server = make_server()
    client = raw(server)
    tid = client.commit((p64(1), Z64, b"kept"))
    txn = client.begin()
    client.store(txn, p64(1), tid, b"lost")
    client.call("vote", txn)
    waiting = raw(server)
    waiting_txn = waiting.begin()
    waiting.store(waiting_txn, p64(1), tid, b"lost too")
    assert waiting.waits(waiting.start("vote", waiting_txn))
    assert server.stop() == 0
    server.start()
    # Python's FileStorage leaves what was voted in the file, cuts it off at the next start, and says so.
    server.log.allow("truncat", "time-stamp")
    assert raw(server).call("loadBefore", p64(1), MAXTID) == (b"kept", tid, None)


def test_kill_with_a_voted_transaction(make_server, raw):
    server = make_server()
    client = raw(server)
    tid = client.commit((p64(1), Z64, b"kept"))
    txn = client.begin()
    client.store(txn, p64(1), tid, b"lost")
    client.call("vote", txn)
    server.restart(kill=True)
    server.log.allow("truncat")
    client = raw(server)
    assert client.call("loadBefore", p64(1), MAXTID) == (b"kept", tid, None)
    if not differs("last-tid-of-cut-tail"):
        assert client.call("lastTransaction") == tid
    new = client.commit((p64(1), tid, b"new"))
    assert client.call("loadBefore", p64(1), MAXTID) == (b"new", new, None)


@WAYS
def test_oids_are_not_handed_out_again(make_server, raw, kill):
    """Clients keep what they were given across a reconnect."""
    server = make_server()
    client = raw(server)
    client.commit((client.new_oid(), Z64, b"data"))
    before = {oid for _ in range(3) for oid in client.call("new_oids", 100)}
    for _ in range(3):
        server.restart(kill=kill)
        after = set(raw(server).call("new_oids", 100))
        if differs("oids-reused"):
            assert after & before
            return
        assert not after & before
        assert min(after) > max(before)
        # Nor are they wasted: restarts do not use up the number space.
        assert u64(max(after)) - u64(max(before)) < 2**32
        before |= after


@WAYS
def test_clients_with_oids_in_stock(make_server, clients, kill):
    """Two applications make objects before and after the server was away."""
    server = make_server()
    first, second = clients.database(server.address), clients.database(server.address)
    first.do("app_scenarios.add_objects", "first", 10)
    server.restart(kill=kill)
    for worker in (first, second):
        wait_until(lambda: worker.do("is_connected"), "the client is connected again")
    tid = first.do("app_scenarios.last_transaction")
    wait_until(lambda: second.do("app_scenarios.last_transaction") >= tid, "the second knows what the first did")
    second.do("app_scenarios.add_objects", "second", 150)
    tid = second.do("app_scenarios.last_transaction")
    wait_until(lambda: first.do("app_scenarios.last_transaction") >= tid, "the first knows what the second did")
    if differs("oids-reused"):
        with pytest.raises(RemoteError):
            first.do("app_scenarios.add_objects", "more", 150)
    else:
        first.do("app_scenarios.add_objects", "more", 150)
    server.log.allow("ConflictError")


def test_a_running_server_owns_its_file(make_server):
    """Two servers on one file is how data is lost: the second must refuse."""
    server, second = make_server(), make_server()
    second.stop()
    second.storages = server.storages
    second.log.allow("lock")
    with pytest.raises(RuntimeError, match="lock"):
        second.start()
    assert server.alive()


def test_unknown_oid_after_restart_is_unknown(make_server, raw):
    server = make_server()
    oid = raw(server).new_oid()
    server.restart()
    with pytest.raises(Fault) as fault:
        raw(server).call("loadBefore", oid, MAXTID)
    assert fault.value.class_name == "ZODB.POSException.POSKeyError"
