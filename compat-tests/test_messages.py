"""Message ids, flags, keep-alives, unknown methods: the rules for every message."""

import pytest

from rawzeo import MAXTID, ROOT, Z64, Fault, p64

MSGIDS = [1, 0, 255, 256, 2**31 - 1, 2**31, 2**63 - 1, -2, True, None, "text", b"bytes", (b"oid", b"tid"), 1.5]


@pytest.mark.parametrize("msgid", MSGIDS, ids=repr)
def test_message_ids_are_echoed(server, raw, msgid):
    client = raw(server)
    client.send(msgid, False, "ping", ())
    reply = client.receive()
    assert reply.msgid == msgid
    assert type(reply.msgid) is type(msgid)
    assert reply.name == ".reply"
    assert reply.args is None


@pytest.mark.parametrize("msgid", [2**64, -(2**100), 10**400], ids=["2**64", "-2**100", "10**400"])
def test_big_message_ids_are_echoed(make_server, raw, msgid):
    client = raw(make_server())
    client.send(msgid, False, "ping", ())
    assert client.receive().msgid == msgid


@pytest.mark.parametrize("flag", [True, 1], ids=repr)
def test_async_calls_have_no_reply(server, raw, flag):
    client = raw(server)
    client.send(5, flag, "lastTransaction", ())
    client.send(6, False, "ping", ())
    assert client.receive().msgid == 6


@pytest.mark.parametrize("flag", [False, 0], ids=repr)
def test_sync_calls_have_one(server, raw, flag):
    client = raw(server)
    client.send(5, flag, "tpc_begin", (1, b"", b"", {}, None, " "))
    reply = client.receive()
    assert (reply.msgid, reply.flags, reply.args) == (5, 0, None)


def test_keep_alive_is_ignored(server, raw):
    client = raw(server, register=False)
    client.send(-1, 0, ".reply", None)
    client.register()
    client.send(-1, 0, ".reply", None)
    client.sync()
    assert [m.is_reply for m in client.received] == [True, True]


def test_python_2_style_keep_alive_is_ignored(make_server, raw):
    """Clients of ZEO 4 and older send this very pickle on every Python."""
    client = raw(make_server())
    client.send_frame(b"(J\xff\xff\xff\xffK\x00U\x06.replyNt.")
    client.sync()


def test_replies_to_pipelined_calls_come_in_order(server, raw):
    client = raw(server)
    for msgid in range(10, 60):
        client.send(msgid, False, "loadBefore" if msgid % 2 else "ping", (p64(2**40), MAXTID) if msgid % 2 else ())
    assert [client.receive().msgid for _ in range(50)] == list(range(10, 60))


@pytest.mark.parametrize(
    "name", ["nope", "_check_tid", "storage", "__class__", "close", "notify_disconnected", ".reply", ""]
)
def test_unknown_method_closes(make_server, raw, name):
    server = make_server()
    server.log.expect("invalid method")
    server.log.allow("raised exception")
    client = raw(server)
    client.send(5, False, name, ())
    client.wait_closed()
    # The server goes on.
    assert raw(server).call("lastTransaction") == Z64


def test_error_in_an_async_call_closes(make_server, raw):
    server = make_server()
    server.log.allow("raised exception", "no current transaction")
    client = raw(server)
    client.async_("storea", ROOT, Z64, b"data", 12345)
    client.wait_closed()
    assert raw(server).call("lastTransaction") == Z64


def test_new_oid_is_not_a_method(server, raw):
    """It stands in the list of methods of Python's server, which has no such method: an error, not a close."""
    server.log.allow("new_oid")
    client = raw(server)
    with pytest.raises(Fault) as fault:
        client.call("new_oid")
    assert fault.value.class_name == "builtins.AttributeError"
    client.sync()


def test_set_client_label(server, raw):
    client = raw(server)
    client.async_("set_client_label", "a label")
    client.sync()
