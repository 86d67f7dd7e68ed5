"""Writers, readers and packers at once. Runs in the client's environment.

A writer owns four objects and makes, in each transaction, a new one: `left` and `right` count together, `log` has
one entry for each count that was not undone. What it was told is committed it keeps in mind, in `expected`.

A pack takes away the past that a transaction still reads if it packs to a later time than that one's state; that is
how ZODB is. So everybody writes the newest transaction it knows to a file before it begins, and packs keep before that.
"""

import os
import random
import time
from pathlib import Path

import transaction
from persistent.mapping import PersistentMapping
from ZEO.Exceptions import ClientDisconnected, ServerException
from ZODB.POSException import ConflictError, UndoError
from ZODB.TimeStamp import TimeStamp

STOP = "stop"
PACKS = "packs"


def fill(client, objects):
    """Enough that a pack takes a moment: each object twice, and half of them garbage."""
    manager = transaction.TransactionManager()
    connection = client.db.open(transaction_manager=manager)
    root = connection.root()
    for turn in range(2):
        root["fill"] = PersistentMapping({n: PersistentMapping({"x": os.urandom(500)}) for n in range(objects)})
        manager.commit()
        for each in root["fill"].values():
            each["turn"] = turn
        manager.commit()
    connection.close()


def prepare(client, names):
    manager = transaction.TransactionManager()
    with manager:
        root = client.db.open(transaction_manager=manager).root()
        for name in names:
            root[name] = PersistentMapping()
            for part in ("left", "right"):
                root[name][part] = PersistentMapping({"n": 0})
            root[name]["log"] = PersistentMapping()


def _begin(client, manager, name, directory):
    path = Path(directory, f"{name}.state")
    path.with_suffix(".new").write_text(client.storage.lastTransaction().hex())
    path.with_suffix(".new").replace(path)
    manager.begin()


def write(client, name, directory):
    """Commits and undoes until told to stop; how it ended, how many commits, undos and conflicts there were.

    After a disconnection `expected` lacks what was under way and may have been committed: `pending`.
    """
    choice = random.Random(name)
    manager = transaction.TransactionManager()
    connection = client.db.open(transaction_manager=manager)
    expected = client.objects.setdefault("expected", set())
    done = undone = conflicts = 0
    client.objects["pending"] = None
    try:
        while not Path(directory, STOP).exists():
            _begin(client, manager, name, directory)
            objects = connection.root()[name]
            n = max([*expected, objects["left"]["n"]]) + 1
            objects["left"]["n"] = objects["right"]["n"] = n
            objects["log"][n] = PersistentMapping({"n": n, "x": os.urandom(200)})
            manager.get().note(f"{name} {n}")
            client.objects["pending"] = expected | {n}
            try:
                manager.commit()
            except ConflictError:
                # Nobody else writes these objects.
                manager.abort()
                conflicts += 1
                continue
            expected.add(n)
            done += 1
            Path(directory, f"{name}.done").write_text(str(done))
            if choice.random() < 0.2:
                client.objects["pending"] = expected - {n}
                if _undo(client, manager, f"{name} {n}", name, directory):
                    expected.remove(n)
                    undone += 1
            client.objects["pending"] = None
    except ClientDisconnected:
        return "disconnected", done, undone, conflicts
    finally:
        manager.abort()
        connection.close()
    return "stopped", done, undone, conflicts


def _undo(client, manager, description, name, directory):
    """Whether it was undone: not, if it is packed already, or as long as the server packs."""
    try:
        found = [entry["id"] for entry in client.storage.undoLog(0, 30) if entry["description"] == description.encode()]
        if not found:
            return False
        _begin(client, manager, name, directory)
        client.db.undo(found[0], manager.get())
        manager.commit()
        return True
    except (UndoError, ServerException) as error:
        manager.abort()
        if "UndoError" not in f"{type(error).__name__} {error}":
            raise
        return False


def _entries(root, name):
    """Checks the objects of a writer against each other; the counts in its log."""
    objects = root[name]
    left, right, log = (objects[part] for part in ("left", "right", "log"))
    assert left["n"] == right["n"], ("torn", name, left["n"], right["n"])
    assert all(entry["n"] == n for n, entry in log.items()), name
    assert left["n"] == max(log, default=0) or not log, ("torn", name, left["n"], sorted(log))
    return set(log)


def read(client, name, writers, directory):
    """Reads everything again and again until told to stop; how it ended, and how often."""
    manager = transaction.TransactionManager()
    connection = client.db.open(transaction_manager=manager)
    newest = dict.fromkeys(writers, 0)
    times = 0
    try:
        while not Path(directory, STOP).exists():
            # Now and then nothing is cached.
            if times % 5 == 0:
                connection.cacheMinimize()
                client.storage._cache.clear()
            _begin(client, manager, name, directory)
            root = connection.root()
            for writer in random.sample(writers, len(writers)):
                entries = _entries(root, writer)
                # Only an undo takes a count back, and only the last one.
                assert max(entries, default=0) >= newest[writer] - 1, ("went back", writer)
                newest[writer] = max(entries, default=0)
            times += 1
    except ClientDisconnected:
        return "disconnected", times
    finally:
        manager.abort()
        connection.close()
    return "stopped", times


def take_oids(client, directory):
    """Asks for oids again and again until told to stop; how it ended, and how often. None may come twice."""
    times, last = 0, b""
    try:
        while not Path(directory, STOP).exists():
            # The client asks for a hundred at a time.
            for _ in range(100):
                oid = client.storage.new_oid()
                assert last < oid, ("given out twice", last, oid)
                last = oid
            times += 1
    except ClientDisconnected:
        return "disconnected", times
    return "stopped", times


def pack(client, directory):
    """Packs until told to stop, as late as nobody's state is touched; how it ended."""
    packs = 0
    try:
        while not Path(directory, STOP).exists():
            states = [bytes.fromhex(path.read_text()) for path in Path(directory).glob("*.state")]
            client.storage.pack(min(TimeStamp(tid).timeTime() for tid in states) if states else time.time())
            packs += 1
            Path(directory, PACKS).write_text(str(packs))
    except ClientDisconnected:
        return "disconnected"
    return "stopped"


def check(client, name):
    """What is there is what this client was told: its acknowledged commits, and perhaps what was under way."""
    manager = transaction.TransactionManager()
    manager.begin()
    connection = client.db.open(transaction_manager=manager)
    connection.cacheMinimize()
    found = _entries(connection.root(), name)
    manager.abort()
    connection.close()
    expected, pending = client.objects["expected"], client.objects["pending"]
    assert found in (expected, pending), (sorted(expected - found), sorted(found - expected))
    client.objects["expected"], client.objects["pending"] = set(found), None
    return len(found)
