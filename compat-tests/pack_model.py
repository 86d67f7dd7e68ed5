"""What our pack has to leave, byte by byte: a second, naive implementation of the rules, on files held in memory.

It is Python's pack but for the differences of the ledger, and tells which of them played a part. Where none did,
Python's own pack has to leave the same bytes: that is how the model is held against the original.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from pack_records import python_reads, references_of

_TRANSACTION = struct.Struct(">8sQcHHH")
_RECORD = struct.Struct(">8s8sQQHQ")
_ROOT = bytes(8)


@dataclass
class Record:
    position: int
    oid: bytes
    tid: bytes
    data: bytes
    back: int


@dataclass
class Transaction:
    tid: bytes
    status: bytes
    header: bytes
    end: int
    records: list[Record]


@dataclass
class Packed:
    """The new file, or None if there is nothing to do; whether that is an error; the differences that mattered."""

    data: bytes | None
    differences: set[str] = field(default_factory=set)
    refused: bool = False


def transactions(data: bytes) -> list[Transaction]:
    """All of a file."""
    found = []
    position = 4
    while position < len(data):
        tid, length, status, user, description, extension = _TRANSACTION.unpack_from(data, position)
        at = position + _TRANSACTION.size + user + description + extension
        transaction = Transaction(tid, status, data[position:at], position + length + 8, [])
        while at < position + length:
            oid, serial, _, _, _, size = _RECORD.unpack_from(data, at)
            body = data[at + _RECORD.size :][: size or 8]
            back = 0 if size else int.from_bytes(body, "big")
            transaction.records.append(Record(at, oid, serial, body if size else b"", back))
            at += _RECORD.size + len(body)
        found.append(transaction)
        position = transaction.end
    return found


def pack(data: bytes, stop: bytes, gc: bool) -> Packed:
    """Packs to the tid `stop`."""
    every = transactions(data)
    split = next((n for n, transaction in enumerate(every) if transaction.tid > stop), len(every))
    head, rest = every[:split], every[split:]
    if all(transaction.status == b"p" for transaction in [*head, *(rest[:1] or head[-1:])]):
        return Packed(None)
    file = _File(every)
    current = _current(head)
    if gc and current and _ROOT not in current:
        return Packed(None, refused=True)
    kept, differences = _kept(file, head, rest, current, gc)
    # Python looks for what a record leads back to by tid and oid, and takes the first that it finds.
    if any(record.back in file.stored_again for transaction in rest for record in transaction.records):
        differences.add("pack-finds-the-wrong-record")
    output = _Output(data[:4], file)
    for transaction in head:
        records = [record for record in transaction.records if record.position in kept]
        if records:
            output.packed(transaction, records)
        elif transaction is every[-1]:
            differences.add("pack-loses-newest")
            output.packed(transaction, [])
    if len(output.data) == (head[-1].end if head else 4):
        return Packed(None, differences)
    for transaction in rest:
        output.copied(transaction)
    return Packed(bytes(output.data), differences)


@dataclass
class Removed:
    """Blobs that a pack leaves out."""

    # (oid, tid) of those that go and of those that stay.
    revisions: set[tuple[bytes, bytes]]
    live: set[tuple[bytes, bytes]]
    # Objects of which no revision up to the pack time stays. Python takes them for gone altogether.
    objects: set[bytes]


def removed(before: bytes, after: bytes, stop: bytes) -> Removed:
    """What goes with a pack that makes `after` of `before`."""
    old, new = (
        {(record.oid, record.tid) for transaction in transactions(data) for record in transaction.records}
        for data in (before, after)
    )
    packed = {oid for oid, tid in new if tid <= stop}
    return Removed(old - new, new, {oid for oid, tid in old - new if oid not in packed})


class _File:
    """Records by position."""

    def __init__(self, every: list[Transaction]) -> None:
        self._records = {}
        # The records whose transaction has an earlier one of the same object.
        self.stored_again: set[int] = set()
        for transaction in every:
            seen = set()
            for record in transaction.records:
                self._records[record.position] = record
                if record.oid in seen:
                    self.stored_again.add(record.position)
                seen.add(record.oid)

    def at(self, position: int) -> Record:
        return self._records[position]

    def data(self, record: Record) -> bytes:
        """The data, or b"" where the object was deleted or its creation undone."""
        while record.back:
            record = self.at(record.back)
        return record.data


class _Marking:
    """The revisions that something leads to, as of the pack time."""

    def __init__(self, file: _File, current: dict[bytes, Record]) -> None:
        self._file = file
        self.current = current
        self.kept: set[int] = set()
        self.dangling = self.unreadable = self.python_gives_up = False

    def reached(self, oid: bytes) -> bool:
        return oid in self.current and self.current[oid].position in self.kept

    def follow(self, oids: tuple[bytes, ...]) -> None:
        """Keeps objects and all they lead to."""
        todo = list(oids)
        while todo:
            oid = todo.pop()
            if oid not in self.current:
                self.dangling = True
            elif not self.reached(oid):
                self.kept.add(self.current[oid].position)
                todo += self.references(self.current[oid])

    def references(self, record: Record) -> tuple[bytes, ...]:
        data = self._file.data(record)
        if not data:
            return ()
        references = references_of(data)
        self.unreadable |= references is None
        self.python_gives_up |= not python_reads(data)
        return references or ()


def _current(head: list[Transaction]) -> dict[bytes, Record]:
    """The objects as of the pack time."""
    current: dict[bytes, Record] = {}
    for transaction in head:
        for record in transaction.records:
            if record.data or record.back:
                current[record.oid] = record
            else:
                current.pop(record.oid, None)
    return current


def _kept(
    file: _File, head: list[Transaction], rest: list[Transaction], current: dict[bytes, Record], gc: bool
) -> tuple[set[int], set[str]]:
    """The positions of the records that stay, and the differences that this took."""
    packed_to = head[-1].end if head else 4
    later = [record for transaction in rest for record in transaction.records]
    pointed_at = [file.at(record.back) for record in later if 0 < record.back < packed_to]
    everything = {record.position for record in (*current.values(), *pointed_at)}
    if not gc:
        lost = everything - {record.position for record in current.values()}
        return everything, {"pack-without-gc-loses-revisions"} if lost else set()

    marking = _Marking(file, current)
    if current:
        marking.follow((_ROOT,))
    # Of what was garbage Python keeps the first revision that is named without following it.
    garbage = _first_of_each(record for record in pointed_at if not marking.reached(record.oid))
    for record in pointed_at:
        if record not in garbage:
            marking.kept.add(record.position)
            marking.follow(marking.references(record))
    differences = {"pack-dies-of-dangling"} if marking.dangling else set()
    if marking.python_gives_up:
        differences.add("pack-dies-of-unreadable")
    # Python goes no further, and takes such an old revision for the only one.
    if any(marking.reached(record.oid) for record in garbage):
        differences.add("pack-loses-relinked")
    marking.kept |= {record.position for record in garbage}
    as_python = len(marking.kept)
    for record in (*garbage, *later):
        marking.follow(tuple(oid for oid in marking.references(record) if oid in current))
    if len(marking.kept) > as_python:
        differences.add("pack-loses-relinked")
    if marking.unreadable:
        return everything, differences | {"pack-dies-of-unreadable"}
    return marking.kept, differences


def _first_of_each(records: Iterable[Record]) -> list[Record]:
    first: dict[bytes, Record] = {}
    for record in records:
        first.setdefault(record.oid, record)
    return list(first.values())


class _Output:
    """The new file."""

    def __init__(self, magic: bytes, file: _File) -> None:
        self.data = bytearray(magic)
        self._file = file
        self._index: dict[bytes, int] = {}
        # Old position -> new one.
        self._moved: dict[int, int] = {}

    def packed(self, transaction: Transaction, records: list[Record]) -> None:
        """A transaction from before the pack time: what is left of it, data in place of back pointers."""
        start = len(self.data)
        self.data += transaction.header
        for record in records:
            self._record(record, start, 0, self._file.data(record), 0)
            self._index[record.oid] = self._moved[record.position]
        length = len(self.data) - start
        self.data[start + 8 : start + 17] = length.to_bytes(8, "big") + b"p"
        self.data += length.to_bytes(8, "big")

    def copied(self, transaction: Transaction) -> None:
        """A later transaction: as it is, with its pointers moved."""
        start = len(self.data)
        self.data += transaction.header
        for record in transaction.records:
            back = self._moved[record.back] if record.back else 0
            self._record(record, start, self._index.get(record.oid, 0), record.data, back)
        self._index |= {record.oid: self._moved[record.position] for record in transaction.records}
        self.data += (len(self.data) - start).to_bytes(8, "big")

    def _record(self, record: Record, start: int, previous: int, data: bytes, back: int) -> None:
        self._moved[record.position] = len(self.data)
        self.data += _RECORD.pack(record.oid, record.tid, previous, start, 0, len(data))
        self.data += data or back.to_bytes(8, "big")
