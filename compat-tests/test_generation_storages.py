"""Blobs, iteration, restoring and deleting, by clients of every generation that has them."""

import pytest

from clients import RemoteError

# Nothing, one chunk, and several of 59000 bytes.
BLOB_SIZES = {"empty": 0, "small": 100, "chunks": 200_000}


@pytest.mark.feature("blobs, copied")
def test_blobs_go_up_and_come_down(generation_under_test, tmp_path):
    if generation_under_test.lacks("storeBlob"):
        return
    server = generation_under_test.server(blobs=True)
    writer = generation_under_test.database(server, blob_dir=str(tmp_path / "writer"))
    for key, size in BLOB_SIZES.items():
        writer.do("put_blob", key, size)
    reader = generation_under_test.database(server, blob_dir=str(tmp_path / "reader"))
    for client in (writer, reader):
        assert {key: client.do("blob_is", key, size) for key, size in BLOB_SIZES.items()} == dict.fromkeys(BLOB_SIZES, True)


@pytest.mark.feature("blobs, shared directory")
def test_blobs_in_a_shared_directory(generation_under_test):
    if generation_under_test.lacks("storeBlob"):
        return
    server = generation_under_test.server(blobs=True)
    shared = {"blob_dir": str(server.blob_dir), "shared_blob_dir": True}
    writer = generation_under_test.database(server, **shared)
    for key, size in BLOB_SIZES.items():
        writer.do("put_blob", key, size)
    reader = generation_under_test.database(server, **shared)
    assert {key: reader.do("blob_is", key, size) for key, size in BLOB_SIZES.items()} == dict.fromkeys(BLOB_SIZES, True)


@pytest.mark.feature("iterator")
def test_the_iterator_yields_every_transaction(generation_under_test):
    if generation_under_test.lacks("iterator"):
        return
    client = generation_under_test.database(generation_under_test.server())
    for value in range(5):
        client.do("put", {"a": value, f"new{value}": value}, f"value {value}")
    transactions = client.do("iterate")
    assert [description for _tid, description, *_ in transactions[1:]] == [f"value {value}" for value in range(5)]
    # The root, the new object, and "a".
    assert [records for *_, records in transactions[1:]] == [3] * 5
    tids = [tid for tid, *_ in transactions]
    assert tids == sorted(tids)
    assert tids[-1] == client.do("last_tid")


@pytest.mark.feature("record_iternext")
def test_record_iternext_yields_every_object(generation_under_test):
    if generation_under_test.lacks("record_iternext"):
        return
    client = generation_under_test.database(generation_under_test.server())
    client.do("put", {"a": 1, "b": 2})
    expected = sorted(["0" * 16, client.do("oid_of", "a")[0], client.do("oid_of", "b")[0]])
    assert client.do("record_iternext") == expected


@pytest.mark.feature("copyTransactionsFrom")
def test_transactions_are_restored(generation_under_test):
    if generation_under_test.lacks("restore"):
        return
    client = generation_under_test.storage(generation_under_test.server())
    tids = client.do("restore", {"a": 1, "b": 2})
    assert len(tids) == 3
    assert [tid for tid, *_ in client.do("iterate")] == tids


@pytest.mark.feature("deleteObject")
def test_an_object_is_deleted(generation_under_test):
    if generation_under_test.lacks("deleteObject"):
        return
    client = generation_under_test.database(generation_under_test.server())
    client.do("put", {"a": 1})
    oid, _tid = client.do("oid_of", "a")
    client.do("remove", "a")
    tid = client.do("history_tid", oid)
    client.do("delete_object", oid, tid)
    with pytest.raises(RemoteError) as error:
        client.do("history_tid", oid)
    assert error.value.name == "POSKeyError"
