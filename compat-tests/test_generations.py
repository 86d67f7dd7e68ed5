"""Commits of clients of every generation, ZODB 3.7 to ZEO 6: what applications do all day."""

import pytest

from clients import RemoteError
from generations import original, value_becomes
from ledger import differs

MIB = 1 << 20


@pytest.fixture
def crowd(generation_under_test):
    return generation_under_test


@pytest.mark.feature("connect, commit, load")
def test_commits_are_there_for_the_next_client(crowd):
    server = crowd.server()
    client = crowd.database(server)
    client.do("put", {"a": 1})
    client.do("put", {"a": 2, "b": "text"})
    assert client.do("put_many", 250) == 250
    client.do("put_large", 3 * MIB)
    other = crowd.database(server)
    assert [other.do("get", key) for key in ("a", "b", "c")] == [2, "text", None]
    assert other.do("sum_many") == sum(range(250))
    assert other.do("length", "large") == 3 * MIB
    assert other.do("size") > 3 * MIB


@pytest.mark.feature("conflicts")
def test_a_conflict_is_raised_and_the_retry_succeeds(crowd):
    server = crowd.server()
    first, second = crowd.database(server), crowd.database(server)
    first.do("put", {"a": 1})
    value_becomes(second, "a", 1)
    second.do("change", {"a": 2})
    first.do("put", {"a": 10})
    with pytest.raises(RemoteError) as error:
        second.do("commit")
    assert error.value.name == "ConflictError"
    second.do("put", {"a": 11})
    value_becomes(first, "a", 11)


@pytest.mark.feature("invalidations")
def test_one_client_sees_anothers_commits(crowd):
    server = crowd.server()
    first, second = crowd.database(server), crowd.database(server)
    first.do("put", {"a": 0})
    for value in range(1, 10, 2):
        value_becomes(second, "a", value - 1)
        second.do("put", {"a": value})
        value_becomes(first, "a", value)
        first.do("put", {"a": value + 1})


@pytest.mark.feature("undo")
def test_undo(crowd):
    server = crowd.server()
    client, other = crowd.database(server), crowd.database(server)
    if not client.do("supports_undo"):
        assert not differs("undo-for-every-client")
        crowd.outcome = "-"
        return
    client.do("put", {"a": 1}, "first")
    client.do("put", {"a": 2}, "second")
    value_becomes(other, "a", 2)
    log = client.do("undo_log")
    assert [entry["description"] for entry in log[:2]] == ["second", "first"]
    assert [entry["description"] for entry in client.do("undo_log", info=True)[:2]] == ["second", "first"]
    client.do("undo", log[0]["id"])
    value_becomes(other, "a", 1)
    value_becomes(client, "a", 1)


@pytest.mark.feature("history")
def test_history(crowd):
    client = crowd.database(crowd.server())
    for value in range(3):
        client.do("put", {"a": value}, f"value {value}")
    assert [entry["description"] for entry in client.do("history", "a", 10)] == ["value 2", "value 1", "value 0"]
    assert len(client.do("history", "a", 1)) == 1


@pytest.mark.feature("pack")
def test_pack(crowd):
    client = crowd.database(crowd.server())
    for value in range(5):
        client.do("put", {"a": value, "gone": "x" * 10_000})
    client.do("remove", "gone")
    before = client.do("size")
    client.do("pack")
    assert client.do("size") < before - 40_000
    client.do("reopen")
    assert client.do("get", "a") == 4
    assert len(client.do("history", "a", 10)) == 1
    client.do("put", {"a": 5})
    assert client.do("get", "a") == 5


@pytest.mark.feature("text beyond ASCII")
def test_metadata_beyond_ascii(crowd):
    server = crowd.server()
    client = crowd.database(server)
    metadata = {"description": "geändert", "user": "Jürgen", "extension": {"note": "schön"}}
    if differs("zeo-4-ascii-text") and original(crowd.name) == "zeo-4.3.1-py36":
        server.log.expect("vote.. raised exception: 'ascii'")
        with pytest.raises(RemoteError, match="UnicodeEncodeError"):
            client.do("put", {"a": 1}, **metadata)
        return
    client.do("put", {"a": 1}, **metadata)
    (entry,) = client.do("history", "a", 1)
    assert entry["description"] == "geändert"
    assert entry["user"].split(" ")[-1] == "Jürgen"
