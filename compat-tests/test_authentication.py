"""Digest authentication as in ZEO 4: who gets in, and that every frame after that has the right code.

Where the subject is Python's, it is the server of ZEO 4: newer ones have no passwords.
"""

import json
import socket
import struct
import time

import pytest

from ledger import differs, skip_where_differs
from rawauth import DATABASE, MAC_FLAG, PASSWORD, PYTHONS, REALM, USER, Guarded
from rawzeo import MAXTID, ROOT, Z64, Closed, Fault, RawClient, frame, record, ruok
from subject import PATIENCE_S

NEVER = "Client was never authenticated with server!"
REFUSED = r"without authentication"


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "passwords"
    path.write_text(DATABASE)
    return path


@pytest.fixture(params=PYTHONS)
def guarded(make_server, database, request):
    return Guarded(make_server, database, request.param)


def failure(name, reason):
    return rf"authentication as \"{name}\" failed: {reason}"


def refuses(client, user=USER, password=PASSWORD):
    """Whether the server does not believe a client."""
    if differs("unknown-users-are-told") and user != USER:
        with pytest.raises(Fault, match=r"LookupError.*No such user"):
            client.authenticate(user, password)
        return True
    return client.authenticate(user, password) is False


def received(sock):
    """What has come in; nothing at the end, also where the server has not read all."""
    try:
        return sock.recv(1000)
    except ConnectionResetError:
        return b""


def test_who_knows_the_password_gets_in(guarded):
    client = guarded.registered()
    methods = {str(name) for name in client.call("getExtensionMethods")}
    assert all(any(name in method for method in methods) for name in ("auth_get_challenge", "auth_response"))
    tid = client.commit((ROOT, Z64, record(1)))
    assert client.call("loadBefore", ROOT, MAXTID) == (record(1), tid, None)
    assert client.checked > 5


@pytest.mark.parametrize(
    ("user", "password", "reason"),
    [(USER, "wrong", "wrong password"), ("nobody", PASSWORD, "no such user"), ("", "", "no such user")],
)
def test_others_are_refused(guarded, user, password, reason):
    guarded.expect(failure(user, reason), REFUSED)
    client = guarded.client()
    assert refuses(client, user, password)
    with pytest.raises(Fault, match=f"AuthError.*{NEVER}"):
        client.call("register", "1", 0)
    assert client.authenticate() is True
    assert client.call("register", "1", 0) is None


def test_an_unknown_user_looks_like_a_wrong_password(guarded):
    skip_where_differs("unknown-users-are-told")
    guarded.expect(failure(USER, "wrong password"), failure("nobody", "no such user"))
    replies = []
    for user in (USER, "nobody"):
        client = guarded.client()
        _, challenge, _ = client.challenge()
        msgid = client.respond_later(challenge, user, "wrong")
        replies.append((msgid, client.read_frame()))
    assert replies[0] == replies[1]


def test_a_challenge_is_good_for_one_attempt(guarded):
    guarded.expect(failure(USER, "wrong password"), failure(USER, "a challenge"))
    client = guarded.client()
    _, challenge, _ = client.challenge()
    assert client.respond(challenge, password="wrong") is False
    assert client.respond(challenge) is differs("challenges-come-again")


def test_a_challenge_of_another_connection_is_none(guarded):
    skip_where_differs("challenges-come-again")
    guarded.expect(failure(USER, "a challenge"))
    other, client = guarded.client(), guarded.client()
    _, stolen, stolen_nonce = other.challenge()
    _, challenge, nonce = client.challenge()
    assert len({stolen, stolen_nonce, challenge, nonce}) == 4
    assert client.respond(stolen) is False
    assert other.respond(stolen) is True


def test_an_older_challenge_is_none(guarded):
    skip_where_differs("challenges-come-again")
    guarded.expect(failure(USER, "a challenge"))
    client = guarded.client()
    _, older, _ = client.challenge()
    client.challenge()
    assert client.respond(older) is False


def test_what_was_overheard_is_of_no_use(guarded):
    """All that one client sent, sent once more."""
    guarded.expect(failure(USER, "a challenge"), REFUSED)
    client = guarded.client()
    sent, send = [], client.send_bytes
    client.send_bytes = lambda data: (sent.append(data), send(data))
    assert client.authenticate() is True
    assert client.call("register", "1", 0) is None
    thief = guarded.client()
    for data in sent[:-1]:
        thief.send_bytes(data)
    try:
        answers = [thief.receive().args for _ in sent[:-1]]
    except Closed:
        answers = []
    assert True not in answers
    # Its own message ids have been used by what it sent.
    thief.received.clear()
    with pytest.raises((Fault, Closed)):
        thief.call("register", "1", 0)


def test_three_attempts(guarded):
    skip_where_differs("attempts-without-end")
    guarded.expect(failure(USER, "wrong password; closing the connection"), failure(USER, "wrong password$"))
    client = guarded.client()
    for _ in range(3):
        assert client.authenticate(password="wrong") is False
    client.wait_closed()


@pytest.mark.parametrize("method", ["register", "getAuthProtocol", "auth_get_challenge", "auth_response"])
def test_a_few_requests(guarded, method):
    """Strangers can neither fill the log nor keep the server busy, whatever they ask."""
    skip_where_differs("attempts-without-end")
    guarded.expect("closing the connection of .*: 16 requests without authentication")
    guarded.log.allow(REFUSED, "raised exception")
    client = guarded.client()
    for _ in range(1000):
        try:
            client.start(method)
        except ConnectionError:
            break
    client.wait_closed()
    assert len(guarded.log.serious()) <= 17 * 2


def test_strangers_have_their_time_and_no_more(guarded):
    """Connections that never go on, in whatever state, are ended; others are served meanwhile."""
    skip_where_differs("attempts-without-end")
    guarded.expect("closing the connection of .*: it has not authenticated after 15 seconds")
    guarded.expect(failure(USER, "wrong password"))
    before = guarded.server.memory_kib()
    mute = [socket.create_connection(guarded.address, 2 * PATIENCE_S) for _ in range(200)]
    for sock in mute:
        sock.sendall(struct.pack(">I", 65536) + bytes(65000))
    silent, asking, trying = guarded.client(), guarded.client(), guarded.client()
    started = time.monotonic()
    asking.challenge()
    assert trying.authenticate(password="wrong") is False
    client = guarded.registered()
    assert guarded.server.memory_kib() - before < 64 << 10
    for stranger in (silent, asking, trying):
        stranger.sock.settimeout(2 * PATIENCE_S)
        stranger.wait_closed()
    for sock in mute:
        while received(sock):
            pass
        sock.close()
    assert time.monotonic() - started > 10, "slow clients have their time"
    assert client.call("lastTransaction")


def test_strangers_send_short_frames(guarded):
    skip_where_differs("attempts-without-end")
    guarded.expect("a frame of 1000000 bytes, where at most 65536 are accepted")
    client = guarded.client()
    client.send_bytes(struct.pack(">I", 1_000_000))
    client.wait_closed()


def test_a_name_does_not_spoil_the_log(guarded):
    skip_where_differs("hostile-input-fills-the-log")
    guarded.expect(failure("aCRITICAL x+", "no such user"))
    assert refuses(guarded.client(), "a\nCRITICAL " + "x" * 1000)


@pytest.mark.parametrize("args", [(), (1,), ((USER, "c"),), ((USER, "c", 1),), ((USER, "c", "r"), 1)])
def test_malformed_responses(guarded, args):
    guarded.expect("`auth_response` raised exception")
    # Which error, the original leaves to Python.
    with pytest.raises(Fault, match="TypeError|ValueError|AttributeError"):
        guarded.client().call("auth_response", *args)


def test_register_without_authentication(guarded):
    guarded.expect(REFUSED + "$")
    with pytest.raises(Fault) as caught:
        guarded.client().call("register", "1", False)
    assert caught.value.class_name == "ZEO.Exceptions.AuthError"
    assert NEVER in str(caught.value)


def test_new_clients_cannot_authenticate(guarded):
    skip_where_differs("no-authentication")
    guarded.expect(REFUSED + ": clients of ZEO 5 and later cannot authenticate")
    with pytest.raises(Fault) as caught:
        RawClient(guarded.address).call("register", "1", False)
    assert (caught.value.class_name, caught.value.state) == ("ZEO.Exceptions.AuthError", (NEVER,))


METHODS = ["get_info", "loadEx", "tpc_begin", "pack", "lastTransaction", "sendBlob", "getExtensionMethods", "nonsense"]


@pytest.mark.parametrize("method", METHODS)
def test_nothing_else_before_authentication(guarded, method):
    skip_where_differs("strangers-may-call")
    guarded.expect(f"Invalid method, '{method}'")
    client = guarded.client()
    client.start(method)
    client.wait_closed()


@pytest.mark.parametrize("method", METHODS)
def test_nothing_else_of_new_clients_either(guarded, method):
    skip_where_differs("no-authentication")
    guarded.expect(f"Invalid method, '{method}'")
    client = RawClient(guarded.address)
    client.start(method)
    client.wait_closed()


def test_nothing_else_between_authentication_and_registration(guarded):
    skip_where_differs("strangers-may-call")
    guarded.expect("Invalid method, 'get_info'")
    client = guarded.client()
    assert client.authenticate() is True
    client.start("get_info")
    client.wait_closed()


def test_status_needs_no_password(guarded):
    assert "1" in json.loads(ruok(guarded.address))


def test_a_frame_without_code_ends_it(guarded):
    guarded.expect("a frame without message authentication code")
    client = guarded.registered()
    client.send_bytes(frame(client.encode(1, 0, "lastTransaction", ())))
    client.wait_closed()


@pytest.mark.parametrize("place", [4, 23, 24, -1])
def test_a_spoilt_frame_ends_it(guarded, place):
    guarded.expect("a frame with a wrong message authentication code")
    client = guarded.registered()
    spoilt = bytearray(client.sealed(client.encode(77, 0, "lastTransaction", ())))
    spoilt[place] ^= 1
    client.send_bytes(bytes(spoilt))
    client.wait_closed()


def test_a_repeated_frame_ends_it(guarded):
    guarded.expect("a frame with a wrong message authentication code")
    client = guarded.registered()
    good = client.sealed(client.encode(77, 0, "lastTransaction", ()))
    client.send_bytes(good + good)
    client.wait_closed()


def test_a_code_before_there_is_a_key_ends_it(guarded):
    guarded.expect("a frame with a message authentication code, though the client has not authenticated")
    client = guarded.client()
    body = client.encode(1, 0, "getAuthProtocol", ())
    client.send_bytes(struct.pack(">I", len(body) | MAC_FLAG) + bytes(20) + body)
    if differs("codes-before-keys"):
        assert client.reply(1) in ("digest", b"digest")
    else:
        client.wait_closed()


def test_codes_begin_at_once(guarded):
    """What follows the response in the same packet has its code already."""
    skip_where_differs("codes-before-keys")
    client = guarded.client()
    _, challenge, nonce = client.challenge()
    sent, client.send_bytes = [], lambda data: sent.append(data)
    responding = client.respond_later(challenge)
    client.begin_codes(nonce)
    registering = client.start("register", "1", 0)
    asking = client.start("lastTransaction")
    del client.send_bytes
    incoming, client.incoming = client.incoming, None
    client.send_bytes(b"".join(sent))
    assert client.reply(responding) is True
    client.incoming = incoming
    assert client.reply(registering) is None
    assert client.reply(asking) is not None


def test_a_long_conversation(guarded):
    """Blobs both ways, invalidations by others, large frames: the codes stay right."""
    client, other = guarded.registered(), guarded.registered()
    # An object that is no longer new: of those ZEO 4 tells nobody.
    other_serial = other.commit((ROOT, Z64, record(0)))
    serial, oid = Z64, client.new_oid()
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
    told = [tid for tid, _ in other.calls("invalidateTransaction")]
    assert len(told) >= 19 and serial in told
    assert b"".join(chunk for _, _, chunk in client.calls("receiveBlobChunk")) == content * 20
    assert client.checked > 200


def test_a_server_that_was_restarted_wants_the_password_again(guarded):
    client = guarded.registered()
    tid = client.commit((ROOT, Z64, record(1)))
    client.close()
    guarded.server.restart(kill=True)
    guarded.expect("a frame without message authentication code")
    client = guarded.client()
    assert client.authenticate() is True
    client.outgoing = None
    with pytest.raises(Closed):
        client.call("register", "1", 0)
    assert guarded.registered().call("lastTransaction") == tid


# The password database.


def test_passwords_are_read_again(guarded, database):
    skip_where_differs("passwords-read-once")
    client = guarded.registered()
    database.write_text(DATABASE.replace(USER, "other"))
    guarded.expect(failure(USER, "no such user"))
    assert refuses(guarded.client())
    assert client.call("lastTransaction") is not None, "who is there stays"
    database.write_text(DATABASE)
    guarded.registered()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (DATABASE + "bob\n", r"passwords, line 3: expected `user: hash`"),
        (DATABASE.replace("a5d8", "A5D8"), r"passwords, line 2: the hash is not 40"),
        ("realm Other\n", r"password database realm 'Other' does not match storage realm 'My Realm'"),
        (None, r"password database realm None does not match storage realm 'My Realm'"),
    ],
    ids=["no hash", "upper case", "another realm", "gone"],
)
def test_a_broken_database_changes_nothing(guarded, database, text, error):
    skip_where_differs("passwords-read-once")
    guarded.expect(f"passwords have changed and cannot be used; those of before hold: .*{error}")
    database.unlink()
    if text is not None:
        database.write_text(text)
    guarded.registered()
    guarded.registered()
    assert len(guarded.log.serious()) == 1
    database.write_text(DATABASE.replace(USER, "other"))
    guarded.expect(failure(USER, "no such user"))
    assert refuses(guarded.client())


@pytest.mark.parametrize(
    ("text", "error", "ours"),
    [
        (DATABASE.replace(REALM, "Other"), r"password database realm '?Other", "'Other' does not match storage realm 'My Realm'"),
        ("", "password database realm None", "the first line of .*passwords must be `realm My Realm`"),
        (DATABASE + "\n", "unpack", "passwords, line 3: expected `user: hash`"),
        (DATABASE + "bob: secret\n", None, "passwords, line 3: the hash is not 40"),
    ],
    ids=["another realm", "empty", "empty line", "no hash"],
)
def test_a_server_does_not_start_with_another_database(make_server, database, text, error, ours):
    database.write_text(text)
    if differs("password-databases-unchecked") and error is None:
        Guarded(make_server, database, "python 3")
        return
    with pytest.raises(RuntimeError, match=error if differs("password-databases-unchecked") else ours) as caught:
        Guarded(make_server, database, "python 3")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("protocol", ["none", None])
def test_without_authentication(make_server, database, python, protocol):
    server = Guarded(make_server, database, python, protocol)
    client = server.client()
    assert client.call("getAuthProtocol") is None
    assert client.call("register", "1", 0) is None
    assert client.call("lastTransaction") == Z64
    server.log.expect("Invalid method.*auth_get_challenge")
    client = server.client()
    client.start("auth_get_challenge")
    client.wait_closed()
