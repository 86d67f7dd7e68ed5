"""What tests make a client of any generation do, ZODB 3.7 to 6: one spelling for all of them.

Runs in the client's environment. Oids, tids and undo ids travel as hex text, objects are known by their keys in the root.
"""

from __future__ import absolute_import

import binascii
import random
import time

import transaction
import ZODB
from persistent.mapping import PersistentMapping
from remote_json import text
from ZEO.ClientStorage import ClientStorage

try:
    from ZODB.Connection import TransactionMetaData
except ImportError:
    TransactionMetaData = None

# Reconnect within a second or two: the defaults of the old clients are 5 s and 300 s.
POLLS = {"min_disconnect_poll": 1, "max_disconnect_poll": 1}


def to_hex(value):
    return None if value is None else text(binascii.hexlify(value))


def from_hex(value):
    return binascii.unhexlify(value)


def close(client):
    client.close()


def offers(client, method):
    """Whether the storage of this generation has a method."""
    return hasattr(ClientStorage, method)


def open_storage(this, address, **options):
    """Any keyword of ClientStorage goes through; an address is [host, port], a list of such, or a path.

    The first parameter is not called `client`: that is one of those keywords.
    """
    parts = [tuple(part) if isinstance(part, list) else part for part in address] if isinstance(address, list) else address
    if isinstance(parts, list) and len(parts) == 2 and isinstance(parts[1], int):
        parts = tuple(parts)
    options.setdefault("wait_timeout", 20)
    accepted = ClientStorage.__init__.__code__.co_varnames
    for name, value in POLLS.items():
        if name in accepted:
            options.setdefault(name, value)
    this.storage = ClientStorage(parts, **options)


def open_database(this, address, **options):
    open_storage(this, address, **options)
    this.db = ZODB.DB(this.storage)
    this.connection = this.db.open()


def reopen(client):
    """Another look at the database, with no object in memory."""
    transaction.abort()
    client.connection.cacheMinimize()
    _refresh(client)


def is_connected(client):
    return bool(client.storage.is_connected())


def verification(client):
    """How the cache was verified when the client connected, as clients of protocol 5 note it; older ones say it in their log."""
    network = getattr(client.storage, "_server", None)
    return getattr(getattr(network, "client", None), "verify_result", None)


def last_tid(client):
    return to_hex(client.storage.lastTransaction())


# Objects.


def _refresh(client):
    """Starts a transaction that sees what the server has sent so far."""
    transaction.abort()
    client.connection.sync()


def put(client, values, description=None, user=None, extension=None):
    """Commits new objects in the root: key -> value."""
    _refresh(client)
    change(client, values)
    commit(client, description, user, extension)


def change(client, values):
    """Changes objects, or adds them, and leaves the transaction open."""
    root = client.connection.root()
    for key, value in values.items():
        if key in root:
            root[key]["value"] = value
        else:
            root[key] = PersistentMapping({"value": value})


def commit(client, description=None, user=None, extension=None):
    current = transaction.get()
    try:
        if description is not None:
            current.note(_native(current, description))
        if user is not None:
            current.setUser(_native(current, user))
        for key, value in (extension or {}).items():
            current.setExtendedInfo(key, value)
        transaction.commit()
    except Exception:
        transaction.abort()
        raise


def _native(current, value):
    """Text as applications of this generation give it: byte strings before transaction 2, text from there on."""
    if isinstance(value, bytes) and not isinstance(getattr(current, "description", ""), bytes):
        return value.decode("utf-8")
    return value


def get(client, key):
    """The value of an object as a new transaction sees it; None where there is none."""
    _refresh(client)
    holder = client.connection.root().get(key)
    return None if holder is None else holder["value"]


def peek(client, key):
    """The value in the transaction that is open."""
    return client.connection.root()[key]["value"]


def put_many(client, count):
    """Commits so many new objects at once; how many oids they have."""
    _refresh(client)
    root = client.connection.root()
    root["many"] = PersistentMapping([(str(i), PersistentMapping({"value": i})) for i in range(count)])
    commit(client)
    return len(set(value._p_oid for value in root["many"].values()))


def sum_many(client):
    reopen(client)
    return sum(value["value"] for value in client.connection.root()["many"].values())


def put_large(client, size):
    _refresh(client)
    client.connection.root()["large"] = PersistentMapping({"value": "x" * size})
    commit(client)


def length(client, key):
    reopen(client)
    return len(client.connection.root()[key]["value"])


def oid_of(client, key):
    _refresh(client)
    holder = client.connection.root()[key]
    holder["value"]
    return [to_hex(holder._p_oid), to_hex(holder._p_serial)]


def remove(client, key):
    _refresh(client)
    del client.connection.root()[key]
    commit(client)


def pack(client):
    client.db.pack(time.time() + 1)


def size(client):
    return client.storage.getSize()


# History and undo.


def history(client, key, size):
    oid = from_hex(oid_of(client, key)[0])
    arguments = ("", size) if "version" in ClientStorage.history.__code__.co_varnames[:3] else (size,)
    return [
        {"tid": to_hex(entry.get("tid", entry.get("serial"))), "user": text(entry["user_name"]), "description": text(entry["description"])}
        for entry in client.storage.history(oid, *arguments)
    ]


def supports_undo(client):
    return bool(client.storage.supportsUndo())


def undo_log(client, info=False):
    entries = client.storage.undoInfo(0, -20) if info else client.storage.undoLog(0, -20)
    return [{"id": to_hex(entry["id"]), "description": text(entry["description"]), "user": text(entry["user_name"]), "more": entry.get("more")} for entry in entries]


def undo(client, undo_id):
    _refresh(client)
    try:
        client.db.undo(from_hex(undo_id))
        transaction.commit()
    except Exception:
        transaction.abort()
        raise


# The storage itself: single steps of a commit.


def _metadata():
    return TransactionMetaData() if TransactionMetaData else transaction.Transaction()


def begin(client, name):
    client.transactions[name] = _metadata()
    client.storage.tpc_begin(client.transactions[name])


def store(client, name, key, data):
    """Stores a record for an object of the root."""
    holder = client.connection.root()[key]
    holder["value"]
    client.storage.store(holder._p_oid, holder._p_serial, data.encode("ascii"), "", client.transactions[name])


def store_as(client, name, key, model):
    """Stores for an object of the root the record of another one."""
    holder, like = client.connection.root()[key], client.connection.root()[model]
    holder["value"], like["value"]
    data = client.storage.load(like._p_oid, "")[0]
    client.storage.store(holder._p_oid, holder._p_serial, data, "", client.transactions[name])


def vote(client, name):
    client.storage.tpc_vote(client.transactions[name])


def finish(client, name):
    client.storage.tpc_finish(client.transactions.pop(name))


def abort(client, name):
    client.storage.tpc_abort(client.transactions.pop(name))


def delete_object(client, oid, tid):
    metadata = _metadata()
    client.storage.tpc_begin(metadata)
    try:
        client.storage.deleteObject(from_hex(oid), from_hex(tid), metadata)
        client.storage.tpc_vote(metadata)
        client.storage.tpc_finish(metadata)
    except Exception:
        client.storage.tpc_abort(metadata)
        raise


def history_tid(client, oid):
    """The tid of the current revision, from the server itself."""
    return to_hex(client.storage.getTid(from_hex(oid)))


# Iteration.


def iterate(client):
    """Every transaction: its description, user, extension, and how many records it has."""
    result = []
    for txn in client.storage.iterator():
        extension = getattr(txn, "extension", None) or getattr(txn, "_extension", None) or {}
        result.append([to_hex(txn.tid), text(txn.description), text(txn.user), extension, len(list(txn))])
    return result


def record_iternext(client):
    """The oids of all current records."""
    result, following = [], None
    while True:
        oid, _tid, _data, following = client.storage.record_iternext(following)
        result.append(to_hex(oid))
        if following is None:
            return result


def restore(client, values):
    """Copies the transactions of a file of this generation's own making; their tids."""
    import os

    from ZODB.FileStorage import FileStorage

    source = FileStorage(os.path.join(client.directory, "source.fs"))
    db = ZODB.DB(source)
    connection = db.open()
    for key, value in values.items():
        connection.root()[key] = PersistentMapping({"value": value})
        transaction.commit()
    connection.close()
    client.storage.copyTransactionsFrom(source)
    tids = [to_hex(txn.tid) for txn in source.iterator()]
    db.close()
    return tids


# Blobs.


def put_blob(client, key, content_size):
    from ZODB.blob import Blob

    _refresh(client)
    blob = Blob()
    stream = blob.open("w")
    stream.write(_pattern(content_size))
    stream.close()
    client.connection.root()[key] = blob
    commit(client)


def blob_is(client, key, content_size):
    """Whether a blob is what put_blob wrote."""
    reopen(client)
    stream = client.connection.root()[key].open("r")
    try:
        return stream.read() == _pattern(content_size)
    finally:
        stream.close()


def _pattern(size):
    return (b"blob" * (size // 4 + 1))[:size]


# Counters as bare records: clients of all Pythons can read each other's, which they cannot with the pickles of the newer ones.


def new_counters(client, number):
    """Records that say zero; their oids."""
    metadata = _metadata()
    client.storage.tpc_begin(metadata)
    oids = [client.storage.new_oid() for _ in range(number)]
    for oid in oids:
        client.storage.store(oid, b"\0" * 8, b"0", "", metadata)
    client.storage.tpc_vote(metadata)
    client.storage.tpc_finish(metadata)
    return [to_hex(oid) for oid in oids]


def counter(client, oid):
    return int(client.storage.load(from_hex(oid), "")[0])


def count_up(client, oids, commits):
    """Adds one to each counter, so many times, with a retry after each conflict; the number of conflicts."""
    counters = _Counters(client, oids)
    while counters.commits < commits:
        counters.add_one()
    return counters.conflicts


def count_up_for(client, oids, seconds, some=None):
    """Adds one to each counter, or to some of them, as often as it can, for so long; the number of commits and of conflicts."""
    counters = _Counters(client, oids)
    end = time.time() + seconds
    while time.time() < end:
        counters.add_one(some)
    return [counters.commits, counters.conflicts]


def reconnect_for(client, oids, seconds):
    """Loses its connection and comes back again and again; the number of times, and which records in its cache were old.

    A record is old if it is not even what the server had said before on the same connection.
    """
    from ZEO.Exceptions import ClientDisconnected

    old, rounds = [], 0
    storage = client.storage
    end = time.time() + seconds
    while time.time() < end:
        try:
            said = [_load_from_server(storage, from_hex(oid)) for oid in oids]
            for oid, tid in zip(oids, said):
                cached = storage.load(from_hex(oid), "")[1]
                if cached < tid:
                    old.append([oid, to_hex(cached), to_hex(tid)])
            rounds += 1
            storage._connection.close()
        except ClientDisconnected:
            # The server has ended it, or the client itself.
            pass
        while not storage.is_connected() and time.time() < end + 10:
            time.sleep(0.01)
    return [rounds, old]


def _load_from_server(storage, oid):
    """The tid of what is current, past the cache; for clients before ZEO 5."""
    arguments = ("",) if "version" in storage._server.loadEx.__code__.co_varnames else ()
    return storage._server.loadEx(oid, *arguments)[1]


class _Counters(object):
    """Counters that a client increments.

    A load that goes back behind the client's own last commit or its last load is a stale read, and an error.
    """

    def __init__(self, client, oids):
        self.storage = client.storage
        self.seen = dict((from_hex(oid), -1) for oid in oids)
        self.commits = self.conflicts = 0

    def add_one(self, some=None):
        """One transaction, which may end in a conflict."""
        from ZODB.POSException import ConflictError

        metadata = _metadata()
        self.storage.tpc_begin(metadata)
        try:
            chosen = random.sample(sorted(self.seen), some) if some else self.seen
            values = dict((oid, self._store_next(oid, metadata)) for oid in chosen)
            self.storage.tpc_vote(metadata)
            self.storage.tpc_finish(metadata)
        except ConflictError:
            self.storage.tpc_abort(metadata)
            self.conflicts += 1
        except Exception:
            self.storage.tpc_abort(metadata)
            raise
        else:
            self.seen.update(values)
            self.commits += 1

    def _store_next(self, oid, metadata):
        data, tid = self.storage.load(oid, "")
        if int(data) < self.seen[oid]:
            raise AssertionError("%s went back from %d to %d" % (to_hex(oid), self.seen[oid], int(data)))
        self.seen[oid] = int(data)
        self.storage.store(oid, tid, str(int(data) + 1).encode("ascii"), "", metadata)
        return int(data) + 1
