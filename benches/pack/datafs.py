"""Writes a large `Data.fs` with real pickles, in a minute: a sample over and over.

The sample is what an application has made with ZODB. Its transactions are copied, each time with other oids, tids
and positions; the copies are interleaved piece by piece, and a root that ZODB has written, too, refers to them.
"""

from __future__ import annotations

import argparse
import json
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import transaction
from BTrees.OOBTree import OOBTree
from ZODB import DB
from ZODB.FileStorage import FileStorage
from ZODB.scripts import fsrefs, fstest
from ZODB.utils import p64

from sample import OIDS_MOST, PREFIX, Folder, Sample

MAGIC = b"FS30"
TRANSACTION = struct.Struct(">8sQcHHH")
RECORD = struct.Struct(">8sQQQHQ")
REVISION_OFFSET = 8
REVISION = struct.Struct(">QQQ")  # tid, previous revision and transaction of a record
U64 = struct.Struct(">Q")

PIECE_BYTES = 1 << 20
FIRST_TID = ((2024 - 1900) * 12 * 31 * 24 * 60) << 32  # 2024-01-01
TID_STEP = (1 << 32) // 600  # a tenth of a second

Place = tuple[int, int]  # a piece, and an offset in it


@dataclass
class Piece:
    """Transactions that are copied together."""

    data: bytes = b""
    transactions: list[int] = field(default_factory=list)
    # Offset, number and offset of the transaction, previous revision.
    records: list[tuple[int, int, int, Place | None]] = field(default_factory=list)
    pointers: list[tuple[int, Place]] = field(default_factory=list)


def transactions(data: bytes) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """Begin and end of each, and the places and data lengths of its records."""
    at = len(MAGIC)
    while at < len(data):
        _, length, _, user, description, extension = TRANSACTION.unpack_from(data, at)
        record, end = at + TRANSACTION.size + user + description + extension, at + length
        records = []
        while record < end:
            *_, size = RECORD.unpack_from(data, record)
            records.append((record, size))
            record += RECORD.size + (size or U64.size)
        yield at, end + U64.size, records
        at = end + U64.size


def cut(data: bytes, begin: int) -> list[Piece]:
    """The transactions from number `begin` on."""
    pieces = [Piece()]
    places: dict[int, Place] = {0: (0, 0)}
    start = None
    for at, end, records in list(transactions(data))[begin:]:
        if start is None or at - start > PIECE_BYTES:
            start = at
            pieces.append(Piece())
        piece = pieces[-1]
        piece.data = data[start:end]
        piece.transactions.append(at - start)
        for record, size in records:
            places[record] = len(pieces) - 1, record - start
            _, _, previous, _, _, _ = RECORD.unpack_from(data, record)
            piece.records.append((record - start, len(piece.transactions) - 1, at - start, places[previous] if previous else None))
            if not size:
                (pointer,) = U64.unpack_from(data, record + RECORD.size)
                if pointer:
                    piece.pointers.append((record - start + RECORD.size, places[pointer]))
    return pieces


class Writer:
    """The new file, and how far its tids are."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.tid = FIRST_TID
        file.write(MAGIC)

    def write(self, number: int, piece: Piece, bases: dict[int, int], prefix: bytes = PREFIX) -> None:
        """Writes `piece` with other oids; `bases` says where the copies of earlier pieces with these oids are."""
        base = bases[number] = self.file.tell()
        data = bytearray(piece.data.replace(PREFIX, prefix))
        for nth, at in enumerate(piece.transactions):
            U64.pack_into(data, at, self.tid + nth * TID_STEP)
        for at, nth, begin, previous in piece.records:
            previous_at = bases[previous[0]] + previous[1] if previous else 0
            REVISION.pack_into(data, at + REVISION_OFFSET, self.tid + nth * TID_STEP, previous_at, base + begin)
        for at, (pointed, offset) in piece.pointers:
            U64.pack_into(data, at, bases[pointed] + offset)
        self.tid += len(piece.transactions) * TID_STEP
        self.file.write(data)


def root(path: Path, site_oids: list[bytes]) -> bytes:
    """A database of which only the way to the sites is there."""
    db = DB(FileStorage(str(path), create=True))
    connection = db.open()
    sites = connection.root()["sites"] = OOBTree()
    for number, oid in enumerate(site_oids):
        site = Folder.__new__(Folder)
        site._p_oid, site._p_jar = oid, connection
        sites[f"site-{number:05}"] = site
    transaction.commit()
    db.close()
    return path.read_bytes()


def write(path: Path, objects: int, garbage: float, tiny: bool) -> int:
    """Returns how many records there are."""
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        sample_path = Path(directory) / "sample.fs"
        sample = Sample(sample_path, min(objects, OIDS_MOST), garbage, tiny)
        prefixes = [p64(n + 1)[2:] for n in range(-(-objects // sample.oids))]
        # The first transaction has but the root.
        pieces = cut(sample_path.read_bytes(), 1)
        (_, *head) = cut(root(Path(directory) / "root.fs", [prefix + sample.site_oid[6:] for prefix in prefixes]), 0)
    with path.open("wb") as file:
        writer = Writer(file)
        bases: dict[int, int] = {}
        for number, piece in enumerate(head, 1):
            writer.write(number, piece, bases)
        copies: list[dict[int, int]] = [{} for _ in prefixes]
        for number, piece in enumerate(pieces):
            for prefix, bases in zip(prefixes, copies):
                writer.write(number, piece, bases, prefix)
    return sum(len(piece.records) for piece in (*head, *pieces * len(prefixes)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--objects", type=int, default=2_000_000, help="at least so many")
    parser.add_argument("--garbage", type=float, default=0.3, help="about this part of the bytes is for a pack to remove")
    parser.add_argument("--tiny", action="store_true", help="objects of some twenty bytes instead of documents")
    parser.add_argument("--check", action="store_true", help="look for damage with fstest, and for dangling references with fsrefs")
    options = parser.parse_args()
    records = write(options.path, options.objects, options.garbage, options.tiny)
    # Writes the index, too.
    storage = FileStorage(str(options.path))
    print(json.dumps({"objects": len(storage), "records": records, "bytes": storage.getSize()}))
    storage.close()
    if options.check:
        fstest.check(str(options.path))
        fsrefs.main(str(options.path))


if __name__ == "__main__":
    main()
