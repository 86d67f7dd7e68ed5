"""A history with everything that a data file can hold, made by a client. Runs in the client's environment."""

import base64

import transaction
from persistent.mapping import PersistentMapping
from scenarios import abort, begin, finish
from ZODB.utils import z64


def change(client, note, function):
    """Calls `function(root)` in a transaction that says something of itself."""
    manager = transaction.TransactionManager()
    current = manager.begin()
    current.setUser("ada")
    current.note(note)
    current.setExtendedInfo("request", {"path": "/" + note})
    connection = client.db.open(transaction_manager=manager)
    try:
        function(connection.root())
        manager.commit()
    finally:
        manager.abort()
        connection.close()
    return client.storage.lastTransaction()


def fill(client):
    """Changes, undo, undo of undo, a deletion, an object stored twice, an empty transaction, a last change."""
    change(client, "grün", lambda root: root.update({f"k{n}": PersistentMapping({"n": n}) for n in range(300)}))
    second = change(client, "change", lambda root: root["k7"].update(n=-7))
    undone = undo(client, second)
    undo(client, undone)
    change(client, "shrink", lambda root: [root.pop(f"k{n}") for n in range(0, 300, 7)])
    delete_and_store_twice(client)
    begin(client, "empty", description="empty")
    finish(client, "empty")
    return change(client, "last", lambda root: root.update(last=1))


def undo(client, tid):
    begin(client, "undo", description="undo")
    try:
        client.storage.undo(base64.encodebytes(tid).rstrip(b"\n"), client.transactions["undo"])
        return finish(client, "undo")
    except BaseException:
        abort(client, "undo")
        raise


def delete_and_store_twice(client):
    storage = client.storage
    connection = client.db.open()
    record, serial = storage.load(connection.root()["k1"]._p_oid)
    connection.close()
    lonely, doomed = storage.new_oid(), storage.new_oid()
    begin(client, "twice")
    txn = client.transactions["twice"]
    storage.store(lonely, z64, record, "", txn)
    storage.store(doomed, z64, record, "", txn)
    storage.store(lonely, z64, record, "", txn)
    tid = finish(client, "twice")
    begin(client, "delete")
    storage.deleteObject(doomed, tid, client.transactions["delete"])
    finish(client, "delete")
