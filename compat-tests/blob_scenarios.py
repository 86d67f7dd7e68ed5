"""What applications and tests do with blobs. Runs in the client's environment."""

import os
import tempfile

import transaction
from app_scenarios import run
from scenarios import abort, begin
from ZEO.Exceptions import ClientDisconnected
from ZODB.blob import Blob
from ZODB.FileStorage import FileStorage

RECORD = b"\x80\x03cZODB.blob\nBlob\nq\x00.\x80\x03N."


def written(content):
    blob = Blob()
    with blob.open("w") as f:
        f.write(content)
    return blob


def put(client, **contents):
    """New blobs in one transaction: name -> (oid, tid)."""
    run(client, lambda root: root.update({name: written(content) for name, content in contents.items()}))
    return {name: where(client, name) for name in contents}


def where(client, name):
    """The oid of a blob, and the tid of its current revision."""

    def look(root):
        root[name]._p_activate()
        return root[name]._p_oid, root[name]._p_serial

    return run(client, look)


def get(client, name):
    def read(root):
        with root[name].open("r") as f:
            return f.read()

    return run(client, read)


def get_all(client, names):
    return {name: get(client, name) for name in names}


def get_before(client, name, before):
    """The content as it was before a transaction."""
    connection = client.db.open(transaction.TransactionManager(), before=before)
    try:
        with connection.root()[name].open("r") as f:
            return f.read()
    finally:
        connection.close()


def change(client, name, content, mode="w"):
    """Changes a blob in a transaction of its own; its (oid, tid)."""

    def write(root):
        with root[name].open(mode) as f:
            f.write(content)

    run(client, write)
    return where(client, name)


def consume(client, name, content, directory):
    """A file becomes the blob; whether it is still there afterwards."""
    path = os.path.join(directory, "consumed")
    with open(path, "wb") as f:
        f.write(content)

    def put_file(root):
        root[name] = Blob()
        root[name].consumeFile(path)

    run(client, put_file)
    return os.path.exists(path)


def savepoints(client, name):
    """Changes around optimistic savepoints; what comes after the last of them is rolled back."""

    def change(root):
        manager = root._p_jar.transaction_manager
        root[name] = written(b"first")
        for more in (b", second", b", third"):
            manager.savepoint(optimistic=True)
            with root[name].open("a") as f:
                f.write(more)
        savepoint = manager.savepoint(optimistic=True)
        root[name + " never"] = written(b"never stored")
        manager.savepoint(optimistic=True)
        savepoint.rollback()

    run(client, change)


def open_blob(client, connection, name):
    """Changes a blob in a connection that app_scenarios.open_connection made."""
    with client.objects[connection][0].root()[name].open("w") as f:
        f.write(connection.encode())


def count_up(client, name, count, size):
    """Writes 1 to `count` into a blob, one transaction each."""
    for n in range(1, count + 1):
        change(client, name, b"%08d" % n * size)


def watch(client, names, count, size):
    """Reads the blobs that others count up, until all are at `count`."""
    seen = dict.fromkeys(names, 0)
    while min(seen.values()) < count:
        for name in names:
            data = get(client, name)
            n = int(data[:8])
            assert data == b"%08d" % n * size, "torn"
            assert n >= seen[name], "went back"
            seen[name] = n


# without a database


def store(client, name, oid, serial, content):
    """storeBlob in a transaction that scenarios.begin made."""
    fd, path = tempfile.mkstemp(dir=client.storage.temporaryDirectory())
    with os.fdopen(fd, "wb") as f:
        f.write(content)
    client.storage.storeBlob(oid, serial, RECORD, path, "", client.transactions[name])


def start_huge(client, name, oid, size):
    """storeBlob of `size` zero bytes."""
    fd, path = tempfile.mkstemp(dir=client.storage.temporaryDirectory())
    os.truncate(fd, size)
    os.close(fd)
    client.storage.storeBlob(oid, bytes(8), RECORD, path, "", client.transactions[name])


def undo(client, name, transaction_id):
    client.storage.undo(transaction_id, client.transactions[name])


def vote(client, name):
    client.storage.tpc_vote(client.transactions[name])


def commit(client, *blobs, **metadata):
    """One transaction of (oid, serial, content); its tid."""
    begin(client, "commit", **metadata)
    try:
        for oid, serial, content in blobs:
            store(client, "commit", oid, serial, content)
        vote(client, "commit")
    except BaseException:
        abort(client, "commit")
        raise
    return client.storage.tpc_finish(client.transactions.pop("commit"))


def load(client, oid, tid):
    with client.storage.openCommittedBlobFile(oid, tid) as f:
        return f.read()


def commit_until_killed(client, oid, size):
    """Revision after revision of one blob until the server is gone; the tids that were acknowledged.

    Each revision consists of the tid before.
    """
    tids = [bytes(8)]
    try:
        while True:
            tids.append(commit(client, (oid, tids[-1], tids[-1] * (size // 8))))
    except ClientDisconnected:
        return tids[1:]


# with Python's own storage


def copy_to_file(client, path, blob_dir):
    """Copies everything that the server has into a new FileStorage with blobs."""
    target = FileStorage(path, blob_dir=blob_dir)
    try:
        target.copyTransactionsFrom(client.storage)
    finally:
        target.close()


def read_files(client, path, blob_dir, revisions):
    """The content of (oid, tid) revisions as Python's FileStorage has it."""
    storage = FileStorage(path, blob_dir=blob_dir)
    try:
        contents = []
        for oid, tid in revisions:
            with storage.openCommittedBlobFile(oid, tid) as f:
                contents.append(f.read())
        return contents
    finally:
        storage.close()
