"""What tests make a client process do, with the plain storage API. Runs in the client's environment."""

import ZODB
from ZEO.ClientStorage import ClientStorage
from ZODB.Connection import TransactionMetaData


def close(client):
    client.close()


def open_storage(client, address, /, **options):
    if isinstance(address, list):
        address = [tuple(a) if isinstance(a, list) else a for a in address]
    options.setdefault("wait_timeout", 20)
    client.storage = ClientStorage(address, **options)
    client.transactions = {}


def open_database(client, address, /, **options):
    open_storage(client, address, **options)
    client.db = ZODB.DB(client.storage)


def close_storage(client):
    client.close()


def call(client, method, *args, **kwargs):
    """Any method of the storage whose arguments and result are plain values."""
    return getattr(client.storage, method)(*args, **kwargs)


def begin(client, name, user="", description="", extension=None, tid=None, status=" "):
    txn = TransactionMetaData(user, description, extension or {})
    client.transactions[name] = txn
    if tid is None:
        client.storage.tpc_begin(txn)
    else:
        client.storage.tpc_begin(txn, tid, status)


def store(client, name, oid, serial, data):
    client.storage.store(oid, serial, data, "", client.transactions[name])


def finish(client, name):
    client.storage.tpc_vote(client.transactions[name])
    return client.storage.tpc_finish(client.transactions.pop(name))


def abort(client, name):
    client.storage.tpc_abort(client.transactions.pop(name))


def commit(client, *stores, **metadata):
    """One transaction of (oid, serial, data); its tid."""
    begin(client, "commit", **metadata)
    try:
        for oid, serial, data in stores:
            store(client, "commit", oid, serial, data)
        return finish(client, "commit")
    except BaseException:
        abort(client, "commit")
        raise


def undo(client, transaction_id):
    begin(client, "undo")
    try:
        client.storage.undo(transaction_id, client.transactions["undo"])
        return finish(client, "undo")
    except BaseException:
        abort(client, "undo")
        raise


def iterate(client, start=None, stop=None):
    """Every transaction with its records, as plain tuples."""
    result = []
    for txn in client.storage.iterator(start, stop):
        records = [(r.oid, r.tid, r.data, r.data_txn) for r in txn]
        result.append((txn.tid, txn.status, txn.user, txn.description, dict(txn.extension), records))
    return result


def record_iternext(client):
    """All current records."""
    result = []
    following = None
    while True:
        oid, tid, data, following = client.storage.record_iternext(following)
        result.append((oid, tid, data))
        if following is None:
            return result


def is_connected(client):
    return client.storage.is_connected()


def cached(client, oid):
    """What the client cache has for `oid` as current."""
    return client.storage._cache.load(oid)


def cache_tid(client):
    return client.storage._cache.getLastTid()


def verify_result(client):
    """How the last cache verification ended, in the client's own words."""
    return client.storage._server.client.verify_result


def load(client, oid):
    """The current record as an application's connection gets it: through the cache, at the newest state seen."""
    from ZODB.utils import maxtid

    return client.storage.loadBefore(oid, maxtid)
