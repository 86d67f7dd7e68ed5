"""Clients of all generations at once on one server."""

import os

import pytest

from clients import ALL_GENERATIONS, LegacyWorker
from generations import need, skip_mixed
from subject import wait_until

# How long they hammer the server.
DURATION_S = 600 if os.environ.get("COMPAT_LONG") else 60


def counter_becomes(worker, oid, value):
    wait_until(lambda: worker.do("counter", oid) == value, f"a {worker.generation} client reads {value}")


@pytest.mark.feature("invalidations from and to all others")
def test_generations_see_each_others_commits(generation_under_test):
    """What one commits, all others read, though they had the state before in their caches."""
    skip_mixed()
    server = generation_under_test.server()
    client = generation_under_test.storage(server)
    (oid,) = client.do("new_counters", 1)
    value = 0
    # One of each protocol. Each of them is once the client under test: so every pair meets, in both directions.
    for name in ("zodb3-3.7.2", "zodb3-3.8.6", "zodb3-3.9.7", "zodb3-3.10.7", "zeo-4.3.1-py36", "zeo6"):
        other = generation_under_test.storage(server, name)
        counter_becomes(other, oid, value)
        client.do("count_up", [oid], 1)
        counter_becomes(other, oid, value + 1)
        other.do("count_up", [oid], 1)
        value += 2
        counter_becomes(client, oid, value)


@pytest.mark.timeout(DURATION_S + 240)
def test_totals_are_exact_and_no_read_is_stale(make_server, client_processes):
    """No update is lost, and no client ever reads what is older than what it has read or written itself.

    That what others have committed is there in time, whoever they are, is held in test_ordering.py, message by message.
    """
    skip_mixed()
    for name in ALL_GENERATIONS:
        need(name)
    server = make_server()
    server.log.allow("transactions waiting")
    workers = [client_processes.take(name, LegacyWorker) for name in ALL_GENERATIONS]
    for worker in workers:
        worker.do("open_storage", server.address)
    shared, *own = workers[0].do("new_counters", 1 + len(workers))
    for worker, oid in zip(workers, own, strict=True):
        worker.start("count_up_for", [oid, shared], DURATION_S)
    commits, conflicts = zip(*(worker.result(patience_s=DURATION_S + 120) for worker in workers), strict=True)
    assert sum(conflicts) > 0, "they never met: the test asks for nothing"
    assert min(commits) > 0, f"not everybody came to commit: {dict(zip(ALL_GENERATIONS, commits, strict=True))}"
    for worker in workers:
        counter_becomes(worker, shared, sum(commits))
        for oid, count in zip(own, commits, strict=True):
            counter_becomes(worker, oid, count)
