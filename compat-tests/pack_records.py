"""Object records with references, in every spelling that a data file may hold.

Who makes a record knows what it refers to: `references_of` is the truth that both servers are held against, and
does not depend on anybody's unpickler.
"""

from __future__ import annotations

import pickle
import random
from functools import cache
from io import BytesIO
from types import SimpleNamespace

from BTrees.OOBTree import OOBTree
from persistent.list import PersistentList
from persistent.mapping import PersistentMapping
from persistent.wref import WeakRef
from ZODB.serialize import ObjectWriter, referencesf
from zodbpickle import pickle as zodbpickle

_CLASSES = (PersistentMapping, PersistentList, OOBTree)
_CLASS_PICKLES = (
    b"cpersistent.mapping\nPersistentMapping\n.",
    b"(cpersistent.mapping\nPersistentMapping\nNt.",
    b"(cpersistent.mapping\nPersistentMapping\n)t.",
    b"((U\x12persistent.mappingU\x11PersistentMappingtNt.",
    b"((U\x12persistent.mappingU\x11PersistentMappingt(K\x01U\x01att.",
)

BLOB = b"\x80\x03cZODB.blob\nBlob\nq\x00.\x80\x03N."

# record -> oids of what it refers to so that it must stay, or None if nobody can tell.
_REFERENCES: dict[bytes, tuple[bytes, ...] | None] = {BLOB: ()}


def references_of(record: bytes) -> tuple[bytes, ...] | None:
    return _REFERENCES[record]


@cache
def python_reads(record: bytes) -> bool:
    """Whether Python's own scanner gets through a record; it must find then what is there."""
    try:
        found = referencesf(record)
    except Exception:
        return False
    assert sorted(found) == sorted(references_of(record)), record
    return True


class _Jar:
    """As much of a connection as ObjectWriter looks at."""

    def __init__(self, name: str, databases: dict) -> None:
        self._db = databases[name] = SimpleNamespace(database_name=name, databases=databases, xrefs=True)
        self._connections = {}

    def db(self):
        return self._db

    def get_connection(self, name: str):
        return self._connections[name]

    def join(self, other: _Jar) -> None:
        self._connections[other.db().database_name] = other

    def _implicitlyAdding(self, oid: bytes) -> bool:
        return False

    def new_oid(self) -> bytes:
        raise AssertionError("every object has an oid already")


_DATABASES: dict = {}
_HERE, _ELSEWHERE = _Jar("here", _DATABASES), _Jar("elsewhere", _DATABASES)
_HERE.join(_ELSEWHERE)


def _ghost(jar: _Jar, oid: bytes, cls: type) -> object:
    ghost = cls()
    ghost._p_jar, ghost._p_oid = jar, oid
    return ghost


def written_by_zodb(choice: random.Random, refs: list[bytes], others: list[bytes]) -> bytes:
    """What ZODB's own ObjectWriter makes of a mapping with references of all kinds. `others` must not count."""
    values: list[object] = [_ghost(_HERE, oid, choice.choice(_CLASSES)) for oid in refs]
    for oid in others:
        if choice.random() < 0.5:
            values.append(WeakRef(_ghost(choice.choice([_HERE, _ELSEWHERE]), oid, PersistentMapping)))
        else:
            values.append(_ghost(_ELSEWHERE, oid, choice.choice(_CLASSES)))
    values.append(choice.randbytes(choice.randint(0, 200)))
    choice.shuffle(values)
    obj = PersistentMapping({f"k{n}": value for n, value in enumerate(values)})
    obj._p_jar, obj._p_oid = _HERE, bytes(8)
    record = ObjectWriter(obj).serialize(obj)
    for value in (obj, *values):
        if hasattr(value, "_p_deactivate"):
            value._p_jar = None
    return record


class _Reference:
    def __init__(self, persistent_id: object) -> None:
        self.persistent_id = persistent_id


def _dump(module, protocol: int, *values: object) -> bytes:
    """Two pickles of one pickler, as ZODB's: the second uses the memo of the first."""

    def persistent_id(value: object) -> object:
        return value.persistent_id if isinstance(value, _Reference) else None

    out = BytesIO()
    if module is pickle:
        pickler = type("Pickler", (pickle.Pickler,), {"persistent_id": staticmethod(persistent_id)})(out, protocol)
    else:
        pickler = module.Pickler(out, protocol)
        pickler.persistent_id = persistent_id
    for value in values:
        pickler.dump(value)
    return out.getvalue()


def _state(choice: random.Random, ids: list[object]) -> dict:
    values = [*map(_Reference, ids), choice.randbytes(3).hex(), choice.getrandbits(70), None, True, 1.5]
    choice.shuffle(values)
    return {"data": {f"k{n}": value for n, value in enumerate(values)}}


def bare_oids(choice: random.Random, refs: list[bytes], others: list[bytes]) -> bytes:
    """References without a class, weak ones of the old form, and those of classes with arguments to other databases."""
    ids: list[object] = [*refs]
    ids += [choice.choice([[oid], ["w", (oid,)], ["w", (oid, "x")], ["n", ("x", oid)]]) for oid in others]
    return _dump(zodbpickle, 3, PersistentMapping, _state(choice, ids))


def text_oids(choice: random.Random, refs: list[bytes], others: list[bytes]) -> bytes:
    """Protocols without bytes: the oid is a text, a line of its own in protocol 0. Only for oids of plain ASCII."""
    return _dump(zodbpickle, choice.randrange(3), PersistentMapping, _state(choice, [oid.decode() for oid in refs]))


def python_2(choice: random.Random, refs: list[bytes], others: list[bytes]) -> bytes:
    """As Python 2 wrote them: class and state in protocol 1, oids as str."""
    state = b"}q\x02U\x04dataq\x03}q\x04("
    for n, oid in enumerate([*refs, *others]):
        spelled = b"U\x08" + oid
        if n >= len(refs):
            spelled = choice.choice([b"]U\x01wa(" + spelled + b"ta", b"]" + spelled + b"a"])
        elif choice.random() < 0.6:
            spelled = b"(" + spelled + b"cpersistent.mapping\nPersistentMapping\nt"
        state += b"U\x02k%d" % (n % 10) + spelled + b"Q"
    return choice.choice(_CLASS_PICKLES) + state + b"us."


def class_is_persistent(choice: random.Random, refs: list[bytes], others: list[bytes]) -> bytes:
    """The class itself is an object of the database, as ZClasses were."""
    first = _Reference((refs[0], PersistentMapping)) if refs else PersistentMapping
    return _dump(zodbpickle, 3, (first, None), _state(choice, [*refs[1:]]))


def framed(choice: random.Random, refs: list[bytes], others: list[bytes]) -> bytes:
    """Protocols 4 and 5. No ZODB writes them, and none can read them."""
    ids: list[object] = [(oid, PersistentMapping) for oid in refs] + [["w", (oid,)] for oid in others]
    return _dump(pickle, choice.choice([4, 5]), PersistentMapping, _state(choice, ids))


def unreadable(choice: random.Random, refs: list[bytes], others: list[bytes]) -> bytes:
    """Not what any unpickler reads to its end."""
    whole = written_by_zodb(choice, refs, others)
    return choice.choice([b".x\x9c" + whole, whole[:-2], b"no pickle " + choice.randbytes(4), whole[:-1] + b"\xff."])


FORMS = (written_by_zodb, written_by_zodb, written_by_zodb, bare_oids, text_oids, python_2, class_is_persistent)
ODD_FORMS = (framed, unreadable)


def make(choice: random.Random, refs: list[bytes], others: list[bytes], odd: bool = False) -> bytes:
    """A record that refers to `refs`, and in ways that do not count to `others`."""
    forms = list(FORMS)
    plain = all(byte < 0x80 and byte != 0x0A for oid in (*refs, *others) for byte in oid)
    if not plain:
        forms.remove(text_oids)
    if not plain and not odd:
        forms.remove(python_2)
    form = choice.choice(ODD_FORMS) if odd and choice.random() < 0.15 else choice.choice(forms)
    record = form(choice, refs, others)
    _REFERENCES[record] = None if form is unreadable else tuple(refs)
    return record
