"""Keeping client caches right: announcements, and verification after an absence."""

import time

import pytest

from ledger import differs
from rawzeo import MAXTID, Z64, p64, tid_of, u64
from subject import wait_until


def commits(client, count, first_oid=1):
    """`count` transactions, the n-th writing object n; their tids."""
    return [client.commit((p64(first_oid + n), Z64, b"data %d" % n)) for n in range(count)]


def missed(client, tid):
    reply = client.call("getInvalidations", tid)
    return reply and (reply[0], sorted(reply[1]))


def test_empty_storage_knows_nothing(make_server, raw):
    assert raw(make_server()).call("getInvalidations", p64(1)) is None


def test_queue_hit(make_server, raw, encoding):
    client = raw(make_server(msgpack=encoding == "msgpack"))
    tids = commits(client, 10)
    newest = tids[-1]
    assert missed(client, newest) == (newest, [])
    assert missed(client, tids[8]) == (newest, [p64(10)])
    assert missed(client, tids[0]) == (newest, [p64(n) for n in range(2, 11)])
    between = p64(u64(tids[4]) + 1)
    assert missed(client, between) == (newest, [p64(n) for n in range(6, 11)])
    assert missed(client, p64(u64(newest) + 1)) == (newest, [])
    # Older than all the queue holds.
    assert missed(client, p64(u64(tids[0]) - 1)) is None


def test_an_object_written_twice_is_listed_once(make_server, raw):
    client = raw(make_server())
    first = client.commit((p64(1), Z64, b"one"))
    second = client.commit((p64(1), first, b"two"))
    third = client.commit((p64(1), second, b"three"))
    assert missed(client, first) == (third, [p64(1)])


def test_queue_size(make_server, raw):
    client = raw(make_server(invalidation_queue_size=5))
    tids = commits(client, 12)
    assert missed(client, tids[-5]) == (tids[-1], [p64(n) for n in range(9, 13)])
    assert missed(client, tids[-6]) is None


def test_queue_after_a_restart(make_server, raw):
    server = make_server(invalidation_queue_size=5)
    tids = commits(raw(server), 12)
    server.restart()
    client = raw(server)
    assert missed(client, tids[-5]) == (tids[-1], [p64(n) for n in range(9, 13)])
    assert missed(client, tids[-6]) is None
    tids += commits(client, 2, first_oid=50)
    assert missed(client, tids[-5]) == (tids[-1], [p64(n) for n in (11, 12, 50, 51)])
    assert missed(client, tids[-6]) is None


def test_invalidation_age(make_server, raw):
    """Beyond the queue, but younger than the age: the storage itself knows."""
    client = raw(make_server(invalidation_queue_size=3, invalidation_age=1000))
    tids = commits(client, 10)
    assert missed(client, tids[1]) == (tids[-1], [p64(n) for n in range(3, 11)])
    assert missed(client, tid_of(time.time() - 900)) == (tids[-1], [p64(n) for n in range(1, 11)])
    assert missed(client, tid_of(time.time() - 1100)) is None


def test_announcements_in_tid_order(server, raw):
    """Each is told of everybody's transactions but its own."""
    writers, watcher = [raw(server) for _ in range(3)], raw(server)
    tids = [writers[n % 3].commit((writers[0].new_oid(), Z64, b"data")) for n in range(30)]
    watcher.invalidated(tids[-1])
    assert watcher.announced() == tids
    for n, writer in enumerate(writers):
        others = [tid for m, tid in enumerate(tids) if m % 3 != n]
        writer.invalidated(others[-1])
        writer.sync()
        assert writer.announced() == others


def test_replies_do_not_overtake_announcements(server, raw):
    """A client that is told of a transaction by any reply has been sent its invalidation before."""
    writer, watcher = raw(server), raw(server)
    for _ in range(20):
        oid = writer.new_oid()
        tid = writer.commit((oid, Z64, b"data"))
        assert watcher.call("lastTransaction") == tid
        if differs("replies-overtake-invalidations"):
            watcher.invalidated(tid)
        assert watcher.announced()[-1] == tid
        assert watcher.call("loadBefore", oid, MAXTID) == (b"data", tid, None)


@pytest.fixture
def cached(make_server, clients, encoding, tmp_path):
    """A server, a client with a persistent cache that holds two objects, and a writer."""

    def open_client():
        return clients.storage(server.address, client="cache", var=str(tmp_path))

    server = make_server(msgpack=encoding == "msgpack", invalidation_queue_size=5)
    writer = clients.storage(server.address)
    stays, changes = (writer.do("call", "new_oid") for _ in range(2))
    tid = writer.do("commit", (stays, Z64, b"stays"), (changes, Z64, b"old"))
    client = open_client()
    assert client.do("load", stays)[0] == b"stays"
    assert client.do("load", changes)[0] == b"old"
    return server, writer, client, open_client, stays, changes, tid


def test_cache_up_to_date(cached):
    server, _, client, open_client, stays, _, tid = cached
    client.do("close_storage")
    client = open_client()
    assert client.do("verify_result") == "Cache up to date"
    assert client.do("cached", stays) == (b"stays", tid)


def test_cache_up_to_date_after_a_restart(cached):
    server, _, client, open_client, stays, _, tid = cached
    client.do("close_storage")
    server.restart()
    client = open_client()
    assert client.do("verify_result") == "Cache up to date"
    assert client.do("cached", stays) == (b"stays", tid)


@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
def test_quick_verification(cached, restart):
    server, writer, client, open_client, stays, changes, tid = cached
    client.do("close_storage")
    new = writer.do("commit", (changes, tid, b"new"))
    if restart:
        writer.do("close_storage")
        server.restart()
    client = open_client()
    assert client.do("verify_result") == "quick verification"
    assert client.do("cache_tid") == new
    assert client.do("cached", changes) is None
    assert client.do("cached", stays) == (b"stays", tid)
    assert client.do("load", changes) == (b"new", new, None)


def test_cache_too_old(cached):
    _, writer, client, open_client, stays, changes, tid = cached
    client.do("close_storage")
    for n in range(7):
        tid = writer.do("commit", (changes, tid, b"new %d" % n))
    client = open_client()
    assert client.do("verify_result") == "cache too old, clearing"
    assert client.do("cached", stays) is None
    assert client.do("load", changes) == (b"new 6", tid, None)


def test_running_client_is_kept_right(cached):
    """No load follows the first: what the cache says is what the server last told it."""
    _, writer, client, _, stays, changes, tid = cached
    new = writer.do("commit", (changes, tid, b"new"))
    wait_until(lambda: client.do("cached", changes) is None, "the invalidation arrived")
    assert client.do("cached", stays) == (b"stays", tid)
    assert client.do("load", changes) == (b"new", new, None)


@pytest.mark.parametrize("kill", [False, True], ids=["stop", "kill"])
def test_running_client_comes_back(cached, raw, kill):
    """The server goes away, the world changes behind the client's back, the server returns."""
    server, writer, client, _, stays, changes, tid = cached
    writer.do("close_storage")
    server.restart(kill=kill)
    new = raw(server).commit((changes, tid, b"new"))
    wait_until(lambda: client.do("is_connected"), "the client is connected again")
    wait_until(lambda: client.do("cache_tid") == new, "the client knows of the new transaction")
    assert client.do("load", changes) == (b"new", new, None)
    assert client.do("cached", stays) == (b"stays", tid)
    newest = client.do("commit", (changes, new, b"newest"))
    assert raw(server).call("loadBefore", changes, MAXTID) == (b"newest", newest, None)
