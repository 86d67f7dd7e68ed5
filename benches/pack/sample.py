"""A small database as an application makes it: folders of documents in BTrees, their edits, undos and deletions.

What is deleted hangs together in cycles that nothing refers to any more. Every oid begins with `PREFIX`.
"""

from __future__ import annotations

import itertools
import random
import struct
import uuid
from datetime import datetime, timedelta
from pathlib import Path

import transaction
from BTrees.IOBTree import IOBTree
from BTrees.OIBTree import OIBTree
from BTrees.OOBTree import OOBTree
from persistent import Persistent
from persistent.list import PersistentList
from persistent.mapping import PersistentMapping
from persistent.wref import WeakRef
from ZODB import DB
from ZODB.FileStorage import FileStorage

# The upper six bytes of all oids. They occur nowhere else in the file.
PREFIX = bytes.fromhex("5a96c33ce1a7")
# Of the 65536 that there are. What edits add has its place behind.
OIDS_MOST = 60_000

WORDS = "the of and a pack in is it object that was for on are as with root they at be this have reachable or one".split()


class Folder(Persistent):
    """Documents by name and by number, and how long they are."""

    def __init__(self, title: str, parent: Folder | None) -> None:
        self.title = title
        self.parent = parent
        self.contents = OOBTree()
        self.by_number = IOBTree()
        self.sizes = OIBTree()
        self.log = PersistentList()

    def add(self, name: str, number: int, thing: Persistent, size: int) -> None:
        self.contents[name] = self.by_number[number] = thing
        self.sizes[name] = size


class Document(Persistent):
    """A text with metadata, which knows its folder and other documents."""

    def __init__(self, number: int, folder: Folder, rng: random.Random) -> None:
        self.title = f"Document {number}"
        self.uid = uuid.UUID(int=rng.getrandbits(128)).hex
        self.created = self.modified = datetime(2024, 1, 1) + timedelta(seconds=rng.randrange(10**7))
        self.tags = tuple(rng.sample(WORDS, 3))
        self.text = text(rng)
        self.folder = folder
        self.related: list[Persistent] = []
        self.annotations = PersistentMapping(views=rng.randrange(1000), languages=["en", "de"], owner={"id": rng.choice(WORDS)})
        self.file: Chunk | None = None


class Chunk(Persistent):
    """A piece of a file that is no blob."""

    def __init__(self, data: bytes, following: Chunk | None) -> None:
        self.data = data
        self.next = following


class Note(Persistent):
    """As small as objects get."""

    def __init__(self, number: int) -> None:
        self.number = number


def text(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=min(int(rng.lognormvariate(4.2, 0.9)), 4000)))


class Sample:
    """Makes the file at `path`: about `oids` objects, `garbage` of its bytes for a pack to remove."""

    def __init__(self, path: Path, oids: int, garbage: float, tiny: bool) -> None:
        self.rng = random.Random(1)
        self.tiny = tiny
        self.oids = 0
        self.numbers = itertools.count()
        self.folders: list[Folder] = []
        self.kept: list[Folder] = []  # never deleted, so that others may refer into them
        self.storage = FileStorage(str(path), create=True)
        self.storage.new_oid = self._new_oid
        self.db = DB(self.storage, cache_size=10**6)
        self.connection = self.db.open()
        # Not in the root, which is an object of whoever writes the copies.
        self.site = Folder("Site", None)
        self.connection.add(self.site)
        self._commit("site")

        while self.oids < oids:
            self._add_folder()
        # Nodes of trees were written again and again. Of the other garbage one half is deleted, one replaced.
        created = self.storage.getSize()
        goal = created / (1 - max(0.0, garbage - 0.1) / 2)
        self._delete_folders(int(len(self.folders) * (goal / created - 1)))
        while self.storage.getSize() < goal:
            self._edit()
        self.site_oid = self.site._p_oid
        self.connection.close()
        self.db.close()

    def _new_oid(self) -> bytes:
        self.oids += 1
        return PREFIX + struct.pack(">H", self.oids)

    def _commit(self, note: str) -> None:
        tx = transaction.get()
        tx.setUser(self.rng.choice(WORDS))
        tx.note(note)
        tx.commit()

    def _add_folder(self) -> None:
        number = next(self.numbers)
        folder = Folder(f"Folder {number}", self.site)
        self.site.add(f"folder-{number}", number, folder, 0)
        self.folders.append(folder)
        if number % 5 == 0:
            self.kept.append(folder)
        for _ in range(1000 if self.tiny else self.rng.randrange(10, 200)):
            self._add_note(folder) if self.tiny else self._add_document(folder)
            if self.rng.random() < 0.05:
                self._commit("documents")
        self._commit(f"folder {number}")

    def _add_note(self, folder: Folder) -> None:
        number = next(self.numbers)
        folder.by_number[number] = Note(number)

    def _add_document(self, folder: Folder) -> None:
        number = next(self.numbers)
        document = Document(number, folder, self.rng)
        for other in self.rng.choices((folder, *self.kept), k=self.rng.randrange(4)):
            if other.by_number:
                relation = other.by_number[self.rng.randint(other.by_number.minKey(), other.by_number.maxKey())]
                document.related.append(WeakRef(relation) if self.rng.random() < 0.1 else relation)
        if self.rng.random() < 0.006:
            for _ in range(self.rng.randrange(1, 5)):
                document.file = Chunk(self.rng.randbytes(self.rng.randrange(1 << 12, 1 << 16)), document.file)
        folder.add(f"document-{number}-{document.uid}", number, document, len(document.text))

    def _delete_folders(self, count: int) -> None:
        deletable = [number for number, folder in self.site.by_number.items() if folder not in self.kept]
        for number in self.rng.sample(deletable, count):
            folder = self.site.by_number.pop(number)
            del self.site.contents[f"folder-{number}"], self.site.sizes[f"folder-{number}"]
            self.folders.remove(folder)
            self._commit(f"delete {folder.title}")

    def _edit(self) -> None:
        folder = self.rng.choice(self.folders)
        numbers = list(folder.by_number)
        for number in self.rng.sample(numbers, min(len(numbers), self.rng.randrange(1, 20))):
            thing = folder.by_number[number]
            if self.tiny:
                thing.number += 1
                continue
            thing.text = text(self.rng)
            thing.modified += timedelta(days=1)
            thing.annotations["views"] += self.rng.randrange(100)
            folder.sizes[f"document-{number}-{thing.uid}"] = len(thing.text)
        folder.log.append((len(folder.log), folder.title))
        self._commit("edit")
        if self.rng.random() < 0.02:
            self.db.undo(self.db.undoLog(0, 1)[0]["id"])
            self._commit("undo")
