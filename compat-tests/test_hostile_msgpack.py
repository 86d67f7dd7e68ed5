"""Hostile messages in msgpack."""

import pytest

from hostile import CLOSED, ERROR, outcome, unharmed

# A complete call of `ping` around something: [7, False, 'ping', [<here>]]
HEAD = b"\x94\x07\xc2\xa4ping\x91"

BROKEN = {
    "reserved byte": b"\xc1",
    "cut off": HEAD,
    "three items": b"\x93\x07\xc2\xa4ping",
    "five items": b"\x95\x07\xc2\xa4ping\x90\xc0",
    "not an array": b"\xc0",
    "trailing bytes": b"\x94\x07\xc2\xa4ping\x90\xc0",
    "array of 2**32-1": HEAD + b"\xdd\xff\xff\xff\xff" + b"\xc0" * 100,
    "map of 2**32-1": HEAD + b"\xdf\xff\xff\xff\xff" + b"\xc0" * 100,
    "bytes of 2**32-1": HEAD + b"\xc6\xff\xff\xff\xff" + b"x" * 100,
    "text of 2**32-1": HEAD + b"\xdb\xff\xff\xff\xff" + b"x" * 100,
    "extension of 2**32-1": HEAD + b"\xc9\xff\xff\xff\xff\x05" + b"x" * 100,
    "bad utf-8": HEAD + b"\xa2\xff\xfe",
    "unhashable key": HEAD + b"\x81\x80\xc0",
    "message of 2**32-1": b"\xdd\xff\xff\xff\xff" + b"\xc0" * 100,
    "a million nested arrays": HEAD + b"\x91" * 1_000_000 + b"\xc0",
    "nested maps": HEAD + b"\x81\xa1k" * 300_000 + b"\xc0",
}

REFUSED = {
    "unknown extension": HEAD + b"\xd4\x05x",
    "timestamp": HEAD + b"\xd6\xff\x00\x00\x00\x00",
    "nested arrays": HEAD + b"\x91" * 200 + b"\xc0",
    "nil as arguments": b"\x94\x07\xc2\xa4ping\xc0",
    "text as arguments": b"\x94\x07\xc2\xa4ping\xa2ab",
    "number as name": b"\x94\x07\xc2\x05\x90",
    "array as name": b"\x94\x07\xc2\x91\x05\x90",
}


@pytest.fixture
def encoding():
    """Each encoding has its own attacks."""
    return "msgpack"


@pytest.fixture(autouse=True)
def bounded(server):
    server.limit_memory(4096)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_msgpack_closes(server, name):
    with unharmed(server) as attacker:
        attacker.send_frame(BROKEN[name])
        assert outcome(lambda: attacker.reply(7)) == CLOSED


@pytest.mark.parametrize("name", REFUSED)
def test_odd_msgpack_is_refused(server, name):
    with unharmed(server) as attacker:
        attacker.send_frame(REFUSED[name])
        assert outcome(lambda: attacker.reply(7)) in (CLOSED, ERROR)
