"""Whether two trees of a transcript mean the same: what was recorded, and what the server under test says.

Another server gives other tids and perhaps other oids. What stands for what is found out as they come: each recorded one
for one of ours, from then on everywhere.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from pickletree import Node, Scalar, Tree, shown

ID_BYTES = 8
# Those that mean the same on every server: the root and no transaction; the end of time.
_CONSTANT_IDS = {bytes(8), b"\x7f" + b"\xff" * 7}


@dataclass(frozen=True)
class Rules:
    """What need not be equal, by path: `method.index.key...`, with `*` as in file names."""

    # Only the kind counts; only what strings say; nothing, but that ids which stand for each other are learned; nothing at all.
    free: tuple[str, ...] = ()
    any_kind: tuple[str, ...] = ()
    may_differ: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    # Lists in any order.
    unordered: tuple[str, ...] = ()
    # Lists in any order, in which ours may have more.
    may_grow: tuple[str, ...] = ()
    # Keys of dicts that ours leaves out, or has besides.
    left_out: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    # Neither the spelling nor the difference between a Python 2 string and bytes counts.
    any_spelling: int = 0

    def __or__(self, more: Rules) -> Rules:
        """What either lets pass."""
        return Rules(**{name: value + getattr(more, name) for name, value in vars(self).items()})

    def allow(self, patterns: tuple[str, ...], path: str) -> bool:
        return any(fnmatchcase(path, pattern) for pattern in patterns)


@dataclass
class Bindings:
    """Which of our ids stands for which recorded one."""

    ours: dict[bytes, bytes] = field(default_factory=dict)
    recorded: dict[bytes, bytes] = field(default_factory=dict)

    def bind(self, recorded: bytes, ours: bytes) -> bool:
        """Whether these stand for each other, from now on if they did not yet."""
        if recorded in _CONSTANT_IDS or ours in _CONSTANT_IDS:
            return recorded == ours
        return self.ours.setdefault(recorded, ours) == ours and self.recorded.setdefault(ours, recorded) == recorded

    def copy(self) -> Bindings:
        """For an attempt."""
        return Bindings(dict(self.ours), dict(self.recorded))

    def adopt(self, attempt: Bindings) -> None:
        """The attempt was a good one."""
        self.ours, self.recorded = attempt.ours, attempt.recorded

    def translate(self, message: bytes) -> bytes:
        """What a client would have sent if it had been given our ids: they are as long. To load what is current, ZEO 5 asks for
        what is before the next tid."""
        changed = {recorded: ours for recorded, ours in self.ours.items() if recorded != ours}
        changed |= {_next(recorded): _next(ours) for recorded, ours in changed.items() if recorded[0]}
        changed |= {base64.b64encode(recorded): base64.b64encode(ours) for recorded, ours in changed.items()}
        if not changed:
            return message
        pattern = re.compile(b"|".join(map(re.escape, changed)), re.DOTALL)
        return pattern.sub(lambda match: changed[match[0]], message)


def is_id(value: bytes) -> bool:
    """Oids and tids of this age begin with a low byte; words do not."""
    return len(value) == ID_BYTES and value[0] < 0x20


def _next(tid: bytes) -> bytes:
    return (int.from_bytes(tid, "big") + 1).to_bytes(ID_BYTES, "big")


def _undo_id(value: bytes) -> bytes | None:
    """The tid in the id of a transaction that can be undone."""
    if not re.fullmatch(rb"[A-Za-z0-9+/]{11}=\n?", value):
        return None
    try:
        tid = base64.b64decode(value)
    except binascii.Error:
        return None
    return tid if is_id(tid) else None


def differences(path: str, recorded: Tree, ours: Tree, bindings: Bindings, rules: Rules) -> list[str]:
    """Where they differ; `bindings` learns what stands for what."""
    return list(_differences(path, recorded, ours, bindings, rules))


def _differences(path: str, recorded: Tree, ours: Tree, bindings: Bindings, rules: Rules) -> Iterator[str]:
    def differ(what: str) -> str:
        return f"{path}: {what}: recorded {shown(recorded)}, ours {shown(ours)}"

    if rules.allow(rules.ignored, path):
        return
    if rules.allow(rules.may_differ, path):
        attempt = bindings.copy()
        if not differences("", recorded, ours, attempt, rules):
            bindings.adopt(attempt)
        return
    if rules.allow(rules.any_kind, path):
        if _plain(recorded) != _plain(ours):
            yield differ("another value")
        return
    if _kind(recorded, rules) != _kind(ours, rules):
        yield differ("another kind")
        return
    if rules.allow(rules.free, path):
        return
    if isinstance(recorded, Scalar) and isinstance(ours, Scalar):
        if not _same_scalar(recorded.value, ours.value, bindings):
            yield differ("another value")
        elif recorded.opcode != ours.opcode and not rules.any_spelling:
            yield differ(f"spelled {ours.opcode}, not {recorded.opcode}")
        return
    if recorded.kind == "dict":
        yield from _dict_differences(path, recorded, ours, bindings, rules)
        return
    if rules.allow(rules.unordered + rules.may_grow, path):
        grow = rules.allow(rules.may_grow, path)
        yield from _set_differences(path, recorded, ours, bindings, rules, grow)
        return
    if len(recorded.items) != len(ours.items):
        yield differ("another length")
        return
    if recorded.opcodes != ours.opcodes and not rules.any_spelling:
        yield differ(f"spelled {ours.opcodes}, not {recorded.opcodes}")
    for index, (one, other) in enumerate(zip(recorded.items, ours.items, strict=True)):
        yield from _differences(f"{path}.{index}", one, other, bindings, rules)


def _kind(tree: Tree, rules: Rules) -> str:
    return "str" if rules.any_spelling and tree.kind == "bytes" else tree.kind


def _plain(tree: Tree) -> object:
    value = tree.value if isinstance(tree, Scalar) else tree
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _same_scalar(recorded: object, ours: object, bindings: Bindings) -> bool:
    if not isinstance(recorded, bytes):
        return recorded == ours
    assert isinstance(ours, bytes)
    ids: Callable[[bytes], bytes | None]
    for ids in (lambda value: value if is_id(value) else None, _undo_id):
        one, other = ids(recorded), ids(ours)
        if one is not None and other is not None:
            return bindings.bind(one, other) and len(recorded) == len(ours)
    return recorded == ours


def _dict_differences(path: str, recorded: Node, ours: Node, bindings: Bindings, rules: Rules) -> Iterator[str]:
    """In any order."""
    of_ours = {_key(key, rules): value for key, value in ours.items}
    if recorded.opcodes != ours.opcodes and len(recorded.items) == len(ours.items) and not rules.any_spelling:
        yield f"{path}: spelled {ours.opcodes}, not {recorded.opcodes}"
    for key, value in recorded.items:
        step = f"{path}.{_step(key)}"
        if _key(key, rules) in of_ours:
            yield from _differences(step, value, of_ours.pop(_key(key, rules)), bindings, rules)
        elif not rules.allow(rules.left_out, step):
            yield f"{step}: missing, with this kind of key: recorded {shown(key)}: {shown(value)}"
    for key, value in ours.items:
        step = f"{path}.{_step(key)}"
        if _key(key, rules) in of_ours and not rules.allow(rules.added, step):
            yield f"{step}: added by ours: {shown(key)}: {shown(value)}"


def _key(key: Scalar, rules: Rules) -> tuple[str, object]:
    return (_kind(key, rules), key.value)


def _step(key: Scalar) -> str:
    return key.value.decode("latin-1") if isinstance(key.value, bytes) else str(key.value)


def _set_differences(
    path: str, recorded: Node, ours: Node, bindings: Bindings, rules: Rules, grow: bool
) -> Iterator[str]:
    """Each recorded item has its own among ours; it does not matter how often either names it. What ids stand for must be
    known, or follow from the order."""
    left = list(dict.fromkeys(ours.items))
    for item in dict.fromkeys(recorded.items):
        for candidate in left:
            attempt = bindings.copy()
            if not differences(path, item, candidate, attempt, rules):
                bindings.adopt(attempt)
                left.remove(candidate)
                break
        else:
            yield f"{path}: missing: {shown(item)} in {shown(ours)}"
    if left and not grow:
        yield f"{path}: too many: {', '.join(map(shown, left))}"
