"""Random histories to be packed, written by Python's FileStorage with the tids of a clock of its own.

One seed gives one history, byte by byte. It is decided while it is written, since only Python knows what
it will refuse. What it may hold beyond changes, undo, deletions and garbage is the history's `temper`:

    calm        every reference leads somewhere, and what became garbage stays garbage, but for undo
    relinking   references to what was garbage come back
    odd         references that lead nowhere, too, and records that nobody can read
"""

from __future__ import annotations

import base64
import logging
import random
from pathlib import Path

from ZODB.BaseStorage import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.POSException import POSError, POSKeyError
from ZODB.TimeStamp import TimeStamp
from ZODB.utils import load_current, p64, u64, z64

import pack_records

TEMPERS = ("calm", "calm", "calm", "relinking", "odd")
# Blobs stay blobs.
_BLOBS = (0x20, 0x21, 0x1_0022)
_NUMBERS = (*range(12), 0x0A, 0x7F, 0x85, 0xFFFF, 0x1_0000, 0x3_0000_0001, *_BLOBS)
_MORNING = TimeStamp(2021, 1, 1, 0, 0, 0)
_SEEN = 12  # that many transactions back may be undone

# Undo asks for conflict resolution, which complains of records that it cannot read.
logging.getLogger("ZODB.ConflictResolution").setLevel(logging.CRITICAL)
logging.getLogger("ZODB.FileStorage").setLevel(logging.CRITICAL)


def minute_tid(minute: int) -> bytes:
    return p64(u64(_MORNING.raw()) + (minute << 32))


def minute_time(minute: float) -> float:
    """Seconds since the epoch, as `pack` wants them."""
    return _MORNING.timeTime() + 60 * minute


class History:
    """A data file that grows, and its blobs."""

    def __init__(self, path: Path, blob_dir: Path, seed: int) -> None:
        self.path = path
        self.blob_dir = blob_dir
        self.choice = random.Random(seed)
        self.temper = self.choice.choice(TEMPERS)
        self.minute = 0
        self.revisions: list[tuple[bytes, bytes]] = []
        self._undoable: list[bytes] = []

    def grow(self, count: int) -> None:
        """`count` transactions more."""
        storage = FileStorage(str(self.path), blob_dir=str(self.blob_dir))
        try:
            if self.minute == 0:
                self._transaction(storage, self._creation)
            for _ in range(count):
                self._transaction(storage, self._kind())
        finally:
            storage.close()

    def pack_times(self) -> list[float]:
        """One to three times, in any order: at, between, before and after the transactions, and far in the future."""
        times = [
            self.choice.randint(1, self.minute),
            self.choice.randint(1, self.minute),
            self.choice.randint(1, self.minute) + 0.5,
            self.choice.randint(max(1, self.minute - 4), self.minute),
            0.5,
            self.minute,
            self.minute + 0.5,
            60 * 24 * 365 * 30,
        ]
        return [minute_time(self.choice.choice(times)) for _ in range(self.choice.choice([1, 1, 2, 3]))]

    # one transaction

    def _transaction(self, storage: FileStorage, steps) -> None:
        # An hour now and then, so that the calendar is not all that differs between tids.
        self.minute += self.choice.choice([1, 1, 1, 1, 2, 60])
        tid = minute_tid(self.minute)
        meta = TransactionMetaData(self._words(), self._words(), self.choice.choice([b"", b"", b"}U\x01aK\x01s."]))
        status = "p" if self.choice.random() < 0.02 or (self.minute < 4 and self.choice.random() < 0.2) else " "
        storage.tpc_begin(meta, tid, status)
        try:
            steps(storage, meta)
            if self.choice.random() < 0.04:
                storage.tpc_vote(meta)
                storage.tpc_abort(meta)
                return
            storage.tpc_vote(meta)
        except POSError:
            storage.tpc_abort(meta)
            return
        storage.tpc_finish(meta)
        self._undoable = [*self._undoable, tid][-_SEEN:]
        self.revisions += [(record.oid, record.tid) for txn in storage.iterator(tid, tid) for record in txn]

    def _words(self) -> bytes:
        kind = self.choice.random()
        if kind < 0.03:
            return b"long " * self.choice.randint(1_000, 13_000)
        return self.choice.choice([b"", b"ada", "/ zoë".encode(), b"d" * self.choice.randint(1, 40)])

    def _kind(self):
        kinds = [self._stores, self._undo, self._delete, self._nothing, self._restore, self._twice]
        return self.choice.choices(kinds, [52, 24, 6, 4, 8, 6])[0]

    def _creation(self, storage: FileStorage, meta) -> None:
        if self.temper != "odd" or self.choice.random() < 0.9:
            storage.store(z64, z64, self._record(storage, []), "", meta)
        else:
            storage.store(p64(1), z64, self._record(storage, []), "", meta)

    def _stores(self, storage: FileStorage, meta) -> None:
        """Some objects, old and new, that may refer to each other, and often the root."""
        oids = [p64(number) for number in self.choice.sample(_NUMBERS, self.choice.randint(1, 4))]
        if self.choice.random() < 0.6 and z64 not in oids:
            oids.append(z64)
        for oid in oids:
            self._store(storage, meta, oid, _serial(storage, oid), oids)

    def _twice(self, storage: FileStorage, meta) -> None:
        """The same object more than once in one transaction."""
        oid = p64(self.choice.choice(_NUMBERS))
        serial = _serial(storage, oid)
        for _ in range(self.choice.randint(2, 3)):
            self._store(storage, meta, oid, serial, [oid])
            self._maybe_store(storage, meta, oid)

    def _maybe_store(self, storage: FileStorage, meta, but: bytes) -> None:
        oid = p64(self.choice.choice(_NUMBERS))
        if oid != but and self.choice.random() < 0.5:
            self._store(storage, meta, oid, _serial(storage, oid), [oid])

    def _store(self, storage: FileStorage, meta, oid: bytes, serial: bytes, fresh: list[bytes]) -> None:
        if u64(oid) in _BLOBS:
            storage.storeBlob(oid, serial, pack_records.BLOB, self._content(storage), "", meta)
        else:
            storage.store(oid, serial, self._record(storage, fresh), "", meta)

    def _content(self, storage: FileStorage) -> str:
        """A file with the content of a blob, for the storage to take."""
        path = Path(storage.temporaryDirectory(), "content")
        path.write_bytes(self.choice.randbytes(self.choice.randint(0, 100)))
        return str(path)

    def _undo(self, storage: FileStorage, meta) -> None:
        recent = self._undoable[-self.choice.choice([1, 2, 3, _SEEN]) :]
        for tid in sorted(self.choice.sample(recent, min(len(recent), self.choice.choice([1, 1, 1, 2]))), reverse=True):
            storage.undo(base64.encodebytes(tid).rstrip(b"\n"), meta)

    def _delete(self, storage: FileStorage, meta) -> None:
        """Objects that nothing refers to, unless the history is odd."""
        existing = _current(storage)
        if self.temper != "odd":
            referred = {ref for data in existing.values() for ref in pack_records.references_of(data) or ()}
            existing = {oid: data for oid, data in existing.items() if oid not in referred and oid != z64}
        for oid in self.choice.sample(sorted(existing), min(len(existing), self.choice.choice([1, 1, 3]))):
            storage.deleteObject(oid, _serial(storage, oid), meta)

    def _nothing(self, storage: FileStorage, meta) -> None:
        pass

    def _restore(self, storage: FileStorage, meta) -> None:
        """As copies from another storage are written, with a hint at where the same data is."""
        tid = minute_tid(self.minute)
        for number in self.choice.sample(_NUMBERS, self.choice.randint(1, 2)):
            oid = p64(number)
            revisions = [at for known, at in self.revisions if known == oid]
            is_blob = number in _BLOBS
            data, same_as = pack_records.BLOB if is_blob else self._record(storage, [oid]), None
            if revisions and self.choice.random() < 0.7:
                same_as = self.choice.choice(revisions)
                try:
                    old = storage.loadSerial(oid, same_as)
                except POSKeyError:
                    continue
                if self.temper != "calm" or self._leads_somewhere(storage, old):
                    data = old
            if is_blob:
                storage.restoreBlob(oid, tid, data, self._content(storage), same_as, meta)
            else:
                storage.restore(oid, tid, data, "", same_as, meta)

    # what is referred to

    def _leads_somewhere(self, storage: FileStorage, record: bytes) -> bool:
        return set(pack_records.references_of(record) or ()) <= _reachable(storage).keys()

    def _record(self, storage: FileStorage, fresh: list[bytes]) -> bytes:
        existing = _current(storage) if self.temper == "relinking" else _reachable(storage)
        candidates = sorted({*existing, *fresh})
        if self.temper == "odd" and self.choice.random() < 0.1:
            candidates = [p64(number) for number in _NUMBERS]
        refs = self.choice.sample(candidates, min(len(candidates), self.choice.choice([0, 1, 1, 2, 3, 6])))
        others = [p64(number) for number in self.choice.sample(_NUMBERS, self.choice.choice([0, 0, 0, 1, 2]))]
        return pack_records.make(self.choice, refs, others, odd=self.temper == "odd")


def _serial(storage: FileStorage, oid: bytes) -> bytes:
    try:
        return storage.getTid(oid)
    except POSKeyError:
        position = storage._index.get(oid)
        return storage._read_data_header(position).tid if position else z64


def _current(storage: FileStorage) -> dict[bytes, bytes]:
    """The objects that are there."""
    records = {}
    for oid in storage._index:
        try:
            records[oid] = load_current(storage, oid)[0]
        except POSKeyError:
            continue
    return records


def _reachable(storage: FileStorage) -> dict[bytes, bytes]:
    """The objects that the root leads to."""
    records = _current(storage)
    found, todo = {}, [z64]
    while todo:
        oid = todo.pop()
        if oid in records and oid not in found:
            found[oid] = records[oid]
            todo += pack_records.references_of(records[oid]) or ()
    return found
