"""Clients of every generation when things end: connections, servers, processes, transactions."""

import json
import re

import pytest

from clients import LEGACY_GENERATIONS, LegacyWorker, RemoteError
from generations import ALLOWED_OF_ORIGINALS, commits, need, original, value_becomes
from ledger import differs, skip_where_differs
from rawzeo import ruok
from subject import wait_until


@pytest.mark.feature("reconnecting after a restart")
def test_a_client_comes_back_after_a_restart(generation_under_test):
    server = generation_under_test.server()
    client = generation_under_test.database(server)
    client.do("put", {"a": 1})
    generation_under_test.restart(server)
    wait_until(lambda: commits(client, {"a": 2}), "the client is back")
    assert client.do("get", "a") == 2
    value_becomes(generation_under_test.database(server), "a", 2)


@pytest.mark.feature("persistent cache: what it missed is in the queue")
def test_a_cache_that_missed_little(generation_under_test):
    client, said = _move_on_without(generation_under_test, missed=3, queue=100)
    assert client.do("verification") == "quick verification" or re.search(r"Recovering \d+ invalidations", said), said


@pytest.mark.feature("persistent cache: it missed more than the queue holds")
def test_a_cache_that_missed_too_much(generation_under_test):
    client, said = _move_on_without(generation_under_test, missed=12, queue=5)
    if client.do("verification") is None:
        assert re.search("endVerify finished|dropping stale cache", said), said
    else:
        assert client.do("verification") == "cache too old, clearing"


def _move_on_without(generation, missed, queue):
    """A client with a cache file is away while another commits: it must not believe what is no longer true.

    Returns the client, and what it has logged since it came back.
    """
    server = generation.server(invalidation_queue_size=queue)
    cache = {"client": "c", "var": str(generation.directory)}
    client = generation.database(server, **cache)
    client.do("put", {"a": 0, "b": 0, "same": 0})
    assert client.do("get", "b") == 0
    client.do("close")
    assert list(generation.directory.glob("c-1*")), "the client kept no cache"
    other = generation.database(server)
    for value in range(1, missed + 1):
        other.do("put", {"a": value, "new": value})
    other.do("put", {"b": 1})
    mark = client.log.stat().st_size
    client.do("open_database", server.address, **cache)
    expected = {"a": missed, "b": 1, "new": missed, "same": 0}
    assert {key: client.do("get", key) for key in expected} == expected
    other.do("put", {"a": -1})
    value_becomes(client, "a", -1)
    return client, client.log.read_bytes()[mark:].decode(errors="replace")


@pytest.mark.parametrize("name", [name for name in LEGACY_GENERATIONS if not name.startswith("zeo-5")])
def test_a_client_that_comes_back_while_others_commit(make_server, client_processes, name):
    need(name)
    if name == "zodb3-3.7.2":
        skip_where_differs("zodb37-forgets-what-it-missed")
    server = make_server(original=original(name), invalidation_queue_size=1000)
    server.log.allow(*ALLOWED_OF_ORIGINALS)
    *writers, client = (client_processes.take(name, LegacyWorker) for _ in range(3))
    for writer in writers:
        writer.do("open_storage", server.address)
    oids = writers[0].do("new_counters", 90)
    for number, writer in enumerate(writers):
        writer.start("count_up_for", oids[number::2], 7, some=1)
    client.do("open_storage", server.address, min_disconnect_poll=0.1, max_disconnect_poll=0.1)
    client.start("reconnect_for", oids, 6)
    rounds, old = client.result()
    assert rounds > 1
    assert old == []
    assert all(commits > 0 for commits, _conflicts in (writer.result() for writer in writers))


@pytest.mark.feature("read-only clients")
def test_a_read_only_client(generation_under_test):
    server = generation_under_test.server()
    writer = generation_under_test.database(server)
    writer.do("put", {"a": 1})
    reader = generation_under_test.database(server, read_only=True)
    assert reader.do("get", "a") == 1
    with pytest.raises(RemoteError) as error:
        reader.do("put", {"a": 2})
    assert error.value.name == "ReadOnlyError"
    writer.do("put", {"a": 3})
    value_becomes(reader, "a", 3)


@pytest.mark.feature("read-only servers, and the fallback to them")
def test_a_read_only_server(generation_under_test):
    server = generation_under_test.server()
    server.log.allow("ReadOnly|read-only|read only")
    client = generation_under_test.database(server)
    client.do("put", {"a": 1})
    client.do("close")
    server.zeo["read_only"] = True
    server.restart(kill=True)
    client.do("open_database", server.address, read_only_fallback=True)
    assert client.do("get", "a") == 1
    with pytest.raises(RemoteError) as error:
        client.do("put", {"a": 2})
    assert error.value.name == "ReadOnlyError"
    client.do("close")
    assert _does_not_connect(client, server)


@pytest.mark.feature("wrong storage names are refused")
def test_a_storage_that_is_not_there(generation_under_test):
    server = generation_under_test.server()
    server.log.allow("unknown storage|nope")
    client = generation_under_test.worker()
    assert _does_not_connect(client, server, storage="nope")
    generation_under_test.database(server).do("put", {"a": 1})


def _does_not_connect(client, server, **options):
    """Whether a client has been refused twice, in its own words, and is still without a connection."""
    mark = client.log.stat().st_size
    client.do("open_storage", server.address, wait=False, **options)

    def refused():
        with client.log.open("rb") as log:
            log.seek(mark)
            return len(re.findall(rb"unknown storage|ReadOnlyError|Server authentication protocol", log.read())) >= 4

    wait_until(refused, "the client was refused")
    return not client.do("is_connected")


@pytest.mark.feature("transaction timeout")
def test_a_transaction_that_takes_too_long(generation_under_test):
    server = generation_under_test.server(transaction_timeout=1)
    server.log.allow("Transaction timeout after 1", "Still locked after disconnected", "imed out")
    slow, other = (generation_under_test.database(server) for _ in range(2))
    other.do("put", {"a": 1})
    value_becomes(slow, "a", 1)
    slow.do("begin", "late")
    slow.do("store", "late", "a", "never")
    slow.do("vote", "late")
    if differs("timeout-leaks-lock") and generation_under_test.name in ("zeo-5.4.1-py27", "zeo5", "zeo6"):
        return
    other.do("put", {"b": 2})
    assert (other.do("get", "a"), other.do("get", "b")) == (1, 2)
    with pytest.raises(RemoteError):
        slow.do("finish", "late")


@pytest.mark.parametrize("phase", ["begun", "stored", "waiting", "voted", "finishing"])
@pytest.mark.feature("killed in the middle of a commit")
def test_a_client_that_is_killed(generation_under_test, phase):
    server = generation_under_test.server()
    victim, other = (generation_under_test.database(server) for _ in range(2))
    other.do("put", {"a": 1, "b": 5})
    value_becomes(victim, "b", 5)
    victim.do("begin", "last")
    if phase != "begun":
        victim.do("store_as", "last", "a", "b")
    match phase:
        case "waiting":
            other.do("begin", "first")
            other.do("vote", "first")
            victim.start("vote", "last")
            # Only ours says so of a client that waits.
            wait_until(lambda: not _is_ours(server) or _status(server)["waiting"] == 1, "it waits for the commit lock")
        case "voted":
            victim.do("vote", "last")
        case "finishing":
            victim.do("vote", "last")
            victim.start("finish", "last")
    victim.kill()
    if phase == "waiting":
        other.do("finish", "first")
    other.do("put", {"b": 2})
    # It has what it had, or, where the finish came in before the end, what was stored.
    assert other.do("get", "a") in ((1, 5) if phase == "finishing" else (1,))
    assert other.do("get", "b") == 2
    if _is_ours(server):
        wait_until(lambda: _status(server)["active_txns"] == 0, "the transaction of the client ends")
        wait_until(lambda: _status(server)["lock_time"] is None, "nobody has the commit lock")


def _is_ours(server):
    return server.subject == "zeolite"


def _status(server):
    return json.loads(ruok(server.address))["1"]
