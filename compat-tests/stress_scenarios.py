"""Writers and readers of the ordering stress. Runs in the client's environment.

Every transaction of a writer adds one to both halves of a pair and to the writer's own count, in three objects.
So in every state the halves are equal, and all values together only grow.
"""

import random

import transaction
from persistent.mapping import PersistentMapping
from ZODB.POSException import ConflictError

PAIRS = 5


def prepare(client, writers):
    manager = transaction.TransactionManager()
    with manager:
        root = client.db.open(transaction_manager=manager).root()
        for name in [*_names(), *(f"writer {n}" for n in range(writers))]:
            root[name] = PersistentMapping({"n": 0})


def _names():
    return [f"{half} {n}" for half in ("left", "right") for n in range(PAIRS)]


def write(client, writer, count):
    """`count` transactions; how many conflicts there were on the way."""
    choice = random.Random(writer)
    manager = transaction.TransactionManager()
    connection = client.db.open(transaction_manager=manager)
    conflicts = done = 0
    while done < count:
        manager.begin()
        root = connection.root()
        pair = choice.randrange(PAIRS)
        try:
            left, right = root[f"left {pair}"], root[f"right {pair}"]
            assert left["n"] == right["n"], (pair, left["n"], right["n"])
            for counter in (left, right, root[f"writer {writer}"]):
                counter["n"] += 1
            manager.commit()
            done += 1
        except ConflictError:
            manager.abort()
            conflicts += 1
    connection.close()
    return conflicts


def read(client, writers, total):
    """Checks snapshot after snapshot until the writers made `total` transactions; how many there were."""
    manager = transaction.TransactionManager()
    connection = client.db.open(transaction_manager=manager)
    before = {}
    snapshots = 0
    while True:
        manager.begin()
        root = connection.root()
        # In another order each time, so that what is loaded late differs.
        names = [*_names(), *(f"writer {n}" for n in range(writers))]
        random.shuffle(names)
        now = {name: root[name]["n"] for name in names}
        for pair in range(PAIRS):
            assert now[f"left {pair}"] == now[f"right {pair}"], ("torn", pair, now)
        commits = sum(now[f"writer {n}"] for n in range(writers))
        assert sum(now[f"left {pair}"] for pair in range(PAIRS)) == commits, ("torn", now)
        for name, value in before.items():
            assert now[name] >= value, ("went back", name, value, now)
        before = now
        snapshots += 1
        manager.abort()
        if commits == total:
            connection.close()
            return snapshots


def cached_as_current(client):
    """Everything the client cache holds as current: oid -> (data, tid)."""
    cache = client.storage._cache
    return {oid: cache.load(oid) for oid in list(cache.current)}
