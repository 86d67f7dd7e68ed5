"""Transactions with blobs that do not end well: nothing of them stays on the server."""

import pytest

from blobs import blob_file, content, files
from clients import RemoteError
from ledger import differs
from rawzeo import Z64
from subject import filestorage, wait_until

SERVER = {"blobs": True}


@pytest.fixture
def unchanged(server):
    """Waits until the server has no other files of blobs than before."""
    before = files(server.blob_dir)
    return lambda: wait_until(
        lambda: files(server.blob_dir) == before, f"no files left, but {files(server.blob_dir) ^ before}"
    )


@pytest.fixture
def stored(server, blob_clients):
    """A client in the middle of a transaction that stores two blobs."""
    client = blob_clients.storage(server)
    client.do("begin", "txn")
    for n in range(2):
        client.do("blob_scenarios.store", "txn", client.do("call", "new_oid"), Z64, content(100_000, n))
    return client


def commits_still_work(server, blob_clients):
    client = blob_clients.storage(server)
    oid = client.do("call", "new_oid")
    tid = client.do("blob_scenarios.commit", (oid, Z64, b"after"))
    blob_file(server.blob_dir, oid, tid).unlink()


def test_abort_before_the_vote(server, blob_clients, unchanged, stored):
    stored.do("call", "ping")
    stored.do("abort", "txn")
    unchanged()
    commits_still_work(server, blob_clients)


def test_abort_after_the_vote(server, blob_clients, unchanged, stored):
    stored.do("blob_scenarios.vote", "txn")
    stored.do("abort", "txn")
    unchanged()
    commits_still_work(server, blob_clients)


def test_death_before_the_vote(server, blob_clients, unchanged, stored):
    stored.do("call", "ping")
    stored.kill()
    unchanged()
    commits_still_work(server, blob_clients)


def test_death_after_the_vote(server, blob_clients, unchanged, stored):
    stored.do("blob_scenarios.vote", "txn")
    stored.kill()
    unchanged()
    commits_still_work(server, blob_clients)


@pytest.mark.parametrize("blob_clients", ["cached"], indirect=True)
def test_death_in_the_middle_of_an_upload(server, blob_clients, unchanged):
    before = files(server.blob_dir)
    client = blob_clients.storage(server)
    oid = client.do("call", "new_oid")
    client.do("begin", "txn")
    client.start("blob_scenarios.start_huge", "txn", oid, 1 << 40)

    def arriving():
        return any((server.blob_dir / name).stat().st_size for name in files(server.blob_dir) - before)

    wait_until(arriving, "a part of the blob has arrived")
    client.kill()
    if differs("unfinished-uploads-stay"):
        wait_until(lambda: "disconnected" in server.log.text().lower(), "the server noticed")
        assert files(server.blob_dir) - before
    else:
        unchanged()
    commits_still_work(server, blob_clients)


def test_conflict_with_new_blobs_beside(server, blob_clients):
    """One conflict, and everything else of the transaction is undone with it."""
    first, second = blob_clients.storage(server), blob_clients.storage(server)
    oid = first.do("call", "new_oid")
    tid = first.do("blob_scenarios.commit", (oid, Z64, b"one"))
    first.do("blob_scenarios.commit", (oid, tid, b"two"))
    others = [(second.do("call", "new_oid"), Z64, content(1000, n)) for n in range(3)]
    before = files(server.blob_dir)
    with pytest.raises(RemoteError) as error:
        second.do("blob_scenarios.commit", *others[:2], (oid, tid, b"three"), *others[2:])
    assert error.value.name == "ConflictError"
    assert files(server.blob_dir) == before


def test_quota_reached_by_a_blob(make_server, blob_clients):
    """A vote that fails after one blob is in place."""

    def blobs_of(client):
        return [(client.do("call", "new_oid"), Z64, content(1000, n)) for n in range(2)]

    server = make_server(blobs=True)
    server.log.allow("While voting", "raised exception", "quota")
    client = blob_clients.storage(server)
    client.do("blob_scenarios.commit", *blobs_of(client))
    size = server.data_fs.stat().st_size
    quota = make_server(
        [filestorage("Data.fs", blob_dir="blobs", quota=size - 8 - 42 - 25 - 1)], directory="with quota"
    )
    quota.log.allow("While voting", "raised exception", "quota")
    client = blob_clients.storage(quota)
    with pytest.raises(RemoteError) as error:
        client.do("blob_scenarios.commit", *blobs_of(client))
    assert error.value.name == "ServerException", error.value
    assert "FileStorageQuotaError" in error.value.text
    assert bool(files(quota.blob_dir)) is differs("failed-votes-leave-blobs")


def test_a_failed_vote_frees_the_way(server, blob_clients):
    """The content of the failed transaction is forgotten, not taken for that of the next."""
    first, second = blob_clients.storage(server), blob_clients.storage(server)
    oid = first.do("call", "new_oid")
    tid = first.do("blob_scenarios.commit", (oid, Z64, b"one"))
    current = first.do("blob_scenarios.commit", (oid, tid, b"two"))
    with pytest.raises(RemoteError):
        second.do("blob_scenarios.commit", (oid, tid, b"lost"))
    last = second.do("blob_scenarios.commit", (oid, current, b"three"))
    assert [second.do("blob_scenarios.load", oid, each) for each in (tid, current, last)] == [b"one", b"two", b"three"]


def test_timeout_after_the_vote(make_server, blob_clients):
    server = make_server(blobs=True, transaction_timeout=1)
    server.log.expect("Transaction timeout after")
    client = blob_clients.storage(server)
    client.do("begin", "txn")
    client.do("blob_scenarios.store", "txn", client.do("call", "new_oid"), Z64, b"content")
    client.do("blob_scenarios.vote", "txn")
    assert len(files(server.blob_dir)) == 1
    wait_until(lambda: "Transaction timeout after" in server.log.text(), "the server's patience ends")
    if not differs("timeout-leaks-lock"):
        wait_until(lambda: not files(server.blob_dir), "the blob is removed")
