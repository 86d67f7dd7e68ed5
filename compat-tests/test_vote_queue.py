"""The commit lock: who waits, in what order, and that every way to leave frees it.

The votes here are for the same object: a server may let disjoint transactions vote together.
"""

import pytest

from ledger import differs
from rawzeo import MAXTID, Z64, Fault, RawClient, record


@pytest.fixture
def contended(server, raw):
    """An object everybody wants to write, and its serial."""
    client = raw(server)
    oid = client.new_oid()
    return oid, client.commit((oid, Z64, record(0)))


def begin_store(client: RawClient, contended, data: bytes = b"") -> int:
    txn = client.begin()
    client.store(txn, *contended, data or record(1))
    return txn


def test_votes_are_served_in_order(server, raw, contended):
    server.log.allow("lock: transactions waiting")
    clients = [raw(server) for _ in range(6)]
    txns = [begin_store(client, contended) for client in clients]
    votes = []
    for client, txn in zip(clients, txns, strict=True):
        votes.append(client.start("vote", txn))
        client.sync()
    # Each in turn gets the lock when the one before leaves, and no sooner.
    for n, (client, txn) in enumerate(zip(clients, txns, strict=True)):
        client.reply(votes[n])
        for later, vote in list(zip(clients, votes, strict=True))[n + 1 :]:
            assert later.waits(vote)
        client.call("tpc_abort", txn)


def test_vote_twice_while_waiting(server, raw, contended):
    server.log.allow("raised exception")
    holder, waiter = raw(server), raw(server)
    held = begin_store(holder, contended)
    holder.call("vote", held)
    txn = begin_store(waiter, contended)
    vote = waiter.start("vote", txn)
    with pytest.raises(Fault) as fault:
        waiter.call("vote", txn)
    assert fault.value.class_name == "ZODB.POSException.StorageTransactionError"
    assert tuple(fault.value.state) == ("Already voting (waiting)",)
    holder.call("tpc_abort", held)
    waiter.reply(vote)
    waiter.call("tpc_finish", txn)


def test_abort_while_waiting_leaves_the_queue(server, raw, contended):
    holder, quitter, waiter = raw(server), raw(server), raw(server)
    held = begin_store(holder, contended)
    holder.call("vote", held)
    quit_txn = begin_store(quitter, contended)
    quitter.start("vote", quit_txn)
    txn = begin_store(waiter, contended)
    vote = waiter.start("vote", txn)
    quitter.sync()
    waiter.sync()
    assert quitter.call("tpc_abort", quit_txn) is None
    holder.call("tpc_abort", held)
    waiter.reply(vote)
    waiter.call("tpc_finish", txn)
    # The quitter is free for another transaction.
    quitter.commit((quitter.new_oid(), Z64, b"data"))


@pytest.mark.parametrize("phase", ["begun", "stored", "waiting", "voted"])
def test_disconnect_frees_the_lock(server, raw, contended, phase):
    leaver, holder, other = raw(server), raw(server), raw(server)
    if phase == "waiting":
        held = begin_store(holder, contended)
        holder.call("vote", held)
    txn = leaver.begin()
    if phase != "begun":
        leaver.store(txn, *contended, record("lost"))
    if phase == "waiting":
        leaver.start("vote", txn)
        leaver.sync()
    elif phase == "voted":
        leaver.call("vote", txn)
    leaver.close()
    if phase == "waiting":
        holder.call("tpc_abort", held)
    tid = other.commit((*contended, record("kept")))
    assert other.call("loadBefore", contended[0], MAXTID) == (record("kept"), tid, None)


def test_disconnect_with_waiters(server, raw, contended):
    holder, waiter = raw(server), raw(server)
    holder.call("vote", begin_store(holder, contended))
    txn = begin_store(waiter, contended)
    vote = waiter.start("vote", txn)
    assert waiter.waits(vote)
    holder.close()
    waiter.reply(vote)
    waiter.call("tpc_finish", txn)


def test_protocol_error_frees_the_lock(make_server, raw):
    """A voted client whose connection the server closes holds nothing any more."""
    server = make_server()
    server.log.allow("invalid method", "raised exception", "Still locked after disconnected")
    client, other = raw(server), raw(server)
    oid = client.new_oid()
    client.call("vote", begin_store(client, (oid, Z64)))
    client.start("no_such_method")
    client.wait_closed()
    if differs("close-leaks-lock"):
        txn = begin_store(other, (oid, Z64))
        assert other.waits(other.start("vote", txn))
    else:
        other.commit((oid, Z64, b"data"))


def test_loads_go_on_while_votes_wait(server, raw, contended):
    holder, waiter = raw(server), raw(server)
    held = begin_store(holder, contended)
    holder.call("vote", held)
    txn = begin_store(waiter, contended)
    vote = waiter.start("vote", txn)
    assert waiter.call("loadBefore", contended[0], MAXTID)[1] == contended[1]
    assert waiter.waits(vote)
    holder.call("tpc_abort", held)
    waiter.reply(vote)
    waiter.call("tpc_abort", txn)
