"""Announce, answer, register: how a connection begins."""

import json

import pytest

import rawzeo
from rawzeo import Z64, Fault, RawClient

ANNOUNCED = {"pickle": b"Z5", "msgpack": b"M5"}


def test_server_announces_its_encoding(server, raw):
    assert raw(register=False).announced == ANNOUNCED[server.encoding]


def test_register_returns_the_last_tid(server, raw):
    client = raw(register=False)
    before = client.register()
    assert len(before) == 8
    tid = client.commit((client.new_oid(), Z64, b"one"))
    assert raw(register=False).register() == tid > before


def test_unknown_answer_is_closed(server):
    server.log.expect("bad handshake")
    client = RawClient(server.address, answer=b"Z6")
    client.wait_closed()
    assert client.received == []


def test_ruok_is_answered_and_closed(server):
    status = json.loads(rawzeo.ruok(server.address))
    assert list(status) == ["1"]


def test_unknown_storage(server, raw):
    server.log.allow("unknown storage")
    client = raw(register=False)
    with pytest.raises(Fault) as fault:
        client.register("nope")
    assert fault.value.class_name == "builtins.ValueError"
    assert tuple(fault.value.state) == ("unknown storage: nope",)
    # The connection stays open and usable.
    assert len(client.register("1")) == 8
