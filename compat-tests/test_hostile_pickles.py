"""Hostile messages: pickles and msgpack that are broken, or meant to execute, to explode, to overflow."""

import pytest

from hostile import CLOSED, ERROR, outcome, unharmed
from ledger import differs, skip_where_differs
from rawzeo import pickle_message

# A complete call of `ping` around something, in opcodes: (7, False, 'ping', (<here>,))
HEAD, TAIL = b"\x80\x03(K\x07\x89X\x04\x00\x00\x00ping(", b"tt."


def laughs(depth: int) -> bytes:
    """A list of ten times the same list of ten times the same list: 10 ** depth items, by the memo."""
    level = b"]q\x00"
    opcodes = level
    for n in range(1, depth):
        opcodes += b"0" + b"]q" + bytes([n]) + b"(" + (b"h" + bytes([n - 1])) * 10 + b"e"
    return opcodes


BROKEN = {
    "stop only": b".",
    "no stop": b"\x80\x03N",
    "garbage": b"\x00\x01\x02\x03garbage",
    "cut off": pickle_message(1, False, "ping", ())[:-3],
    "unknown opcode": b"\x80\x03\xff.",
    "protocol 255": b"\x80\xffN.",
    "not a tuple": b"\x80\x03N.",
    "three items": b"\x80\x03(K\x01K\x00X\x04\x00\x00\x00pingt.",
    "five items": b"\x80\x03(K\x01K\x00X\x04\x00\x00\x00ping)Nt.",
    "pop of nothing": b"\x80\x030.",
    "tuple without mark": b"\x80\x03t.",
    "unknown memo": b"\x80\x03h\x07.",
    "unhashable key": HEAD + b"}(]Nu" + TAIL,
    "odd dict": HEAD + b"}(Nu" + TAIL,
    "append to int": HEAD + b"K\x01Na" + TAIL,
    "call of an int": HEAD + b"K\x01)R" + TAIL,
    "build of an int": HEAD + b"K\x01}b" + TAIL,
    "persistent id": HEAD + b"K\x01Q" + TAIL,
    "persistent name": HEAD + b"Pname\n" + TAIL,
    "extension code": HEAD + b"\x82\x01" + TAIL,
    "bytes of 4 GiB": HEAD + b"B\xff\xff\xff\xff" + b"x" * 100 + TAIL,
    "text of 4 GiB": HEAD + b"X\xff\xff\xff\xff" + b"x" * 100 + TAIL,
    "string of 2 GiB": HEAD + b"T\xff\xff\xff\x7f" + b"x" * 100 + TAIL,
    "negative string": HEAD + b"T\xff\xff\xff\xff" + b"x" * 100 + TAIL,
    "integer of 2 GiB": HEAD + b"\x8b\xff\xff\xff\x7f" + b"x" * 100 + TAIL,
    "bytes of 2**62": HEAD + b"\x8e" + b"\x00" * 7 + b"\x40" + b"x" * 100 + TAIL,
    "memo index 2**32-1": HEAD + b"Nr\xff\xff\xff\xff" + TAIL,
    "memo index in text": HEAD + b"Np99999999999999999999\n" + TAIL,
    "number of a million digits": HEAD + b"L" + b"9" * 1_000_000 + b"L\n" + TAIL,
    "bad utf-8": HEAD + b"X\x02\x00\x00\x00\xff\xfe" + TAIL,
    "os.system": HEAD + b"cos\nsystem\n(X\x04\x00\x00\x00truetR" + TAIL,
    "posix.system": HEAD + b"cposix\nsystem\n(X\x04\x00\x00\x00truetR" + TAIL,
    "subprocess.Popen": HEAD + b"(isubprocess\nPopen\n" + TAIL,
    "persistent.Persistent": HEAD + b"cpersistent\nPersistent\n)\x81" + TAIL,
    "global from the stack": b"\x80\x04(K\x07\x89\x8c\x04ping(\x8c\x02os\x8c\x06system\x93tt.",
}

# These decode, and are only asked not to cost more than they weigh.
HEAVY = {
    "a million marks": b"\x80\x03" + b"(" * 1_000_000 + b".",
    "a million open lists": b"\x80\x03" + b"]" * 1_000_000 + b".",
    "nested tuples": HEAD + b"N" + b"\x85" * 1_000_000 + TAIL,
    "nested lists": HEAD + b"]" * 100_000 + b"a" * 99_999 + TAIL,
    "nested dicts": HEAD + b"}N" * 50_000 + b"}" + b"s" * 50_000 + TAIL,
    "a billion laughs": HEAD + laughs(9) + TAIL,
    "list in itself": HEAD + b"]q\x00h\x00a" + TAIL,
    "dict in itself": HEAD + b"}q\x00Nh\x00s" + TAIL,
    "many memo entries": HEAD + b"N" + b"".join(b"r" + n.to_bytes(4, "little") for n in range(200_000)) + TAIL,
}


@pytest.fixture
def encoding():
    """Each encoding has its own attacks."""
    return "pickle"


@pytest.fixture(autouse=True)
def bounded(server):
    server.limit_memory(4096)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_pickle_is_refused(server, name):
    with unharmed(server) as attacker:
        attacker.send_frame(BROKEN[name])
        assert outcome(lambda: attacker.reply(7)) in (CLOSED, ERROR)


def test_frame_opcode_that_lies(server):
    """It only tells how much may be read ahead: taken, refused, but never believed."""
    with unharmed(server) as attacker:
        attacker.send_frame(b"\x80\x04\x95" + b"\x00" * 7 + b"\x40" + HEAD[2:] + TAIL)
        outcome(lambda: attacker.reply(7))


@pytest.mark.parametrize("name", HEAVY)
def test_heavy_pickle(server, name):
    with unharmed(server) as attacker:
        attacker.send_frame(HEAVY[name])
        if name.startswith("a million"):
            attacker.wait_closed()
        else:
            assert outcome(lambda: attacker.reply(7)) in (CLOSED, ERROR)


def reply_size(attacker) -> str:
    while b"invalidateTransaction" in (body := attacker.read_frame()):
        pass
    return "small" if len(body) < 1_000_000 else "big"


@pytest.mark.parametrize("place", ["message id", "metadata"])
def test_laughs_are_not_written_out(server, place):
    """Where the server gives back what it got, ten bytes may not become a billion."""
    skip_where_differs("laughs-are-written-out")
    laugh = laughs(9)
    with unharmed(server) as attacker:
        if place == "message id":
            attacker.send_frame(b"\x80\x03(" + laugh + b"\x89X\x04\x00\x00\x00ping)t.")
            assert outcome(lambda: reply_size(attacker)) in (CLOSED, "result 'small'")
        else:
            begin = b"\x80\x03(K\x07\x89X\x09\x00\x00\x00tpc_begin(K\x05C\x00C\x00}X\x01\x00\x00\x00k" + laugh
            attacker.send_frame(begin + b"sNX\x01\x00\x00\x00 tt.")
            if outcome(lambda: attacker.reply(7)) == "result None":
                assert outcome(lambda: attacker.call("vote", 5)) in (CLOSED, ERROR)


@pytest.mark.parametrize("builtin", ["open", "exec"])
def test_nothing_is_executed(server, tmp_path, builtin):
    target = tmp_path / "executed"
    if builtin == "open":
        args = (str(target), "w")
    else:
        args = (f"open({str(target)!r}, 'w')",)
    pickled = b"".join(b"X" + len(arg).to_bytes(4, "little") + arg.encode() for arg in args)
    with unharmed(server) as attacker:
        attacker.send_frame(HEAD + b"cbuiltins\n" + builtin.encode() + b"\n(" + pickled + b"tR" + TAIL)
        assert outcome(lambda: attacker.reply(7)) in (CLOSED, ERROR)
    assert target.exists() is differs("builtins-are-called")
