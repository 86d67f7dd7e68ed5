"""Clients of every generation at a server with passwords. Those of ZEO 5 and 6 have none to tell, and are refused.

Where the subject is Python's, the original that can serve the generation has the passwords.
"""

import pytest

from generations import commits, value_becomes
from ledger import differs, skip_where_differs
from rawauth import DATABASE, PASSWORD, REALM, USER, authentication
from subject import wait_until

KNOWN = {"username": USER, "password": PASSWORD, "realm": REALM}

pytestmark = pytest.mark.feature("authentication")


@pytest.fixture
def guarded(generation_under_test):
    """The generation, and a server that it has to authenticate at."""
    generation = generation_under_test
    if generation.lacks("doAuth"):
        skip_where_differs("no-authentication")
    database = generation.directory / "passwords"
    database.write_text(DATABASE)
    return generation, generation.server(**authentication(database))


def refused(client, server, said, **options):
    """Whether a client was refused, in its own words, and is without a connection."""
    mark = client.log.stat().st_size
    client.do("open_storage", server.address, wait=False, **options)

    def heard():
        with client.log.open("rb") as log:
            log.seek(mark)
            return said in log.read().decode(errors="replace")

    wait_until(heard, f"the client says {said!r}")
    return not client.do("is_connected")


def expect(server, *patterns):
    if not differs("password-refusals-unsaid"):
        server.log.expect(*patterns)


def test_who_knows_the_password_gets_in(guarded):
    generation, server = guarded
    if generation.outcome == "-":
        expect(server, "without authentication: clients of ZEO 5 and later cannot authenticate")
        assert refused(generation.worker(), server, "Client was never authenticated with server!")
        return
    first, second = (generation.database(server, **KNOWN) for _ in range(2))
    for value in range(1, 10, 2):
        first.do("put", {"a": value})
        value_becomes(second, "a", value)
        second.do("put", {"a": value + 1})
        value_becomes(first, "a", value + 1)
    first.do("put_large", 3 << 20)
    assert first.do("put_many", 250) == 250
    third = generation.database(server, **KNOWN)
    assert third.do("length", "large") == 3 << 20
    assert third.do("sum_many") == sum(range(250))
    if not differs("password-refusals-unsaid"):
        assert server.log.text().count(f'authenticated as "{USER}"') == 3


@pytest.mark.parametrize(
    ("options", "server_says", "client_says"),
    [
        ({"password": "wrong"}, f'authentication as "{USER}" failed: wrong password', "Authentication failed"),
        ({"username": "nobody"}, 'authentication as "nobody" failed: no such user', "Authentication failed"),
        ({"realm": "Other"}, None, "expected realm"),
        ({"username": "", "password": ""}, None, "empty username or password"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_others_are_refused(guarded, options, server_says, client_says):
    generation, server = guarded
    if generation.outcome == "-":
        return
    if differs("unknown-users-are-told") and options.get("username") == "nobody":
        client_says = "No such user: nobody"
        server.log.allow(client_says)
    if server_says:
        expect(server, server_says)
    client = generation.worker()
    assert refused(client, server, client_says, **{**KNOWN, **options})
    # A server that has been refusing one goes on serving others.
    generation.database(server, **KNOWN).do("put", {"a": 1})


def test_after_a_restart_it_authenticates_again(guarded):
    generation, server = guarded
    if generation.outcome == "-":
        return
    client = generation.database(server, **KNOWN)
    client.do("put", {"a": 1})
    generation.restart(server)
    wait_until(lambda: commits(client, {"a": 2}), "the client is back")
    assert client.do("get", "a") == 2
    value_becomes(generation.database(server, **KNOWN), "a", 2)
