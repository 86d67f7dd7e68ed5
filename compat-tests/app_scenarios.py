"""What applications do with ZODB.DB over ZEO. Runs in the client's environment."""

import transaction
from BTrees.IOBTree import IOBTree
from BTrees.Length import Length
from BTrees.OOBTree import OOBTree
from persistent.mapping import PersistentMapping


def run(client, function, manager=None):
    """Calls `function(root)` in a transaction of its own and commits."""
    manager = manager or transaction.TransactionManager()
    manager.begin()
    connection = client.db.open(transaction_manager=manager)
    try:
        result = function(connection.root())
        manager.commit()
        return result
    finally:
        manager.abort()
        connection.close()


def put(client, **values):
    run(client, lambda root: root.update(values))


def get(client, key):
    return run(client, lambda root: root.get(key))


def put_mapping(client, key, values):
    run(client, lambda root: root.__setitem__(key, PersistentMapping(values)))


def get_mapping(client, key):
    return run(client, lambda root: dict(root[key]))


def make_trees(client, count):
    def make(root):
        root["by_number"] = IOBTree({n: PersistentMapping({"n": n}) for n in range(count)})
        root["by_name"] = OOBTree({f"name {n:06}": n for n in range(count)})
        root["length"] = Length(count)

    run(client, make)


def read_trees(client):
    def read(root):
        by_number, by_name = root["by_number"], root["by_name"]
        assert all(value["n"] == n for n, value in by_number.items())
        assert sorted(by_name.values()) == list(by_number)
        return len(by_number), root["length"]()

    return run(client, read)


def delete_from_trees(client, start, stop):
    def delete(root):
        for n in range(start, stop):
            del root["by_number"][n]
            del root["by_name"][f"name {n:06}"]
        root["length"].change(start - stop)

    run(client, delete)


def add_objects(client, key, count):
    """`count` new persistent objects in one transaction, each with an oid."""
    run(client, lambda root: root.__setitem__(key, PersistentMapping({n: PersistentMapping() for n in range(count)})))


def open_connection(client, name):
    """A connection that stays open, in a transaction of its own, under `name`."""
    manager = transaction.TransactionManager()
    manager.begin()
    client.objects[name] = client.db.open(transaction_manager=manager), manager


def begin(client, name):
    client.objects[name][1].begin()


def commit(client, name):
    client.objects[name][1].commit()


def abort(client, name):
    client.objects[name][1].abort()


def read(client, name, *path):
    value = client.objects[name][0].root()
    for key in path:
        value = value[key]
    return value


def change(client, name, mapping, key, value):
    client.objects[name][0].root()[mapping][key] = value


def change_length(client, name, delta):
    client.objects[name][0].root()["length"].change(delta)


def read_current(client, name, mapping):
    """Makes the commit depend on `mapping` being current."""
    connection = client.objects[name][0]
    obj = connection.root()[mapping]
    dict(obj)
    connection.readCurrent(obj)


def savepoints(client):
    """What is left after a rolled back savepoint."""

    def change(root):
        manager = root._p_jar.transaction_manager
        root["sp"] = PersistentMapping({"a": 1})
        first = manager.savepoint()
        root["sp"]["a"] = 2
        root["sp"]["new"] = PersistentMapping({n: PersistentMapping() for n in range(50)})
        manager.savepoint()
        root["sp"]["a"] = 3
        first.rollback()
        root["sp"]["b"] = 4

    run(client, change)
    return get_mapping(client, "sp")


def undo_last(client):
    (entry,) = client.db.undoLog(0, 1)
    manager = transaction.TransactionManager()
    manager.begin()
    client.db.undo(entry["id"], manager.get())
    manager.commit()


def last_transaction(client):
    return client.storage.lastTransaction()


def length(client, name):
    return client.objects[name][0].root()["length"]()
