"""Values on the way between a test and a client process of any Python: JSON, one value a line.

Bytes are {"bytes": hex}. A `str` of Python 2 is sent as text if it is UTF-8 and as bytes otherwise, so a scenario that returns
bytes says so with `Bytes`. Text arrives in Python 2 as `str`, UTF-8: that is what applications of its time used.
"""

import binascii
import json
import sys

PYTHON_2 = sys.version_info[0] == 2


class Bytes(object):
    """Marks bytes that must arrive as bytes, whatever they look like."""

    def __init__(self, value):
        self.value = value


def text(value):
    """Text from what a client calls a string."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def dumps(value):
    return (json.dumps(_outward(value)) + "\n").encode("ascii")


def loads(line):
    return _inward(json.loads(line.decode("ascii")))


def _outward(value):
    if isinstance(value, Bytes):
        return {"bytes": binascii.hexlify(value.value).decode("ascii")}
    if isinstance(value, bytes):
        if PYTHON_2:
            try:
                return value.decode("utf-8")
            except UnicodeDecodeError:
                pass
        return _outward(Bytes(value))
    if isinstance(value, (list, tuple)):
        return [_outward(item) for item in value]
    if isinstance(value, dict):
        return dict((text(key), _outward(item)) for key, item in value.items())
    return value


def _inward(value):
    if isinstance(value, list):
        return [_inward(item) for item in value]
    if isinstance(value, dict):
        if list(value) == ["bytes"]:
            return binascii.unhexlify(value["bytes"])
        return dict((_inward(key), _inward(item)) for key, item in value.items())
    if PYTHON_2 and not isinstance(value, (int, float, bool, type(None))) and hasattr(value, "encode"):
        return value.encode("utf-8")
    return value
