"""Opens database files with Python's own FileStorage. Runs in the client's environment."""

import io
import logging
from contextlib import redirect_stdout

from ZODB.FileStorage import FileIterator, FileStorage
from ZODB.POSException import POSKeyError
from ZODB.scripts import fsrefs, fstest


class _Warnings(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


def open_file(client, path, read_only=False):
    """What FileStorage makes of a file: its index, its last tid, and what it complained of."""
    warnings = _Warnings()
    logger = logging.getLogger("ZODB.FileStorage")
    logger.addHandler(warnings)
    try:
        storage = FileStorage(path, read_only=read_only)
        try:
            return {
                "used_index": bool(storage._used_index),
                "index": {oid: pos for oid, pos in storage._index.items()},
                "last_tid": storage.lastTransaction(),
                "objects": current_records(storage),
                "new_oid": None if read_only else storage.new_oid(),
                "warnings": warnings.messages,
            }
        finally:
            storage.close()
    finally:
        logger.removeHandler(warnings)


def current_records(storage):
    """oid -> (data, tid), None for deleted objects."""
    records = {}
    for oid in storage._index:
        try:
            records[oid] = storage.load(oid)
        except POSKeyError:
            records[oid] = None
    return records


def dump(client, path):
    """Every transaction in the file, as plain tuples."""
    result = []
    for txn in FileIterator(path):
        records = [(r.oid, r.tid, r.data, r.data_txn) for r in txn]
        result.append((txn.tid, txn.status, txn.user, txn.description, txn.extension_bytes, records))
    return result


def copy_from(client, path):
    """Copies a whole file into the server, as a move to another storage does."""
    source = FileStorage(path, read_only=True)
    try:
        client.storage.copyTransactionsFrom(source)
    finally:
        source.close()


def run_fstest(client, path):
    """Raises where the file is not as it must be."""
    fstest.check(path)


def run_fsrefs(client, path):
    """The complaints of fsrefs: references that lead nowhere."""
    output = io.StringIO()
    with redirect_stdout(output):
        fsrefs.main(path)
    return output.getvalue()


def save_index(client, path):
    """Opens the file and closes it again, which writes its .index."""
    FileStorage(path).close()
