"""Digest authentication as in ZEO 4: who gets in, and that every frame after that has the right code."""

import json
import struct

import pytest

from ledger import skip_where_differs
from rawauth import DATABASE, MAC_FLAG, PASSWORD, REALM, USER, AuthClient, authenticated
from rawzeo import MAXTID, ROOT, Z64, Closed, Fault, RawClient, frame, record, ruok

NEVER = "Client was never authenticated with server!"
REFUSED = r"without authentication"


@pytest.fixture(autouse=True)
def has_authentication():
    skip_where_differs("no-authentication")


@pytest.fixture
def guarded(make_server, tmp_path):
    database = tmp_path / "passwords"
    database.write_text(DATABASE)
    return make_server(
        blobs=True,
        authentication_protocol="digest",
        authentication_database=database,
        authentication_realm=REALM,
    )


def failure(name, reason):
    return rf"authentication as \"{name}\" failed: {reason}"


def test_who_knows_the_password_gets_in(guarded):
    client = authenticated(guarded.address)
    assert set(client.call("get_info")["extensionMethods"]) == {"auth_get_challenge", "auth_response"}
    tid = client.commit((ROOT, Z64, record(1)))
    assert client.call("loadBefore", ROOT, MAXTID) == (record(1), tid, None)
    assert client.checked > 5


@pytest.mark.parametrize(
    ("user", "password", "reason"),
    [(USER, "wrong", "wrong password"), ("nobody", PASSWORD, "no such user"), ("", "", "no such user")],
)
def test_others_hear_false(guarded, user, password, reason):
    guarded.log.expect(failure(user, reason))
    guarded.log.expect(REFUSED)
    client = AuthClient(guarded.address)
    assert client.authenticate(user, password) is False
    with pytest.raises(Fault, match="AuthError"):
        client.call("register", "1", 0)
    assert client.authenticate() is True
    assert client.call("register", "1", 0) is None


def test_a_challenge_is_good_for_one_attempt(guarded):
    guarded.log.expect(failure(USER, "wrong password"))
    guarded.log.expect(failure(USER, "a challenge"))
    client = AuthClient(guarded.address)
    _, challenge, _ = client.challenge()
    assert client.respond(challenge, password="wrong") is False
    assert client.respond(challenge) is False


def test_a_challenge_of_another_connection_is_none(guarded):
    guarded.log.expect(failure(USER, "a challenge"))
    other, client = AuthClient(guarded.address), AuthClient(guarded.address)
    _, stolen, stolen_nonce = other.challenge()
    _, challenge, nonce = client.challenge()
    assert len({stolen, stolen_nonce, challenge, nonce}) == 4
    assert client.respond(stolen) is False
    assert other.respond(stolen) is True


def test_three_attempts(guarded):
    guarded.log.expect(failure(USER, "wrong password; closing the connection"))
    guarded.log.expect(failure(USER, "wrong password$"))
    client = AuthClient(guarded.address)
    for _ in range(3):
        assert client.authenticate(password="wrong") is False
    client.wait_closed()


def test_a_name_does_not_spoil_the_log(guarded):
    guarded.log.expect(failure("aCRITICAL x+", "no such user"))
    assert AuthClient(guarded.address).authenticate("a\nCRITICAL " + "x" * 1000) is False


@pytest.mark.parametrize("args", [(), (1,), ((USER, "c"),), ((USER, "c", 1),), ((USER, "c", "r"), 1)])
def test_malformed_responses(guarded, args):
    guarded.log.expect("`auth_response` raised exception")
    with pytest.raises(Fault, match="TypeError"):
        AuthClient(guarded.address).call("auth_response", *args)


@pytest.mark.parametrize("version", ["Z4", "Z5"])
def test_register_without_authentication(guarded, version):
    guarded.log.expect(REFUSED + ("$" if version == "Z4" else ": clients of ZEO 5 and later cannot authenticate"))
    client = AuthClient(guarded.address) if version == "Z4" else RawClient(guarded.address)
    with pytest.raises(Fault) as caught:
        client.call("register", "1", False)
    assert (caught.value.class_name, caught.value.state) == ("ZEO.Exceptions.AuthError", (NEVER,))


@pytest.mark.parametrize("method", ["get_info", "loadEx", "tpc_begin", "pack", "lastTransaction", "sendBlob"])
@pytest.mark.parametrize("version", ["Z4", "Z5"])
def test_nothing_else_before_authentication(guarded, version, method):
    guarded.log.expect(f"Invalid method, '{method}'")
    client = AuthClient(guarded.address) if version == "Z4" else RawClient(guarded.address)
    client.start(method)
    client.wait_closed()


def test_nothing_else_between_authentication_and_registration(guarded):
    guarded.log.expect("Invalid method, 'get_info'")
    client = AuthClient(guarded.address)
    assert client.authenticate() is True
    client.start("get_info")
    client.wait_closed()


def test_status_needs_no_password(guarded):
    assert "1" in json.loads(ruok(guarded.address))


def test_a_frame_without_code_ends_it(guarded):
    guarded.log.expect("a frame without message authentication code")
    client = authenticated(guarded.address)
    client.send_bytes(frame(client.encode(1, 0, "lastTransaction", ())))
    client.wait_closed()


def test_a_spoilt_frame_ends_it(guarded):
    client = authenticated(guarded.address)
    good = client.sealed(client.encode(77, 0, "lastTransaction", ()))
    for place in (4, 23, 24, len(good) - 1):
        guarded.log.expect("a frame with a wrong message authentication code")
        client = authenticated(guarded.address)
        good = client.sealed(client.encode(77, 0, "lastTransaction", ()))
        client.send_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        client.wait_closed()


def test_a_repeated_frame_ends_it(guarded):
    guarded.log.expect("a frame with a wrong message authentication code")
    client = authenticated(guarded.address)
    good = client.sealed(client.encode(77, 0, "lastTransaction", ()))
    client.send_bytes(good + good)
    client.wait_closed()


def test_a_code_before_there_is_a_key_ends_it(guarded):
    guarded.log.expect("a frame with a message authentication code, though the client has not authenticated")
    client = AuthClient(guarded.address)
    body = client.encode(1, 0, "getAuthProtocol", ())
    client.send_bytes(struct.pack(">I", len(body) | MAC_FLAG) + bytes(20) + body)
    client.wait_closed()


def test_codes_begin_at_once(guarded):
    """`register` in the same packet as the response."""
    client = AuthClient(guarded.address)
    _, challenge, nonce = client.challenge()
    sent, client.send_bytes = [], lambda data: sent.append(data)
    reading, client.reply = client.reply, lambda msgid: msgid
    msgid = client.respond(challenge)
    plain_read, client.incoming = client.incoming, None
    client.begin_codes(nonce)
    incoming, client.incoming = client.incoming, plain_read
    registering = client.call("register", "1", 0)
    del client.send_bytes, client.reply
    client.send_bytes(b"".join(sent))
    assert reading(msgid) is True
    client.incoming = incoming
    assert client.reply(registering) is None


def test_a_long_conversation(guarded):
    """Blobs both ways, invalidations by others, large frames: the codes stay right."""
    client, other = authenticated(guarded.address), authenticated(guarded.address)
    serial, other_serial, oid = Z64, Z64, client.new_oid()
    content = bytes(range(256)) * 1000
    for number in range(20):
        txn = client.begin()
        blob = client.new_oid()
        client.call("storeBlobStart")
        for start in range(0, len(content), 60_000):
            client.async_("storeBlobChunk", content[start : start + 60_000])
        client.async_("storeBlobEnd", blob, Z64, record(number), txn)
        client.store(txn, oid, serial, record(bytes(number << 16)))
        serial = client.vote_finish(txn)
        client.call("sendBlob", blob, serial)
        other_serial = other.commit((ROOT, other_serial, record(number)))
        assert ROOT in client.invalidated(other_serial)
        assert client.call("loadBefore", oid, MAXTID)[0] == record(bytes(number << 16))
    for tid in [tid for tid, _ in other.calls("invalidateTransaction")]:
        assert other.invalidated(tid)
    got = b"".join(chunk for _, _, chunk in client.calls("receiveBlobChunk"))
    assert got == content * 20
    assert client.checked > 200


def test_who_has_gone_quietly_can_come_back(guarded):
    client = authenticated(guarded.address)
    tid = client.commit((ROOT, Z64, record(1)))
    client.close()
    guarded.restart()
    with pytest.raises(Closed):
        client = AuthClient(guarded.address)
        assert client.authenticate() is True
        client.outgoing = None
        guarded.log.expect("a frame without message authentication code")
        client.call("register", "1", 0)
    assert authenticated(guarded.address).call("lastTransaction") == tid


@pytest.mark.parametrize("protocol", ["none", None])
def test_without_authentication(make_server, protocol):
    server = make_server(**({"authentication_protocol": protocol} if protocol else {}))
    client = AuthClient(server.address)
    assert client.call("getAuthProtocol") is None
    assert client.call("register", "1", 0) is None
    assert client.call("get_info")["extensionMethods"] == {}
    server.log.expect("Invalid method, 'auth_get_challenge'")
    client = AuthClient(server.address)
    client.start("auth_get_challenge")
    client.wait_closed()
