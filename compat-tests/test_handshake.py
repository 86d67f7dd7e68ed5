"""Announce, answer, register: how a connection begins."""

import json
import socket

import pytest

import rawzeo
from ledger import differs
from rawzeo import Z64, Fault, RawClient, frame, pickle_message

ANNOUNCED = {"pickle": b"Z5", "msgpack": b"M5"}


def test_server_announces_its_encoding(server, raw):
    assert raw(server, register=False).greeting == ANNOUNCED[server.encoding]


def test_server_speaks_first(server):
    with rawzeo.connect(server.address) as sock:
        assert sock.recv(100) == frame(ANNOUNCED[server.encoding])


def test_register_returns_the_last_tid(server, raw):
    client = raw(server, register=False)
    before = client.register()
    assert len(before) == 8
    tid = client.commit((client.new_oid(), Z64, b"one"))
    assert raw(server, register=False).register() == tid > before


def test_register_of_an_empty_storage(make_server, raw):
    client = raw(make_server(), register=False)
    assert client.register() == Z64
    assert client.call("lastTransaction") == Z64


@pytest.mark.parametrize("answer", [b"Z6", b"Z200", b"Z44", b"hello", b"Z" * 500, b"5"])
def test_unknown_answer_is_closed(server, answer):
    server.log.expect("bad handshake")
    client = RawClient(server.address, answer=answer)
    client.wait_closed()
    assert client.received == []


@pytest.mark.parametrize("answer", [b"", b"X5"])
def test_answer_that_python_hangs_on(make_server, raw, answer):
    server = make_server()
    client = RawClient(server.address, answer=answer)
    if differs("handshake-hangs"):
        server.log.allow("Processing message")
    else:
        server.log.expect("bad handshake")
        client.wait_closed()
    assert raw(server).call("lastTransaction") == Z64


def test_pickle_client_may_choose_msgpack(make_server):
    """The first byte of the answer selects the encoding."""
    client = RawClient(make_server().address, answer=b"M5")
    client.register()
    assert client.call("lastTransaction") == Z64


def test_pipelined_handshake_and_calls(make_server):
    """Everything in one segment, before the announce was read."""
    server = make_server()
    with rawzeo.connect(server.address) as sock:
        register = pickle_message(1, False, "register", ("1", False))
        last = pickle_message(2, False, "lastTransaction", ())
        sock.sendall(frame(b"Z5") + frame(register) + frame(last))
        expected = b"".join(
            frame(body) for body in (b"Z5", pickle_message(1, 0, ".reply", Z64), pickle_message(2, 0, ".reply", Z64))
        )
        received = b""
        while len(received) < len(expected):
            received += sock.recv(len(expected) - len(received))
        assert received == expected


def test_frames_may_arrive_byte_by_byte(server, raw):
    client = raw(server)
    for byte in frame(client.encode(77, False, "lastTransaction", ())):
        client.send_bytes(bytes([byte]))
    assert len(client.reply(77)) == 8


@pytest.mark.parametrize("cut", [0, 2, 5])
def test_disconnect_during_the_handshake(server, raw, cut):
    with rawzeo.connect(server.address) as sock:
        sock.sendall(frame(b"Z5")[:cut])
    assert len(raw(server, register=False).register()) == 8


def test_ruok_is_answered_and_closed(server):
    status = json.loads(rawzeo.ruok(server.address))
    assert list(status) == ["1"]


def test_ruok_sent_before_the_announce_is_read(server):
    """As zeo-nagios does it: announce and answer come as two frames."""
    with rawzeo.connect(server.address) as sock:
        sock.sendall(frame(b"ruok"))
        received = b""
        while chunk := sock.recv(65536):
            received += chunk
        announce = frame(ANNOUNCED[server.encoding])
        assert received.startswith(announce)
        assert json.loads(received[len(announce) + 4 :])["1"]["connections"] >= 0


def test_unix_socket(make_server, raw):
    server = make_server(unix=True)
    client = raw(server)
    assert client.sock.family == socket.AF_UNIX
    tid = client.commit((client.new_oid(), Z64, b"one"))
    assert client.call("lastTransaction") == tid


def test_unknown_storage_leaves_the_connection_usable(server, raw):
    server.log.allow("unknown storage")
    client = raw(server, register=False)
    with pytest.raises(Fault) as fault:
        client.register("nope")
    assert fault.value.class_name == "builtins.ValueError"
    assert tuple(fault.value.state) == ("unknown storage: nope",)
    assert len(client.register("1")) == 8


def test_nothing_but_register_before_registration(server, raw):
    server.log.expect("invalid method")
    server.log.allow("raised exception")
    client = raw(server, register=False)
    client.start("lastTransaction")
    client.wait_closed()
    if not differs("invalid-method-runs-anyway"):
        assert client.received == []


def test_second_register_closes(server, raw):
    server.log.expect("invalid method")
    server.log.allow("raised exception")
    client = raw(server)
    client.start("register", "1", False)
    client.wait_closed()


def test_read_only_fallback_on_the_same_connection(make_server, raw):
    server = make_server(read_only=True)
    server.log.allow("ReadOnlyError")
    client = raw(server, register=False)
    with pytest.raises(Fault) as fault:
        client.register("1", False)
    assert fault.value.class_name == "ZODB.POSException.ReadOnlyError"
    assert tuple(fault.value.state) == ()
    assert client.register("1", True) == Z64
