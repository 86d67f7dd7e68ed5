"""transaction-timeout: a client that voted and does not finish loses its connection, and the lock."""

import pytest

from ledger import differs
from rawzeo import MAXTID, Z64, p64
from subject import filestorage


@pytest.fixture
def server(make_server):
    server = make_server(transaction_timeout=1)
    server.log.expect("Transaction timeout after 1")
    server.log.allow("Still locked after disconnected")
    return server


def voted(client, data=b"never"):
    txn = client.begin()
    client.store(txn, p64(1), Z64, data)
    client.call("vote", txn)
    return txn


def test_the_connection_is_closed_and_nothing_written(server, raw):
    client = raw(server)
    voted(client)
    client.wait_closed()
    assert raw(server).call("lastTransaction") == Z64


def test_the_lock_is_free_afterwards(server, raw):
    client, other = raw(server), raw(server)
    voted(client)
    client.wait_closed()
    if differs("timeout-leaks-lock"):
        txn = other.begin()
        other.store(txn, p64(1), Z64, b"data")
        assert other.waits(other.start("vote", txn))
    else:
        tid = other.commit((p64(1), Z64, b"data"))
        assert other.call("loadBefore", p64(1), MAXTID) == (b"data", tid, None)


def test_who_waits_gets_the_lock(server, raw):
    client, other = raw(server), raw(server)
    voted(client)
    txn = other.begin()
    other.store(txn, p64(1), Z64, b"data")
    vote = other.start("vote", txn)
    client.wait_closed()
    if differs("timeout-leaks-lock"):
        assert other.waits(vote)
    else:
        assert list(other.reply(vote)) == []
        other.call("tpc_finish", txn)


def test_only_the_time_after_the_vote_counts(make_server, raw, tmp_path):
    """A transaction begun before another's vote outlives the other's timeout."""
    server = make_server(
        [filestorage(tmp_path / "a.fs", "a"), filestorage(tmp_path / "b.fs", "b")], transaction_timeout=1
    )
    server.log.expect("Transaction timeout after 1")
    patient, late = raw(server, storage="a"), raw(server, storage="b")
    txn = patient.begin()
    patient.store(txn, p64(1), Z64, b"data")
    patient.sync()
    voted(late)
    late.wait_closed()
    patient.vote_finish(txn)
