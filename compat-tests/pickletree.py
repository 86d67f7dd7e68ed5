"""Pickles as trees, read without making any object of them.

What a value is and how it is written are both kept: which of Python's strings, and which opcode. Calls of functions and
states of objects are nodes like tuples and lists. Only what servers of ZEO write is understood; a memo is not.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import Any

# Kinds of scalars, by opcode. `str` is the one of Python 2, which is neither text nor bytes.
_SCALARS = {
    "SHORT_BINSTRING": "str",
    "BINSTRING": "str",
    "BINUNICODE": "text",
    "SHORT_BINBYTES": "bytes",
    "BINBYTES": "bytes",
    "BININT": "int",
    "BININT1": "int",
    "BININT2": "int",
    "INT": "int",
    "LONG": "int",
    "LONG1": "int",
    "BINFLOAT": "float",
    "GLOBAL": "global",
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


class NotAPickle(Exception):
    """Bytes that are no pickle, or hold what no server of ZEO writes."""


@dataclass(frozen=True)
class Scalar:
    """A string, a number, a constant, or the name of a class or function."""

    kind: str
    opcode: str
    value: Any


@dataclass(frozen=True)
class Node:
    """A tuple, list, dict (of pairs), call (function, arguments) or object (call, state)."""

    kind: str
    opcodes: tuple[str, ...]
    items: tuple[Any, ...]


Tree = Scalar | Node


def is_for_python_2(pickle: bytes) -> bool:
    """Whether cPickle of Python 2 can read it."""
    later = {"SHORT_BINBYTES", "BINBYTES", "SHORT_BINUNICODE", "FRAME", "MEMOIZE", "STACK_GLOBAL"}
    return not any(
        opcode.name in later or (opcode.name == "PROTO" and argument > 2)
        for opcode, argument, _ in pickletools.genops(pickle)
    )


def read(pickle: bytes, *, is_strict: bool = True) -> Tree:
    """The tree of a pickle. Unpicklers take what was pushed last: a strict reader accepts nothing else below it."""
    stack: list[Any] = []
    try:
        for opcode, argument, _ in pickletools.genops(pickle):
            _step(stack, opcode.name, argument)
    except (ValueError, IndexError) as error:
        raise NotAPickle(f"{pickle[:60]!r}: {error}") from error
    if len(stack) != 1 and (is_strict or not stack):
        raise NotAPickle(f"{len(stack)} values are left of {pickle[:60]!r}")
    return _frozen(stack[-1])


class _Mark:
    """On the stack below the items of a container."""


class _Growing:
    """A list or dict that is being filled."""

    def __init__(self, kind: str, opcode: str) -> None:
        self.kind = kind
        self.opcodes = [opcode]
        self.items: list[Any] = []

    def extend(self, opcode: str, items: list[Any]) -> None:
        self.opcodes.append(opcode)
        if self.kind == "dict":
            items = list(zip(items[::2], items[1::2], strict=True))
        self.items.extend(items)


def _step(stack: list[Any], name: str, argument: Any) -> None:
    if name in _SCALARS:
        stack.append(_scalar(name, argument))
    elif name in _CONSTANTS:
        stack.append(Scalar("none" if name == "NONE" else "bool", name, _CONSTANTS[name]))
    elif name == "MARK":
        stack.append(_Mark())
    elif name in ("EMPTY_LIST", "EMPTY_DICT"):
        stack.append(_Growing(name[6:].lower(), name))
    elif name == "EMPTY_TUPLE":
        stack.append(Node("tuple", (name,), ()))
    elif name == "TUPLE":
        stack.append(Node("tuple", (name,), tuple(map(_frozen, _since_mark(stack)))))
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
        items = _pop(stack, int(name[-1]))
        stack.append(Node("tuple", (name,), tuple(map(_frozen, items))))
    elif name in ("APPEND", "SETITEM"):
        items = _pop(stack, 1 if name == "APPEND" else 2)
        stack[-1].extend(name, [_frozen(item) for item in items])
    elif name in ("APPENDS", "SETITEMS"):
        items = [_frozen(item) for item in _since_mark(stack)]
        stack[-1].extend(name, items)
    elif name in ("REDUCE", "BUILD"):
        items = _pop(stack, 2)
        kind = "call" if name == "REDUCE" else "object"
        stack.append(Node(kind, (name,), tuple(map(_frozen, items))))
    elif name not in ("PROTO", "STOP"):
        raise NotAPickle(f"a server wrote the opcode {name}")


def _scalar(name: str, argument: Any) -> Scalar:
    kind = _SCALARS[name]
    if kind == "str":
        argument = argument.encode("latin-1")
    elif isinstance(argument, bool):
        kind = "bool"
    return Scalar(kind, name, argument)


def _pop(stack: list[Any], count: int) -> list[Any]:
    if len(stack) < count:
        raise NotAPickle("an opcode finds nothing to work on")
    items = stack[-count:]
    del stack[-count:]
    return items


def _since_mark(stack: list[Any]) -> list[Any]:
    items: list[Any] = []
    while not isinstance(stack[-1], _Mark):
        items.append(stack.pop())
    stack.pop()
    return items[::-1]


def _frozen(value: Any) -> Tree:
    if isinstance(value, _Growing):
        return Node(value.kind, tuple(value.opcodes), tuple(value.items))
    return value


def shown(tree: Tree) -> str:
    """For people."""
    if isinstance(tree, Scalar):
        return f"{tree.kind} {tree.value!r}"
    if tree.kind == "dict":
        return "{" + ", ".join(f"{shown(key)}: {shown(value)}" for key, value in tree.items) + "}"
    return tree.kind + "(" + ", ".join(map(shown, tree.items)) + ")"
